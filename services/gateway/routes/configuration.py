"""What holds for all events: universal limits and actions, environment, zone (data.md 4, 5)."""

from domain import catalog
from domain.commands import UpdateConfig
from domain.facts import Json
from services.gateway.endpoint import Call, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Params
from services.gateway.replies import Payload
from services.gateway.routes.records import expected

api = Routes("Configuration")


@api.endpoint("admin_get_config", "What holds for all events.", privilege="admin")
async def admin_get_config(call: Call) -> Payload:
    """The record of the ledger alone: files and flags of the services are not in it."""
    return {"config": call.gateway.views.definitions.config}


def _fields(params: Params) -> Json:
    return params.typed({"limits": "array", "actions": "array", "job_env": "object"})


@api.endpoint(
    "admin_update_config",
    "Change what holds for all events: each given key replaces the stored one.",
    parse=_fields,
    privilege="admin",
    mutating=True,
    fields={
        "limits": "array",
        "actions": "array",
        "job_env": "object",
        "timezone": "string",
        "dst_policy": "string",
    },
    example={"limits": [{"type": "time", "enabled": True, "duration": 3600}]},
)
async def admin_update_config(call: Call, fields: Json) -> Payload:
    """data.md 4 and 5 (the source `universal`); scheduling.md 3.4 (the zone of triggers)."""
    definitions = call.gateway.views.definitions
    command = UpdateConfig(call.caller, call.actor, fields)

    def decide() -> Decision:
        fact = catalog.decide_config(command, definitions, call.now)
        return Decision(fact, expected(call, "config", fact.id))

    await call.gateway.submit(call, decide)
    return {"config": definitions.config}
