"""What a job has learnt from its child's messages (plugins.md 4), and how it ends (4.1).

Responsible for folding messages, one by one and in order, into the fields of the job record and
the data collected for its end; for caps and refusals, each with a line for the meta log. Pure.
Must not know how messages are read (`wire.py`) or reported.

Only documented fields reach the record: a child cannot overwrite a job's other properties.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from domain.completion import Code, normalise_code
from domain.facts import Json

MAX_DESCRIPTION = 4 * 1024
"""Bytes of description, label, status, title and caption."""
MAX_CODE = 128
"""Characters of a code given as text."""
MAX_ROWS = 10_000
"""Rows of a table."""
MAX_REPORT = 1024 * 1024
"""Bytes of the content of html, markdown or text, and of all of update_event."""
MAX_DATA = 32 * 1024 * 1024
"""Bytes that went into data, workflowData and serverData, each; and of a table."""
MAX_CUSTOM = 64 * 1024
"""Bytes of all unknown fields together, and of perf."""
MAX_PUSHED = 1000
"""Tags, actions or limits that one job may push."""
MAX_FILES = 10_000
"""Output files of one job."""
MAX_META = 200
"""Lines for the meta log from one job's messages."""

COLLECTED = ("data", "workflowData", "serverData")
REPORTS = ("html", "markdown", "text")
MAY_UPDATE = frozenset({"enabled", "notes", "params", "tags", "limits"})
"""What a child may change of its own event, when its plugin may at all (execution.md 17)."""

NO_DESCRIPTION = "Unknown Error (no description provided)"

_WORD = re.compile(r"\w+", re.ASCII)
_PUSHABLE = ("files", "tags", "actions", "limits")
_DISCARDED = frozenset({"tags", "actions", "limits", "activity", "log_file", "log_file_size"})


@dataclass(slots=True)
class JobNews:
    """The fold. `fields` belong on the record, `details` hold the collected data families.

    `may_update_event` comes from the plugin. Owned by one job; never shared.
    """

    may_update_event: bool = False
    fields: Json = field(default_factory=dict)
    details: dict[str, Json] = field(default_factory=dict)
    final: bool = False
    closed: bool = False
    _sizes: dict[str, int] = field(default_factory=dict)
    _meta: int = 0

    def close(self) -> None:
        """An abort has begun: whatever the child still says is ignored."""
        self.closed = True


class Outcome(msgspec.Struct, frozen=True):
    """How a job ended. `report` holds the other record fields and the collected data."""

    code: Code
    description: str
    report: Json


def fold_message(news: JobNews, message: Mapping[str, Any]) -> list[str]:
    """Take one message in; gives the warnings it deserves.

    Ignored without a word: everything after the final message or once closed, and a message
    with `type` or `state` (the request, printed by accident).
    """
    if news.final or news.closed or "type" in message or "state" in message:
        return []
    warnings: list[str] = []
    for name, value in message.items():
        if name in _FIELDS:
            warnings += _FIELDS[name](news, name, value)
        elif name in _DISCARDED:
            warnings.append(f"{name} cannot be set by a job, use push")
        elif name not in ("xy", "code", "complete", *REPORTS):
            warnings += _take_custom(news, name, value)
    warnings += _take_report(news, message)
    warnings += _take_end(news, message)
    return _bounded(news, [f"WARNING: {each}" for each in warnings])


def posted(news: JobNews) -> Json:
    """What the child told besides its result, as it is reported at the end."""
    report = {
        name: value
        for name, value in news.fields.items()
        if name not in ("code", "description", "status")
    }
    return report | {"complete": True, "progress": 1.0} | news.details


def settle(
    news: JobNews, *, exit_status: int | None = None, signal: str | None = None, pid: int = 0
) -> Outcome:
    """The result once the child and its streams are gone (plugins.md 4.1).

    The child's final message counts whatever its exit; else the signal (a name such as
    SIGSEGV) or the exit status decides.
    """
    report = posted(news)
    if news.final:
        code = normalise_code(news.fields["code"])
        description = news.fields.get("description", "")
        return Outcome(code, description or ("" if code == 0 else NO_DESCRIPTION), report)
    if signal:
        description = f"Child {pid} was killed by signal {signal}."
        return Outcome(normalise_code(signal), description, report)
    if exit_status:
        return Outcome(exit_status, f"Child {pid} crashed with code: {exit_status}", report)
    description = "Process exited without reporting job completion."
    return Outcome("warning", description, report | {"unknown": 1})


def live_fields(news: JobNews) -> Json:
    """What is shown while the job runs: progress, status, label, perf and reports.

    `instant` are the pushed actions that are to run at once, each with its place among those
    pushed (execution.md 9.1).
    """
    shown = ("progress", "status", "label", "perf", "table", *REPORTS)
    live = {name: news.fields[name] for name in shown if name in news.fields}
    pushed = news.fields.get("push", {}).get("actions", [])
    instant = [
        [place, action]
        for place, action in enumerate(pushed)
        if isinstance(action, dict) and action.get("condition") == "instant"
    ]
    return live | ({"instant": instant} if instant else {})


def within(size: int, live: Json) -> Json:
    """What of these fields fits into so many characters: what acts first, then what is shown."""
    found: Json = {}
    for name in ("instant", "progress", "status", "label", "perf"):
        if name in live and len(str(live[name])) <= size:
            found[name] = live[name]
            size -= len(str(live[name]))
    return found


def _bounded(news: JobNews, lines: list[str]) -> list[str]:
    before = news._meta
    news._meta += len(lines)
    if news._meta <= MAX_META:
        return lines
    if before > MAX_META:
        return []
    return [*lines[: MAX_META - before], "WARNING: further warnings are not shown"]


# One function per kind of field: each takes a value in and gives warnings.


def _take_end(news: JobNews, message: Mapping[str, Any]) -> list[str]:
    if "code" not in message and not message.get("complete"):
        return []
    code = message.get("code") or 0
    news.fields["code"] = code[:MAX_CODE] if isinstance(code, str) else code
    news.fields["complete"] = True
    news.final = True
    return []


def _take_text(news: JobNews, name: str, value: Any) -> list[str]:
    text, warnings = _cut(name, _text(value), MAX_DESCRIPTION)
    news.fields[name] = text
    return warnings


def _take_progress(news: JobNews, name: str, value: Any) -> list[str]:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        news.fields[name] = min(max(value, 0), 1)
    return []


def _take_perf(news: JobNews, name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        value = {key: _as_number(text) for key, text in parse_qsl(value[:MAX_CUSTOM])}
    if not isinstance(value, dict):
        return [f"Not an object: {name}"]
    if _size(value) > MAX_CUSTOM:
        return [f"{name} is too large and was dropped"]
    news.fields[name] = value
    return []


def _take_table(news: JobNews, name: str, value: Any) -> list[str]:
    if not isinstance(value, dict) or not isinstance(value.get("rows"), list):
        return [f"Not a table: {name}"]
    table, warnings = _labelled(name, value)
    if len(table["rows"]) > MAX_ROWS:
        table["rows"] = table["rows"][:MAX_ROWS]
        warnings.append(f"{name} was cut to {MAX_ROWS} rows")
    if _size(table) > MAX_DATA:
        return [f"{name} is too large and was dropped"]
    news.fields[name] = table
    return warnings


def _take_report(news: JobNews, message: Mapping[str, Any]) -> list[str]:
    """Only one of html, markdown and text is shown: the latest, the first of them in a message."""
    warnings: list[str] = []
    for name in REPORTS:
        if name not in message:
            continue
        value = message[name]
        if not isinstance(value, dict) or not isinstance(value.get("content"), str):
            warnings.append(f"Not a report with content: {name}")
            continue
        report, remarks = _labelled(name, value)
        report["content"], more = _cut(name, value["content"], MAX_REPORT)
        for other in REPORTS:
            news.fields.pop(other, None)
        news.fields[name] = report
        return [*warnings, *remarks, *more]
    return warnings


def _take_data(news: JobNews, name: str, value: Any) -> list[str]:
    """Shallow merge; an array onto an array is appended."""
    if not isinstance(value, dict):
        return [f"Not an object: {name}"]
    if not _has_room(news, name, value, MAX_DATA):
        return [f"{name} exceeds {MAX_DATA} bytes; this part was dropped"]
    collected = news.details.setdefault(name, {})
    for key, part in value.items():
        before = collected.get(key)
        if isinstance(before, list) and isinstance(part, list):
            before.extend(part)
        else:
            collected[key] = list(part) if isinstance(part, list) else part
    return []


def _take_files(news: JobNews, name: str, value: Any) -> list[str]:
    if not isinstance(value, list):
        return [f"Not an array: {name}"]
    news.fields[name] = []
    return _append(news.fields[name], name, value, MAX_FILES)


def _take_push(news: JobNews, name: str, value: Any) -> list[str]:
    problem = _push_problem(value)
    if problem:
        return [problem]
    warnings = [f"Unknown push: {key}" for key in value if key not in _PUSHABLE]
    for key in _PUSHABLE:
        if key == "files" and value.get(key):
            files = news.fields.setdefault("files", [])
            warnings += _append(files, "files", value[key], MAX_FILES)
        elif value.get(key):
            entries, refusals = _permitted(news, value[key])
            pushed = news.fields.setdefault("push", {}).setdefault(key, [])
            warnings += refusals + _append(pushed, f"push.{key}", entries, MAX_PUSHED)
    return warnings


def _permitted(news: JobNews, entries: list[Any]) -> tuple[list[Any], list[str]]:
    """What may be pushed, and why the rest may not.

    An action reaches the job's own event no further than `update_event` and `delete_event` do.
    """
    barred = {"delete"} if news.may_update_event else {"delete", "disable"}
    kinds = [entry.get("type") if isinstance(entry, dict) else None for entry in entries]
    refused = [kind for kind in kinds if isinstance(kind, str) and kind in barred]
    kept = [entry for entry, kind in zip(entries, kinds, strict=True) if kind not in refused]
    return kept, [f"A pushed action is refused: a job cannot {kind} its event" for kind in refused]


def _push_problem(value: Any) -> str | None:
    """One bad entry spoils the whole push."""
    if not isinstance(value, dict):
        return "Not an object: push"
    for key, entries in value.items():
        if not _WORD.fullmatch(key):
            return f"Invalid property name: {key[:50]}"
        if not isinstance(entries, list):
            return f"Property is not an array: {key}"
    return None


def _take_update_event(news: JobNews, name: str, value: Any) -> list[str]:
    if not news.may_update_event:
        return [f"{name} is not allowed for this plugin"]
    if not isinstance(value, dict):
        return [f"Not an object: {name}"]
    allowed = {key: part for key, part in value.items() if key in MAY_UPDATE}
    warnings = [f"{name} may not change {key[:50]}" for key in value if key not in MAY_UPDATE]
    if not _has_room(news, name, allowed, MAX_REPORT):
        return [*warnings, f"{name} is too large and was dropped"]
    if allowed:
        news.fields.setdefault(name, {}).update(allowed)
    return warnings


def _refuse_delete(news: JobNews, name: str, value: Any) -> list[str]:
    return [f"{name} is refused: a job cannot delete its event"] if value else []


def _take_custom(news: JobNews, name: str, value: Any) -> list[str]:
    if not _has_room(news, "custom", {name: value}, MAX_CUSTOM):
        return [f"Unknown field {name[:50]} was dropped: too many or too large"]
    news.fields.setdefault("custom", {})[name] = value
    return []


_FIELDS: Mapping[str, Callable[[JobNews, str, Any], list[str]]] = {
    "description": _take_text,
    "status": _take_text,
    "label": _take_text,
    "progress": _take_progress,
    "perf": _take_perf,
    "table": _take_table,
    "files": _take_files,
    "push": _take_push,
    "update_event": _take_update_event,
    "delete_event": _refuse_delete,
} | dict.fromkeys(COLLECTED, _take_data)


# Sizes


def _has_room(news: JobNews, name: str, value: Json, limit: int) -> bool:
    """Account for a part; what is refused does not count."""
    size = news._sizes.get(name, 0) + _size(value)
    if size > limit:
        return False
    news._sizes[name] = size
    return True


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))


def _append(target: list[Any], name: str, entries: Iterable[Any], limit: int) -> list[str]:
    entries = list(entries)
    room = limit - len(target)
    target.extend(entries[:room])
    return [f"{name}: only {limit} are kept"] if len(entries) > room else []


def _labelled(name: str, value: Json) -> tuple[Json, list[str]]:
    """A copy with title and caption within their limit."""
    copy, warnings = dict(value), []
    for key in ("title", "caption"):
        if key in copy:
            copy[key], remarks = _cut(f"{name}.{key}", _text(copy[key]), MAX_DESCRIPTION)
            warnings += remarks
    return copy, warnings


def _cut(name: str, text: str, limit: int) -> tuple[str, list[str]]:
    """Text of at most `limit` bytes of UTF-8, and a warning if it was longer."""
    if len(text) <= limit // 4:
        return text, []
    encoded = text.encode()
    if len(encoded) <= limit:
        return text, []
    return encoded[:limit].decode(errors="ignore"), [f"{name} was cut to {limit} bytes"]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def _as_number(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
