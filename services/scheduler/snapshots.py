"""The scheduler's snapshots: what it folds, kept so that its next start is quick (design.md 8).

Only the leader writes them; any scheduler goes on from one. A snapshot that cannot be used costs
a sentence in the log and the time to read what is older, nothing else.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from domain.facts import LedgerFounded
from projections import snapshot
from projections.access import StoredAccess
from projections.active_jobs import StoredJobs
from projections.definitions import StoredDefinitions
from projections.event_state import StoredEventStates
from projections.fleet import StoredFleet
from projections.schedule import StoredSchedule
from services.ledger import snapshots as store
from services.ledger.errors import LedgerUnavailable
from services.scheduler.leadership import StoredTerm
from services.snapshots import LOOK, Pace, encode

if TYPE_CHECKING:
    from services.scheduler.service import Scheduler

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """All that a scheduler folded up to `position` of a ledger, read with these settings."""

    ledger: str
    position: int
    timezone: str
    dst_policy: str
    definitions: StoredDefinitions
    schedule: StoredSchedule
    fleet: StoredFleet
    states: StoredEventStates
    access: StoredAccess
    jobs: StoredJobs
    term: StoredTerm


class Snapshots:
    """Reads and writes the snapshots of one scheduler."""

    def __init__(self, scheduler: "Scheduler") -> None:
        self._scheduler = scheduler
        self._pace = Pace(0, time.monotonic())
        self.restored = 0
        """Position of the snapshot from which this scheduler went on; 0 = it read everything."""

    async def restore(self) -> None:
        """Go on from the newest snapshot that can be used; before anything was folded."""
        try:
            await self._restore()
        except LedgerUnavailable as error:
            log.warning(f"No snapshot is used: {error}", action="snapshots_unreadable")

    async def _restore(self) -> None:
        ledger = self._scheduler.ledger
        founded = await ledger.get(1)
        if founded is None or not isinstance(founded.fact, LedgerFounded):
            return
        end = await ledger.end()
        for kept in await store.snapshots(ledger):
            data = await store.read_snapshot(ledger, kept)
            state = await asyncio.to_thread(snapshot.load, data, SchedulerState)
            refusal = self._refusal(state, founded.fact.ledger, end)
            if state is not None and refusal is None:
                self._take(state)
                return
            log.warning(
                f"The snapshot of position {kept.position} is not used: {refusal}.",
                action="snapshot_discarded",
                position=kept.position,
            )

    def _refusal(self, state: SchedulerState | None, ledger: str, end: int) -> str | None:
        """Why a snapshot cannot be used."""
        settings = self._scheduler.settings
        if state is None:
            return "it is damaged, or another release wrote it"
        if state.ledger != ledger:
            return "it belongs to another ledger"
        if state.position > end:
            return f"the ledger ends at {end}"
        if (state.timezone, state.dst_policy) != (settings.timezone, settings.dst_policy):
            return "the time zone or the daylight saving policy was changed"
        return None

    def _take(self, state: SchedulerState) -> None:
        scheduler = self._scheduler
        scheduler.definitions.restore(state.definitions)
        scheduler.schedule.restore(state.schedule)
        scheduler.fleet.restore(state.fleet)
        scheduler.states.restore(state.states)
        scheduler.access.restore(state.access)
        scheduler.jobs.restore(state.jobs)
        scheduler.leadership.restore(state.term)
        scheduler.follower.position = state.position
        self._pace.taken(state.position, time.monotonic())
        self.restored = state.position
        log.info("going on from a snapshot", action="snapshot_restored", position=state.position)

    async def keep(self) -> None:
        """Write a snapshot whenever one is due while this scheduler leads, until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            position = self._scheduler.follower.position
            if self._scheduler.leadership.term and self._pace.is_due(position, time.monotonic()):
                try:
                    await self.write()
                except LedgerUnavailable as error:
                    log.warning(str(error), action="snapshot_failed")
                except Exception:
                    # What a snapshot saves is time at the next start: no reason to end this one.
                    log.exception("the snapshot failed", action="snapshot_failed")

    async def write(self) -> None:
        """Write a snapshot of what is folded now. Raises LedgerUnavailable."""
        if not self._scheduler.definitions.ledger:
            return
        began = time.monotonic()
        state = self._state()
        self._pace.taken(state.position, began)
        copied = time.monotonic()
        data = await encode(state, self._pace)
        await store.write_snapshot(self._scheduler.ledger, state.position, data)
        log.info(
            "wrote a snapshot",
            action="snapshot_written",
            position=state.position,
            bytes=len(data),
            copy_ms=round((copied - began) * 1000, 1),
            elapsed_ms=round((time.monotonic() - began) * 1000),
        )

    def _state(self) -> SchedulerState:
        """Everything at one position: no fact is folded while this runs."""
        scheduler = self._scheduler
        return SchedulerState(
            ledger=scheduler.definitions.ledger,
            position=scheduler.follower.position,
            timezone=scheduler.settings.timezone,
            dst_policy=scheduler.settings.dst_policy,
            definitions=scheduler.definitions.state(),
            schedule=scheduler.schedule.state(),
            fleet=scheduler.fleet.state(),
            states=scheduler.states.state(),
            access=scheduler.access.state(),
            jobs=scheduler.jobs.state(),
            term=scheduler.leadership.state(),
        )
