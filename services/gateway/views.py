"""What the gateway knows: every view of the ledger, fed in order, and who waits for news.

Definitions, access, fleet and live jobs are folded in memory; finished jobs and revisions are
stored some milliseconds later, many facts per transaction (storing.py). A finished job's document
stays at hand here until its row is committed, an ephemeral one's for a minute (D15). Knows nothing
of HTTP.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from domain import facts as f
from domain.facts import Json, Recorded
from domain.job import Job
from projections.access import Access, StoredAccess
from projections.active_jobs import ActiveJobs, StoredJobs
from projections.concern import by_kind
from projections.definitions import Definitions, StoredDefinitions
from projections.event_state import EventStates, StoredEventStates
from projections.final_record import FinalRecord, final_record
from projections.fleet import Fleet, StoredFleet
from projections.history import History
from projections.job_activity import JobActivity, StoredActivity
from projections.job_view import document
from projections.plain_jobs import Outline, PlainJob, outline_of, plain_jobs, plain_record
from projections.schedule import Schedule, StoredSchedule
from projections.upcoming_jobs import Preview
from services.gateway.dictation import Handed
from services.gateway.storing import HistoryWriter

# An ephemeral job leaves no row; those who wait for its end still get it (api.md D15).
KEPT_FOR = 120.0
# Seconds between two looks at what may be forgotten.
_SWEEP = 1.0

# What a job's document is made of, the sequence that made it final, and when that was.
_Kept = tuple[FinalRecord | PlainJob, int, float]

T = TypeVar("T")


class Watch:
    """Somebody's interest in a job, or in the answer to a request (by its sequence).

    `changed` is set at every fact that concerns it.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()


@dataclass(frozen=True, slots=True)
class ViewsState:
    """What a snapshot keeps of Views: all that is not in SQLite.

    Days are those of `timezone`, due times those of both settings.
    """

    position: int
    timezone: str
    dst_policy: str
    schedule: StoredSchedule
    definitions: StoredDefinitions
    access: StoredAccess
    fleet: StoredFleet
    states: StoredEventStates
    active: StoredJobs
    activity: StoredActivity
    commands: dict[str, int]
    answers: dict[int, Recorded]
    events_changed: int


class Views:
    """All views of one gateway."""

    def __init__(self, zone: str = "UTC", dst_policy: str = "literal") -> None:
        self.position = 0
        self.timezone, self.dst_policy = zone, dst_policy
        self.definitions = Definitions()
        self.schedule = Schedule(self.definitions, zone=zone, dst_policy=dst_policy)
        self.preview = Preview(self.schedule)
        self.access = Access()
        self.fleet = Fleet()
        self.states = EventStates(zone)
        self.active = ActiveJobs(self.definitions)
        self.activity = JobActivity()
        self._concerned = by_kind(self.schedule, self.access, self.fleet, self.states)
        self.commands: dict[str, int] = {}
        self.answers: dict[int, Recorded] = {}
        self.events_changed = 0
        self._finals: dict[str, _Kept] = {}
        self._ephemeral: dict[str, _Kept] = {}
        self._watches: dict[str, set[Watch]] = {}
        self._history: HistoryWriter | None = None
        self._past = 0
        self._swept, self._swept_upto = 0.0, -1

    # --- folding -----------------------------------------------------------------------------

    def apply(self, recorded: Recorded) -> None:
        """Fold one fact into every view and wake who waits for it."""
        self._note(recorded)
        final = self._fold(recorded)
        if self._history is not None:
            self._history.add([(recorded, final)], recorded.sequence, 1)

    def apply_all(self, facts: Sequence[Recorded]) -> None:
        """Fold several facts, in order; nobody can look at the views in between.

        Raises nothing that `apply` does not.
        """
        entries: list[Handed] = []
        is_busy = self._history is not None and self._history.is_busy
        plain = plain_jobs(facts, self.active.jobs, self.active.owed)
        for recorded, job in zip(facts, plain, strict=True):
            self._note(recorded)
            if job is not None and recorded is job.requested:
                job.outline = self._outline(recorded)
            if job is None or job.outline is None:
                entries.append((recorded, self._fold(recorded)))
                continue
            self.active.pass_over(recorded)
            if recorded is job.completed and self._complete_plain(job):
                entries.append((recorded, plain_record(job)) if is_busy else job)
        if self._history is not None:
            self._history.add(entries, self.position, len(facts))

    def _note(self, recorded: Recorded) -> None:
        """Fold a fact into the views that do not tell jobs apart."""
        self.position = recorded.sequence
        self.definitions.apply(recorded)
        fact = recorded.fact
        for fold in self._concerned[type(fact)]:
            fold(recorded)
        if isinstance(fact.cause, str) and fact.cause.startswith(REPEATABLE):
            self._remember_command(fact.cause, recorded.sequence)

    def _fold(self, recorded: Recorded) -> FinalRecord | None:
        """Fold a fact into the views of jobs; the record of the job that it made final."""
        touched = self.active.apply(recorded)
        self.activity.apply(recorded, touched)
        keep = _FOLDS.get(type(recorded.fact))
        final = keep(self, recorded, touched) if keep is not None else None
        if self._watches:
            for job in touched:
                self._wake(job.id)
        return final

    def _outline(self, requested: Recorded) -> Outline | None:
        """What a plain job's record has in common with others; None if that is not known."""
        request = requested.fact
        assert isinstance(request, f.JobRequested)
        template = self.active.template(request.made_of, requested.sequence)
        return None if template is None else outline_of(template)

    def _complete_plain(self, job: PlainJob) -> bool:
        """Whether a plain job's record is still to be stored; wakes who waits for it."""
        completed, assigned = job.completed.fact, job.assigned.fact
        assert isinstance(completed, f.JobCompleted)
        assert isinstance(assigned, f.JobAssigned)
        self._wake(completed.job)
        if job.completed.sequence <= self.history_position:
            return False
        job.groups = self._groups(assigned.server)
        if job.completed.sequence > self._past:
            self._keep(completed.job, job, job.completed.sequence, completed.at)
        return True

    def _note_change(self, recorded: Recorded, _: list[Job]) -> None:
        self.events_changed = recorded.sequence

    def _event_deleted(self, recorded: Recorded, touched: list[Job]) -> None:
        """Without its jobs' rows none of their documents may be at hand; others' are stored soon.

        Ephemeral ones, which have no rows, go when they are erased one by one.
        """
        self._note_change(recorded, touched)
        if getattr(recorded.fact, "delete_jobs", False):
            self._finals.clear()

    def _completed(self, recorded: Recorded, touched: list[Job]) -> FinalRecord | None:
        return self._final(touched[0], recorded.sequence, recorded.fact.at) if touched else None

    def _flushed(self, recorded: Recorded, touched: list[Job]) -> None:
        for job in touched:
            self.activity.forget(job.id)
        request = recorded.fact.cause
        if isinstance(request, int):
            self.answers[request] = recorded
            if len(self.answers) > _MOST_ANSWERS:
                del self.answers[next(iter(self.answers))]
            self._wake(str(request))

    def _finished(self, recorded: Recorded, touched: list[Job]) -> None:
        if not touched:  # a late report changes the stored record
            self._revised(recorded, touched)

    def _revised(self, recorded: Recorded, _: list[Job]) -> None:
        id = getattr(recorded.fact, "job", "")
        self._finals.pop(id, None)
        self._ephemeral.pop(id, None)

    def _final(self, job: Job, sequence: int, at: float) -> FinalRecord | None:
        """The record of a job that just became final, unless it is stored already."""
        lines = self.activity.of(job.id)
        self.activity.forget(job.id)
        if sequence <= self.history_position:
            return None
        groups = self._groups(job.server)
        final = final_record(job.id, document(job, groups=groups, activity=lines))
        self._keep(job.id, final, sequence, at)
        return final

    def _groups(self, id: str | None) -> Sequence[str]:
        server = self.fleet.servers.get(id) if id else None
        return server.groups if server is not None else ()

    def _keep(self, id: str, final: FinalRecord | PlainJob, sequence: int, at: float) -> None:
        is_ephemeral = isinstance(final, FinalRecord) and final.ephemeral
        place = self._ephemeral if is_ephemeral else self._finals
        place[id] = (final, sequence, at)
        self._sweep(at)

    def _remember_command(self, id: str, sequence: int) -> None:
        self.commands[id] = sequence
        if len(self.commands) > _MOST_COMMANDS:
            del self.commands[next(iter(self.commands))]

    def _sweep(self, now: float) -> None:
        """Forget documents that are stored; each is looked at once, the oldest first."""
        stored = self.history_position
        if stored == self._swept_upto or 0 <= now - self._swept < _SWEEP:
            return
        self._swept, self._swept_upto = now, stored
        for kept, seconds in ((self._finals, 0.0), (self._ephemeral, KEPT_FOR)):
            for id in _over(kept, stored, now, seconds):
                del kept[id]

    # --- snapshots ---------------------------------------------------------------------------

    def state(self) -> ViewsState:
        """All that `restore` needs; not changed by what is folded later."""
        return ViewsState(
            position=self.position,
            timezone=self.timezone,
            dst_policy=self.dst_policy,
            schedule=self.schedule.state(),
            definitions=self.definitions.state(),
            access=self.access.state(),
            fleet=self.fleet.state(),
            states=self.states.state(),
            active=self.active.state(),
            activity=self.activity.state(),
            commands=dict(self.commands),
            answers=dict(self.answers),
            events_changed=self.events_changed,
        )

    def restore(self, state: ViewsState) -> None:
        """Go on from a snapshot, before anything was folded."""
        self.position = state.position
        self.definitions.restore(state.definitions)
        self.schedule.restore(state.schedule)
        self.access.restore(state.access)
        self.fleet.restore(state.fleet)
        self.states.restore(state.states)
        self.active.restore(state.active)
        self.activity.restore(state.activity)
        self.commands, self.answers = state.commands, state.answers
        self.events_changed = state.events_changed

    def kept_states(self) -> list[tuple[int, bytes]]:
        """The snapshots in the history's file and their positions, newest first."""
        assert self._history is not None
        return self._history.kept_states()

    async def keep_state(self, position: int, state: bytes) -> None:
        """Keep a snapshot, once the history is stored up to its position.

        Raises sqlite3.DatabaseError.
        """
        assert self._history is not None
        await self._history.keep_state(position, state)

    # --- waiting -----------------------------------------------------------------------------

    @contextmanager
    def watch(self, what: str) -> Iterator[Watch]:
        """Interest in a job, or in a request, for as long as the context lasts."""
        watch = Watch()
        self._watches.setdefault(what, set()).add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[what]
            watches.discard(watch)
            if not watches:
                del self._watches[what]

    def _wake(self, what: str) -> None:
        for watch in self._watches.get(what, ()):
            watch.changed.set()

    def wake_all(self) -> None:
        """Have everybody who waits look again."""
        for what in list(self._watches):
            self._wake(what)

    # --- counts ------------------------------------------------------------------------------

    def unfinished(self, event: str) -> int:
        """How many jobs of an event are not finished, owed retries included."""
        owed = sum(job.event == event for job in self.active.owed.values())
        return len(self.active.by_event.get(event, ())) + owed

    def counted_today(self, event: str, condition: str, now: float) -> int:
        """What a `day` limit of an event compares (execution.md 7.4)."""
        live = len(self.active.by_event.get(event, ()))
        return self.states.counted(event, condition, now, live)

    # --- finished jobs -----------------------------------------------------------------------

    def open_history(self, path: Path, ledger: str, end: int) -> None:
        """Begin to keep history in this file; facts up to its position are skipped.

        Nobody asks for what became of jobs up to `end`, the ledger's, before all is folded.
        """
        self._past = end
        self._history = HistoryWriter(path, ledger, end)

    @property
    def history_failed(self) -> asyncio.Future[None]:
        """Fails with ViewDamaged when the history file turns out to be damaged."""
        assert self._history is not None
        return self._history.failed

    async def close(self) -> None:
        """Write what is pending and close the file."""
        if self._history is not None:
            await self._history.close()

    def final_at_hand(self, id: str) -> Json | None:
        """The document of a job that just became final, if it is still kept here."""
        kept = self._finals.get(id) or self._ephemeral.get(id)
        if kept is None:
            return None
        final = kept[0]
        return (plain_record(final) if isinstance(final, PlainJob) else final).document()

    async def history(self, ask: Callable[[History], T]) -> T:
        """Ask the history, which has stored everything that is applied by now (D26)."""
        assert self._history is not None
        return await self._history.ask(ask, self.position)

    async def breathe(self) -> None:
        """Wait while folding is far ahead of storing."""
        if self._history is not None:
            await self._history.breathe()

    @property
    def history_position(self) -> int:
        """The last sequence whose rows are committed."""
        return self._history.position if self._history is not None else 0


# What does not stand here changes nothing that Views itself keeps.
_FOLDS: Mapping[type[f.FactBase], Callable[[Views, Recorded, list[Job]], FinalRecord | None]] = {
    f.EventCreated: Views._note_change,
    f.EventUpdated: Views._note_change,
    f.EventDeleted: Views._event_deleted,
    f.JobFinished: Views._finished,
    f.JobCompleted: Views._completed,
    f.QueueFlushed: Views._flushed,
    f.JobTagged: Views._revised,
    f.JobUpdated: Views._revised,
    f.JobDeleted: Views._revised,
}


def _over(kept: dict[str, _Kept], stored: int, now: float, seconds: float) -> list[str]:
    """The documents, oldest first, that are stored and were kept for so many seconds."""
    over = []
    for id, (_, sequence, at) in kept.items():
        if sequence > stored or abs(now - at) < seconds:
            break
        over.append(id)
    return over


REPEATABLE = "key-"
"""Command ids that come from a client's Idempotency-Key begin so."""

_MOST_COMMANDS = 100_000
_MOST_ANSWERS = 1000
