"""What a list of triggers must look like to be stored (scheduling.md 2, data.md 3).

Responsible for checking shapes, normalising values and refusing combinations when an event is
saved; the sentences name the trigger by its place. It must not know how triggers are evaluated,
and is lenient to no one: what is stored already is never passed through here unasked.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from domain.checks import check_flag, check_object, check_word, is_integer, is_number, objects
from domain.civil import known_zones
from domain.cron import expand
from domain.errors import BadRequest
from domain.facts import Json
from domain.plugins import check_param_keys, check_values, default_values
from domain.trigger_plan import SCHEDULE_LISTS

LATEST_EPOCH = 253_402_300_799  # the end of the year 9999; more is a value in milliseconds
CATCHUP_MODES = frozenset({"all", "latest"})
LAUNCHING_WITH_PARAMS = frozenset({"schedule", "interval", "single", "startup", "keyboard"})
AT_MOST_ONE = ("startup", "catchup", "nth", "manual", "precision", "quiet", "plugin", "delay")
EXCLUSIVE = ("interval", "precision", "delay")

_KEY = re.compile(r"[\w\-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What the rules ask about the rest of the world."""

    scheduler_plugin: Callable[[str], Json | None]
    magic_token: Callable[[str], str]
    title: str


def check_triggers(
    triggers: Any,
    *,
    scheduler_plugin_exists: Callable[[str], Json | None],
    magic_token: Callable[[str], str],
    fields: Sequence[Json] = (),
    title: str = "",
) -> list[Json]:
    """Return the triggers as they are to be stored; the argument is not changed.

    Instants are floored to their minute, precision seconds sorted without repetition, cron text
    becomes lists (two triggers if the choice was "either"), a magic key becomes its token, and
    missing values of the event's `fields` are filled into `params`. Keys unknown here are kept.

    `scheduler_plugin_exists` returns the record of a plugin of type `scheduler`, or None;
    `magic_token` turns a key into its token; `title` is the event's, for the `h` of cron text.
    Raises BadRequest naming the trigger by place and type. Disabled triggers are checked for shape;
    the combination is checked among enabled ones (`check_composition`).
    """
    around = _Surroundings(scheduler_plugin_exists, magic_token, title)
    stored: list[Json] = []
    for number, trigger in enumerate(objects(triggers, "triggers"), start=1):
        try:
            normalised = _normalised(trigger, around)
            stored += [_with_field_values(one, fields) for one in normalised]
        except BadRequest as refusal:
            raise BadRequest(f"Trigger #{number} ({trigger.get('type')}): {refusal}") from refusal
    check_composition(stored)
    return stored


def read_cron(trigger: Json, *, title: str = "") -> list[Json]:
    """The schedule triggers that a trigger with cron text is stored as. Raises BadRequest."""
    return [_schedule(one) for one in _without_cron(trigger, title)]


def check_composition(triggers: Sequence[Json]) -> None:
    """Refuse enabled triggers that exclude each other (scheduling.md 2.1). Raises BadRequest.

    To be called on the merged event as well: an update that leaves triggers alone fails if the
    stored ones do not go together.
    """
    enabled = [t for t in triggers if isinstance(t, dict) and t.get("enabled")]
    if len(enabled) < 2:
        return
    count = Counter(t.get("type") for t in enabled)
    for type_ in AT_MOST_ONE:
        if count[type_] > 1:
            raise BadRequest(f"An event can have only one enabled trigger of type {type_}.")
    for one, other in combinations(EXCLUSIVE, 2):
        if count[one] and count[other]:
            raise BadRequest(f"Enabled triggers of types {one} and {other} exclude each other.")


def _normalised(trigger: Json, around: _Surroundings) -> list[Json]:
    """Return what one trigger of the request is stored as: one object, or two for cron text."""
    if trigger.get("enabled") is not None:
        check_flag(trigger["enabled"], "enabled")
    _check_payload(trigger)
    match trigger.get("type"):
        case "schedule":
            return [_schedule(one) for one in _without_cron(trigger, around.title)]
        case "interval":
            return [trigger | _instant(trigger, "start") | _duration(trigger)]
        case "single":
            return [trigger | _floored(_instant(trigger, "epoch"))]
        case "manual" | "startup":
            return [dict(trigger)]
        case "magic":
            return [_magic(trigger, around.magic_token)]
        case "keyboard":
            return [_keyboard(trigger)]
        case "catchup":
            return [_catchup(trigger)]
        case "nth":
            return [_nth(trigger)]
        case "range" | "blackout":
            return [_window(trigger)]
        case "delay":
            return [trigger | _duration(trigger)]
        case "precision":
            return [_precision(trigger)]
        case "quiet":
            return [_quiet(trigger)]
        case "plugin":
            return [_plugin(trigger, around.scheduler_plugin)]
        case _:
            raise BadRequest("Unknown trigger type.")


# --- What several types have in common ------------------------------------------------------------


def _check_payload(trigger: Json) -> None:
    check_object(trigger, "params")
    if not isinstance(trigger.get("data"), dict | list | None):
        raise BadRequest("'data' must be an object or an array.")
    tags = trigger.get("tags")
    if tags is None:
        return
    if not isinstance(tags, list):
        raise BadRequest("'tags' must be an array of tag ids.")
    for tag in tags:
        check_word(tag, "tags")


def _with_field_values(trigger: Json, fields: Sequence[Json]) -> Json:
    """Fill the event's field defaults into a launching trigger's params and check them."""
    if trigger["type"] not in LAUNCHING_WITH_PARAMS:
        return trigger
    given: Json = trigger.get("params") or {}
    check_param_keys(given)
    if not fields:
        return trigger
    params = dict(given)
    for definition in fields:
        hidden = definition.get("type") == "hidden"
        defaults = default_values([definition])
        # A toolset's fields belong to its default tool: not filled in beside a chosen one.
        if hidden or definition.get("id") not in given:
            params |= defaults if hidden else {k: v for k, v in defaults.items() if k not in given}
    check_values(list(fields), params)
    return trigger | {"params": params}


def _instant(trigger: Json, name: str) -> Json:
    value = trigger.get(name)
    if not (is_integer(value) and 0 < value <= LATEST_EPOCH):
        raise BadRequest(f"'{name}' must be a time in whole Unix seconds.")
    return {name: int(value)}


def _duration(trigger: Json) -> Json:
    value = trigger.get("duration")
    if not (is_integer(value) and 1 <= value <= LATEST_EPOCH):
        raise BadRequest("'duration' must be a whole number of seconds, at least 1.")
    return {"duration": int(value)}


def _floored(instants: Json) -> Json:
    return {name: second - second % 60 for name, second in instants.items()}


def _integers(value: Any, name: str, lowest: int, highest: int) -> list[int]:
    if not isinstance(value, list) or not all(
        is_integer(entry) and lowest <= entry <= highest for entry in value
    ):
        raise BadRequest(f"'{name}' must be an array of whole numbers from {lowest} to {highest}.")
    return [int(entry) for entry in value]


def _check_zone(trigger: Json) -> None:
    zone = trigger.get("timezone")
    if zone in (None, ""):
        return
    if not isinstance(zone, str) or zone not in known_zones():
        raise BadRequest(f"Unknown time zone '{zone}'.")


# --- One function per type ------------------------------------------------------------------------


def _without_cron(trigger: Json, title: str) -> list[Json]:
    """Expand `cron` (and `days_rule`, see `domain.cron.expand`) into lists; neither is stored."""
    if trigger.get("cron") is None:
        return [trigger]
    text = trigger["cron"]
    if not isinstance(text, str):
        raise BadRequest("'cron' must be text.")
    if any(trigger.get(name) for name in SCHEDULE_LISTS):
        raise BadRequest("Give either 'cron' or lists, not both.")
    rest = {k: v for k, v in trigger.items() if k not in ("cron", "days_rule", *SCHEDULE_LISTS)}
    return [rest | lists for lists in expand(text, title=title, days_rule=trigger.get("days_rule"))]


def _schedule(trigger: Json) -> Json:
    _check_zone(trigger)
    lists = {
        name: _integers(trigger[name], name, *bounds)
        for name, bounds in SCHEDULE_LISTS.items()
        if name in trigger
    }
    if 0 in lists.get("days", ()):
        raise BadRequest("'days' must not hold 0: the last day of the month is -1.")
    return trigger | lists


def _magic(trigger: Json, magic_token: Callable[[str], str]) -> Json:
    rest = {name: value for name, value in trigger.items() if name != "key"}
    key, token = trigger.get("key"), trigger.get("token")
    if key in (None, ""):
        if not isinstance(token, str) or _KEY.fullmatch(token) is None:
            raise BadRequest("'key' is missing, and there is no 'token' of an earlier one.")
        return rest
    if not isinstance(key, str) or _KEY.fullmatch(key) is None:
        raise BadRequest("'key' must be text of letters, digits, underscores and dashes.")
    return rest | {"token": magic_token(key)}


def _keyboard(trigger: Json) -> Json:
    keys = trigger.get("keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(k, str) and k for k in keys):
        raise BadRequest("'keys' must be an array of at least one key combination.")
    return dict(trigger)


def _catchup(trigger: Json) -> Json:
    mode, limit = trigger.get("mode"), trigger.get("max_backlog")
    if mode is not None and (not isinstance(mode, str) or mode not in CATCHUP_MODES):
        raise BadRequest("'mode' must be all or latest.")
    if limit is None:
        return dict(trigger)
    if not is_integer(limit) or limit < 1:
        raise BadRequest("'max_backlog' must be a whole number of due minutes, at least 1.")
    return trigger | {"max_backlog": int(limit)}


def _nth(trigger: Json) -> Json:
    every = trigger.get("every")
    if not (is_number(every) and 2 <= every <= LATEST_EPOCH):
        raise BadRequest("'every' must be a number of at least 2.")
    return dict(trigger)


def _window(trigger: Json) -> Json:
    """Check a range or blackout. In a range 0 means absent; a blackout needs both ends."""
    given = {name: trigger[name] for name in ("start", "end") if trigger.get(name) is not None}
    for name, value in given.items():
        if not is_integer(value) or not 0 <= value <= LATEST_EPOCH:
            raise BadRequest(f"'{name}' must be a time in whole Unix seconds.")
    is_range = trigger["type"] == "range"
    bounds = {name: int(value) for name, value in given.items() if value or not is_range}
    if is_range and not bounds:
        raise BadRequest("A range needs a 'start' or an 'end'.")
    if not is_range and len(bounds) < 2:
        raise BadRequest("A blackout needs a 'start' and an 'end'.")
    if len(bounds) == 2 and bounds["start"] > bounds["end"]:
        raise BadRequest("'start' must not be after 'end'.")
    return trigger | _floored(bounds)


def _precision(trigger: Json) -> Json:
    seconds = _integers(trigger.get("seconds"), "seconds", 0, 59)
    if not seconds:
        raise BadRequest("'seconds' must name at least one second.")
    return trigger | {"seconds": sorted(set(seconds))}


def _quiet(trigger: Json) -> Json:
    for flag in ("invisible", "ephemeral"):
        if trigger.get(flag) is not None:
            check_flag(trigger[flag], flag)
    if not (trigger.get("invisible") or trigger.get("ephemeral")):
        raise BadRequest("One of 'invisible' and 'ephemeral' must be true.")
    return dict(trigger)


def _plugin(trigger: Json, scheduler_plugin: Callable[[str], Json | None]) -> Json:
    plugin_id = check_word(trigger.get("plugin_id"), "plugin_id")
    record = scheduler_plugin(plugin_id)
    if record is None:
        raise BadRequest(f"There is no plugin '{plugin_id}' of type scheduler.")
    _check_zone(trigger)
    params: Json = trigger.get("params") or {}
    check_param_keys(params)
    check_values(record.get("params"), default_values(record.get("params")) | params)
    return dict(trigger)
