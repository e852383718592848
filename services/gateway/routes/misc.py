"""What belongs to no object: ping, error, and the global state (api.md 8.6)."""

from importlib.metadata import version

from domain import catalog
from domain.commands import SwitchScheduling
from domain.errors import BadRequest, RuleBroken
from domain.facts import Json
from services.gateway.endpoint import Call, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Params
from services.gateway.replies import Payload

api = Routes("Other")


@api.endpoint("ping", "Answers.", open=True, needs_views=False)
async def ping(call: Call) -> Payload:
    """api.md 8.6."""
    return {}


@api.endpoint("error", "Answers with the error `test`.", open=True, needs_views=False)
async def error(call: Call) -> Payload:
    """api.md 8.6."""
    raise RuleBroken("test", "This is a test error.")


@api.endpoint(
    "config", "What a page must know before its user logs in.", open=True, needs_views=False
)
async def config(call: Call) -> Payload:
    """api.md 1.4: needs no credentials, so it tells nothing of this installation."""
    return {"version": version("jobledger"), "config": {"name": "Jobledger"}, "epoch": call.now}


@api.endpoint("get_global_state", "Whether scheduling is on, and the state of every event.")
async def get_global_state(call: Call) -> Payload:
    """api.md 8.6, data.md 12.6."""
    views = call.gateway.views
    events = {
        id: state.wire()
        for id, state in views.states.states.items()
        if (event := views.definitions.event(id)) is not None
        and call.caller.may_see(event.get("category"), event.get("targets"))
    }
    return {"state": {"scheduler": {"enabled": views.definitions.scheduling}, "events": events}}


def _switch(params: Params) -> bool:
    """`scheduler.enabled`, as a dotted key or as nested objects."""
    if params.given("scheduler.enabled"):
        return params.flag("scheduler.enabled")
    state = params.object("state") or params.values
    scheduler = state.get("scheduler")
    enabled = scheduler.get("enabled") if isinstance(scheduler, dict) else None
    if not isinstance(enabled, bool | int):
        raise BadRequest("Only 'scheduler.enabled' can be set, to true or false.")
    return bool(enabled)


@api.endpoint(
    "update_global_state",
    "Turn scheduling on or off (administrators).",
    parse=_switch,
    privilege="admin",
    mutating=True,
    fields={"scheduler.enabled": "boolean!"},
    example={"scheduler": {"enabled": False}},
)
async def update_global_state(call: Call, enabled: bool) -> Payload:
    """api.md 8.6; scheduling.md 5."""
    command = SwitchScheduling(call.caller, call.actor, enabled)
    fact = catalog.decide_switch(command, call.now)
    await call.gateway.submit(call, lambda: Decision(fact))
    return {}


def health(troubles: list[str], warnings: list[str]) -> tuple[Json, int]:
    """The body and the status of /health; `reasons` says what is not as it should be.

    Troubles keep the gateway from answering; with warnings it is ready all the same.
    """
    reasons = troubles + warnings
    if troubles:
        return {"code": "db", "description": " ".join(reasons), "reasons": reasons}, 503
    return {"code": 0, "master": True} | ({"reasons": reasons} if reasons else {}), 200
