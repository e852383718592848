"""Civil time: what the wall clock of a time zone shows at an absolute minute, and the reverse.

Responsible for zone data, for the two daylight saving policies (scheduling.md 3.4) and for finding
the next minute that a calendar rule names. It knows nothing of triggers, events or the present.

Unit: inside this module time is counted in whole *minutes* since 1970, absolute (UTC) or civil.
Inside one segment (a stretch of constant UTC offset) the two differ by a constant shift, so a
search steps over days with plain integers and touches the zone data once per zone and year. Offsets
with seconds (old local mean times) count by what the wall clock shows at the minute's beginning.

Zone data comes from the `tzdata` package, never from the machine, so that every machine running a
release decides alike.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from importlib import resources
from zoneinfo import ZoneInfo

_DAY = 1440
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_FIRST_YEAR, _LAST_YEAR = 1900, 9990
_FIRST_DAY, _LAST_DAY = (date(year, 1, 1).toordinal() for year in (_FIRST_YEAR, _LAST_YEAR))
# A change of offset can act on the minutes after it for as long as it skipped or repeated: at most
# one day (a date line moved).
_LONGEST_CHANGE = _DAY


@dataclass(frozen=True, slots=True)
class Segment:
    """Minutes start <= m < end whose civil minute is m + shift."""

    start: int
    end: int
    shift: int


@dataclass(frozen=True, slots=True)
class CalendarRule:
    """Which civil minutes a schedule names: every non-empty set must match (scheduling.md 3.3).

    `days` may hold -1 (the month's last day) to -7; weekday 0 is Sunday; `moments` are the
    matching minutes of a day, sorted, at least one.
    """

    years: frozenset[int]
    months: frozenset[int]
    days: frozenset[int]
    weekdays: frozenset[int]
    moments: tuple[int, ...]

    @property
    def every_day(self) -> bool:
        """Tell whether no list restricts the date."""
        return not (self.years or self.months or self.days or self.weekdays)

    def next_minute(self, lo: int, hi: int) -> int | None:
        """Return the first matching civil minute m with lo <= m < hi."""
        day, minute = divmod(lo, _DAY)
        position = bisect_left(self.moments, minute)
        if position == len(self.moments):
            day, position = day + 1, 0
        matching = day if self.every_day else self._next_day(day, (hi - 1) // _DAY)
        if matching is None:
            return None
        moment = self.moments[position] if matching == day else self.moments[0]
        found = matching * _DAY + moment
        return found if found < hi else None

    def _next_day(self, day: int, last: int) -> int | None:
        """Return the first matching day number between `day` and `last`, month by month."""
        while day <= last:
            today = date.fromordinal(day + _EPOCH_DAY)
            if self.years and today.year not in self.years:
                later = min((year for year in self.years if year > today.year), default=None)
                if later is None or later > _LAST_YEAR:
                    return None
                day = date(later, 1, 1).toordinal() - _EPOCH_DAY
                continue
            first = day - today.day + 1
            length = _days_in_month(today.year, today.month)
            if not self.months or today.month in self.months:
                matching = _matching_days(self.days, self.weekdays, (first + 4) % 7, length)
                position = bisect_left(matching, today.day)
                if position < len(matching):
                    found = first + matching[position] - 1
                    return found if found <= last else None
            day = first + length
        return None


@lru_cache(maxsize=4096)
def moments_of(hours: frozenset[int], minutes: frozenset[int]) -> tuple[int, ...]:
    """Return the minutes of a day named by hours and minutes, sorted; an empty set means any."""
    return tuple(
        hour * 60 + minute
        for hour in sorted(hours or range(24))
        for minute in sorted(minutes or range(60))
    )


@lru_cache(maxsize=8192)
def _matching_days(
    days: frozenset[int], weekdays: frozenset[int], first_weekday: int, length: int
) -> tuple[int, ...]:
    return tuple(
        day
        for day in range(1, length + 1)
        if (not days or day in days or day - length - 1 in days)
        and (not weekdays or (first_weekday + day - 1) % 7 in weekdays)
    )


def _days_in_month(year: int, month: int) -> int:
    if month == 2:
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return 29 if leap else 28
    return 30 if month in (4, 6, 9, 11) else 31


@lru_cache(maxsize=1)
def known_zones() -> frozenset[str]:
    """Return every IANA name of the pinned zone data."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text().split())


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def next_match(rule: CalendarRule, zone: str, once: bool, lo: int, hi: int) -> int | None:
    """Return the first absolute minute m, lo <= m < hi, whose civil time in `zone` matches.

    `once` selects the policy of that name (scheduling.md 3.4); the caller decides whether the rule
    is one that it applies to. `zone` must be one of `known_zones()`.
    """
    if lo >= hi:
        return None
    for segments in _segments_by_year(zone, once, lo, hi):
        best: int | None = None
        for segment in segments:
            start, end = max(lo, segment.start), min(hi, segment.end)
            if best is not None:
                end = min(end, best)
            if start < end:
                civil = rule.next_minute(start + segment.shift, end + segment.shift)
                if civil is not None:
                    best = civil - segment.shift
        if best is not None:
            return best
    return None


def _segments_by_year(zone: str, once: bool, lo: int, hi: int) -> Iterator[tuple[Segment, ...]]:
    for year in range(_year_of(lo), _year_of(hi - 1) + 1):
        yield _segments(zone, once, year)


def _year_of(minute: int) -> int:
    ordinal = minute // _DAY + _EPOCH_DAY
    return date.fromordinal(min(max(ordinal, _FIRST_DAY), _LAST_DAY)).year


@lru_cache(maxsize=8192)
def _segments(zone: str, once: bool, year: int) -> tuple[Segment, ...]:
    """Return the segments of one UTC year, by start; with `once` they may overlap or leave holes.

    `once` leaves out the second pass of an overlap (rule a), and repeats the skipped minutes of a
    gap, read with the offset before the change, right after it (rule c).
    """
    start = (date(year, 1, 1).toordinal() - _EPOCH_DAY) * _DAY
    end = (date(year + 1, 1, 1).toordinal() - _EPOCH_DAY) * _DAY
    segments = []
    changes = _changes(zone, start - _LONGEST_CHANGE, end)
    for index, (change, before, shift) in enumerate(changes):
        until = changes[index + 1][0] if index + 1 < len(changes) else end
        skipped = max(0, shift - before) if once else 0
        repeated = max(0, before - shift) if once else 0
        segments.append(Segment(change + repeated, until, shift))
        segments.append(Segment(change, min(until, change + skipped), before))
    clipped = (Segment(max(s.start, start), min(s.end, end), s.shift) for s in segments)
    return tuple(sorted((s for s in clipped if s.start < s.end), key=lambda s: s.start))


def _changes(zone: str, start: int, end: int) -> list[tuple[int, int, int]]:
    """Return (minute, shift before, shift from it on) of each change of offset in [start, end).

    The first entry is the beginning itself. Two changes within a day that cancel out would go
    unseen; no zone has had any.
    """
    shift = _shift(zone, start)
    changes = [(start, shift, shift)]
    for day in range(start, end, _DAY):
        following = _shift(zone, day + _DAY)
        if following != shift:
            change = _first_minute_of_change(zone, day, day + _DAY)
            if change < end:
                changes.append((change, shift, following))
            shift = following
    return changes


def _first_minute_of_change(zone: str, lo: int, hi: int) -> int:
    before = _shift(zone, lo)
    while hi - lo > 1:
        middle = (lo + hi) // 2
        if _shift(zone, middle) == before:
            lo = middle
        else:
            hi = middle
    return hi


def _shift(zone: str, minute: int) -> int:
    offset = datetime.fromtimestamp(minute * 60, UTC).astimezone(_zone(zone)).utcoffset()
    assert offset is not None
    return int(offset.total_seconds()) // 60


def dargs(minute: int, zone: str) -> dict[str, int]:
    """Return the civil time of an absolute minute (unix seconds) as a plugin trigger receives it.

    Keys: year, month, day, rday (-1 = last day of the month), weekday (0 = Sunday), hour, minute
    (plugins.md 7). `zone` must be one of `known_zones()`.
    """
    civil = minute // 60 + _shift(zone, minute // 60)
    day, moment = divmod(civil, _DAY)
    today = date.fromordinal(day + _EPOCH_DAY)
    return {
        "year": today.year,
        "month": today.month,
        "day": today.day,
        "rday": today.day - _days_in_month(today.year, today.month) - 1,
        "weekday": (day + 4) % 7,
        "hour": moment // 60,
        "minute": moment % 60,
    }
