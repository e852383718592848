"""Time travel: live jobs as they were at a moment, folded anew from the ledger (api.md 8.7).

What is live now is in memory and what is over in the history, but what was live then is only on
the ledger: it is read again from the beginning, off the event loop, one question at a time.
Jobs that were erased since are gone from the past as well.
"""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain import facts as f
from domain.audit import RawFact
from domain.errors import BadRequest
from domain.facts import Json, Recorded
from domain.subjects import standing
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.final_record import changed
from projections.fleet import Fleet
from projections.job_activity import JobActivity
from projections.job_view import document, with_late_report
from services.gateway.jobs import Seen
from services.ledger.raw import read_raw

if TYPE_CHECKING:
    from services.gateway.gateway import Gateway
    from services.gateway.params import Params

# One question at a time: each reads the whole ledger.
_one_at_a_time = asyncio.Semaphore(1)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in the past: a ledger sequence, or Unix seconds."""

    sequence: int | None = None
    at: float | None = None


def moment(params: "Params") -> Moment | None:
    """The moment that `seq` or `at` names; None for now."""
    if params.given("seq"):
        return Moment(sequence=params.integer("seq", 0, minimum=1))
    at = params.number("at")
    if at is not None and at < 0:
        raise BadRequest("Parameter 'at' must be a time in Unix seconds.")
    return None if at is None else Moment(at=at)


class Past:
    """The live jobs of a moment, and the record of the one job that was asked for."""

    def __init__(self, wanted: str | None = None) -> None:
        self._wanted = wanted
        self._definitions = Definitions()
        self._fleet = Fleet()
        self._activity = JobActivity()
        self._active = ActiveJobs(self._definitions)
        self.final: Json | None = None

    @property
    def seen(self) -> Seen:
        """What documents are made of; telemetry of the past is not kept."""
        return Seen(self._active, self._activity, self._fleet, lambda _: None)

    def fold(self, facts: list[RawFact], until: Moment) -> bool:
        """Fold these facts; whether the moment is reached."""
        for raw in facts:
            if until.at is not None and raw.at > until.at:
                return True
            fact = standing(raw.subject, raw.data)
            if fact is not None:
                self._apply(Recorded(raw.sequence, raw.subject, fact))
        return False

    def _apply(self, recorded: Recorded) -> None:
        self._definitions.apply(recorded)
        self._fleet.apply(recorded)
        touched = self._active.apply(recorded)
        self._activity.apply(recorded, touched)
        match recorded.fact:
            case f.JobCompleted(job=id):
                for job in touched:
                    if id == self._wanted:
                        lines = list(self._activity.of(id))
                        server = self._fleet.servers.get(job.server) if job.server else None
                        groups = server.groups if server is not None else ()
                        self.final = document(job, groups=groups, activity=lines)
                    self._activity.forget(id)
            case f.JobTagged(job=id) | f.JobUpdated(job=id) if id == self._wanted and self.final:
                self.final = changed(self.final, recorded)
            case f.JobFinished(job=id) if id == self._wanted and self.final and not touched:
                self.final = with_late_report(self.final, recorded.fact)
            case _:
                pass


async def past(gateway: "Gateway", when: Moment, job: str | None = None) -> Past:
    """The live jobs as they were then; with `job`, that job's record if it was final then."""
    found = Past(job)
    end = gateway.views.position
    upto = end if when.sequence is None else min(when.sequence, end)
    async with _one_at_a_time:
        async for batch in read_raw(gateway.ledger, after=0, upto=upto):
            if await asyncio.to_thread(found.fold, batch, when):
                break
    return found
