"""Actions of events, categories and groups: what may be saved, and which fire (data.md 5).

Must not know how an action is carried out, nor the state of a job.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from domain.checks import (
    check_object,
    check_text,
    check_title,
    check_word,
    is_number,
    is_url,
    objects,
)
from domain.checks import strings as string_list
from domain.errors import BadRequest
from domain.facts import Json
from domain.known import Known
from domain.plugins import check_param_keys, check_values

NAMED_CODES = frozenset({"warning", "critical", "abort"})

_SAVED_CONDITION = re.compile(
    r"start|complete|success|error|user|warning|critical|abort|tag:\w+|alert_new|alert_cleared",
    re.ASCII,
)
_SYNC = ("data", "files", "data_and_files")


# --- what may be saved -------------------------------------------------------------------------


def check_actions(
    actions: Any, known: Known, name: str = "actions", *, pushed: bool = False
) -> list[Json]:
    """The list itself, if every action is well-formed and what it names exists.

    `pushed` ones come from a running job and may also be `instant`. Raises BadRequest (data.md 5).
    """
    entries = objects(actions, name)
    for number, action in enumerate(entries, 1):
        try:
            _check_action(action, known, pushed)
        except BadRequest as problem:
            raise BadRequest(f"Malformed entry #{number} of '{name}': {problem}") from problem
    return entries


def _check_action(action: Json, known: Known, pushed: bool) -> None:
    if "enabled" not in action:
        raise BadRequest("missing 'enabled'.")
    condition = action.get("condition")
    instant = pushed and condition == "instant"
    known_condition = isinstance(condition, str) and _SAVED_CONDITION.fullmatch(condition)
    if not instant and not known_condition:
        raise BadRequest("unknown condition.")
    kind = action.get("type")
    check = _CHECKS.get(kind) if isinstance(kind, str) else None
    if check is None:
        raise BadRequest("unknown type.")
    check(action, known)


def _check_email(action: Json, known: Known) -> None:
    if not isinstance(action.get("users"), list):
        raise BadRequest("'users' must be an array.")
    string_list(action["users"], "users")
    check_text(action, "email", "body")
    if not action["users"] and not action.get("email"):
        raise BadRequest("an email needs 'users' or 'email'.")


def _check_web_hook(action: Json, known: Known) -> None:
    check_text(action, "text")
    url = action.get("url")
    if url and not action.get("web_hook"):
        if not is_url(url):
            raise BadRequest("'url' must be an http or https address.")
        return
    check_word(action.get("web_hook"), "web_hook")


def _check_run_event(action: Json, known: Known) -> None:
    target = check_word(action.get("event_id"), "event_id")
    if known.event(target) is None:
        raise BadRequest(f"event not found: {target}")
    check_object(action, "params")
    delay = action.get("start_delay")
    if delay is not None and not (is_number(delay) and delay >= 0):
        raise BadRequest("'start_delay' must be seconds, 0 or more.")


def _check_suspend(action: Json, known: Known) -> None:
    for key in ("users", "sources"):
        string_list(action.get(key), key)
    check_text(action, "email", "web_hook", "text")


def _check_tag(action: Json, known: Known) -> None:
    if not string_list(action.get("tags"), "tags"):
        raise BadRequest("'tags' must name at least one tag.")


def _check_label(action: Json, known: Known) -> None:
    check_title(action.get("label"), "label")


def _check_plugin(action: Json, known: Known) -> None:
    id = check_word(action.get("plugin_id"), "plugin_id")
    plugin = known.record("plugin", id)
    if plugin is None or plugin.get("type") != "action":
        raise BadRequest(f"action plugin not found: {id}")
    check_object(action, "params")
    params = action.get("params") or {}
    check_param_keys(params)
    check_values(plugin.get("params"), params)


def _check_channel(action: Json, known: Known) -> None:
    check_word(action.get("channel_id"), "channel_id")


def _check_bucket(action: Json, known: Known) -> None:
    check_word(action.get("bucket_id"), "bucket_id")
    if action.get("bucket_sync") not in _SYNC:
        raise BadRequest("'bucket_sync' must be data, files or data_and_files.")


def _check_ticket(action: Json, known: Known) -> None:
    check_text(action, "ticket_type")
    for key in ("ticket_assignees", "ticket_tags"):
        string_list(action.get(key), key)


def _check_nothing(action: Json, known: Known) -> None:
    pass


_CHECKS: dict[str, Callable[[Json, Known], None]] = {
    "email": _check_email,
    "web_hook": _check_web_hook,
    "run_event": _check_run_event,
    "suspend": _check_suspend,
    "tag": _check_tag,
    "label": _check_label,
    "plugin": _check_plugin,
    "channel": _check_channel,
    "store": _check_bucket,
    "fetch": _check_bucket,
    "ticket": _check_ticket,
    "disable": _check_nothing,
    "delete": _check_nothing,
    "snapshot": _check_nothing,
}


# --- which fire --------------------------------------------------------------------------------


def conditions_of(code: object, tags: Iterable[str]) -> list[str]:
    """The conditions that a job's end fulfils, in the order in which they fire (9.1).

    `code` is the job's result: 0, false, null and the empty text are success.
    """
    if not code:
        result = ["success"]
    else:
        named = code if isinstance(code, str) and code in NAMED_CODES else "user"
        result = ["error", named]
    return ["complete", *result, *[f"tag:{tag}" for tag in dict.fromkeys(tags)]]


def select(
    actions: Sequence[Json],
    stage: str,
    code: object = 0,
    tags: Iterable[str] = (),
    only: Collection[str] | None = None,
) -> list[tuple[int, Json]]:
    """The actions that fire in a stage (`start`, `end`, `instant`), with their indexes.

    In the order of conditions, then of the list; of several with the same type and target the
    first fires. Those that already have a result are left out. `only` restricts the conditions,
    as test runs may (execution.md 9.2). Never raises.
    """
    conditions = conditions_of(code, tags) if stage == "end" else [stage]
    chosen: dict[tuple[str, ...], tuple[int, Json]] = {}
    for condition in conditions:
        if only is not None and condition not in only:
            continue
        for index, action in enumerate(actions):
            if action.get("enabled") and action.get("condition") == condition:
                chosen.setdefault(_target(action), (index, action))
    return [(index, action) for index, action in chosen.values() if "code" not in action]


def _target(action: Json) -> tuple[str, ...]:
    kind = str(action.get("type"))
    match kind:
        case "email":
            users = action.get("users")
            names = users if isinstance(users, list) else []
            return (kind, str(action.get("email") or ""), *map(str, names))
        case "web_hook":
            return (kind, str(action.get("web_hook") or action.get("url") or ""))
        case "run_event":
            return (kind, str(action.get("event_id")))
        case "channel":
            return (kind, str(action.get("channel_id")))
        case "plugin":
            return (kind, str(action.get("plugin_id")))
        case "store" | "fetch":
            return (kind, str(action.get("bucket_id")))
        case _:
            return (kind,)
