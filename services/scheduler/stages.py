"""The stages of a job in which actions run: before its process, after it, and on a limit.

Turns the pure decisions of domain/acting.py into decisions of a round, and hands what must be
performed to acting.py (execution.md 9, design.md 6). Must not know how slots and servers are
given.
"""

from collections.abc import Iterator

from domain import acting
from domain import facts as f
from domain.completion import Result, relaunchable, retry_of
from domain.dispatch import Chosen
from domain.facts import Json
from domain.job import Job, JobState
from domain.running_limits import fire
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from services.scheduler.acting import Acting, decision_id
from services.scheduler.limiting import Limiting

# A process pushes at most so many actions that run at once.
MOST_INSTANT = 100

Decision = tuple[str, f.Fact]


class Stages:
    """What the actions of a job ask for. `actor` is the term that decides."""

    def __init__(
        self, definitions: Definitions, jobs: ActiveJobs, performer: Acting, limiting: Limiting
    ) -> None:
        self.actor = f.Actor(type="scheduler", id="")
        self._definitions = definitions
        self._jobs = jobs
        self._performer = performer
        self._limiting = limiting
        self._pushed: dict[str, list[tuple[int, Json]]] = {}

    def begin(self, actor: f.Actor) -> None:
        """A new term: what an earlier one began is taken up when its job is looked at."""
        self.actor = actor
        self._performer.begin(actor)
        self._limiting.begin()
        self._pushed.clear()

    def note(self, recorded: f.Recorded, touched: list[Job]) -> None:
        """A fact was read; `touched` are the jobs that it changed, as they are now."""
        for job in touched:
            self._limiting.note(job)
            if self._pushed and job.state is not JobState.ACTIVE:
                self._pushed.pop(job.id, None)
        self._performer.note(recorded, touched[0] if touched else None)

    def heard(self, server: str, jobs: Json) -> list[str]:
        """The running jobs of which a heartbeat tells that they pushed something to do at once.

        A server speaks only for the jobs that it has.
        """
        found = []
        for id in self._jobs.by_server.get(server, ()):
            told = jobs.get(id)
            pushed = told.get("instant") if isinstance(told, dict) else None
            if pushed and self._jobs.jobs[id].state is JobState.ACTIVE:
                known = [(p, a) for p, a in pushed if isinstance(p, int) and isinstance(a, dict)]
                if known != self._pushed.get(id):
                    self._pushed[id] = known[:MOST_INSTANT]
                    found.append(id)
        return found

    def advance(self, job: Job, now: float) -> list[Decision]:
        """What follows for the actions that have begun; those to be performed are under way."""
        pushed = self._pushed.get(job.id)
        if pushed and (chosen := acting.instants(job, pushed)):
            begun = acting.begin(job, acting.END, chosen, now=now, actor=self.actor)
            return _decisions(job, begun)
        if not job.actions and not job.update_asked:
            return []
        facts = acting.advance(
            job,
            lambda key: self._performer.outcome(job.id, key),
            source=self._source(job),
            shown=lambda: self._performer.shown(job),
            now=now,
            actor=self.actor,
        )
        if not facts:
            for run in acting.to_perform(job):
                self._performer.perform(job, run)
        return _decisions(job, facts)

    def to_start(self, job: Job, chosen: Chosen | None, now: float) -> list[Decision]:
        """Hold a server, if one was chosen now, and begin the start actions; [] without any."""
        begun = acting.begin(job, acting.START, acting.at_start(job), now=now, actor=self.actor)
        if begun and chosen is not None:
            starting = f.JobStarting(
                at=now,
                actor=self.actor,
                cause=job.version,
                event=job.event,
                job=job.id,
                server=chosen.server,
                robin=chosen.robin,
            )
            return _decisions(job, [starting, *begun])
        return _decisions(job, begun)

    def to_end(self, job: Job, result: Result, now: float) -> list[Decision]:
        """Begin the completion actions; [] without any, and for a job that is retried."""
        may_follow = relaunchable(job, self._definitions)
        retry = retry_of(job, result, now, launchable=may_follow)
        if job.ended is not None or retry is not None:
            return []
        chosen = acting.at_end(job, result, self._definitions.tag_names)
        begun = acting.begin(job, acting.END, chosen, now=now, actor=self.actor)
        update = acting.event_update(job)
        begun += acting.begin(job, acting.UPDATE, update, now=now, actor=self.actor)
        if not begun:
            return []
        return _decisions(job, [*begun, acting.settled(job, result, now=now, actor=self.actor)])

    def limits(self, now: float) -> Iterator[tuple[Job, list[Decision]]]:
        """The limits that running jobs exceed now."""
        for job, fired in self._limiting.due():
            yield job, _decisions(job, fire(job, fired, now=now, actor=self.actor))

    def _source(self, job: Job) -> str:
        parent = self._jobs.jobs.get(str((job.request.workflow or {}).get("job")))
        return parent.request.source if parent is not None else job.request.source


def _decisions(job: Job, facts: list[f.Fact]) -> list[Decision]:
    return [(decision_id(fact, job.version), fact) for fact in facts]
