"""Named secrets: variables that jobs get and nobody else sees (docs/secrets.md).

Values come in and are encrypted at once; no reply ever holds one, encrypted or not.
"""

from domain import secrets
from domain.errors import NotFound
from domain.facts import CatalogCreated, Json
from services.gateway.endpoint import Call, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Page, Params, page
from services.gateway.replies import Payload, Rows, encode
from services.gateway.routes.records import expected

api = Routes("Secrets")

TYPES = {"values": "object"} | dict.fromkeys(secrets.ASSIGNED_TO, "array")
_FIELDS = {
    "title": "string!",
    "values": "object, of variable names and values; they are never shown again",
    "events": "array, of event ids whose jobs get the variables",
    "categories": "array, of category ids; they win over events",
    "plugins": "array, of plugin ids; they win over categories",
    "notes": "string",
}


@api.endpoint("get_secrets", "List the secrets, without values.", parse=page, privilege="admin")
async def get_secrets(call: Call, part: Page) -> Payload:
    """Names of variables, never values."""
    rows = [secrets.shown(record) for record in _records(call)]
    return Rows([encode(row) for row in part.of(rows)], len(rows))


@api.endpoint(
    "get_secret",
    "One secret, without values.",
    parse=Params.id,
    privilege="admin",
    fields={"id": "string!"},
)
async def get_secret(call: Call, id: str) -> Payload:
    """Names of variables, never values."""
    record = next((record for record in _records(call) if record["id"] == id), None)
    if record is None:
        raise NotFound(f"Secret not found: {id}")
    return {"secret": secrets.shown(record)}


def _fields(params: Params) -> Json:
    return params.typed(TYPES)  # type: ignore[arg-type]


@api.endpoint(
    "create_secret",
    "Make a secret, and assign it to events, categories or plugins.",
    parse=_fields,
    privilege="admin",
    mutating=True,
    fields=_FIELDS,
    example={"title": "Warehouse", "values": {"DB_PASSWORD": "..."}, "events": ["nightly"]},
)
async def create_secret(call: Call, fields: Json) -> Payload:
    """Only ciphertext is recorded."""
    gateway = call.gateway
    id = str(fields.get("id") or gateway.new_id("z", call.now))
    command = _command(call, id, fields)
    recorded = await gateway.submit(
        call,
        lambda: Decision(
            secrets.decide_create_secret(command, gateway.views.definitions, call.now),
            expected(call, "secret", id),
        ),
    )
    assert isinstance(recorded.fact, CatalogCreated)
    return {"secret": secrets.shown(recorded.fact.record)}


@api.endpoint(
    "update_secret",
    "Change a secret: given keys replace the stored ones, and given values those of their names.",
    parse=_fields,
    privilege="admin",
    mutating=True,
    fields={"id": "string!"} | _FIELDS | {"values": "object; null removes a variable"},
    example={"id": "warehouse", "values": {"DB_PASSWORD": "..."}},
)
async def update_secret(call: Call, fields: Json) -> Payload:
    """Variables that are not named keep their values."""
    gateway = call.gateway
    command = _command(call, str(fields.get("id")), fields)

    def decide() -> Decision:
        fact = secrets.decide_update_secret(command, gateway.views.definitions, call.now)
        return Decision(fact, expected(call, "secret", fact.id))

    await gateway.submit(call, decide)
    return {}


@api.endpoint(
    "delete_secret",
    "Delete a secret: jobs no longer get its variables.",
    parse=Params.id,
    privilege="admin",
    mutating=True,
    fields={"id": "string!"},
    example={"id": "warehouse"},
)
async def delete_secret(call: Call, id: str) -> Payload:
    """Running jobs keep what they were given."""
    known = call.gateway.views.definitions

    def decide() -> Decision:
        fact = secrets.decide_delete_secret(call.caller, call.actor, id, known, call.now)
        return Decision(fact, expected(call, "secret", id))

    await call.gateway.submit(call, decide)
    return {}


@api.endpoint(
    "rotate_secrets",
    "Encrypt all secrets anew with the newest key in the keys file, all or none.",
    privilege="admin",
    mutating=True,
    example={},
)
async def rotate_secrets(call: Call) -> Payload:
    """Every gateway and scheduler must have that key already."""
    vault, views = call.gateway.vault, call.gateway.views
    vault.reload()
    key = vault.keys[0]
    resealed = 0

    def decide() -> list[Decision]:
        nonlocal resealed
        decisions = [_key_decision(call, key)] if key != _key(call) else []
        stale = [r for r in _records(call) if not _sealed_with(r, key)]
        resealed = len(stale)
        for record in stale:
            values = vault.values(record)
            sealed = {n: vault.seal(record["id"], n, value, key) for n, value in values.items()}
            fact = secrets.decide_resealed(call.caller, call.actor, record, sealed, call.now)
            decisions.append(Decision(fact, expected(call, "secret", fact.id)))
        return decisions

    if key != _key(call) or any(not _sealed_with(r, key) for r in _records(call)):
        await call.gateway.submit_all(call, decide)
    assert views.definitions.record("secret", secrets.KEYS_ID) is not None
    return {"key": key, "secrets": resealed}


def _command(call: Call, id: str, fields: Json) -> secrets.ChangeSecret:
    given = fields.get("values")
    values = secrets.check_values({} if given is None else given)
    key, vault = _key(call), call.gateway.vault
    sealed = {
        name: None if value is None else vault.seal(id, name, value, key)
        for name, value in values.items()
    }
    return secrets.ChangeSecret(call.caller, call.actor, id, fields, sealed)


def _records(call: Call) -> list[Json]:
    records = call.gateway.views.definitions.records("secret")
    return [record for record in records if record["id"] != secrets.KEYS_ID]


def _key(call: Call) -> str:
    """The fingerprint of the key in force; recorded when the ledger was founded."""
    record = call.gateway.views.definitions.record("secret", secrets.KEYS_ID)
    return str(record["key"]) if record else call.gateway.vault.keys[0]


def _key_decision(call: Call, key: str) -> Decision:
    stored = call.gateway.views.definitions.record("secret", secrets.KEYS_ID)
    fact = secrets.decide_key(call.caller, call.actor, key, stored, call.now)
    return Decision(fact, expected(call, "secret", secrets.KEYS_ID))


def _sealed_with(record: Json, key: str) -> bool:
    tokens = (record.get("ciphertext") or {}).values()
    return all(token.startswith(f"{key}.") for token in tokens)
