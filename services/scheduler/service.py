"""The scheduler: owns each job from request to assignment and from report to completion.

Folds the ledger all the time. While it leads, it decides in rounds: decide on the fold, append
under the term's fence, wait until the own reader has seen the last own write, decide again
(design.md 3.4). What is decided lives in firing.py, dispatching.py, completing.py and acting.py.
"""

import asyncio
import math
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

import structlog

from domain import facts as f
from domain.facts import Recorded
from projections.access import Access
from projections.active_jobs import ActiveJobs
from projections.concern import by_kind
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.fleet import Fleet
from projections.schedule import Schedule
from services import metrics
from services.disk import DiskReserve
from services.ledger import live
from services.ledger.connection import Ledger
from services.ledger.enrolment import answer_enrolments, enrolment_signer
from services.ledger.errors import Deposed, LedgerUnavailable
from services.ledger.reader import Follower
from services.ledger.secrets import server_secret
from services.ledger.vault import Vault
from services.scheduler.acting import Acting, Surroundings
from services.scheduler.asking import Asking
from services.scheduler.dispatching import Decision, Dispatching
from services.scheduler.firing import MANY, Firing
from services.scheduler.launching import answer_launches
from services.scheduler.leadership import Leadership
from services.scheduler.mailing import Mailer
from services.scheduler.notices import Notices
from services.scheduler.plugin_secrets import PluginSecrets
from services.scheduler.snapshots import Snapshots
from services.scheduler.upkeep import Upkeep
from services.scheduler.web_hooks import WebHooks
from services.settings import Settings

# Decisions about jobs in a round, beside some fires. Small, so that runners start the first of
# many jobs while the others are decided; a larger batch costs NATS hardly less per fact.
ROUND = 250
# So many about jobs in a round of many fires: no fewer than runners can start meanwhile, and the
# last of 2,000 requests stands on the ledger in three quarters of the time.
WHILE_FIRING = 60
# The loop's timers know milliseconds only: this long (seconds) before something is due it is
# decided, and written when it is due, exactly.
FINEST = 0.0015
# Limits, silence of servers and deadlines are looked at once a second (execution.md 7.1).
SWEEP = 1.0
SETTLE_TIMEOUT = 10.0
# What follows from these shows in what there is to dispatch, and nowhere else.
_SELDOM_DECISIVE = (f.JobRequested, f.JobAssigned, f.JobStarted, f.JobQueued)
_MOVES_DUE_TIMES = (
    f.EventCreated,
    f.EventUpdated,
    f.EventDeleted,
    f.MasterSwitched,
    f.CatalogCreated,
    f.CatalogUpdated,
    f.CatalogDeleted,
)

log = structlog.get_logger()


class Scheduler:
    """One scheduler process: a standby that may lead."""

    def __init__(self, settings: Settings, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.ledger = ledger
        self.clock = clock
        self.instance = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.vault = Vault.of(settings.data_dir)
        self.definitions = Definitions()
        self.plugin_secrets = PluginSecrets(self.definitions, self.vault)
        self.fleet = Fleet()
        self.states = EventStates(settings.timezone)
        self.jobs = ActiveJobs(self.definitions)
        self.schedule = Schedule(
            self.definitions, zone=settings.timezone, dst_policy=settings.dst_policy
        )
        self.leadership = Leadership(ledger, self.instance, clock)
        self.firing = Firing(self.schedule, settings, self.states, self.jobs)
        self.access = Access()
        self._concerned = by_kind(self.schedule, self.fleet, self.states, self.access)
        self.follower = Follower(ledger, self._apply, after=0, after_batch=self._read)
        self.acting = Acting(self._surroundings(), self._acted)
        self.dispatching = Dispatching(
            settings, self.definitions, self.jobs, self.fleet, self.states, self.acting
        )
        self._woken = asyncio.Event()
        self.asking = Asking(
            self.firing,
            self.definitions,
            self.jobs,
            settings,
            self._woken.set,
            self.plugin_secrets.of,
        )
        self._leading = False
        self._news = False
        self._crowd_known = False
        """Whether the alarm that is set is early enough for jobs that find no slot."""
        self._disk = DiskReserve(settings.data_dir, settings.disk_reserve)
        self.snapshots = Snapshots(self)
        self.upkeep = Upkeep(
            settings,
            ledger,
            self.jobs,
            server_secret(settings.data_dir),
            clock=clock,
            end=lambda: self.follower.position,
            wake=self._wake,
        )

    def _surroundings(self) -> Surroundings:
        secret = server_secret(self.settings.data_dir)
        return Surroundings(
            ledger=self.ledger,
            definitions=self.definitions,
            access=self.access,
            states=self.states,
            jobs=self.jobs,
            brake=self.firing.brake,
            notices=Notices(self.settings, self.definitions, self.fleet, self.states, secret),
            mailer=Mailer(self.settings, self.clock),
            hooks=WebHooks(self.definitions, secret, self.clock),
            secrets=self.plugin_secrets,
            clock=self.clock,
            reached=self.follower.reached,
        )

    async def run(self) -> None:
        """Follow, announce, answer and lead until cancelled; then resign."""
        await self.snapshots.restore()
        self.ledger.on_reconnect.append(self.dispatching.listen_again)
        await live.listen(self.ledger, "live.server.*", self._heartbeat)
        await live.listen(self.ledger, "live.scheduler", self._announcement)
        await answer_launches(self)
        await answer_enrolments(self.ledger, enrolment_signer(self.settings.data_dir))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.follower.run(), name="follow")
                tasks.create_task(self.leadership.announce(), name="announce")
                tasks.create_task(self._serve_terms(), name="lead")
                tasks.create_task(self.snapshots.keep(), name="snapshots")
                tasks.create_task(self.asking.run(), name="ask")
        finally:
            await self.acting.close()
            await self._resign()

    async def _serve_terms(self) -> None:
        """Wait to lead, lead until deposed, and so on."""
        await self.follower.caught_up.wait()
        while True:
            term = await self.leadership.win()
            metrics.TERMS_BEGUN.inc()
            await self.follower.reached(term, SETTLE_TIMEOUT)
            self._begin(term)
            try:
                await self._lead(term)
            except Deposed:
                metrics.TERMS_LOST.inc()
                log.warning("another scheduler leads now", action="term_deposed", term=term)
            finally:
                self._leading = False
                self.acting.stop()
                self.upkeep.end()
            self.leadership.term = 0

    def _begin(self, term: int) -> None:
        now = self.clock()
        actor = self.leadership.actor
        self.firing.begin(actor, now)
        self.dispatching.begin(actor, now)
        self.upkeep.begin(actor)
        self._leading = True
        log.info("term begins", action="term_begins", term=term, jobs=len(self.jobs.jobs))

    async def _lead(self, term: int) -> None:
        """Decide, append, read back; until somebody else leads."""
        now = self.clock()
        while self.leadership.term == term:
            if self._disk.is_reached():
                await self._wait_for_room()
                now = self.clock()
                continue
            decisions, behind = self.decide(now)
            if not decisions:
                now = await self._pause()
                continue
            if (early := now - self.clock()) > 0:
                time.sleep(min(early, FINEST))  # noqa: ASYNC251 - the loop's timers are coarser
            try:
                last = await self.ledger.append_fenced(decisions, term, behind=behind)
                metrics.recorded(decisions, self.clock())
                await self.follower.reached(last, SETTLE_TIMEOUT)
            except LedgerUnavailable as error:
                log.warning(str(error), action="decisions_unknown")
                await self._settle(term)
            now = self.clock()
        raise Deposed("a newer term was read")

    async def _wait_for_room(self) -> None:
        """Decide nothing while the disk has only its reserve left: that is for reports."""
        log.error("the disk is nearly full: nothing is decided", action="disk_reserve_reached")
        while self._disk.is_reached():  # noqa: ASYNC110 - nobody tells when there is room again
            await asyncio.sleep(SWEEP)
        log.info("the disk has room again", action="disk_has_room")

    def decide(self, now: float) -> tuple[list[Decision], set[str]]:
        """One round of decisions on the fold as it is; [] when there is nothing to do.

        And the ids of those that must not stand but behind the one before them.
        """
        fires = self.firing.decide(now)
        limit = ROUND if len(fires) < MANY else WHILE_FIRING
        decisions = self.dispatching.decide(now, limit)
        orders = self.dispatching.orders_at_once(fires, now)
        for fire in fires:
            decisions.append(fire)
            if fire[0] in orders:
                decisions.append(orders[fire[0]])
        self.asking.look()
        decisions += self.upkeep.decisions(2 * ROUND - len(decisions))
        return decisions, {id for id, _ in orders.values()}

    async def _pause(self) -> float:
        """Sleep until something was read, something is due, or a second has passed.

        The time to decide for: a moment before something is due it is decided already.
        """
        now = self.clock()
        dues = [d for d in (self.firing.next_due(), self.dispatching.next_due()) if d is not None]
        due = min([now + SWEEP, *dues])
        if due - now <= FINEST:
            await asyncio.sleep(0)  # a long round of looking must not starve reader and heartbeat
            return max(now, due)
        self._woken.clear()
        if self.dispatching.has_work():
            return now
        patience = self.dispatching.patience()
        self._crowd_known = patience < math.inf
        wait = min(due - now - FINEST, patience)
        alarm = asyncio.get_running_loop().call_later(wait, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            alarm.cancel()
        return self.clock()

    async def _settle(self, term: int) -> None:
        """After an append of unknown outcome: read to the end, then decide from the fold."""
        while self.leadership.term == term:
            try:
                if await self.follower.reached(await self.ledger.end(), SETTLE_TIMEOUT):
                    self._begin(term)
                    return
            except LedgerUnavailable:
                await asyncio.sleep(0.2)

    async def _resign(self) -> None:
        term = self.leadership.term
        if not term:
            return
        try:
            ticks = self.firing.settle(self.clock())
            if ticks:
                await self.ledger.append_fenced(ticks, term)
                self.leadership.last = term
            await self.leadership.resign()
        except (Deposed, LedgerUnavailable) as error:
            log.warning(str(error), action="resign_failed")

    def _apply(self, recorded: Recorded) -> None:
        """Fold one fact into everything, and note what needs a decision."""
        self.definitions.apply(recorded)
        for fold in self._concerned[type(recorded.fact)]:
            fold(recorded)
        touched = self.jobs.apply(recorded)
        self.leadership.apply(recorded)
        self.upkeep.note(recorded)
        if self._leading:
            self.dispatching.note(recorded, touched)
            if isinstance(recorded.fact, _MOVES_DUE_TIMES):
                self._rearm(recorded.fact)
        if not isinstance(recorded.fact, _SELDOM_DECISIVE):
            self._news = True

    def _read(self) -> None:
        """Everything at hand is folded: decide, if anything may follow from it."""
        crowd_begins = self.dispatching.patience() < math.inf and not self._crowd_known
        if self._news or crowd_begins or self.dispatching.has_work():
            self._news = False
            self._woken.set()

    def _rearm(self, fact: f.Fact) -> None:
        match fact:
            case f.EventCreated() | f.EventUpdated() | f.EventDeleted():
                self.firing.arm(fact.event)
            case f.MasterSwitched():
                self.firing.arm_all()
            case f.CatalogCreated() | f.CatalogUpdated() | f.CatalogDeleted():
                if fact.type in ("category", "plugin", "config"):
                    self.firing.arm_all()

    def _acted(self, job: str) -> None:
        self.dispatching.touch(job)
        self._woken.set()

    def _wake(self) -> None:
        self._woken.set()

    async def _heartbeat(self, message: dict[str, Any]) -> None:
        if self.dispatching.heard(message):
            self._woken.set()

    async def _announcement(self, message: dict[str, Any]) -> None:
        self.leadership.hear(message)
