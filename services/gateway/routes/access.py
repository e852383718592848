"""API keys (api.md 8.2). The plain key is shown once, when it is made, and kept nowhere."""

import secrets

from domain import accounts
from domain.commands import CreateApiKey, DeleteApiKey, UpdateApiKey
from domain.errors import NotFound
from domain.facts import AccessCreated, Json
from services.gateway.endpoint import Call, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Page, Params, page
from services.gateway.replies import Payload, Rows, encode
from services.ledger.secrets import hash_api_key, mask_of

api = Routes("API keys")

TYPES = {
    "active": "flag",
    "privileges": "object",
    "roles": "array",
    "categories": "array",
    "groups": "array",
    "expires": "integer",
    "max_per_sec": "integer",
}
_KEY_BYTES = 32


@api.endpoint("get_api_keys", "List the API keys.", parse=page, privilege="admin")
async def get_api_keys(call: Call, part: Page) -> Payload:
    """api.md 8.2."""
    keys = [accounts.without_secrets(key) for key in call.gateway.views.access.keys.values()]
    return Rows([encode(key) for key in part.of(keys)], len(keys))


@api.endpoint(
    "get_api_key",
    "One API key.",
    parse=Params.id,
    privilege="admin",
    fields={"id": "string!"},
)
async def get_api_key(call: Call, id: str) -> Payload:
    """api.md 8.2."""
    record = call.gateway.views.access.account("api_key", id)
    if record is None:
        raise NotFound(f"API key not found: {id}")
    return {"api_key": accounts.without_secrets(record)}


def _fields(params: Params) -> Json:
    return params.typed(TYPES)  # type: ignore[arg-type]


@api.endpoint(
    "create_api_key",
    "Make an API key; its text is shown this once.",
    parse=_fields,
    mutating=True,
    fields={
        "title": "string!",
        "privileges": "object",
        "roles": "array",
        "categories": "array",
        "groups": "array",
        "expires": "integer",
        "max_per_sec": "integer",
    },
    example={"title": "Deployment", "privileges": {"run_jobs": True}},
)
async def create_api_key(call: Call, fields: Json) -> Payload:
    """api.md 8.2. A repeated command cannot show the text again: only its hash was kept."""
    gateway = call.gateway
    plain = secrets.token_urlsafe(_KEY_BYTES)
    command = CreateApiKey(
        call.caller,
        call.actor,
        gateway.new_id("k", call.now),
        fields,
        key_hash=hash_api_key(gateway.secret, plain),
        mask=mask_of(plain),
    )
    recorded = await gateway.submit(
        call,
        lambda: Decision(
            accounts.decide_create_key(command, gateway.views.access, call.now),
            gateway.views.access.sequences.get(command.id, 0),
        ),
    )
    assert isinstance(recorded.fact, AccessCreated)
    reply: Json = {"api_key": accounts.without_secrets(recorded.fact.record)}
    if recorded.fact.record.get("key") == command.key_hash:
        reply["plain_key"] = plain
    return reply


@api.endpoint(
    "update_api_key",
    "Change an API key: each given key replaces the stored one.",
    parse=_fields,
    mutating=True,
    fields={"id": "string!"},
    example={"id": "km4f2k8a01x2y3z4", "active": False},
)
async def update_api_key(call: Call, fields: Json) -> Payload:
    """api.md 8.2."""
    access = call.gateway.views.access
    command = UpdateApiKey(call.caller, call.actor, fields)

    def decide() -> Decision:
        fact = accounts.decide_update_key(command, access, call.now)
        return Decision(fact, access.sequences.get(fact.id, 0))

    await call.gateway.submit(call, decide)
    return {}


@api.endpoint(
    "delete_api_key",
    "Delete an API key; it is refused at once.",
    parse=Params.id,
    mutating=True,
    fields={"id": "string!"},
    example={"id": "km4f2k8a01x2y3z4"},
)
async def delete_api_key(call: Call, id: str) -> Payload:
    """api.md 8.2."""
    access = call.gateway.views.access
    command = DeleteApiKey(call.caller, call.actor, id)

    def decide() -> Decision:
        fact = accounts.decide_delete_key(command, access, call.now)
        return Decision(fact, access.sequences.get(id, 0))

    await call.gateway.submit(call, decide)
    return {}
