"""The preview of all events' launches, soonest first (api.md 8.7, scheduling.md 6.3).

Looks at the definitions in force and at where each event's evaluation stands; computes, stores
nothing. Must not know who asks: the caller says which events may be shown.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from domain.facts import Json
from domain.triggers import Plan, next_due
from domain.upcoming import upcoming
from projections.schedule import EventSchedule, Schedule, counter_after

MOST_HOURS = 168

_Place = tuple[float, str, Json | None]  # no two entries share an event, so rows never compare


@dataclass(frozen=True, slots=True)
class _Known:
    """The first due second of a plan in (after, horizon], None if there is none."""

    plan: Plan
    after: float
    horizon: float
    due: int | None

    def holds(self, plan: Plan, after: float, until: float) -> bool:
        """Whether this is also the first due second after `after`."""
        if plan is not self.plan or after < self.after:
            return False
        return until <= self.horizon if self.due is None else after < self.due


class Preview:
    """Looks ahead; remembers when each event is due next, since 10,000 may be defined."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._known: dict[str, _Known] = {}

    def rows(
        self,
        now: float,
        *,
        hours: int = 24,
        limit: int = 100,
        event: str | None = None,
        shown: Callable[[Json], bool] = lambda definition: True,
    ) -> list[Json]:
        """The next launches within so many hours of `now` (Unix seconds), at most `limit`.

        Rows: `{event, title, category, when, trigger:{type}, seconds?, maybe?}`, sorted by `when`.
        Left out: what is switched off (event, category, plugin, scheduling), hidden by a quiet
        trigger, or not `shown`.
        """
        until = now + hours * 3600
        if len(self._known) > 2 * len(self._schedule.events):
            self._known.clear()
        names = self._schedule.events if event is None else [event]
        first = ((self._first(name, now, until, shown), name) for name in names)
        # Only events whose turn comes are looked at closely.
        heap: list[_Place] = [(when, name, None) for when, name in first if when is not None]
        heapq.heapify(heap)
        rows_of: dict[str, Iterator[Json]] = {}
        rows: list[Json] = []
        while heap and len(rows) < limit:
            _, name, row = heap[0]
            if row is None:
                rows_of[name] = _rows_of(self._schedule, name, now, until, limit)
            else:
                rows.append(row)
            following = next(rows_of[name], None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (float(following["when"]), name, following))
        return rows

    def _first(
        self, event: str, now: float, until: float, shown: Callable[[Json], bool]
    ) -> float | None:
        """A second before which this event shows no row; None if it shows none at all."""
        entry = self._schedule.events.get(event)
        if entry is None or not entry.open or not entry.current.plan.launchers:
            return None
        stretch = entry.current
        if stretch.plan.invisible or not shown(stretch.definition):
            return None
        due = self._due(event, stretch.plan, max(now, stretch.after), until)
        if due is None or due > until:
            return None
        return due + min(launcher.delay or 0.0 for launcher in stretch.plan.launchers)

    def _due(self, event: str, plan: Plan, after: float, until: float) -> int | None:
        known = self._known.get(event)
        if known is None or not known.holds(plan, after, until):
            horizon = max(until, after + MOST_HOURS * 3600)
            due = next_due(plan, after, horizon=int(horizon))
            known = self._known[event] = _Known(plan, after, horizon, due)
        return known.due


def _rows_of(
    schedule: Schedule, event: str, now: float, until: float, limit: int
) -> Iterator[Json]:
    entry = schedule.events[event]
    stretch = entry.current
    begin = max(now, stretch.after)
    head = {
        "event": event,
        "title": stretch.definition.get("title"),
        "category": stretch.definition.get("category"),
    }
    nth = _counter_at(schedule, event, entry, begin)
    for row in upcoming(stretch.plan, begin, until, nth=nth, limit=limit):
        yield head | row


def _counter_at(schedule: Schedule, event: str, entry: EventSchedule, now: float) -> int | None:
    """The nth counter at `now`: what stands on the ledger, simulated from there."""
    stretch, settled, nth = schedule.begin(event)
    if entry.current.plan.every is None:
        return nth
    place = next(i for i, known in enumerate(entry.stretches) if known is stretch)
    for known in entry.stretches[place:]:
        if known is not stretch:
            settled, nth = known.after, nth if known.nth is None else known.nth
        end = now if known.upto is None else min(now, known.upto)
        if end > settled and known.plan.every is not None:
            nth = counter_after(known.plan, settled, end, nth)
    return nth
