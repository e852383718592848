"""Which server may have this job, as far as heartbeats and this round's decisions tell.

Keeps what was last heard of every runner. The rules of the choice are pure and live in
domain/targets.py; this module supplies presence, load and the random draw.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from domain.dispatch import NO_SERVER, Chosen, NoServer
from domain.errors import DomainError
from domain.expressions import Expression, parse
from domain.facts import Json
from domain.job import Job
from domain.multiplex import Eligible
from domain.targets import ServerView, passing, pick, resolve, with_room
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.fleet import Fleet

# A server silent for this long gets no new jobs (heartbeats come once a second).
SILENT = 10.0
# So long after a term began, the connection came back or this process stood still, silence says
# nothing yet.
SETTLE = 5.0
# Rounds come each second; after a pause as long as this nobody can have been heard.
STOOD_STILL = 3.0


@dataclass(slots=True)
class Heard:
    """The newest heartbeat of one runner; `at` is the receiver's time (see Chooser)."""

    boot: str
    at: float
    order_position: int
    jobs: Json
    missing: dict[str, float] = field(default_factory=dict)


class Chooser:
    """Presence and load of the fleet, and the choice of a server for one job.

    `ticks` gives seconds that only ever grow: presence is a matter of intervals, and a clock that
    is set must neither lose a server nor revive one.
    """

    def __init__(
        self,
        definitions: Definitions,
        jobs: ActiveJobs,
        fleet: Fleet,
        states: EventStates,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self.definitions = definitions
        self.jobs = jobs
        self.fleet = fleet
        self.states = states
        self.ticks = ticks
        self.listening = 0.0
        self.heard_of: dict[str, Heard] = {}
        self._lost: set[str] = set()
        self._rounded = 0.0
        self._draw = random.Random()  # noqa: S311 - the draw is recorded, not a secret
        self._weight: defaultdict[str, float] = defaultdict(float)
        self._count: Counter[str] = Counter()
        self._robin: dict[str, int] = {}

    def begin(self) -> None:
        """A new term: what was heard as a standby counts, silence does not yet."""
        self.listening = self._rounded = self.ticks()

    def deafened(self) -> None:
        """The connection was lost; the next round starts listening anew."""
        self.listening = 0.0

    def round(self) -> None:
        """A new round: earlier rounds' decisions are folded by now.

        Where this process stood still itself, what it missed is no silence of others.
        """
        now = self.ticks()
        if now - self._rounded > STOOD_STILL:
            self.listening = now
        self._rounded = now
        self.listening = self.listening or now
        self._weight.clear()
        self._count.clear()
        self._robin.clear()

    def heard(self, message: dict[str, Any]) -> bool:
        """Take in a heartbeat; True if the server was not present before."""
        now = self.ticks()
        server, boot = str(message.get("server")), str(message.get("boot"))
        old = self.heard_of.get(server)
        jobs = message.get("jobs") or {}
        heard = Heard(boot, now, int(message.get("order_position") or 0), jobs)
        if old is not None and old.boot == boot:
            heard.missing = old.missing
        self.heard_of[server] = heard
        self._note_missing(server, heard, now)
        self.fleet.heard(server, boot, now, message.get("info") or {})
        return old is None or old.boot != boot or now - old.at > SILENT

    def present(self, server: str) -> bool:
        """Whether a server may get jobs: it has not left, and was heard lately.

        Perhaps as another boot: of one that was just started anew the first heartbeat may come
        before or after its ServerJoined, and no job has to end for that. What the former boot is
        given comes back.
        """
        heard, known = self.heard_of.get(server), self.fleet.servers.get(server)
        return (
            heard is not None
            and known is not None
            and not known.left
            and self.ticks() - heard.at <= SILENT
        )

    def silent(self, server: str, seconds: float) -> bool:
        """Whether nothing was heard of a server for so long while somebody listened."""
        heard = self.heard_of.get(server)
        since = max(self.listening, heard.at if heard else 0.0)
        return self.listening > 0 and self.ticks() - since > seconds

    def newly_lost(self, seconds: float) -> set[str]:
        """The servers that, since the last look, have been silent for so long without a goodbye."""
        lost = {
            server
            for server in self.heard_of
            if self.silent(server, seconds)
            and (known := self.fleet.servers.get(server)) is not None
            and not known.left
        }
        new, self._lost = lost - self._lost, lost
        return new

    def unknown_for(self, job: Job) -> float:
        """For how many seconds the job's runner, past its order, has not listed the job."""
        heard = self.heard_of.get(job.server or "")
        if heard is None or heard.boot != job.boot:
            return 0.0
        since = heard.missing.get(job.id)
        return self.ticks() - max(since, self.listening) if since is not None else 0.0

    def _note_missing(self, server: str, heard: Heard, now: float) -> None:
        held = self.jobs.by_server.get(server, set())
        missing = {
            id
            for id in held
            if id not in heard.jobs and self.jobs.jobs[id].order <= heard.order_position
        }
        heard.missing = {id: heard.missing.get(id, now) for id in missing}

    def limited(self, job: Job) -> bool:
        """Whether the end of this job may make room on a server for others."""
        server = self.fleet.servers.get(job.server or "")
        return server is not None and self.fleet.max_jobs(server) > 0

    def take(self, job: Job, chosen: Chosen) -> None:
        """This round gives the job to that server: it counts for the rest of the round."""
        self._weight[chosen.server] += job.spec.weight
        self._count[chosen.server] += 1
        if chosen.robin is not None:
            self._robin[job.event] = chosen.robin

    def kept(self, job: Job) -> Chosen | None:
        """The server that was held while the job's start actions ran, if it is still there."""
        if job.held and job.server is not None and self.present(job.server):
            return self._chosen(job.server)
        return None

    def choose(self, job: Job) -> Chosen | NoServer:
        """A server for this job, or why there is none (execution.md 5)."""
        fitting, problem = self._fitting(job)
        roomy = with_room(fitting, job.spec.weight)
        if not roomy:
            unsettled = not fitting and self._unsettled(job)
            return NoServer(problem or NO_SERVER, unsettled=unsettled)
        robin = self._robin.get(job.event)
        if robin is None:
            state = self.states.states.get(job.event)
            robin = state.robin if state else 0
        try:
            found = pick(job.value("algo"), roomy, draw=self._draw.random(), robin=robin)
        except DomainError as error:
            return NoServer(error.description, final=True)
        return self._chosen(found.server.id, found.robin)

    def _chosen(self, server: str, robin: int | None = None) -> Chosen:
        boot = self.fleet.servers[server].boot
        return Chosen(server, boot, robin, self.fleet.untold_groups(server))

    def eligible(self, job: Job) -> Eligible | NoServer:
        """All servers that may have a child of this job, whatever their load (5.1)."""
        fitting, problem = self._fitting(job)
        if fitting:
            return Eligible([server.id for server in fitting])
        return NoServer(problem or NO_SERVER, unsettled=self._unsettled(job))

    def _unsettled(self, job: Job) -> bool:
        """Whether a server for this job may merely not have been heard yet.

        One that has not left may be as slow towards a new leader as towards one that knew it.
        """
        listened = self.ticks() - self.listening
        if not SETTLE <= listened < SILENT:
            return listened < SETTLE

        def may_be_slow(server: str) -> bool:
            known = self.fleet.servers.get(server)
            return known is not None and not known.left and not self.silent(server, SILENT)

        return bool(resolve(job.value("targets"), self.fleet.directory, may_be_slow))

    def _fitting(self, job: Job) -> tuple[list[ServerView], str | None]:
        """Present, enabled servers that the targets name and the expression lets through."""
        targets = job.value("targets")
        ids = resolve(targets, self.fleet.directory, self.present)
        views = [view for id in ids if (view := self._view(id)) is not None and view.enabled]
        try:
            expression = _expression(job)
        except DomainError as error:
            return [], error.description
        return passing(expression, views)

    def _view(self, server: str) -> ServerView | None:
        return self.fleet.view(
            server,
            online=True,
            jobs=len(self.jobs.by_server.get(server, ())) + self._count[server],
            weight_used=self.jobs.load(server) + self._weight[server],
        )


def _expression(job: Job) -> Expression | None:
    text = job.value("expression")
    return parse(text) if isinstance(text, str) and text.strip() else None
