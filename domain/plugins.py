"""Plugins and their parameters: definitions, defaults, values, locks (data.md 2.4 and 11).

A parameter definition is also the shape of an event's `fields`. Must not know events or jobs:
callers pass the definitions and the values. Everything that reads *stored* definitions is
total; only the `check_*` functions raise.
"""

import re
from collections.abc import Iterable
from typing import Any

from domain.checks import (
    check_count,
    check_flag,
    check_text,
    check_title,
    is_number,
    is_one_of,
    objects,
)
from domain.errors import BadRequest
from domain.expressions import ExpressionError, to_text
from domain.facts import Json
from domain.ids import RESERVED
from domain.macros import OVERRIDE, forbidden_override
from domain.patterns import found_in, is_pattern

PLUGIN_TYPES = frozenset({"event", "monitor", "action", "scheduler"})
KILL_POLICIES = frozenset({"none", "parent", "all"})
PARAM_TYPES = frozenset(
    "text textarea code json checkbox select bucket system hidden toolset group".split()
)
TOOL_FIELD_TYPES = frozenset("checkbox code json hidden select text textarea".split())
TEXT_VARIANTS = frozenset(
    "color date datetime-local email number password text time tel url".split()
)
STEP_TOLERANCE = 1e-7

_PARAM_ID = re.compile(r"[A-Za-z_][\w\-.]*", re.ASCII)
_ANGLE = re.compile(r"[<>]")
_LABELLED = re.compile(r".*\[([^\[\]]*)\]\s*")
_RANGE = re.compile(
    r"\s*(?P<low>-?\d+(?:\.\d+)?)\s*-\s*(?P<high>-?\d+(?:\.\d+)?)"
    r"(?:\s*/\s*(?P<step>any|\d+(?:\.\d+)?))?\s*"
)


# --- records -----------------------------------------------------------------------------------


def check_plugin(record: Json) -> None:
    """A whole plugin record, title and id apart, follows data.md 11.1. Raises BadRequest."""
    if not is_one_of(record.get("type"), PLUGIN_TYPES):
        raise BadRequest("Parameter 'type' must be event, monitor, action or scheduler.")
    command = record.get("command")
    if not isinstance(command, str) or not command.strip():
        raise BadRequest("Parameter 'command' must be a string with something in it.")
    if record.get("kill") not in (None, "", *KILL_POLICIES):
        raise BadRequest("Parameter 'kill' must be none, parent or all.")
    check_text(record, "script", "uid", "gid", "cwd", "format")
    check_count(record, "timeout")
    for flag in ("enabled", "runner", "may_update_event", "idempotent"):
        if record.get(flag) is not None:
            check_flag(record[flag], flag)
    check_param_definitions(record.get("params"), "params")


def check_param_definitions(
    definitions: Any, name: str, *, titled: bool = True, taken: Iterable[str] = ()
) -> list[Json]:
    """The list itself, if it defines parameters as data.md 11.2 says. Raises BadRequest.

    `titled` makes titles compulsory; `taken` are ids that must not be used.
    """
    entries = objects(definitions, name)
    used = set(taken)
    for number, definition in enumerate(entries, 1):
        where = f"Malformed entry #{number} of '{name}'"
        _check_definition(definition, where, PARAM_TYPES, titled)
        for id in owned_keys(definition):
            if id in used:
                raise BadRequest(f"{where}: the id '{id}' is used twice or not allowed here.")
            used.add(id)
    return entries


def _check_definition(definition: Json, where: str, types: frozenset[str], titled: bool) -> None:
    _check_param_id(definition.get("id"), where)
    kind = definition.get("type")
    if not is_one_of(kind, types):
        raise BadRequest(f"{where}: unknown type.")
    if titled or definition.get("title") is not None:
        try:
            check_title(definition.get("title"))
        except BadRequest as problem:
            raise BadRequest(f"{where}: {problem}") from problem
    check_text(definition, "caption", "regex", "range")
    if _ANGLE.search(definition.get("caption") or ""):
        raise BadRequest(f"{where}: 'caption' must not contain < or >.")
    if kind == "text" and definition.get("variant") not in (None, "", *TEXT_VARIANTS):
        raise BadRequest(f"{where}: unknown variant.")
    if definition.get("regex") and not is_pattern(definition["regex"]):
        raise BadRequest(f"{where}: 'regex' is not a regular expression.")
    if definition.get("range") and _RANGE.fullmatch(definition["range"]) is None:
        raise BadRequest(f"{where}: 'range' must look like MIN-MAX/STEP.")
    if kind == "toolset":
        _check_tools(definition, where)


def _check_param_id(id: object, where: str) -> None:
    if not isinstance(id, str) or _PARAM_ID.fullmatch(id) is None or id in RESERVED:
        raise BadRequest(f"{where}: 'id' must begin with a letter or _ and not be reserved.")
    if forbidden_override(id):
        raise BadRequest(f"{where}: '{id}' must not be overridden.")


def _check_tools(definition: Json, where: str) -> None:
    data = definition.get("data")
    tools = data.get("tools") if isinstance(data, dict) else None
    if not isinstance(tools, list) or not tools:
        raise BadRequest(f"{where}: a toolset needs 'data.tools'.")
    seen: set[str] = set()
    for tool in objects(tools, "tools"):
        id = tool.get("id")
        if not isinstance(id, str) or not id or id in seen:
            raise BadRequest(f"{where}: each tool needs an 'id' of its own.")
        seen.add(id)
        check_title(tool.get("title"))
        used: set[str] = set()
        for field in objects(tool.get("fields"), "fields"):
            _check_definition(field, where, TOOL_FIELD_TYPES, titled=True)
            if field["id"] in used:
                raise BadRequest(f"{where}: the id '{field['id']}' is used twice in a tool.")
            used.add(field["id"])


# --- defaults ----------------------------------------------------------------------------------


def default_value(definition: Json) -> Any:
    """What a parameter is worth when nobody gave a value (plugins.md 8). Never raises.

    A select's first item; a toolset's default tool (its fields: see `default_values`).
    """
    value = definition.get("value")
    match definition.get("type"):
        case "select":
            first = select_items(value)[:1]
            return first if definition.get("multiple") else (first[0] if first else "")
        case "checkbox":
            return bool(value)
        case "json":
            return {} if value is None or value == "" else value
        case "toolset":
            return _default_tool(definition).get("id", "")
        case "text" if definition.get("variant") == "number":
            return None if value == "" else value
        case "bucket" | "system" if definition.get("multiple"):
            return value if isinstance(value, list) else []
        case _:
            return "" if value is None else value


def default_values(definitions: Any) -> Json:
    """The defaults of all these definitions by id, a toolset's fields beside it. Never raises."""
    values: Json = {}
    for definition in _stored(definitions):
        id = definition.get("id")
        if not isinstance(id, str) or definition.get("type") == "group":
            continue
        values[id] = default_value(definition)
        if definition.get("type") == "toolset":
            values |= default_values(_default_tool(definition).get("fields"))
    return values


def select_items(value: Any) -> list[str]:
    """The ids of a select's items: `A, Label [b], c`; a leading comma is an empty choice."""
    if not isinstance(value, str):
        return []
    items = []
    for item in value.split(","):
        labelled = _LABELLED.fullmatch(item)
        items.append(labelled[1].strip() if labelled else item.strip())
    return items


def owned_keys(definition: Json) -> list[str]:
    """All keys of `params` that belong to a definition: its id and its tools' fields."""
    id = definition.get("id")
    keys = [id] if isinstance(id, str) else []
    if definition.get("type") == "toolset":
        for tool in _tools(definition):
            keys += [f["id"] for f in _stored(tool.get("fields")) if isinstance(f.get("id"), str)]
    return list(dict.fromkeys(keys))


def _default_tool(definition: Json) -> Json:
    data = definition.get("data")
    wanted = data.get("default") if isinstance(data, dict) else None
    tools = _tools(definition)
    return next((tool for tool in tools if tool.get("id") == wanted), tools[0] if tools else {})


def _tools(definition: Json) -> list[Json]:
    data = definition.get("data")
    return _stored(data.get("tools")) if isinstance(data, dict) else []


def _stored(definitions: Any) -> list[Json]:
    """Definitions as they stand in a record: what is no object is left out."""
    return [x for x in definitions if isinstance(x, dict)] if isinstance(definitions, list) else []


# --- values ------------------------------------------------------------------------------------


def check_param_keys(values: Json) -> None:
    """No key is reserved or sets a forbidden job property (data.md 2.4). Raises BadRequest."""
    for key in values:
        if key in RESERVED:
            raise BadRequest(f"Parameter name '{key}' is reserved.")
        if key.startswith(OVERRIDE) and forbidden_override(key):
            raise BadRequest(f"Parameter '{key}' must not be overridden.")


def check_values(definitions: Any, values: Json, skip: Iterable[str] = ()) -> None:
    """Each value fits its definition: required, regex, range (data.md 2.4). Raises BadRequest.

    `skip` names definitions whose value comes from elsewhere. Types are not checked otherwise,
    and keys without a definition are fine.
    """
    skipped = set(skip)
    for definition in _stored(definitions):
        id = definition.get("id")
        if not isinstance(id, str) or id in skipped or definition.get("type") == "group":
            continue
        _check_value(definition, id, values.get(id))
        if definition.get("type") == "toolset":
            chosen = next((t for t in _tools(definition) if t.get("id") == values.get(id)), {})
            check_values(chosen.get("fields"), values, skipped)


def _check_value(definition: Json, id: str, value: Any) -> None:
    text = _text_form(id, value)
    if text == "":
        if definition.get("required"):
            raise BadRequest(f"Parameter '{id}' is required.")
        return
    if definition.get("regex") and not found_in(definition["regex"], text):
        raise BadRequest(f"Parameter '{id}' value is invalid.")
    allowed = definition.get("range")
    if allowed and not _in_range(allowed, value):
        raise BadRequest(f"Parameter '{id}' value is invalid. It must be in {allowed}.")


def _text_form(id: str, value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_text_form(id, entry) for entry in value)
    try:
        return to_text(value)
    except ExpressionError as problem:
        raise BadRequest(f"Parameter '{id}' value is invalid: {problem}") from problem


def _in_range(allowed: Any, value: Any) -> bool:
    """Whether a value lies in `MIN-MAX/STEP` and on a step; a malformed range allows all."""
    bounds = _RANGE.fullmatch(allowed) if isinstance(allowed, str) else None
    if bounds is None:
        return True
    number = _as_number(value)
    if number is None:
        return False
    low, high, step = float(bounds["low"]), float(bounds["high"]), bounds["step"]
    if not low - STEP_TOLERANCE <= number <= high + STEP_TOLERANCE:
        return False
    if step in (None, "any") or float(step) == 0:
        return True
    steps = (number - low) / float(step)
    return abs(steps - round(steps)) * float(step) <= STEP_TOLERANCE


def _as_number(value: Any) -> float | None:
    if is_number(value):
        return float(value)
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return number if is_number(number) else None


# --- locks -------------------------------------------------------------------------------------


def locked_ids(definitions: Any) -> list[str]:
    """All keys that only administrators may change."""
    return [
        key
        for definition in _stored(definitions)
        if definition.get("locked")
        for key in owned_keys(definition)
    ]


def with_locked(definitions: Any, values: Json, kept: Json | None) -> Json:
    """The values as a non-administrator may set them (plugins.md 8).

    Locked parameters have the value they had in `kept` (absent stays absent); with no `kept`,
    as for a new event or another plugin, they have their default.
    """
    locked = set(locked_ids(definitions))
    if not locked:
        return values
    source = default_values(definitions) if kept is None else kept
    free = {key: value for key, value in values.items() if key not in locked}
    return free | {key: value for key, value in source.items() if key in locked}
