"""Categories, tags, groups, plugins, roles, web hooks: one way, a table of what differs (8.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from domain import catalog
from domain.access import Principal
from domain.commands import CreateRecord, DeleteRecord, UpdateManyRecords, UpdateRecord
from domain.errors import AccessDenied, BadRequest, NotFound
from domain.facts import CatalogCreated, CatalogType, CatalogUpdated, Json
from services.gateway.endpoint import Call, Handler, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Page, Params, page
from services.gateway.replies import Payload, Rows, encode
from services.ledger.secrets import web_hook_key

api = Routes("Supporting records")

TYPES: dict[str, Any] = {
    "enabled": "flag",
    "runner": "flag",
    "limits": "array",
    "actions": "array",
    "alert_actions": "array",
    "params": "array",
    "roles": "array",
    "categories": "array",
    "groups": "array",
    "items": "array",
    "privileges": "object",
    "sort_order": "integer",
    "max_jobs_per_server": "integer",
    "timeout": "integer",
    "headers": "array",
    "retries": "integer",
    "max_per_day": "integer",
    "follow": "flag",
    "ssl_cert_bypass": "flag",
    "fail_on_status": "flag",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs between the types on the wire.

    `name` is what the calls are named after; `visible` says whether a caller's limits let it see
    a record by its id; `beside` is what a reply says beside the record.
    """

    type: CatalogType
    name: str
    plural: str
    example: Json
    ordered: bool = False
    replies_to_update: bool = False
    visible: Callable[[Principal, str], bool] = lambda _, __: True
    beside: Callable[["Call", str], Json] = lambda _, __: {}


def _signing_key(call: Call, id: str) -> Json:
    """What a web hook's receiver checks signatures with, for those who may change the hook."""
    if not call.caller.may("edit_web_hooks"):
        return {}
    return {"signing_key": web_hook_key(call.gateway.secret, id).decode()}


KINDS = (
    Kind(
        "category",
        "category",
        "categories",
        {"title": "Reports", "color": "blue"},
        ordered=True,
        visible=lambda caller, id: caller.may_see_category(id),
    ),
    Kind("tag", "tag", "tags", {"title": "Production"}),
    Kind(
        "group",
        "group",
        "groups",
        {"title": "Web servers", "hostname_match": "^web"},
        ordered=True,
        visible=lambda caller, id: caller.may_see_groups([id]),
    ),
    Kind(
        "plugin",
        "plugin",
        "plugins",
        {"title": "My plugin", "type": "event", "command": "/bin/sh"},
        replies_to_update=True,
    ),
    Kind("role", "role", "roles", {"title": "Operators", "privileges": {"run_jobs": True}}),
    Kind(
        "webhook",
        "web_hook",
        "web_hooks",
        {"title": "Chat", "url": "https://chat.example/hook"},
        beside=_signing_key,
    ),
)


def _declare(kind: Kind) -> None:
    """The calls of one type."""
    type, plural = kind.name, kind.plural
    id_field = {"id": "string!"}
    api.endpoint(f"get_{plural}", f"List all {plural}.", parse=page)(_list(kind))
    api.endpoint(f"get_{type}", f"One {type}.", parse=Params.id, fields=id_field)(_get(kind))
    api.endpoint(
        f"create_{type}",
        f"Make a {type}.",
        parse=_fields,
        mutating=True,
        fields=dict.fromkeys(kind.example, "string!"),
        example=kind.example,
    )(_create(kind))
    api.endpoint(
        f"update_{type}",
        f"Change a {type}: each given key replaces the stored one.",
        parse=_fields,
        mutating=True,
        fields=id_field,
        example={"id": "some_id"} | kind.example,
    )(_update(kind))
    api.endpoint(
        f"delete_{type}",
        f"Delete a {type}.",
        parse=Params.id,
        mutating=True,
        fields=id_field,
        example={"id": "some_id"},
    )(_delete(kind))
    if kind.ordered:
        api.endpoint(
            f"multi_update_{type}",
            f"Change several {plural} at once, to sort them.",
            parse=_items,
            mutating=True,
            fields={"items": "array!, of {id, sort_order, ...}"},
            example={"items": [{"id": "general", "sort_order": 0}]},
        )(_update_many(kind))


def _fields(params: Params) -> Json:
    return params.typed(TYPES)


def _items(params: Params) -> list[Json]:
    items = params.array("items")
    if not items or not all(isinstance(item, dict) for item in items):
        raise BadRequest("Parameter 'items' must be an array of objects, and not empty.")
    return items


def _list(kind: Kind) -> Handler:
    async def handler(call: Call, part: Page) -> Payload:
        versions = call.gateway.views.definitions.catalog[kind.type]
        records = [
            version.record for id, version in versions.items() if kind.visible(call.caller, id)
        ]
        if kind.ordered:
            records.sort(key=lambda record: record.get("sort_order") or 0)
        return Rows([encode(record) for record in part.of(records)], len(records))

    return handler


def _get(kind: Kind) -> Handler:
    async def handler(call: Call, id: str) -> Payload:
        record = call.gateway.views.definitions.record(kind.type, id)
        if record is None:
            raise NotFound(f"There is no {kind.name} with this id: {id}")
        if not kind.visible(call.caller, id):
            raise AccessDenied(f"There is no access to this {kind.name}.")
        return {kind.name: record} | kind.beside(call, id)

    return handler


def _create(kind: Kind) -> Handler:
    async def handler(call: Call, fields: Json) -> Payload:
        gateway = call.gateway
        new = gateway.new_id(catalog.id_prefix(kind.type), call.now)
        command = CreateRecord(call.caller, call.actor, kind.type, new, fields)

        def decide() -> Decision:
            fact = catalog.decide_create(command, gateway.views.definitions, call.now)
            return Decision(fact, expected(call, kind.type, fact.id))

        recorded = await gateway.submit(call, decide)
        assert isinstance(recorded.fact, CatalogCreated)
        return {kind.name: recorded.fact.record} | kind.beside(call, recorded.fact.id)

    return handler


def _update(kind: Kind) -> Handler:
    async def handler(call: Call, fields: Json) -> Payload:
        gateway = call.gateway
        command = UpdateRecord(call.caller, call.actor, kind.type, fields)

        def decide() -> Decision:
            fact = catalog.decide_update(command, gateway.views.definitions, call.now)
            return Decision(fact, expected(call, kind.type, fact.id))

        recorded = await gateway.submit(call, decide)
        assert isinstance(recorded.fact, CatalogUpdated)
        return {kind.name: recorded.fact.record} if kind.replies_to_update else {}

    return handler


def _delete(kind: Kind) -> Handler:
    async def handler(call: Call, id: str) -> Payload:
        gateway = call.gateway
        command = DeleteRecord(call.caller, call.actor, kind.type, id)

        def decide() -> Decision:
            fact = catalog.decide_delete(command, gateway.views.definitions, call.now)
            return Decision(fact, expected(call, kind.type, id))

        await gateway.submit(call, decide)
        return {}

    return handler


def _update_many(kind: Kind) -> Handler:
    async def handler(call: Call, items: list[Json]) -> Payload:
        gateway = call.gateway
        command = UpdateManyRecords(call.caller, call.actor, kind.type, items)

        def decide() -> list[Decision]:
            facts = catalog.decide_update_many(command, gateway.views.definitions, call.now)
            return [Decision(fact, expected(call, kind.type, fact.id)) for fact in facts]

        await gateway.submit_all(call, decide)
        return {}

    return handler


def expected(call: Call, type: CatalogType, id: str) -> int:
    """The sequence of the version that a decision was made on; 0 if there is none."""
    version = call.gateway.views.definitions.catalog[type].get(id)
    return version.sequence if version is not None else 0


for _kind in KINDS:
    _declare(_kind)
