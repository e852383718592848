"""Rounds of decisions about jobs: start, wait, abort, complete, retry (execution.md 5 to 8).

A round looks at what changed since the last one (touched jobs, freed slots, timers), never at
all that waits. The decisions themselves are pure and live in domain/dispatch.py and
domain/completion.py; this module gathers what they depend on.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import structlog
from msgspec import structs

from domain import acting, completion, multiplex
from domain import facts as f
from domain.dispatch import Chosen, NoServer, Situation, Start, decide_start, order
from domain.facts import Json, Recorded
from domain.job import HOLDS_A_SLOT, WAITING, Job, JobState
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.fleet import Fleet
from services.metrics import SERVERS_LOST
from services.scheduler.acting import Acting
from services.scheduler.choosing import Chooser
from services.scheduler.crowd import Crowd
from services.scheduler.limiting import Limiting
from services.scheduler.stages import Stages
from services.scheduler.strangers import Strangers
from services.settings import Settings

Decision = tuple[str, f.Fact]

# A server silent for this long gets no new jobs, and its aborted jobs end without it (design 3.3).
SILENT = 10.0
# A runner that has read an order for this long and does not know the job never will.
UNKNOWN_AFTER = 15.0
SWEEP = 1.0
# The service wakes up a moment before a second is over (FINEST there); where nothing else wakes it,
# a round that finds the second not quite over would be followed by one a second later.
EARLY = 0.01
# Of the jobs that a round requests so many get their server in it: a lone one starts sooner for
# that, and many due at once do not wait long for the first.
AT_ONCE = 16
# A queue's head whose own targets have no server does not block others (execution.md 6.3), but
# only this many are looked at in one round.
QUEUE_LOOK = 1000

log = structlog.get_logger()


class Dispatching:
    """What the leader must look at, and the decisions that follow. Times are Unix seconds."""

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        jobs: ActiveJobs,
        fleet: Fleet,
        states: EventStates,
        performer: Acting,
    ) -> None:
        self.settings = settings
        self.definitions = definitions
        self.jobs = jobs
        self.fleet = fleet
        self.chooser = Chooser(definitions, jobs, fleet, states)
        self.stages = Stages(definitions, jobs, performer, Limiting(jobs, self.chooser))
        self.actor = f.Actor(type="scheduler", id="")
        self._touched: dict[str, None] = {}
        self._crowd = Crowd()
        self._freed: dict[str, None] = {}
        self._parked: dict[str, None] = {}
        self._starved: dict[str, None] = {}
        self._flushes: list[Recorded] = []
        self._timers: list[tuple[float, str]] = []
        self._fleet_changed = False
        self._swept = 0.0
        self._limits_due = False
        self._taken: Counter[str] = Counter()
        self._queued: Counter[str] = Counter()
        self._decided: set[str] = set()
        self._strangers = Strangers(jobs.jobs)

    def begin(self, actor: f.Actor, now: float) -> None:
        """Look at everything once: a new term."""
        self.actor = actor
        self._touched = dict.fromkeys(j.id for j in _oldest_first(self.jobs))
        self._crowd.clear()
        self._freed = dict.fromkeys(self.jobs.scopes)
        self._parked.clear()
        self._starved.clear()
        self._flushes.clear()
        self._timers.clear()
        self._strangers.clear()
        self._swept = 0.0
        self._fleet_changed = True
        self.chooser.begin()
        self.stages.begin(actor)

    def note(self, recorded: Recorded, touched: list[Job]) -> None:
        """Remember what a fact asks to look at again."""
        for job in touched:
            if isinstance(recorded.fact, f.JobRequested) and self._finds_no_room(job):
                self._crowd.add(job.id, job.scope, job.sequence)
            elif isinstance(recorded.fact, f.JobQueued) and self._can_only_wait(job):
                continue
            elif not _runs_undisturbed(job):
                self._touched[job.id] = None
                self._freed[job.scope] = None
        self.stages.note(recorded, touched)
        match recorded.fact:
            case f.ServerJoined() | f.ServerLeft() | f.CatalogUpdated(type="server" | "group"):
                self._fleet_changed = True
            case f.QueueFlushRequested():
                self._flushes.append(recorded)
            case f.EventDeleted(event=event) | f.EventUpdated(event=event):
                for job in self.jobs.of_event(event):
                    if job.state in WAITING:
                        self._touched[job.id] = None
            case _:
                pass

    def _finds_no_room(self, job: Job) -> bool:
        """Whether a new job will have to queue, as far as that can be told before deciding."""
        full = self._is_full(job) and job.spec.queue_limit > 0
        return full or self._crowd.waits_for(job.scope)

    def _can_only_wait(self, job: Job) -> bool:
        """Whether nothing is to be decided about a job that has just queued."""
        return self._is_full(job) and job.abort is None and not job.actions

    def _is_full(self, job: Job) -> bool:
        """Whether all slots of the job's scope are taken."""
        return 0 < job.spec.job_limit <= self.jobs.running(job.scope)

    def touch(self, job: str) -> None:
        """Look at this job again: one of its actions has an outcome."""
        self._touched[job] = None

    def heard(self, message: dict[str, Any]) -> bool:
        """A runner's heartbeat; True if a decision may follow from it."""
        changed = self.chooser.heard(message)
        self._fleet_changed = self._fleet_changed or changed
        server, held = str(message.get("server")), message.get("jobs") or {}
        self._strangers.hear(server, held, self.chooser.ticks())
        pushed = self.stages.heard(server, held)
        self._touched |= dict.fromkeys(pushed)
        return changed or bool(self._strangers or pushed)

    def listen_again(self) -> None:
        """The connection was lost: silence until now says nothing about the servers."""
        self.chooser.deafened()

    def has_work(self) -> bool:
        """Whether a round would look at something now, timers aside."""
        return bool(
            self._touched
            or self._freed
            or self._flushes
            or self._strangers
            or self._fleet_changed
            or self.jobs.owed
            or self.patience() <= 0
        )

    def next_due(self) -> float | None:
        """When the next timer ends, in Unix seconds."""
        return self._timers[0][0] if self._timers else None

    def patience(self) -> float:
        """For how many seconds those that find no slot may still wait for company."""
        return self._crowd.patience(self.chooser.ticks()) if self._crowd else math.inf

    def decide(self, now: float, limit: int) -> list[Decision]:
        """One round: at most about `limit` decisions, oldest concerns first.

        What is decided about one concern goes together: of a limit that fires, say, the change of
        the job without its abort would leave it running for good.
        """
        self._taken.clear()
        self._queued.clear()
        self._decided.clear()
        self.chooser.round()
        self._ring(now)
        decisions: list[Decision] = []
        for source in (
            self._followers(now),
            self._flush(now),
            self._kill_strangers(now),
            self._settle_touched(now),
            self._limits(now),
            self._leave_queues(now),
            self._settle_crowd(now, decisions),
        ):
            for together in source:
                decisions += together
                if len(decisions) >= limit:
                    return decisions
        return decisions

    def orders_at_once(self, fires: Iterable[Decision], now: float) -> dict[str, Decision]:
        """Orders for jobs that this very round requests, by the request's id.

        Of those that need a server and no more. Such an order must not stand without its request.
        All else is decided once the request is on the ledger; so is this, while older jobs wait to
        be looked at.
        """
        if self._touched or self._freed:
            return {}
        requests = ((id, fact) for id, fact in fires if isinstance(fact, f.JobRequested))
        return {
            id: order
            for id, request in islice(requests, AT_ONCE)
            for order in self._order_at_once(self.jobs.prospect(request), now)
        }

    # --- what to look at -------------------------------------------------------------------

    def _ring(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            self._touched[heapq.heappop(self._timers)[1]] = None
        if self.chooser.ticks() - self._swept >= SWEEP - EARLY:
            self._swept = self.chooser.ticks()
            self._limits_due = True
            self._sweep()
        if self._fleet_changed:
            self._fleet_changed = False
            self._touched = self._parked | self._touched  # those that wait came first
            self._freed |= self._starved
            self._parked.clear()
            self._starved.clear()

    def _sweep(self) -> None:
        """Once a second: jobs whose server is silent or does not know them."""
        self._fleet_changed = self._fleet_changed or bool(self._parked or self._starved)
        SERVERS_LOST.inc(len(self.chooser.newly_lost(self.settings.server_timeout)))
        for server in list(self.jobs.by_server):
            if not self.chooser.silent(server, SILENT) and not self._are_unknown_to(server):
                continue
            for id in self.jobs.by_server[server]:
                self._touched[id] = None

    def _are_unknown_to(self, server: str) -> bool:
        """Whether this server does not know one of the jobs that it was given."""
        return any(
            self.chooser.unknown_for(self.jobs.jobs[id]) > UNKNOWN_AFTER
            for id in self.jobs.by_server[server]
        )

    # --- decisions -------------------------------------------------------------------------

    def _followers(self, now: float) -> Iterator[list[Decision]]:
        """Retries and children that were named and not yet requested (design.md 3.3)."""
        for id, job in list(self.jobs.owed.items()):
            if job.final is not None and job.final.retry is not None:
                made_of = self.definitions.retry_made_of(job.request.made_of, job.spec.document)
                fact = completion.retry_request(job, job.final.retry, made_of, now, self.actor)
                yield [(id, fact)]
            for child in job.children:
                if child.job == id:
                    yield [(id, multiplex.child_request(job, child, now=now, actor=self.actor))]

    def _flush(self, now: float) -> Iterator[list[Decision]]:
        flushes = [r for r in self._flushes if not self._crowd.holds_before(r.sequence)]
        for recorded in flushes:
            self._flushes.remove(recorded)
            event = getattr(recorded.fact, "event", "")
            ids = [j.id for j in self.jobs.of_event(event) if j.state is JobState.QUEUED]
            self._decided.update(ids)
            fact = f.QueueFlushed(
                at=now, actor=self.actor, cause=recorded.sequence, event=event, jobs=ids
            )
            yield [(f"flush-{recorded.sequence}", fact)]

    def _kill_strangers(self, now: float) -> Iterator[list[Decision]]:
        """Order the end of processes whose jobs were declared lost (design.md 6)."""
        for server, id, number in self._strangers.take():
            fact = f.JobAbortOrdered(
                at=now,
                actor=self.actor,
                server=server,
                event="",
                job=id,
                order=number,
                reason="The job was declared lost before its server came back.",
            )
            yield [(f"{id}-{number}-stranger", fact)]

    def _settle_touched(self, now: float) -> Iterator[list[Decision]]:
        while self._touched:
            id = next(iter(self._touched))
            del self._touched[id]
            job = self.jobs.jobs.get(id)
            if job is not None and id not in self._decided:
                yield self._settled(job, now)

    def _settle_crowd(self, now: float, decisions: list[Decision]) -> Iterator[list[Decision]]:
        """New jobs that find no room, when there is anything else to write or they waited enough.

        Last of all: what ends in this round may have made room for them.
        """
        if decisions or self._flushes or self.patience() <= 0:
            self._touched |= dict.fromkeys(self._crowd.take(self.chooser.ticks()))
            yield from self._settle_touched(now)

    def _settled(self, job: Job, now: float) -> list[Decision]:
        """The decisions about one job; one that cannot be decided must not stop all others."""
        try:
            return list(self._settle(job, now))
        except Exception:
            log.exception("a job cannot be decided", action="job_undecidable", job=job.id)
            return []

    def _settle(self, job: Job, now: float) -> Iterator[Decision]:
        """What follows from the job as it is now."""
        if job.children:
            yield from self._settle_parent(job, now)
            return
        if advanced := self.stages.advance(job, now):
            self._decided.add(job.id)
            yield from advanced
            return
        if (until := acting.suspended_until(job)) is not None:
            heapq.heappush(self._timers, (until, job.id))
        result = completion.result_of(job) or self._hopeless(job, now)
        if (result is not None or job.held) and acting.unfinished(job):
            return
        if result is not None:
            yield from self._end(job, result, now)
        elif job.held:
            if begun := self.stages.to_start(job, None, now):
                self._decided.add(job.id)
                yield from begun
            else:
                yield from self._start(job, now)
        elif job.state in WAITING:
            if job.until is not None and job.until > now and job.abort is None:
                heapq.heappush(self._timers, (job.until, job.id))
            elif job.state is not JobState.QUEUED or self._must_leave_queue(job):
                yield from self._start(job, now)
        elif job.abort is not None and job.assigned and job.abort_ordered is None:
            yield self._order_abort(job, job.abort.reason, job.abort.retry_ok, now)

    def _must_leave_queue(self, job: Job) -> bool:
        event = self._event_of(job)
        gone = event is None or not (event.get("enabled") or job.request.test)
        return gone or job.abort is not None

    def _settle_parent(self, job: Job, now: float) -> Iterator[Decision]:
        """A multiplex parent ends with its last child; an abort reaches all children."""
        if self.jobs.all_over(job):
            results = self.jobs.results.get(job.id, {})
            result = multiplex.result_of(job, results.values())
            yield self._complete(job, result, now, workflow=multiplex.workflow_of(results))
        elif job.abort is not None:
            for child in self.jobs.children(job.id):
                if child.abort is None:
                    yield self._pass_abort(job.abort.reason, child, now)

    def _pass_abort(self, reason: str, child: Job, now: float) -> Decision:
        fact = f.JobAbortRequested(
            at=now,
            actor=self.actor,
            cause=child.version,
            event=child.event,
            job=child.id,
            reason=reason,
        )
        return f"{child.id}-parent-abort", fact

    def _hopeless(self, job: Job, now: float) -> completion.Result | None:
        """The end of a job whose runner is gone, deaf or does not know it (execution.md 12)."""
        if not job.assigned or job.server is None:
            return None
        if job.unknown_to_server or self.chooser.unknown_for(job) > UNKNOWN_AFTER:
            return self._end_of_lost(job, "Its server does not know the job (any more).")
        if job.abort is not None:
            if job.state is JobState.FINISHING or self.chooser.silent(job.server, SILENT):
                return completion.aborted(job.abort.reason, retry_ok=job.abort.retry_ok)
            deadline = (job.abort_ordered or now) + self.settings.kill_timeout * 2 + UNKNOWN_AFTER
            if now > deadline:
                return completion.aborted(job.abort.reason, retry_ok=job.abort.retry_ok)
        if self.chooser.silent(job.server, self.settings.server_timeout):
            wait = self.settings.server_timeout
            return self._end_of_lost(job, f"Server lost: nothing heard of it for {wait:g} seconds.")
        return None

    def _end_of_lost(self, job: Job, reason: str) -> completion.Result:
        if job.abort is not None:
            return completion.aborted(job.abort.reason, retry_ok=job.abort.retry_ok)
        return completion.aborted(reason, retry_ok=True)

    def _end(self, job: Job, result: completion.Result, now: float) -> Iterator[Decision]:
        """The job has its result: its completion actions first, then it is final."""
        begun = self.stages.to_end(job, result, now)
        if begun:
            self._decided.add(job.id)
            yield from begun
        else:
            yield self._complete(job, result, now)

    def _limits(self, now: float) -> Iterator[list[Decision]]:
        """Once a second: the limits that running jobs exceed (execution.md 7.1)."""
        if not self._limits_due:
            return
        for job, decisions in self.stages.limits(now):
            if job.id not in self._decided:
                self._decided.add(job.id)
                yield decisions
        self._limits_due = False  # not before all were looked at: the round may end in between

    def _complete(
        self, job: Job, result: completion.Result, now: float, workflow: Json | None = None
    ) -> Decision:
        self._decided.add(job.id)
        self._freed[job.scope] = None
        if job.state in HOLDS_A_SLOT:
            self._taken[job.scope] -= 1  # its slot is given on in the same round
        if self.chooser.limited(job):
            self._fleet_changed = True
        fact = completion.complete(
            job,
            result,
            known_tags=self.definitions.tag_names,
            now=now,
            actor=self.actor,
            launchable=completion.relaunchable(job, self.definitions),
        )
        if workflow is not None:
            fact = structs.replace(fact, workflow=workflow)
        return f"{job.id}-completed", fact

    def _order_abort(self, job: Job, reason: str, retry_ok: bool, now: float) -> Decision:
        self._decided.add(job.id)
        assert job.server is not None
        fact = f.JobAbortOrdered(
            at=now,
            actor=self.actor,
            cause=job.version,
            server=job.server,
            event=job.event,
            job=job.id,
            order=job.order,
            reason=reason,
            retry_ok=retry_ok,
        )
        return f"{job.id}-{job.order}-abort", fact

    def _leave_queues(self, now: float) -> Iterator[list[Decision]]:
        """Fill the freed slots of each scope from its queue, in order (execution.md 6.3)."""
        while self._freed:
            scope = next(iter(self._freed))
            starved: set[tuple[Any, ...]] = set()
            for job in islice(self.jobs.queue(scope), QUEUE_LOOK):
                limit = job.spec.job_limit
                if limit and self.jobs.running(scope) + self._taken[scope] >= limit:
                    break
                targets = tuple(job.value("targets") or ())
                if job.id in self._decided or targets in starved:
                    continue
                found = list(self._start(job, now))
                if not found:
                    starved.add(targets)
                yield found
            self._freed.pop(scope, None)

    def _order_at_once(self, job: Job, now: float) -> Iterator[Decision]:
        """The order for a job that is about to be requested, if it can have one."""
        waits = job.state is not JobState.READY or self._crowd.waits_for(job.scope)
        if not waits and not acting.at_start(job):
            start = self._decide_start(job, now)
            if isinstance(start, Chosen):
                yield from self._assign(job, start, now)

    def _start(self, job: Job, now: float) -> Iterator[Decision]:
        match start := self._decide_start(job, now):
            case None:
                waiting = self._starved if job.state is JobState.QUEUED else self._parked
                waiting[job.scope if job.state is JobState.QUEUED else job.id] = None
            case Chosen():
                yield from self._assign(job, start, now)
            case multiplex.Eligible():
                self._decided.add(job.id)
                self._taken[job.scope] += 1
                servers = start.servers
                fact = multiplex.fan_out(job, servers, now=now, actor=self.actor)
                yield f"{job.id}-fanned-out", fact
            case f.JobQueued():
                self._decided.add(job.id)
                self._queued[job.scope] += 1
                self._starved[job.scope] = None
                yield f"{job.id}-{job.version}-queued", start
            case completion.Result():
                yield from self._end(job, start, now)

    def _decide_start(self, job: Job, now: float) -> Start:
        queued = self.jobs.queued(job.scope) + self._queued[job.scope]
        running = self.jobs.running(job.scope) + self._taken[job.scope]
        free = running < job.spec.job_limit
        situation = Situation(
            running=running,
            queued=queued,
            event=self._event_of(job),
            ahead=free and job.state is not JobState.QUEUED and self._others_first(job.scope),
        )
        return decide_start(job, situation, lambda: self._choose(job), now=now, actor=self.actor)

    def _choose(self, job: Job) -> Chosen | multiplex.Eligible | NoServer:
        if job.spec.multiplex:
            return self.chooser.eligible(job)
        return self.chooser.kept(job) or self.chooser.choose(job)

    def _others_first(self, scope: str) -> bool:
        """Whether one that waits in the queue may have the slot that is free (execution.md 6.3).

        Those that wait for a server that is not there hold up nobody.
        """
        stuck: set[tuple[Any, ...]] = set()
        for waiting in islice(self.jobs.queue(scope), QUEUE_LOOK):
            targets = tuple(waiting.value("targets") or ())
            if waiting.id in self._decided or targets in stuck:
                continue
            found = self._choose(waiting)
            if not isinstance(found, NoServer) or found.unsettled:
                return True
            stuck.add(targets)
        return False

    def _assign(self, job: Job, chosen: Chosen, now: float) -> Iterator[Decision]:
        """Give the job to its server; with start actions, only hold the server for it."""
        self._decided.add(job.id)
        if not job.held:
            self._taken[job.scope] += 1
        if job.state is JobState.QUEUED:
            self._queued[job.scope] -= 1
        if job.server is None:
            self.chooser.take(job, chosen)
        if held := self.stages.to_start(job, chosen, now):
            yield from held
        else:
            fact = order(job, chosen, now=now, actor=self.actor)
            # The first order has one id, whether it is decided with the request or after it.
            moved = 0 if job.version == job.sequence else job.version
            yield f"{job.id}-{moved}-assigned", fact

    def _event_of(self, job: Job) -> Json | None:
        version = self.definitions.events.get(job.event)
        return version.record if version else None


def _runs_undisturbed(job: Job) -> bool:
    """Whether nothing is to be decided about the job until something else happens."""
    return (
        job.assigned
        and job.state is not JobState.FINISHING
        and job.finished is None
        and job.ended is None
        and job.abort is None
        and not (job.actions or job.children)
        and not (job.update_asked or job.unknown_to_server)
    )


def _oldest_first(jobs: ActiveJobs) -> list[Job]:
    return sorted(jobs.jobs.values(), key=lambda job: job.sequence)
