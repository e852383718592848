"""The servers: who is there, and what administrators say of them (api.md 8.4)."""

from domain import catalog
from domain.commands import DeleteServer, UpdateServer
from domain.errors import AccessDenied, NotFound
from domain.facts import Json
from services.gateway.endpoint import Call, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Page, Params, page
from services.gateway.replies import Payload, Rows, encode
from services.gateway.routes.records import expected

api = Routes("Servers")

TYPES = {
    "enabled": "flag",
    "autoGroup": "flag",
    "groups": "array",
    "maxJobs": "integer",
    "userData": "object",
}


def _online(call: Call, id: str) -> bool:
    fleet = call.gateway.views.fleet
    return fleet.online(id, call.now, call.gateway.settings.server_timeout)


@api.endpoint("get_active_servers", "List the servers that are online.", parse=page)
async def get_active_servers(call: Call, part: Page) -> Payload:
    """api.md 8.4: filtered by the caller's groups."""
    servers = [
        server.record
        for server in call.gateway.views.fleet.servers.values()
        if _online(call, server.id) and call.caller.may_see_groups(server.groups)
    ]
    return Rows([encode(record) for record in part.of(servers)], len(servers))


@api.endpoint(
    "get_active_server", "One server that is online.", parse=Params.id, fields={"id": "string!"}
)
async def get_active_server(call: Call, id: str) -> Payload:
    """api.md 8.4."""
    server = call.gateway.views.fleet.servers.get(id)
    if server is None or not _online(call, id):
        raise NotFound(f"Server not found: {id}")
    if not call.caller.may_see_groups(server.groups):
        raise AccessDenied("There is no access to this server.")
    return {"server": server.record}


@api.endpoint("get_servers", "All servers by their ids, online or not.")
async def get_servers(call: Call) -> Payload:
    """api.md 8.4."""
    servers = {
        id: server.record
        for id, server in call.gateway.views.fleet.servers.items()
        if call.caller.may_see_groups(server.groups)
    }
    return {"servers": servers, "masters": {}}


def _fields(params: Params) -> Json:
    params.id()
    return params.typed(TYPES)  # type: ignore[arg-type]


@api.endpoint(
    "update_server",
    "Say something about a server: title, groups, how many jobs it may hold.",
    parse=_fields,
    mutating=True,
    fields={
        "id": "string!",
        "title": "string",
        "enabled": "boolean",
        "groups": "array, turns autoGroup off",
        "autoGroup": "boolean",
        "maxJobs": "integer",
        "userData": "object",
    },
    example={"id": "smain", "title": "Main server", "maxJobs": 8},
)
async def update_server(call: Call, fields: Json) -> Payload:
    """api.md 8.4."""
    views = call.gateway.views

    def decide() -> Decision:
        server = views.fleet.servers.get(fields["id"])
        command = UpdateServer(call.caller, call.actor, server.record if server else None, fields)
        fact = catalog.decide_update_server(command, views.definitions, call.now)
        return Decision(fact, expected(call, "server", fact.id))

    await call.gateway.submit(call, decide)
    return {}


def _deletion(params: Params) -> tuple[str, bool]:
    return params.id(), params.flag("history")


@api.endpoint(
    "delete_server",
    "Forget a server.",
    parse=_deletion,
    mutating=True,
    fields={"id": "string!", "history": "boolean, needed for one that is offline"},
    example={"id": "smain", "history": True},
)
async def delete_server(call: Call, asked: tuple[str, bool]) -> Payload:
    """api.md 8.4."""
    id, history = asked
    views = call.gateway.views

    def decide() -> Decision:
        server = views.fleet.servers.get(id)
        command = DeleteServer(
            call.caller,
            call.actor,
            id,
            server.record if server else None,
            _online(call, id),
            history,
        )
        fact = catalog.decide_delete_server(command, views.definitions, call.now)
        return Decision(fact, expected(call, "server", id))

    await call.gateway.submit(call, decide)
    return {}
