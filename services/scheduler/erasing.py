"""Erasing, by the leader: recorded deletions are carried out, and new ones are recorded.

Three things ask for it: JobDeleted facts, EventDeleted with `delete_jobs`, and old age
(`retention_days`). How far all of that is done is kept on SNAPSHOTS; a successor goes on from
there, and doing something twice does nothing. What is read and removed, and in which order, is
services/ledger/erasing.py's.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import structlog

from domain import facts as f
from domain.deletion import Gathering, JobFacts, facts_of, job_of, readable
from domain.facts import Recorded
from projections.active_jobs import ActiveJobs
from services.ledger import reading
from services.ledger.connection import Ledger
from services.ledger.erasing import JOB_SUBJECTS, erase, facts_at, gather, leftovers
from services.ledger.raw import raw_on, read_raw
from services.ledger.streams import SNAPSHOTS
from services.scheduler.sealing import Record, Sealing
from services.settings import Settings

PROGRESS = "snapshots.erasing"
# Deletions recorded at once, and carried out before the next ones are.
AT_ONCE = 50
# Seconds between two jobs that are erased: others need the disk as well.
PAUSE = 0.002
# Old jobs are looked for this often, and first this long after a term began, in seconds.
RETENTION_EVERY = 3600.0
RETENTION_FIRST = 60.0
# Without news, live jobs of deleted events are looked at this often, in seconds.
LOOK = 10.0
_DAY = 86400.0
# Events whose jobs are looked for in one reading of the ledger.
_EVENTS_AT_ONCE = 20
# So many erased jobs are remembered, in case a report of one comes late.
_REMEMBERED = 100_000
# So many deletions are kept as they were heard; beyond that they are read from the ledger.
_HEARD = 1000
_DELETIONS = (f.JobDeleted, f.EventDeleted)

log = structlog.get_logger()


@dataclass(slots=True)
class Progress:
    """Up to which sequence deletions were carried out, and old jobs looked for."""

    carried_out: int = 0
    retention: int = 0


@dataclass(slots=True)
class _Event:
    """A deleted event: its jobs requested up to `upto` must go; `searched` once already."""

    upto: int
    searched: bool = False


class Eraser:
    """The erasing of one term. `end` is the last sequence that was read."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        jobs: ActiveJobs,
        sealing: Sealing,
        record: Record,
        clock: Callable[[], float],
        end: Callable[[], int],
    ) -> None:
        self.actor = f.Actor(type="scheduler", id="")
        self.position = 0
        """Deletions up to here were carried out."""
        self._settings = settings
        self._ledger = ledger
        self._jobs = jobs
        self._sealing = sealing
        self._record = record
        self._clock = clock
        self._end = end
        self._progress = Progress()
        self._saved = Progress()
        self._events: dict[str, _Event] = {}
        self._erased: dict[str, None] = {}
        self._heard: deque[Recorded] = deque()
        self._heard_after: int | None = None
        """All deletions after this sequence are in `_heard`; None: nothing was read yet."""
        self._late: list[int] = []
        self._retention_due = 0.0
        self._news = asyncio.Event()

    def note(self, recorded: Recorded) -> None:
        """One more fact was read: is something to be erased?"""
        fact = recorded.fact
        if self._heard_after is None:
            self._heard_after = recorded.sequence - 1
        if not (self._erased or self._events or isinstance(fact, _DELETIONS)):
            return
        match fact:
            case f.JobDeleted():
                self._erased[fact.job] = None
                if len(self._erased) > _REMEMBERED:
                    del self._erased[next(iter(self._erased))]
                self._hear(recorded)
            case f.EventDeleted(delete_jobs=True):
                self._hear(recorded)
            case f.JobCompleted(event=event) if event in self._events:
                self.look()
            case _ if self._erased:
                owner = job_of(fact)
                if owner and owner[1] in self._erased and owner[1] not in self._jobs.jobs:
                    self._late.append(recorded.sequence)
                    self.look()
            case _:
                pass

    def _hear(self, deletion: Recorded) -> None:
        self._heard.append(deletion)
        if len(self._heard) > _HEARD:
            self._heard_after = self._heard.popleft().sequence
        self.look()

    def look(self) -> None:
        """Look now whether there is something to erase."""
        self._news.set()

    async def run(self) -> None:
        """Erase what there is to erase, until cancelled."""
        await self._load()
        self._retention_due = self._clock() + RETENTION_FIRST
        while True:
            self._news.clear()
            await self._carry_out()
            await self._search_events()
            await self._take_late()
            await self._retain(self._clock())
            await self._save()
            try:
                async with asyncio.timeout(LOOK):
                    await self._news.wait()
            except TimeoutError:
                continue

    # --- carrying out --------------------------------------------------------------------------

    async def _carry_out(self) -> None:
        """Everything that is recorded by now, what that leads to included."""
        while self.position < (end := self._end()):
            if self._heard_after is None or self.position < self._heard_after:
                await self._read_deletions(end if self._heard_after is None else self._heard_after)
                continue
            while self._heard and self._heard[0].sequence <= self.position:
                self._heard.popleft()
            if not self._heard:
                self.position = end
                return
            await self._carry_out_one(self._heard[0].sequence, self._heard[0].fact)

    async def _read_deletions(self, upto: int) -> None:
        """Carry out what was recorded before this process heard of it.

        To look for these few among all facts costs nats-server much, where there are many events.
        """
        subjects = ("facts.tombstone", "facts.event.*")
        async for batch in read_raw(
            self._ledger, after=self.position, upto=upto, subjects=subjects
        ):
            for raw in batch:
                await self._carry_out_one(raw.sequence, readable(raw))
            await self._save()
        self.position = max(self.position, upto)

    async def _carry_out_one(self, sequence: int, fact: f.Fact | None) -> None:
        if isinstance(fact, f.JobDeleted):
            await self._erase(fact, sequence)
        elif isinstance(fact, f.EventDeleted) and fact.delete_jobs:
            self._events[fact.event] = _Event(sequence)
        self.position = sequence

    async def _erase(self, deleted: f.JobDeleted, recorded: int) -> None:
        if deleted.erased:
            await self._sealing.reached(min(recorded, max(deleted.erased)[0]))
        count = await erase(self._ledger, deleted)
        late = await leftovers(self._ledger, deleted)
        if late and deleted.job not in self._jobs.jobs:
            await self._delete([facts_of(deleted.event, deleted.job, late)])
        if count:
            log.info("a job was erased", action="job_erased", job=deleted.job, facts=count)
            await asyncio.sleep(PAUSE)

    async def _delete(self, jobs: Iterable[JobFacts]) -> None:
        """Record the deletion of these jobs; those that are live are none of ours."""
        deletions = [
            deletion
            for job in jobs
            if job.job not in self._jobs.jobs and job.hashes
            for deletion in job.deletions(now=self._clock(), actor=self.actor)
        ]
        for start in range(0, len(deletions), AT_ONCE):
            await self._record(deletions[start : start + AT_ONCE])

    # --- jobs of deleted events ----------------------------------------------------------------

    async def _search_events(self) -> None:
        """Find the jobs of deleted events; what is live is looked for again once it is over."""
        due = [
            event
            for event, wanted in self._events.items()
            if not wanted.searched or not self._live(event, wanted.upto)
        ]
        for start in range(0, len(due), _EVENTS_AT_ONCE):
            some = {event: self._events[event] for event in due[start : start + _EVENTS_AT_ONCE]}
            await self._search(some)
            for event, wanted in some.items():
                wanted.searched = True
                if not self._live(event, wanted.upto):
                    del self._events[event]
        if due:
            await self._carry_out()

    async def _search(self, events: dict[str, _Event]) -> None:
        firsts = [await raw_on(self._ledger, f"facts.job.{event}.*", 0) for event in events]
        first = min((raw.sequence for raw in firsts if raw is not None), default=0)
        if not first:
            return
        gathering = Gathering(
            lambda event, request: event in events and request <= events[event].upto
        )
        own = [subject for event in events for subject in _subjects_of(event)]
        async for jobs in gather(
            self._ledger,
            gathering,
            after=first - 1,
            upto=self._end(),
            subjects=(*own, "facts.order.*", "facts.report.*"),
        ):
            await self._delete(jobs)
        await self._delete(gathering.open.values())

    def _live(self, event: str, upto: int) -> bool:
        """Whether a job of the event that was requested by then is not over."""
        jobs = self._jobs
        return any(jobs.jobs[id].sequence <= upto for id in jobs.by_event.get(event, ()))

    # --- reports that came late ----------------------------------------------------------------

    async def _take_late(self) -> None:
        """A fact of a job that is erased already goes as well."""
        late, self._late = self._late, []
        for raw in await facts_at(self._ledger, late):
            fact = readable(raw)
            owner = job_of(fact) if fact is not None else None
            if owner is not None:
                await self._delete([facts_of(*owner, [raw])])
        if late:
            await self._carry_out()

    # --- old jobs ------------------------------------------------------------------------------

    async def _retain(self, now: float) -> None:
        """Erase finished jobs older than `retention_days`, once an hour."""
        if not self._settings.retention_days or now < self._retention_due:
            return
        self._retention_due = now + RETENTION_EVERY
        count = await self.retain_once(now - self._settings.retention_days * _DAY)
        log.info("old jobs were erased", action="retention", jobs=count)

    async def retain_once(self, before: float) -> int:
        """Erase the jobs that ended before a moment (Unix seconds); how many there were."""
        gathering = Gathering()
        count = 0
        async for jobs in gather(
            self._ledger,
            gathering,
            after=self._progress.retention,
            upto=self._end(),
            subjects=JOB_SUBJECTS,
            until=before,
        ):
            for start in range(0, len(jobs), AT_ONCE):
                await self._delete(jobs[start : start + AT_ONCE])
                await self._carry_out()
            count += sum(bool(job.requested) for job in jobs)
        first_open = gathering.first_open
        reached = gathering.position if first_open is None else first_open - 1
        self._progress.retention = max(self._progress.retention, reached)
        return count

    # --- progress ------------------------------------------------------------------------------

    async def _load(self) -> None:
        stored = await reading.find(self._ledger, {"last_by_subj": PROGRESS}, SNAPSHOTS)
        self._progress = Progress(**json.loads(stored.data)) if stored is not None else Progress()
        if max(self._progress.carried_out, self._progress.retention) > self._end():
            self._progress = Progress()  # of a ledger that was replaced by an older one
        self._saved = Progress(**asdict(self._progress))
        self.position = self._progress.carried_out
        self._events.clear()

    async def _save(self) -> None:
        waiting = [wanted.upto for wanted in self._events.values()]
        self._progress.carried_out = min([self.position, *(upto - 1 for upto in waiting)])
        if self._progress == self._saved or not self._worth_saving():
            return
        await self._ledger.request(PROGRESS, json.dumps(asdict(self._progress)).encode())
        body = {"filter": PROGRESS, "keep": 1}
        reading.checked(await self._ledger.api(f"STREAM.PURGE.{SNAPSHOTS}", body))
        self._saved = Progress(**asdict(self._progress))

    def _worth_saving(self) -> bool:
        """An idle ledger's ticks need not be told each time."""
        return (
            self._progress.retention != self._saved.retention
            or self._progress.carried_out - self._saved.carried_out >= 1000
            or bool(self._erased)
        )


def _subjects_of(event: str) -> tuple[str, str]:
    return f"facts.job.{event}.*", f"facts.queue.{event}"
