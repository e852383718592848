"""The search language of api.md 8.5, as SQL conditions with parameters.

`field:value` pairs are ANDed; `a|b` means any; several words after a field mean all of them;
`field:!x` and `-field:x` mean not; `*` means everything; a word before any field belongs to the
default one. Knows the columns of projections/store.py and nothing of the requests it serves:
the clock and the time zone are passed in.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from domain.errors import RuleBroken

HOUR = 3600
# SQLite nests at most 1,000 conditions; no query of a person comes near this.
_MOST_VALUES = 300
_PAIR = re.compile(r"(-?)(\w+):(.*)", re.ASCII)
_DATE = re.compile(r"(>=|<=|>|<|=)?(.+)")
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_UNIX = re.compile(r"\d{1,11}(?:\.\d*)?", re.ASCII)

# Tags that tell of the result are looked up there, whatever the tag list says now (api.md D14).
SYSTEM_TAGS = {
    "_success": "success = 1",
    "_error": "success = 0",
    "_last": "retried = 0",
    "_retried": "retried = 1",
    "_test": "test = 1",
    "_files": "files = 1",
}


@dataclass(frozen=True, slots=True)
class Where:
    """A condition in SQL and the values of its question marks."""

    sql: str
    params: tuple[str | int | float, ...] = ()


EVERYTHING = Where("1")
Match = Callable[[str], Where]


@dataclass(frozen=True, slots=True)
class Calendar:
    """What `today`, `now` and a bare date mean: Unix seconds and an IANA zone."""

    now: float
    zone: str = "UTC"


def bad_query(message: str) -> RuleBroken:
    """The refusal of a query that cannot be understood (api.md 8.5: `db`)."""
    return RuleBroken("db", f"Bad search query: {message}")


def all_of(conditions: Iterable[Where]) -> Where:
    """Every one of the conditions."""
    return _joined(" AND ", conditions)


def any_of(conditions: Iterable[Where]) -> Where:
    """At least one of the conditions."""
    return _joined(" OR ", conditions)


def _joined(word: str, conditions: Iterable[Where]) -> Where:
    parts = [part for part in conditions if part is not EVERYTHING]
    if not parts:
        return EVERYTHING
    return Where(
        "(" + word.join(part.sql for part in parts) + ")",
        tuple(value for part in parts for value in part.params),
    )


def jobs_where(query: str, calendar: Calendar) -> Where:
    """What a search_jobs query asks of the table `jobs`; RuleBroken("db") if it is no query."""
    fields: dict[str, Match] = {
        name: _column(name) for name in ("code", "source", "event", "category", "plugin", "server")
    }
    fields["tags"] = _tag
    fields["groups"] = _word("group")
    fields["date"] = _date("completed", calendar)
    return _parse(query, fields, default="code")


def activity_where(query: str, calendar: Calendar) -> Where:
    """What a search_activity query asks of the table `activity`; RuleBroken("db") likewise."""
    fields: Mapping[str, Match] = {
        "action": _column("action"),
        "keywords": _keyword,
        "date": _date("at", calendar),
    }
    return _parse(query, fields, default="keywords")


def within_limits(categories: Iterable[str] | None, groups: Iterable[str] | None) -> Where:
    """The jobs that a caller with these limits may see (api.md 1.5); none or empty = all.

    A job passes the group limit if one of its targets is an allowed group, or if it has none.
    """
    parts = []
    if allowed := sorted(categories or ()):
        parts.append(Where(f"category IN ({_marks(allowed)})", tuple(allowed)))
    if allowed := sorted(groups or ()):
        listed = f"SELECT job FROM job_words WHERE field = 'target' AND word IN ({_marks(allowed)})"  # noqa: S608 - question marks only
        parts.append(Where(f"(targets = 0 OR id IN ({listed}))", tuple(allowed)))
    return all_of(parts)


def _marks(values: list[str]) -> str:
    return ", ".join("?" * len(values))


def _parse(query: str, fields: Mapping[str, Match], default: str) -> Where:
    found: list[Where] = []
    field, negative, dangling, count = default, False, "", 0
    for token in query.split():
        text = token
        if pair := _PAIR.fullmatch(token):
            negative, field, text = pair[1] == "-", pair[2], pair[3]
            if field not in fields:
                raise bad_query(f"there is no field '{field}'.")
            dangling = "" if text else field
        if text in ("", "*"):
            continue
        dangling = ""
        count += 1 + text.count("|")
        found.append(_condition(text, fields[field], negative))
    if dangling:
        raise bad_query(f"nothing follows '{dangling}:'.")
    if count > _MOST_VALUES:
        raise bad_query(f"more than {_MOST_VALUES} values.")
    return all_of(found)


def _condition(text: str, match: Match, negative: bool) -> Where:
    values = text.removeprefix("!").split("|")
    if "" in values:
        raise bad_query(f"a value is missing in '{text}'.")
    condition = any_of([match(value) for value in values])
    if negative != text.startswith("!"):
        return Where(f"NOT {condition.sql}", condition.params)
    return condition


def _column(name: str) -> Match:
    return lambda value: Where(f"{name} = ?", (value,))


def _word(field: str) -> Match:
    sql = f"id IN (SELECT job FROM job_words WHERE field = '{field}' AND word = ?)"  # noqa: S608 - our own names
    return lambda value: Where(sql, (value,))


def _tag(value: str) -> Where:
    if value in SYSTEM_TAGS:
        return Where(SYSTEM_TAGS[value])
    return _word("tag")(value)


def _keyword(value: str) -> Where:
    sql = "sequence IN (SELECT sequence FROM activity_words WHERE word = ?)"
    return Where(sql, (value.lower(),))


def _date(column: str, calendar: Calendar) -> Match:
    """A day means its 24 hours, a moment means its hour (api.md 8.5: hour granularity)."""

    def match(value: str) -> Where:
        if ".." in value:
            first, _, last = value.partition("..")
            start, end = _span(first, calendar)[0], _span(last, calendar)[1]
            return Where(f"({column} >= ? AND {column} < ?)", (start, end))
        parts = _DATE.fullmatch(value)
        assert parts is not None  # the value is not empty
        start, end = _span(parts[2], calendar)
        match parts[1]:
            case ">=":
                return Where(f"{column} >= ?", (start,))
            case ">":
                return Where(f"{column} >= ?", (end,))
            case "<=":
                return Where(f"{column} < ?", (end,))
            case "<":
                return Where(f"{column} < ?", (start,))
            case _:
                return Where(f"({column} >= ? AND {column} < ?)", (start, end))

    return match


def _span(text: str, calendar: Calendar) -> tuple[float, float]:
    """The [start, end) in Unix seconds that a date in a query stands for."""
    zone = ZoneInfo(calendar.zone)
    if text == "today":
        return _day(datetime.fromtimestamp(calendar.now, zone), zone)
    if text == "now":
        return _hour(calendar.now)
    if _UNIX.fullmatch(text):
        return _hour(float(text))
    try:
        if _DAY.fullmatch(text):
            return _day(datetime.fromisoformat(text), zone)
    except (ValueError, OverflowError) as error:
        raise bad_query(f"'{text}' is not a date.") from error
    raise bad_query(f"'{text}' is not a date.")


def _hour(moment: float) -> tuple[float, float]:
    start = moment // HOUR * HOUR
    return start, start + HOUR


def _day(moment: datetime, zone: ZoneInfo) -> tuple[float, float]:
    midnight = datetime(moment.year, moment.month, moment.day)
    tomorrow = midnight + timedelta(days=1)
    return tuple(day.replace(tzinfo=zone).timestamp() for day in (midnight, tomorrow))  # type: ignore[return-value]
