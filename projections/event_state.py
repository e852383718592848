"""What is remembered of each event between its runs (data.md 2.1), and today's counts.

Folded from facts alone: cursor, nth, robin, and how the last jobs ended. The counts per day and
condition serve the `day` limit (execution.md 7.4). Multiplex children do not count: their parent
does. Must not know what any of it is used for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct
from msgspec.structs import replace

from domain import facts as f
from domain.actions import conditions_of
from domain.catalog import CONFIG_ID
from domain.facts import Counters, FireKey, Json, Recorded


class EventState(Struct, gc=False):
    """One event's state. Times are Unix seconds; `total_elapsed` is in seconds.

    `cursor_set` and `nth_set` are the sequences at which a client last set the counter, or the
    event was made: fires of an older anchor do not overwrite it.
    """

    cursor: int | None = None
    nth: int | None = None
    robin: int = 0
    last_job: str | None = None
    last_code: int | float | str | None = None
    last_completed: float | None = None
    total_elapsed: float = 0.0
    total_count: int = 0
    cursor_set: int = 0
    nth_set: int = 0

    def wire(self) -> Json:
        """As get_global_state shows it: only what is known (data.md 12.6)."""
        shown = {
            "cursor": self.cursor,
            "nth": self.nth,
            "robin": self.robin or None,
            "last_job": self.last_job,
            "last_code": self.last_code,
            "last_completed": self.last_completed,
        }
        totals = {"total_elapsed": round(self.total_elapsed, 3), "total_count": self.total_count}
        known = {key: value for key, value in shown.items() if value is not None}
        return known | (totals if self.total_count else {})


class _Live(Struct, gc=False):
    """What is needed of a live job until it ends."""

    event: str
    launched: float
    order: int = 0
    started: float | None = None
    ended: float | None = None
    counted_start: bool = False


class _Day(Struct, gc=False):
    """The counts of one event on one day.

    `jobs` holds what each job counted for, so that deleting one rolls it back; only kept while
    a `day` limit applies to the event.
    """

    day: int = 0
    counts: dict[str, int] = {}
    jobs: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True)
class StoredEventStates:
    """What a snapshot keeps of EventStates."""

    position: int
    states: dict[str, EventState]
    live: dict[str, _Live]
    days: dict[str, _Day]
    day_limits: set[tuple[str, str]]
    category: dict[str, str]


class EventStates:
    """Fold of all events' states. `zone` is the IANA name in whose days is counted."""

    def __init__(self, zone: str = "UTC") -> None:
        self.position = 0
        self.states: dict[str, EventState] = {}
        self._zone = ZoneInfo(zone)
        self._live: dict[str, _Live] = {}
        self._days: dict[str, _Day] = {}
        self._day_limits: set[tuple[str, str]] = set()
        self._category: dict[str, str] = {}

    # --- folding -------------------------------------------------------------------------------

    def apply(self, recorded: Recorded) -> None:
        """Take in one fact; those already taken in are ignored. Never raises."""
        if recorded.sequence <= self.position:
            return
        self.position = recorded.sequence
        fold = _FOLDS.get(type(recorded.fact))
        if fold is not None:
            fold(self, recorded.fact)

    def concerns(self, kind: type[f.FactBase]) -> bool:
        """Whether facts of this kind change anything here; no other needs to be applied."""
        return kind in _FOLDS

    def _undefine(self, fact: f.EventDeleted) -> None:
        self.states.pop(fact.event, None)
        self._days.pop(fact.event, None)
        self._category.pop(fact.event, None)
        self._day_limits.discard(("event", fact.event))

    def _define(self, fact: f.EventCreated | f.EventUpdated) -> None:
        id = fact.event
        if isinstance(fact, f.EventCreated):
            self.states[id] = EventState(cursor_set=self.position, nth_set=self.position)
            self._days.pop(id, None)
        state = self.states.setdefault(id, EventState())
        self._category[id] = str(fact.definition.get("category"))
        self._note_day_limit("event", id, fact.definition)
        counters = fact.counters
        if counters is not None and counters.cursor is not None:
            state.cursor, state.cursor_set = counters.cursor, self.position
        if counters is not None and counters.nth is not None:
            state.nth, state.nth_set = counters.nth, self.position

    def _limit_days(self, fact: f.CatalogCreated | f.CatalogUpdated | f.CatalogDeleted) -> None:
        if fact.type in ("category", "config"):
            record = {} if isinstance(fact, f.CatalogDeleted) else fact.record
            self._note_day_limit(fact.type, fact.id, record)

    def _note_day_limit(self, type: str, id: str, record: Json) -> None:
        limits = record.get("limits")
        entries = limits if isinstance(limits, list) else []
        if any(isinstance(x, dict) and x.get("type") == "day" for x in entries):
            self._day_limits.add((type, id))
        else:
            self._day_limits.discard((type, id))

    def _request(self, fact: f.JobRequested) -> None:
        self._advance(fact.event, fact.counters, fact.fire)
        is_child = bool(fact.workflow and fact.workflow.get("job"))
        if not is_child and fact.job not in self._live:
            self._live[fact.job] = _Live(fact.event, fact.at)

    def _advance(self, event: str, counters: Counters | None, fire: FireKey | None) -> None:
        """The counters that a fire carries, unless a client has set them since its anchor."""
        state = self.states.get(event)
        if state is None or counters is None:
            return
        anchor = fire.anchor if fire is not None else self.position
        if counters.cursor is not None and anchor >= state.cursor_set:
            state.cursor = counters.cursor
        if counters.nth is not None and anchor >= state.nth_set:
            state.nth = counters.nth

    def _advance_again(self, fact: f.JobDeleted) -> None:
        """The counters of a fire whose own fact may be gone; never back."""
        state = self.states.get(fact.event)
        counters = fact.counters
        if state is None or counters is None or counters.cursor is None:
            return
        if state.cursor is None or counters.cursor > state.cursor:
            self._advance(fact.event, counters, fact.fire)

    def _reject(self, fact: f.LaunchRejected) -> None:
        self._advance(fact.event, fact.counters, fact.fire)
        self._live.pop(fact.job, None)

    def _miss(self, fact: f.FiresMissed) -> None:
        self._advance(fact.event, fact.counters, None)

    def _take(self, fact: f.JobAssigned | f.JobStarting) -> None:
        """A job has a server: the round-robin index moves, and a start is counted once."""
        state = self.states.get(fact.event)
        if state is not None and fact.robin is not None:
            state.robin = fact.robin
        live = self._live.get(fact.job)
        if live is None:
            return
        if isinstance(fact, f.JobAssigned):
            live.order, live.started, live.ended = self.position, None, None
        if not live.counted_start:
            live.counted_start = True
            self._count(fact.event, fact.job, fact.at, ("start",))

    def _report(self, fact: f.JobStarted | f.JobFinished) -> None:
        live = self._live.get(fact.job)
        if live is None or live.order != fact.order:
            return
        if isinstance(fact, f.JobStarted):
            live.started = fact.started
        else:
            live.ended = fact.ended

    def _end(self, fact: f.JobEnded) -> None:
        live = self._live.get(fact.job)
        if live is not None:
            live.ended = fact.at

    def _flush(self, fact: f.QueueFlushed) -> None:
        for job in fact.jobs:
            self._live.pop(job, None)

    def _delete(self, fact: f.JobDeleted) -> None:
        self._live.pop(fact.job, None)
        self._take_back(fact)
        self._advance_again(fact)

    def _complete(self, fact: f.JobCompleted) -> None:
        live = self._live.pop(fact.job, None)
        state = self.states.get(fact.event)
        if live is None or state is None or fact.retry is not None:
            return
        completed = fact.at if live.ended is None else live.ended
        started = live.launched if live.started is None else live.started
        state.last_job, state.last_code, state.last_completed = fact.job, fact.code, completed
        state.total_elapsed += max(0.0, completed - started)
        state.total_count += 1
        self._count(fact.event, fact.job, fact.at, tuple(conditions_of(fact.code, ())))

    # --- snapshots -----------------------------------------------------------------------------

    def state(self) -> StoredEventStates:
        """All that `restore` needs; not changed by what is folded later."""
        return StoredEventStates(
            position=self.position,
            states={id: replace(state) for id, state in self.states.items()},
            live={id: replace(live) for id, live in self._live.items()},
            days={
                id: _Day(day.day, dict(day.counts), dict(day.jobs))
                for id, day in self._days.items()
            },
            day_limits=set(self._day_limits),
            category=dict(self._category),
        )

    def restore(self, state: StoredEventStates) -> None:
        """Go on from a snapshot of a fold in the same zone; only for one that is new."""
        self.position = state.position
        self.states, self._live, self._days = state.states, state.live, state.days
        self._day_limits, self._category = state.day_limits, state.category

    # --- counts of the day ---------------------------------------------------------------------

    def today(self, event: str, condition: str, now: float) -> int:
        """How many jobs of the event fulfilled a condition on the day of `now`, live ones apart."""
        counted = self._days.get(event)
        if counted is None or counted.day != self._day_of(now):
            return 0
        return counted.counts.get(condition, 0)

    def counted(self, event: str, condition: str, now: float, live: int) -> int:
        """What a `day` limit compares: live jobs count as ended ones for `complete` (7.4)."""
        return self.today(event, condition, now) + (live if condition == "complete" else 0)

    def _count(self, event: str, job: str, at: float, conditions: tuple[str, ...]) -> None:
        if event not in self.states:
            return
        day = self._day_of(at)
        counted = self._days.get(event)
        if counted is None or counted.day < day:
            counted = self._days[event] = _Day(day)
        if self._day_limited(event):
            counted.jobs[job] = counted.jobs.get(job, ()) + conditions
        for condition in conditions:
            counted.counts[condition] = counted.counts.get(condition, 0) + 1

    def _take_back(self, fact: f.JobDeleted) -> None:
        """Deleting a job of today rolls its counts back (api.md 4.7)."""
        counted = self._days.get(fact.event)
        if counted is not None:
            for condition in counted.jobs.pop(fact.job, ()):
                counted.counts[condition] -= 1

    def _day_limited(self, event: str) -> bool:
        return bool(self._day_limits) and (
            ("event", event) in self._day_limits
            or ("category", self._category.get(event, "")) in self._day_limits
            or ("config", CONFIG_ID) in self._day_limits
        )

    def _day_of(self, moment: float) -> int:
        return _day_in(self._zone, moment // 60)


@lru_cache(maxsize=1024)
def _day_in(zone: ZoneInfo, minute: float) -> int:
    """The number of the local day; 0 for moments that no calendar knows.

    Looked up once per minute, as clocks are set on full minutes and facts follow closely.
    """
    try:
        return datetime.fromtimestamp(minute * 60, zone).toordinal()
    except (ValueError, OverflowError, OSError):
        return 0


# What does not stand here does not concern an EventStates.
_FOLDS: Mapping[type[f.FactBase], Callable[[EventStates, Any], None]] = {
    f.EventCreated: EventStates._define,
    f.EventUpdated: EventStates._define,
    f.EventDeleted: EventStates._undefine,
    f.CatalogCreated: EventStates._limit_days,
    f.CatalogUpdated: EventStates._limit_days,
    f.CatalogDeleted: EventStates._limit_days,
    f.JobRequested: EventStates._request,
    f.LaunchRejected: EventStates._reject,
    f.FiresMissed: EventStates._miss,
    f.JobAssigned: EventStates._take,
    f.JobStarting: EventStates._take,
    f.JobStarted: EventStates._report,
    f.JobFinished: EventStates._report,
    f.JobEnded: EventStates._end,
    f.JobCompleted: EventStates._complete,
    f.QueueFlushed: EventStates._flush,
    f.JobDeleted: EventStates._delete,
}
