"""Events: deciding whether a definition may be created, changed or deleted (api.md 3.3 to 3.5).

Checks come in the order of api.md 1.4: format, privilege, existence, access, rules. Everything
decided here is one fact with the whole definition. Must not know jobs: how many of an event's
jobs are unfinished is passed in.
"""

import hashlib
from typing import Any

from domain.access import SYSTEM, Principal
from domain.actions import check_actions
from domain.assembly import LAUNCH_CONTEXT
from domain.checks import (
    SERVER_SET,
    bounded,
    changed_keys,
    check_flag,
    check_object,
    check_word,
    cleaned,
    is_integer,
    is_one_of,
    require,
    strings,
)
from domain.commands import CreateEvent, DeleteEvent, RevertEvent, UpdateEvent
from domain.errors import BadRequest, event_rule
from domain.expressions import parse
from domain.facts import (
    Actor,
    Counters,
    EventCreated,
    EventDeleted,
    EventUpdated,
    Json,
    to_plain,
)
from domain.ids import check_id
from domain.known import Known
from domain.limits import check_limits
from domain.plugins import (
    check_param_definitions,
    check_param_keys,
    check_values,
    locked_ids,
    owned_keys,
    with_locked,
)
from domain.reach import require_reach
from domain.targets import ALGORITHMS
from domain.trigger_rules import check_triggers

REQUIRED = ("title", "enabled", "category", "targets", "plugin", "algo")
CHILD_MAY_CHANGE = frozenset({"enabled", "notes", "params", "tags", "limits"})
"""What a running job may change of its own event (execution.md 17)."""

_NOT_STORED = LAUNCH_CONTEXT | SERVER_SET | {"type", "update_state"}


# --- commands ----------------------------------------------------------------------------------


def decide_create(command: CreateEvent, known: Known, now: float) -> EventCreated:
    """A new event. Raises BadRequest, AccessDenied, or event_rule when the id is taken."""
    by, given = command.by, command.fields
    if given.get("type") == "workflow":
        raise BadRequest("Workflow events are not supported.")
    id = check_id(given["id"]) if given.get("id") is not None else command.id
    event: Json = {"id": id} | _storable(given) | {"id": id}
    require(event, REQUIRED)
    counters = _counters(given)
    check_shape(event)
    by.require("create_events")
    if known.event(id) is not None:
        raise event_rule(f"An event with this id exists already: {id}")
    by.require_access(event["category"], event["targets"])
    require_reach(by, event, known)
    event["params"] = event.get("params") or {}
    for name in ("fields", "triggers", "limits", "actions"):
        event[name] = event.get(name) or []
    if not by.admin:
        event["params"] = with_locked(_definitions(event, known), event["params"], None)
    event["triggers"] = check_references(event, known)
    event |= {"username": by.username, "created": int(now), "modified": int(now), "revision": 1}
    return bounded(
        EventCreated(at=now, actor=command.actor, event=id, definition=event, counters=counters)
    )


def decide_update(command: UpdateEvent, known: Known, now: float) -> EventUpdated:
    """The event with these keys replaced (a shallow merge), and its set counters.

    Raises BadRequest, AccessDenied, or event_rule for an unknown id or a stale revision.
    """
    by, given = command.by, command.fields
    id = check_id(given.get("id"))
    changes = _storable(given)
    counters = _counters(given)
    expected = given.get("revision")
    if expected is not None and not is_integer(expected):
        raise BadRequest("Parameter 'revision' must be a whole number.")
    stored = known.event(id)
    merged = (stored or {"id": id}) | changes | {"id": id}
    if stored is not None:
        check_shape(merged)
    else:
        check_shape_of_given(changes)
    by.require("edit_events")
    if stored is None:
        raise event_rule(f"Event not found: {id}")
    by.require_access(stored.get("category"), stored.get("targets"))
    if expected is not None and expected != stored.get("revision"):
        raise event_rule(f"The event was changed meanwhile: it is at {stored.get('revision')}.")
    return _revised(stored, merged, by, command.actor, known, now, counters)


def decide_revert(command: RevertEvent, known: Known, now: float) -> EventUpdated:
    """A new revision with the content of an old one. Raises as decide_update does."""
    by = command.by
    by.require("edit_events")
    stored = known.event(command.id)
    if stored is None:
        raise event_rule(f"Event not found: {command.id}")
    by.require_access(stored.get("category"), stored.get("targets"))
    merged = _storable(command.content) | {"id": command.id}
    merged |= {key: stored[key] for key in SERVER_SET if key in stored}
    check_shape(merged)
    reason = f"reverted to revision {command.content.get('revision')}"
    return _revised(stored, merged, by, command.actor, known, now, None, reason)


def decide_delete(command: DeleteEvent, known: Known, now: float) -> EventDeleted:
    """The end of an event. Raises event_rule while any of its jobs is unfinished."""
    id = check_id(command.id)
    command.by.require("delete_events")
    stored = known.event(id)
    if stored is None:
        raise event_rule(f"Event not found: {id}")
    command.by.require_access(stored.get("category"), stored.get("targets"))
    if command.live_jobs:
        raise event_rule(f"The event has {command.live_jobs} unfinished job(s).")
    return EventDeleted(at=now, actor=command.actor, event=id, delete_jobs=command.delete_jobs)


# --- what a job does to an event ---------------------------------------------------------------


def disable(id: str, known: Known, actor: Actor, now: float, reason: str) -> EventUpdated | None:
    """The event switched off by an action; None if it is gone or off already."""
    stored = known.event(id)
    if stored is None or not stored.get("enabled"):
        return None
    return _next_revision(stored, stored | {"enabled": False}, actor, now, None, reason)


def delete(id: str, known: Known, actor: Actor, now: float, reason: str) -> EventDeleted | None:
    """The event deleted by an action; None if it is gone already."""
    if known.event(id) is None:
        return None
    return EventDeleted(at=now, actor=actor, event=id, reason=reason)


def changed_by_child(
    id: str, changes: Json, known: Known, actor: Actor, now: float, reason: str
) -> EventUpdated | None:
    """A child's `update_event`, restricted to what it may change (execution.md 17).

    Locked parameters keep their values, whoever wrote the child's script. Whether the plugin
    may do this at all is for the caller to see.

    None if the event is gone or nothing is left of the changes. Raises BadRequest.
    """
    stored = known.event(id)
    allowed = {key: value for key, value in changes.items() if key in CHILD_MAY_CHANGE}
    if stored is None or not allowed:
        return None
    merged = stored | _storable(allowed)
    check_shape(merged)
    merged = merged | {"params": _params_of_others(stored, merged, known)}
    return _revised(stored, merged, SYSTEM, actor, known, now, None, reason)


# --- what the facts say ------------------------------------------------------------------------


def change_summary(fact: EventCreated | EventUpdated | EventDeleted) -> str:
    """One line for the event's history (api.md D6)."""
    match fact:
        case EventCreated():
            return "Created"
        case EventDeleted():
            return "Deleted"
        case EventUpdated():
            counters = to_plain(fact.counters) if fact.counters else {}
            names = ", ".join([*fact.changed, *counters])
            return f"Updated {names}" if names else "Saved without changes"


def magic_token(key: str, event: str) -> str:
    """What is stored of a magic trigger's key: SHA-256 in hex of key and event id (7.1)."""
    return hashlib.sha256((key + event).encode()).hexdigest()


# --- validation of whole events ----------------------------------------------------------------


def check_shape(event: Json) -> None:
    """The form of a whole event, as far as no other record is needed. Raises BadRequest."""
    for name in REQUIRED:
        if event.get(name) is None:
            raise BadRequest(f"Parameter '{name}' must not be empty.")
    check_shape_of_given(event)
    for name in ("triggers", "limits", "actions", "fields"):
        if event.get(name) is not None and not isinstance(event[name], list):
            raise BadRequest(f"Parameter '{name}' must be an array.")


def check_shape_of_given(event: Json) -> None:
    """The form of those keys of an event that are given. Raises BadRequest."""
    cleaned(event)
    if event.get("enabled") is not None:
        check_flag(event["enabled"], "enabled")
    for name in ("category", "plugin"):
        if event.get(name) is not None:
            check_word(event[name], name)
    if event.get("targets") is not None and not strings(event["targets"], "targets"):
        raise BadRequest("Parameter 'targets' must name at least one target.")
    if event.get("algo") is not None and not is_one_of(event["algo"], ALGORITHMS):
        raise BadRequest(f"Unknown algorithm: {event['algo']}")
    for tag in strings(event.get("tags"), "tags"):
        check_word(tag, "tags")
    check_object(event, "params")
    _check_expression(event.get("expression"))


def check_references(event: Json, known: Known) -> list[Json]:
    """A whole, well-formed event against the records it names; returns its triggers as stored.

    Also for the merged event of run_event, whose triggers the caller ignores. Raises BadRequest.
    """
    if known.record("category", event["category"]) is None:
        raise BadRequest(f"Category not found: {event['category']}")
    for tag in event.get("tags") or []:
        if known.record("tag", tag) is None:
            raise BadRequest(f"Tag not found: {tag}")
    definitions = _definitions(event, known)
    fields = check_param_definitions(
        event.get("fields"), "fields", titled=False, taken=locked_ids(definitions)
    )
    params = event.get("params") or {}
    check_param_keys(params)
    check_values(definitions, params, skip=[key for f in fields for key in owned_keys(f)])
    check_limits(event.get("limits"))
    check_actions(event.get("actions"), known)
    return _checked_triggers(event, fields, known)


def _checked_triggers(event: Json, fields: list[Json], known: Known) -> list[Json]:
    def scheduler_plugin(id: str) -> Json | None:
        plugin = known.record("plugin", id)
        return plugin if plugin is not None and plugin.get("type") == "scheduler" else None

    return check_triggers(
        event.get("triggers"),
        scheduler_plugin_exists=scheduler_plugin,
        magic_token=lambda key: magic_token(key, event["id"]),
        fields=fields,
        title=event["title"],
    )


def _check_expression(expression: object) -> None:
    if expression is None or expression == "":
        return
    if not isinstance(expression, str):
        raise BadRequest("Parameter 'expression' must be a string.")
    parse(expression)


def _definitions(event: Json, known: Known) -> list[Json]:
    """The parameter definitions of the event's plugin. Raises BadRequest if there is none."""
    plugin = known.record("plugin", event["plugin"])
    if plugin is None or plugin.get("type") != "event":
        raise BadRequest(f"Plugin not found: {event['plugin']}")
    return plugin.get("params") or []


# --- steps -------------------------------------------------------------------------------------


def _storable(given: Json) -> Json:
    """What of a request's fields is stored: cleaned, without what the server sets."""
    return {key: value for key, value in cleaned(given).items() if key not in _NOT_STORED}


def _counters(given: Json) -> Counters | None:
    """The counters that `update_state` sets (data.md 2.1)."""
    state = given.get("update_state")
    if state is None:
        return None
    if not isinstance(state, dict) or not state.keys() <= {"cursor", "nth"}:
        raise BadRequest("Parameter 'update_state' may set 'cursor' and 'nth' only.")
    for name, value in state.items():
        if not is_integer(value) or value < 0:
            raise BadRequest(f"'{name}' in 'update_state' must be a whole number, 0 or more.")
    cursor, nth = state.get("cursor"), state.get("nth")
    if cursor is None and nth is None:
        return None
    return Counters(
        cursor=None if cursor is None else _floor60(cursor), nth=None if nth is None else int(nth)
    )


def _revised(
    stored: Json,
    merged: Json,
    by: Principal,
    actor: Actor,
    known: Known,
    now: float,
    counters: Counters | None,
    reason: str | None = None,
) -> EventUpdated:
    """The checked next revision: access to what it becomes, locks, references, cursor."""
    by.require_access(merged.get("category"), merged.get("targets"))
    require_reach(by, merged, known, before=stored)
    if not by.admin:
        merged = merged | {"params": _params_of_others(stored, merged, known)}
    triggers = check_references(merged, known)
    if any(merged.get(key) != stored.get(key) for key in ("triggers", "fields")):
        merged = merged | {"triggers": None if merged.get("triggers") is None else triggers}
    if _catches_up(merged) and not _catches_up(stored):
        cursor = counters.cursor if counters and counters.cursor is not None else _floor60(now)
        counters = Counters(cursor=cursor, nth=counters.nth if counters else None)
    return _next_revision(stored, merged, actor, now, counters, reason)


def _params_of_others(stored: Json, merged: Json, known: Known) -> Json:
    """The params with the locked ones as a non-administrator may set them (plugins.md 8)."""
    same_plugin = stored.get("plugin") == merged.get("plugin")
    kept = (stored.get("params") or {}) if same_plugin else None
    return with_locked(_definitions(merged, known), merged.get("params") or {}, kept)


def _next_revision(
    stored: Json,
    merged: Json,
    actor: Actor,
    now: float,
    counters: Counters | None,
    reason: str | None,
) -> EventUpdated:
    revision = stored.get("revision")
    event = merged | {
        "modified": int(now),
        "revision": (revision if isinstance(revision, int) else 0) + 1,
    }
    return bounded(
        EventUpdated(
            at=now,
            actor=actor,
            event=event["id"],
            definition=event,
            changed=changed_keys(stored, event),
            counters=counters,
            reason=reason,
        )
    )


def _catches_up(event: Json) -> bool:
    triggers: Any = event.get("triggers") or []
    return any(t.get("type") == "catchup" and t.get("enabled") for t in triggers)


def _floor60(moment: float) -> int:
    return int(moment // 60) * 60
