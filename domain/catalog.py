"""Supporting records: categories, tags, groups, plugins, roles, web hooks, servers, config.

One shape for all of them (api.md 8.3, 8.4): a table says what differs per type. Each decider
returns one fact with the whole record. Must not know jobs or which servers are online: that is
passed in.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from domain.access import Principal, granted
from domain.actions import check_actions
from domain.checks import (
    SERVER_SET,
    bounded,
    changed_keys,
    check_count,
    check_flag,
    check_object,
    check_text,
    check_title,
    cleaned,
    is_number,
    is_one_of,
    is_url,
    objects,
    require,
    strings,
)
from domain.civil import known_zones
from domain.commands import (
    CreateRecord,
    DeleteRecord,
    DeleteServer,
    SwitchScheduling,
    UpdateConfig,
    UpdateManyRecords,
    UpdateRecord,
    UpdateServer,
)
from domain.errors import AccessDenied, BadRequest, RuleBroken
from domain.facts import (
    Actor,
    CatalogCreated,
    CatalogDeleted,
    CatalogType,
    CatalogUpdated,
    Json,
    MasterSwitched,
)
from domain.ids import check_id
from domain.known import Known
from domain.limits import check_limits
from domain.patterns import is_pattern
from domain.plugins import check_plugin

CONFIG_ID = "config"
"""The one configuration record: limits, actions (universal), job_env, timezone, dst_policy."""

_SERVER_KEYS = ("title", "enabled", "icon", "groups", "autoGroup", "maxJobs", "userData")
_SET_BY_SERVER = SERVER_SET | {"id"}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Rules:
    """What differs between the types of records.

    `prefix` begins generated ids; `code` names broken rules; `plural` ends the privileges;
    `check` looks at a whole record and raises.
    """

    prefix: str
    code: str
    plural: str
    check: Callable[[Json, Known], None]
    required: tuple[str, ...] = ("title",)
    defaults: Json = field(default_factory=dict)
    ordered: bool = False


# --- deciders ----------------------------------------------------------------------------------


def decide_create(command: CreateRecord, known: Known, now: float) -> CatalogCreated:
    """A new record. Raises BadRequest, AccessDenied, or RuleBroken when the id is taken."""
    rules, by, given = _rules(command.type), command.by, command.fields
    id = check_id(given["id"]) if given.get("id") is not None else command.id
    if command.type == "tag" and id.startswith("_"):
        raise BadRequest("Tags that begin with _ belong to the system.")
    record: Json = {"id": id} | rules.defaults | _storable(given)
    require(record, rules.required)
    rules.check(record, known)
    by.require(f"create_{rules.plural}")
    if known.record(command.type, id) is not None:
        raise RuleBroken(rules.code, f"A {command.type} with this id exists already: {id}")
    _check_grants(command.type, {}, record, by)
    if rules.ordered:
        record["sort_order"] = _next_place(command.type, known)
    record |= {"username": by.username, "created": int(now), "modified": int(now), "revision": 1}
    return bounded(
        CatalogCreated(at=now, actor=command.actor, type=command.type, id=id, record=record)
    )


def decide_update(command: UpdateRecord, known: Known, now: float) -> CatalogUpdated:
    """The record with these keys replaced (a shallow merge). Raises as creating does."""
    rules, by = _rules(command.type), command.by
    id = check_id(command.fields.get("id"))
    changes = _storable(command.fields)
    stored = known.record(command.type, id)
    merged = (stored or {}) | changes
    if stored is not None:
        require(merged, rules.required)
        rules.check(merged, known)
    by.require(f"edit_{rules.plural}")
    if stored is None:
        raise RuleBroken(rules.code, f"This {command.type} does not exist: {id}")
    _require_record(command.type, id, by)
    _check_grants(command.type, stored, merged, by)
    return _updated(command.type, id, stored, merged, command.actor, now)


def decide_update_many(
    command: UpdateManyRecords, known: Known, now: float
) -> list[CatalogUpdated]:
    """Several records at once, for sorting; only for those without limits (api.md 8.3)."""
    rules = _rules(command.type)
    if not rules.ordered:
        raise BadRequest(f"There is no order among {rules.plural}.")
    if not objects(command.items, "items"):
        raise BadRequest("Parameter 'items' must not be empty.")
    command.by.require(f"edit_{rules.plural}")
    ids = [item.get("id") for item in command.items]
    if len(set(map(str, ids))) < len(ids):
        raise BadRequest("Parameter 'items' names a record more than once.")
    if not command.by.unlimited:
        raise AccessDenied("This is for accounts without category or group limits.")
    return [
        decide_update(UpdateRecord(command.by, command.actor, command.type, item), known, now)
        for item in command.items
    ]


def decide_delete(command: DeleteRecord, known: Known, now: float) -> CatalogDeleted:
    """The end of a record. Raises RuleBroken for an unknown id, or a category in use."""
    rules, by = _rules(command.type), command.by
    id = check_id(command.id)
    by.require(f"delete_{rules.plural}")
    stored = known.record(command.type, id)
    if stored is None:
        raise RuleBroken(rules.code, f"This {command.type} does not exist: {id}")
    _require_record(command.type, id, by)
    if command.type == "category" and known.category_in_use(id):
        raise RuleBroken(rules.code, f"Events are still in this category: {id}")
    return CatalogDeleted(at=now, actor=command.actor, type=command.type, id=id, record=stored)


def decide_update_server(
    command: UpdateServer, known: Known, now: float
) -> CatalogCreated | CatalogUpdated:
    """What an administrator says about a server; its runner says the rest (api.md 8.4).

    Setting groups turns autoGroup off; turning autoGroup on forgets the groups set by hand.
    """
    id = check_id(command.fields.get("id"))
    given = {key: value for key, value in command.fields.items() if key in _SERVER_KEYS}
    untitled = given if given.get("title") else {k: v for k, v in given.items() if k != "title"}
    changes = given | cleaned(untitled)
    _check_server(changes)
    command.by.require("update_servers")
    if command.server is None:
        raise RuleBroken("server", f"Server not found: {id}")
    if changes.get("autoGroup"):
        changes.pop("groups", None)
    elif changes.get("groups") is not None:
        changes["autoGroup"] = False
    stored = known.record("server", id)
    if stored is None:
        record = {"id": id} | changes
        record |= {"created": int(now), "modified": int(now), "revision": 1}
        return bounded(
            CatalogCreated(at=now, actor=command.actor, type="server", id=id, record=record)
        )
    merged = stored | changes
    if changes.get("autoGroup"):
        merged.pop("groups", None)
    return _updated("server", id, stored, merged, command.actor, now)


def decide_delete_server(command: DeleteServer, known: Known, now: float) -> CatalogDeleted:
    """A server is forgotten. Raises RuleBroken('server') when offline and without `history`."""
    id = check_id(command.id)
    command.by.require("admin")
    if command.server is None:
        raise RuleBroken("server", f"Server not found: {id}")
    if not command.online and not command.history:
        raise RuleBroken("server", "The server is offline: only its history can be deleted.")
    return CatalogDeleted(at=now, actor=command.actor, type="server", id=id, record=command.server)


def decide_config(
    command: UpdateConfig, known: Known, now: float
) -> CatalogCreated | CatalogUpdated:
    """The configuration with these keys replaced. Raises BadRequest, AccessDenied."""
    changes = _storable(command.fields)
    stored = known.record("config", CONFIG_ID)
    merged = (stored or {"id": CONFIG_ID}) | changes
    _check_config(merged, known)
    command.by.require("admin")
    if stored is not None:
        return _updated("config", CONFIG_ID, stored, merged, command.actor, now)
    merged |= {"created": int(now), "modified": int(now), "revision": 1}
    return bounded(
        CatalogCreated(at=now, actor=command.actor, type="config", id=CONFIG_ID, record=merged)
    )


def decide_switch(command: SwitchScheduling, now: float) -> MasterSwitched:
    """The master switch turned on or off (scheduling.md 5)."""
    command.by.require("admin")
    return MasterSwitched(at=now, actor=command.actor, enabled=command.enabled)


def id_prefix(type: CatalogType) -> str:
    """How generated ids of this type begin (data.md 1.1)."""
    return _rules(type).prefix


# --- steps -------------------------------------------------------------------------------------


def _rules(type: CatalogType) -> Rules:
    rules = RULES.get(type)
    if rules is None:
        raise BadRequest(f"Records of this type have calls of their own: {type}")
    return rules


def _storable(given: Json) -> Json:
    return {key: value for key, value in cleaned(given).items() if key not in _SET_BY_SERVER}


def _updated(
    type: CatalogType, id: str, stored: Json, merged: Json, actor: Actor, now: float
) -> CatalogUpdated:
    revision = stored.get("revision")
    record = merged | {
        "modified": int(now),
        "revision": (revision if isinstance(revision, int) else 0) + 1,
    }
    changed = changed_keys(stored, record)
    return bounded(
        CatalogUpdated(at=now, actor=actor, type=type, id=id, record=record, changed=changed)
    )


def _require_record(type: CatalogType, id: str, by: Principal) -> None:
    """Categories and groups outside the caller's limits are out of reach."""
    if type == "category" and not by.may_see_category(id):
        raise AccessDenied(f"No access to category '{id}'.")
    if type == "group" and not by.may_see_groups([id]):
        raise AccessDenied(f"No access to group '{id}'.")


def _check_grants(type: CatalogType, stored: Json, record: Json, by: Principal) -> None:
    """Nobody hands out a privilege, or an OS account, that it does not have itself."""
    if by.admin:
        return
    if type == "role":
        new = set(granted(record.get("privileges"))) - set(granted(stored.get("privileges")))
        if any(not by.may(privilege) for privilege in new):
            raise AccessDenied("A role cannot be given privileges that you do not have.")
    if type == "plugin":
        for key in ("uid", "gid"):
            if (record.get(key) or "") != (stored.get(key) or ""):
                raise AccessDenied(f"Only administrators may set '{key}' of a plugin.")


def _next_place(type: CatalogType, known: Known) -> int:
    places = [record.get("sort_order") for record in known.records(type)]
    return 1 + max((int(place) for place in places if is_number(place)), default=-1)


# --- what each type is made of -----------------------------------------------------------------


def _check_category(record: Json, known: Known) -> None:
    _check_common(record)
    check_limits(record.get("limits"))
    check_actions(record.get("actions"), known)


def _check_tag(record: Json, known: Known) -> None:
    _check_common(record)


def _check_group(record: Json, known: Known) -> None:
    _check_common(record)
    match = record.get("hostname_match")
    if not isinstance(match, str) or not match:
        raise BadRequest("Parameter 'hostname_match' must be a regular expression.")
    if not is_pattern(match):
        raise RuleBroken("group", f"This is not a regular expression: {match}")
    check_count(record, "max_jobs_per_server")
    check_actions(record.get("alert_actions"), known, "alert_actions")


def _check_plugin(record: Json, known: Known) -> None:
    _check_common(record)
    check_plugin(record)


def _check_role(record: Json, known: Known) -> None:
    _check_common(record)
    check_object(record, "privileges")
    for name in ("categories", "groups"):
        strings(record.get(name), name)


def _check_web_hook(record: Json, known: Known) -> None:
    _check_common(record)
    if not is_url(record.get("url")):
        raise BadRequest("Parameter 'url' must be an http or https address.")
    if not is_one_of(record.get("method"), _METHODS):
        raise BadRequest("Parameter 'method' must be an HTTP method.")
    for header in objects(record.get("headers"), "headers"):
        if not isinstance(header.get("name"), str) or not isinstance(header.get("value"), str):
            raise BadRequest("Each of 'headers' must have a 'name' and a 'value'.")
    check_text(record, "body")
    check_count(record, "timeout", "retries", "max_per_day")
    _check_flags(record, "follow", "ssl_cert_bypass", "fail_on_status")


def _check_server(changes: Json) -> None:
    check_text(changes, "title")
    _check_flags(changes, "enabled", "autoGroup")
    check_count(changes, "maxJobs")
    check_object(changes, "userData")
    strings(changes.get("groups"), "groups")


def _check_config(record: Json, known: Known) -> None:
    check_limits(record.get("limits"))
    check_actions(record.get("actions"), known)
    check_object(record, "job_env")
    zone = record.get("timezone")
    if zone not in (None, "") and not is_one_of(zone, known_zones()):
        raise BadRequest(f"Unknown time zone: {zone}")
    if record.get("dst_policy") not in (None, "literal", "once"):
        raise BadRequest("Parameter 'dst_policy' must be literal or once.")


def _check_common(record: Json) -> None:
    check_title(record.get("title"))
    check_text(record, "notes", "color")
    check_count(record, "sort_order")
    _check_flags(record, "enabled")


def _check_flags(record: Json, *names: str) -> None:
    for name in names:
        if record.get(name) is not None:
            check_flag(record[name], name)


RULES: dict[CatalogType, Rules] = {
    "category": Rules(
        "ca",
        "category",
        "categories",
        _check_category,
        defaults={"enabled": True, "limits": [], "actions": []},
        ordered=True,
    ),
    "tag": Rules("t", "tag", "tags", _check_tag),
    "group": Rules(
        "g",
        "group",
        "groups",
        _check_group,
        required=("title", "hostname_match"),
        defaults={"alert_actions": []},
        ordered=True,
    ),
    "plugin": Rules(
        "p",
        "plugin",
        "plugins",
        _check_plugin,
        required=("title", "type", "command"),
        defaults={"enabled": True, "params": [], "kill": "parent", "runner": False},
    ),
    "role": Rules(
        "r",
        "role",
        "roles",
        _check_role,
        defaults={"enabled": True, "privileges": {}, "categories": [], "groups": []},
    ),
    "webhook": Rules(
        "w",
        "web_hook",
        "web_hooks",
        _check_web_hook,
        required=("title", "url"),
        defaults={"enabled": True, "method": "POST", "headers": [], "timeout": 30, "retries": 0},
    ),
}
"""The types with the usual five calls; servers and config have calls of their own."""
