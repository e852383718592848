"""Reading an event's triggers: from stored objects to a plan that knows when they hit.

Responsible for what each trigger field means to the evaluator: which minutes a launcher hits, which
windows are open, which offsets, delay and payload its fires carry (scheduling.md 2 and 3.3). It
must not know counters, cursors or fires; `domain.triggers` evaluates the plan.

Stored nonsense (an unknown zone, a list that is none) makes its trigger non-matching; nothing here
raises because of it (scheduling.md 3.4).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeGuard

from domain.civil import CalendarRule, known_zones, moments_of, next_match
from domain.facts import Json

_BEGINNING, _END = -(2**62), 2**62
SCHEDULE_LISTS: Mapping[str, tuple[int, int]] = {
    "years": (1, 9_999),
    "months": (1, 12),
    "days": (-7, 31),
    "weekdays": (0, 6),
    "hours": (0, 23),
    "minutes": (0, 59),
}
"""The lists of a schedule trigger with the least and greatest value of each."""


@dataclass(frozen=True, slots=True)
class _Schedule:
    rule: CalendarRule
    zone: str
    once: bool

    def next_minute(self, lo: int, hi: int) -> int | None:
        found = next_match(self.rule, self.zone, self.once, -(-lo // 60), -(-hi // 60))
        return None if found is None else found * 60


@dataclass(frozen=True, slots=True)
class _Interval:
    start: int
    duration: int

    def next_minute(self, lo: int, hi: int) -> int | None:
        minute = floor60(self._first_hit(lo))
        return minute if minute < hi else None

    def offsets(self, minute: int) -> range:
        return range(self._first_hit(minute) - minute, 60, self.duration)

    def _first_hit(self, second: int) -> int:
        if second <= self.start:
            return self.start
        return self.start + -(-(second - self.start) // self.duration) * self.duration


@dataclass(frozen=True, slots=True)
class _Single:
    epoch: int

    def next_minute(self, lo: int, hi: int) -> int | None:
        return self.epoch if lo <= self.epoch < hi else None


@dataclass(frozen=True, slots=True)
class Launcher:
    """An enabled scheduled launcher: when it hits, and what its fires carry.

    index: its place in the event's list of triggers
    seconds: offsets of its fires in a due minute; an interval has its own
    delay: seconds from the due minute to the earliest start, or None
    """

    index: int
    type: str
    when: _Schedule | _Interval | _Single
    seconds: tuple[int, ...]
    params: Json
    tags: tuple[str, ...]
    data: Json | list[Any] | None
    delay: int | None
    plugin: Json | None

    def offsets(self, minute: int) -> Sequence[int]:
        return self.when.offsets(minute) if isinstance(self.when, _Interval) else self.seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """An event's triggers, read once; keep it while the event stays as it is.

    windows: the open stretches start <= minute < end, in order, without overlap
    every: the nth modifier's step, or None
    catchup: the catch-up modifier, or None
    """

    launchers: tuple[Launcher, ...]
    windows: tuple[tuple[int, int], ...]
    every: int | None
    invisible: bool
    ephemeral: bool
    catchup: Json | None


def floor60(second: float) -> int:
    """Return the beginning of the minute that holds a unix second."""
    return int(second // 60) * 60


def plan_of(
    triggers: Sequence[Json] | Plan, *, default_zone: str = "UTC", dst_policy: str = "literal"
) -> Plan:
    """Read an event's triggers into a plan; a plan is returned as it is.

    `default_zone` serves triggers without a zone; `dst_policy` is `literal` or `once`
    (scheduling.md 3.4). Never raises: what cannot be read does not match.
    """
    if isinstance(triggers, Plan):
        return triggers
    enabled = [
        (index, trigger)
        for index, trigger in enumerate(triggers)
        if isinstance(trigger, dict) and trigger.get("enabled")
    ]
    first: dict[str, Json] = {}
    for _, trigger in enabled:
        first.setdefault(str(trigger.get("type")), trigger)
    quiet = first.get("quiet", {})
    launchers = (
        _launcher(index, trigger, first, default_zone, dst_policy) for index, trigger in enabled
    )
    every = first.get("nth", {}).get("every")
    return Plan(
        launchers=tuple(launcher for launcher in launchers if launcher is not None),
        windows=_windows([trigger for _, trigger in enabled]),
        every=ceil(every) if _is_number(every) and every >= 2 else None,
        invisible=bool(quiet.get("invisible")),
        ephemeral=bool(quiet.get("ephemeral")),
        catchup=first.get("catchup"),
    )


def unknown_zones(triggers: Sequence[Json], default_zone: str) -> tuple[str, ...]:
    """Return the zones of enabled schedule triggers that the zone data does not hold, sorted.

    Such triggers never match; the caller warns (scheduling.md 3.4).
    """
    zones = {
        str(trigger.get("timezone") or default_zone)
        for trigger in triggers
        if isinstance(trigger, dict)
        and trigger.get("enabled")
        and trigger.get("type") == "schedule"
    }
    return tuple(sorted(zones - known_zones()))


def _launcher(
    index: int, trigger: Json, modifiers: dict[str, Json], default_zone: str, dst_policy: str
) -> Launcher | None:
    when: _Schedule | _Interval | _Single | None
    match trigger.get("type"):
        case "schedule":
            when = _schedule(trigger, default_zone, dst_policy)
        case "interval":
            when = _interval(trigger)
        case "single":
            epoch = trigger.get("epoch")
            when = _Single(floor60(epoch)) if _is_integer(epoch) else None
        case _:
            when = None
    if when is None:
        return None
    params, tags, data = trigger.get("params"), trigger.get("tags"), trigger.get("data")
    plugin = modifiers.get("plugin")
    seconds = (0,) if plugin else _offsets_of(modifiers.get("precision"))  # 3.7: precision ignored
    # Offsets and a delay exclude each other on save; in an old event the offsets win.
    plain = seconds == (0,) and not isinstance(when, _Interval)
    delay = modifiers.get("delay", {}).get("duration")
    zones = [plugin and plugin.get("timezone"), trigger.get("timezone"), default_zone]
    zone = next((zone for zone in zones if _is_zone(zone)), "UTC")
    return Launcher(
        index=index,
        type=trigger["type"],
        when=when,
        seconds=seconds,
        params=params if isinstance(params, dict) else {},
        tags=tuple(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else (),
        data=data if isinstance(data, dict | list) else None,
        delay=delay if plain and _is_integer(delay) and delay >= 1 else None,
        plugin=None if plugin is None else {**plugin, "timezone": zone},
    )


def _schedule(trigger: Json, default_zone: str, dst_policy: str) -> _Schedule | None:
    zone = trigger.get("timezone") or default_zone
    if not _is_zone(zone):
        return None
    sets = {}
    for name, (lowest, highest) in SCHEDULE_LISTS.items():
        values = trigger.get(name)
        if values is not None and not isinstance(values, list):
            return None
        sets[name] = frozenset(v for v in values or () if _is_integer(v) and lowest <= v <= highest)
        if values and not sets[name]:
            return None  # the list restricts, and names nothing that exists
    hours, minutes = sets.pop("hours"), sets.pop("minutes")
    rule = CalendarRule(**sets, moments=moments_of(hours, minutes))
    # `once` is for schedules that restrict the hours; hourly cadences stay exact (3.4).
    return _Schedule(rule, zone, dst_policy == "once" and 0 < len(hours) < 24)


def _interval(trigger: Json) -> _Interval | None:
    start, duration = trigger.get("start"), trigger.get("duration")
    if not (_is_integer(start) and _is_integer(duration)) or duration < 1:
        return None
    return _Interval(start, duration)


def _offsets_of(precision: Json | None) -> tuple[int, ...]:
    seconds = precision.get("seconds") if precision else None
    if not isinstance(seconds, list):
        return (0,)
    return tuple(sorted({s for s in seconds if _is_integer(s) and 0 <= s <= 59})) or (0,)


def _windows(enabled: Sequence[Json]) -> tuple[tuple[int, int], ...]:
    """Return the union of the ranges, or all time without any, minus the blackouts (3.3 fact 2)."""
    ranges = [t for t in enabled if t.get("type") == "range"]
    spans = sorted(filter(None, map(_span_of_range, ranges))) if ranges else [(_BEGINNING, _END)]
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    for blackout in enabled:
        first, last = blackout.get("start"), blackout.get("end")
        if blackout.get("type") == "blackout" and _is_integer(first) and _is_integer(last):
            merged = _without(merged, floor60(first), floor60(last) + 60)
    return tuple(merged)


def _span_of_range(trigger: Json) -> tuple[int, int] | None:
    start, end = trigger.get("start") or None, trigger.get("end") or None
    if start is None and end is None:
        return None  # an old range without bounds admits nothing (scheduling.md 2)
    if not all(bound is None or _is_integer(bound) for bound in (start, end)):
        return None
    opening = _BEGINNING if start is None else floor60(start)
    closing = _END if end is None else floor60(end) + 60
    return (opening, closing) if opening < closing else None


def _without(spans: list[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    if end <= start:
        return spans
    pieces = [(s, min(e, start)) for s, e in spans] + [(max(s, end), e) for s, e in spans]
    return sorted((s, e) for s, e in pieces if s < e)


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return _is_integer(value) or (isinstance(value, float) and abs(value) < 2**53)


def _is_zone(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and value in known_zones()


def hits(plan: Plan, lo: int, hi: int) -> Iterator[tuple[int, Sequence[Launcher]]]:
    """Yield each minute of [lo, hi) inside the windows with the launchers that hit it."""
    if not plan.launchers:
        return
    for start, end in plan.windows:
        if start >= hi:
            return
        if end > lo:
            yield from _hits_within(plan.launchers, max(lo, start), min(hi, end))


def _hits_within(
    launchers: tuple[Launcher, ...], lo: int, hi: int
) -> Iterator[tuple[int, Sequence[Launcher]]]:
    if len(launchers) == 1:  # most have only one
        yield from ((minute, launchers) for minute in _hits_of(launchers[0], lo, hi))
        return
    upcoming = [launcher.when.next_minute(lo, hi) for launcher in launchers]
    while (minute := min((m for m in upcoming if m is not None), default=None)) is not None:
        yield minute, [hit for hit, m in zip(launchers, upcoming, strict=True) if m == minute]
        if minute + 60 >= hi:
            return
        upcoming = [
            launcher.when.next_minute(minute + 60, hi) if m == minute else m
            for launcher, m in zip(launchers, upcoming, strict=True)
        ]


def _hits_of(launcher: Launcher, lo: int, hi: int) -> Iterator[int]:
    while lo < hi and (minute := launcher.when.next_minute(lo, hi)) is not None:
        yield minute
        lo = minute + 60
