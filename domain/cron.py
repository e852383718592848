"""Cron text: five fields or an alias, read into the lists of schedule triggers (scheduling.md 6).

Responsible for the dialect (what is accepted, wrapped, refused, and the sentence that says why) and
for reading a whole crontab. It must not decide fires and stores nothing: only the lists are kept.
croniter expands the normalised fields; the wrapping of values and everything refused are ours.
"""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Literal

from domain.errors import BadRequest
from domain.facts import Json

DaysRule = Literal["both", "either"]


@dataclass(frozen=True, slots=True)
class _Field:
    """One column: the trigger list it fills, its bounds, and its three-letter names."""

    name: str
    list_name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.highest - self.lowest + 1


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FIELDS = (
    _Field("minute", "minutes", 0, 59),
    _Field("hour", "hours", 0, 23),
    _Field("day", "days", 1, 31),
    _Field("month", "months", 1, 12, _MONTHS),
    _Field("weekday", "weekdays", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)
_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ELEMENT = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\w+))?", re.ASCII)
_LONGEST_NUMBER = 4  # digits; no value needs more


def expand(text: str, *, title: str = "", days_rule: DaysRule | None = None) -> list[Json]:
    """Return the schedule lists that cron text names, one object per trigger, without a type.

    A list that names every value is left out. `title` (the event's) seeds the `h` placeholder. Day
    and weekday both restricted need `days_rule`: "both" gives one trigger, "either" two, which fire
    twice on a day that satisfies both (scheduling.md 6.1). Raises BadRequest naming the field.
    """
    lists: Json = {}
    for column, part in zip(_FIELDS, _columns(text), strict=True):
        values = _values(column, part, title)
        if len(values) < column.size:
            lists[column.list_name] = values
    if not ("days" in lists and "weekdays" in lists):
        return [lists]
    match days_rule:
        case "both":
            return [lists]
        case "either":
            return [
                {name: values for name, values in lists.items() if name != other}
                for other in ("weekdays", "days")
            ]
        case None:
            raise BadRequest(
                f"Cron text '{text.strip()}' restricts both day and weekday. Choose 'both' (one "
                "trigger; the date must satisfy both) or 'either' (two triggers, as cron means it; "
                "a date that satisfies both fires twice)."
            )
        case _:
            raise BadRequest("The choice for day and weekday must be 'both' or 'either'.")


def _columns(text: str) -> list[str]:
    parts = text.lower().split()
    if len(parts) == 1 and parts[0].startswith("@"):
        if parts[0] == "@reboot":
            raise BadRequest("Cron text '@reboot' is not a schedule: use a startup trigger.")
        if parts[0] not in _ALIASES:
            raise BadRequest(f"Unknown cron alias '{parts[0]}'. Known: {', '.join(_ALIASES)}.")
        return _ALIASES[parts[0]].split()
    if len(parts) > len(_FIELDS):
        raise BadRequest(
            f"Cron text must have five fields, this has {len(parts)}: seconds and years are not "
            "part of it. Use a precision trigger or the years list."
        )
    if len(parts) < len(_FIELDS):
        raise BadRequest(
            f"Cron text must have five fields (minute, hour, day, month, weekday) or be an alias "
            f"such as @daily, this has {len(parts)}."
        )
    return parts


def _values(column: _Field, part: str, title: str) -> list[int]:
    """Return the sorted values a column names."""
    if part == "h":
        digest = hashlib.md5(title.encode(), usedforsecurity=False).hexdigest()
        return [column.lowest + int(digest, 16) % column.size]
    elements = [_normalised(column, part, element) for element in part.split(",")]
    everything = list(range(column.lowest, column.highest + 1))
    if "*" in elements:
        return everything
    from croniter import croniter  # not before it is needed, for the sake of each start

    position = _FIELDS.index(column)
    fields = ["*"] * len(_FIELDS)
    fields[position] = ",".join(elements)
    expanded = croniter.expand(" ".join(fields))[0][position]
    return everything if "*" in expanded else sorted(int(value) for value in expanded)


def _normalised(column: _Field, part: str, element: str) -> str:
    """Return an element in plain numbers within the column's bounds, as croniter reads it right."""
    found = _ELEMENT.fullmatch(element)
    if found is None:
        raise _refused(column, part, "only *, a value, a-b, */n, a-b/n and lists of them are read")
    star, first, last, step = found.groups()
    steps = "" if step is None else f"/{_step(column, part, step)}"
    if star:
        return f"*{steps}"
    low = _value(column, part, first)
    if last is None:
        if steps:
            raise _refused(column, part, f"a step needs a range: write {first}-{column.highest}/n")
        return str(_wrapped(column, low))
    return _range(column, low, _value(column, part, last), steps)


def _range(column: _Field, low: int, high: int, steps: str) -> str:
    if column.lowest <= low < high <= column.highest:
        return f"{low}-{high}{steps}"
    # croniter takes 3-3 for every value, and knows no values past the maximum: walk these here.
    end = high if high >= low else high + column.size
    walked = range(low, end + 1, int(steps[1:] or 1))
    return ",".join(sorted({str(_wrapped(column, value)) for value in walked}))


def _step(column: _Field, part: str, text: str) -> int:
    if not text.isdigit() or int(text[:_LONGEST_NUMBER]) == 0:
        raise _refused(column, part, "a step must be a whole number of at least 1")
    # A step past the end names the first value alone, however far past it is.
    return min(int(text[: _LONGEST_NUMBER + 1]), column.size)


def _value(column: _Field, part: str, text: str) -> int:
    if text in column.names:
        return column.lowest + column.names.index(text)
    if not text.isdigit() or len(text) > _LONGEST_NUMBER:
        raise _refused(column, part, f"'{text}' is not a {column.name}")
    return int(text)


def _wrapped(column: _Field, value: int) -> int:
    """Below the minimum is the minimum; above the maximum starts anew: hour 24 is hour 0."""
    return column.lowest + max(0, value - column.lowest) % column.size


def _refused(column: _Field, part: str, reason: str) -> BadRequest:
    return BadRequest(f"Cron field '{column.name}' ({part}): {reason}.")


# --- A whole crontab ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CrontabLine:
    """One job line of a crontab; `triggers` is empty exactly when `error` says why.

    line_no counts from 1; `command` is what the shell gets and `stdin` what follows the first
    unescaped %, else None; `environment` holds the settings in force at that line.
    """

    line_no: int
    text: str
    triggers: tuple[Json, ...]
    command: str
    stdin: str | None
    environment: dict[str, str] = field(default_factory=dict)
    error: str | None = None


_SETTING = re.compile(r"""\s*("[^"]*"|'[^']*'|\w+)\s*=\s*(.*?)\s*""", re.ASCII)


def parse_crontab(text: str, *, days_rule: DaysRule | None = None) -> list[CrontabLine]:
    """Read a user's crontab: comments, settings, job lines, `@reboot`, `%`; never raises.

    A line that cannot be read carries its error, so that one bad line does not hide the rest.
    `@reboot` becomes a startup trigger; CRON_TZ becomes the time zone of the triggers below it.
    """
    environment: dict[str, str] = {}
    lines = []
    for line_no, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        if setting := _SETTING.fullmatch(content):
            name, value = (_unquoted(part) for part in setting.groups())
            environment = {**environment, name: value}
            continue
        lines.append(_job_line(line_no, content, environment, days_rule))
    return lines


def _job_line(
    line_no: int, content: str, environment: dict[str, str], days_rule: DaysRule | None
) -> CrontabLine:
    count = 1 if content.startswith("@") else len(_FIELDS)
    parts = content.split(maxsplit=count)
    command, stdin = _command(parts[count] if len(parts) > count else "")
    when = " ".join(parts[:count])
    try:
        if not command:
            raise BadRequest("The line needs five fields or an alias, and a command.")
        triggers = _triggers(when, command, environment.get("CRON_TZ"), days_rule)
    except BadRequest as refusal:
        return CrontabLine(line_no, content, (), command, stdin, environment, str(refusal))
    return CrontabLine(line_no, content, triggers, command, stdin, environment)


def _triggers(
    when: str, command: str, zone: str | None, days_rule: DaysRule | None
) -> tuple[Json, ...]:
    if when.lower() == "@reboot":
        return ({"type": "startup", "enabled": True},)
    at = {"timezone": zone} if zone else {}
    lists = expand(when, title=command, days_rule=days_rule)
    return tuple({"type": "schedule", "enabled": True, **named, **at} for named in lists)


def _command(text: str) -> tuple[str, str | None]:
    """Split at the first unescaped %; further ones are newlines of the input, \\% is a plain %."""
    command, *rest = (part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", text))
    return command.strip(), "\n".join(rest) if rest else None


def _unquoted(text: str) -> str:
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text
