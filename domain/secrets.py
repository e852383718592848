"""Named secrets: variables for jobs whose values only their processes see (plugins.md 5).

A record holds each value as ciphertext; this module never sees a value in the clear but to check
its form. A secret is assigned to events, categories and plugins. Must not know how values are
encrypted, nor where the key is.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from domain.access import Principal
from domain.checks import (
    SERVER_SET,
    bounded,
    changed_keys,
    check_text,
    check_title,
    cleaned,
    is_word,
    require,
    strings,
)
from domain.errors import BadRequest, RuleBroken
from domain.facts import Actor, CatalogCreated, CatalogDeleted, CatalogUpdated, Json
from domain.ids import check_id
from domain.known import Known

KEYS_ID = "_keys"
"""The record that names the key with which values are encrypted; no secret itself."""
ASSIGNED_TO = ("events", "categories", "plugins")
"""Where a secret can be assigned; a variable of a later one wins (plugins.md 5)."""
LONGEST = 64 * 1024
"""Bytes of a value."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_TAKEN = re.compile(
    r"(JOB_|JOBLEDGER_|XYOPS|LD_|DYLD_|BASH_|GLIBC_).*|PATH|HOME|USER|USERNAME|SHELL|PWD|IFS|ENV"
)
_STORED = frozenset({"id", "title", "icon", "notes", *ASSIGNED_TO})


@dataclass(frozen=True, slots=True)
class ChangeSecret:
    """create_secret or update_secret: `sealed` are the given values as ciphertext, None to drop.

    `id` is the one to use when the client gave none.
    """

    by: Principal
    actor: Actor
    id: str
    fields: Json
    sealed: Mapping[str, str | None]


def check_values(values: object) -> dict[str, str | None]:
    """Variable names with their values in the clear (None removes one); BadRequest otherwise."""
    if not isinstance(values, dict):
        raise BadRequest("Parameter 'values' must be an object of names and values.")
    for name, value in values.items():
        if _NAME.fullmatch(name) is None:
            raise BadRequest("A variable's name is made of letters, digits and _.")
        if _TAKEN.fullmatch(name) is not None:
            raise BadRequest(f"The variable {name} belongs to the system.")
        if value is None:
            continue
        if not isinstance(value, str) or not value or "\0" in value:
            raise BadRequest(f"The value of {name} must be a text that is not empty.")
        if len(value.encode("utf-8", "surrogatepass")) > LONGEST:
            raise BadRequest(f"The value of {name} is longer than 64 KiB.")
    return values


def decide_create_secret(command: ChangeSecret, known: Known, now: float) -> CatalogCreated:
    """A new secret. Raises BadRequest, AccessDenied, or RuleBroken when the id is taken."""
    given = command.fields
    id = check_id(given["id"]) if given.get("id") is not None else command.id
    if id == KEYS_ID:
        raise BadRequest(f"The id {KEYS_ID} belongs to the system.")
    record: Json = {"id": id, "notes": ""} | {name: [] for name in ASSIGNED_TO} | _storable(given)
    require(record, ("title",))
    _check(record)
    command.by.require("admin")
    if known.record("secret", id) is not None:
        raise RuleBroken("secret", f"A secret with this id exists already: {id}")
    record["ciphertext"] = {name: token for name, token in command.sealed.items() if token}
    record |= {"username": command.by.username, "created": int(now), "modified": int(now)}
    record["revision"] = 1
    return bounded(CatalogCreated(at=now, actor=command.actor, type="secret", id=id, record=record))


def decide_update_secret(command: ChangeSecret, known: Known, now: float) -> CatalogUpdated:
    """The secret with these keys replaced, and these variables set or removed."""
    id = check_id(command.fields.get("id"))
    stored = known.record("secret", id) if id != KEYS_ID else None
    merged = (stored or {}) | _storable(command.fields)
    _check(merged)
    command.by.require("admin")
    if stored is None:
        raise RuleBroken("secret", f"This secret does not exist: {id}")
    values = stored.get("ciphertext", {}) | command.sealed
    merged["ciphertext"] = {name: token for name, token in values.items() if token}
    return _updated(id, stored, merged, command.actor, now)


def decide_delete_secret(
    by: Principal, actor: Actor, id: str, known: Known, now: float
) -> CatalogDeleted:
    """The end of a secret; its ciphertext is not repeated. Raises RuleBroken for an unknown id."""
    by.require("admin")
    stored = known.record("secret", id) if id != KEYS_ID else None
    if stored is None:
        raise RuleBroken("secret", f"This secret does not exist: {id}")
    return CatalogDeleted(at=now, actor=actor, type="secret", id=id, record=shown(stored))


def decide_resealed(
    by: Principal, actor: Actor, stored: Json, sealed: Mapping[str, str], now: float
) -> CatalogUpdated:
    """The same values, encrypted with another key."""
    by.require("admin")
    return _updated(stored["id"], stored, stored | {"ciphertext": dict(sealed)}, actor, now)


def decide_key(
    by: Principal, actor: Actor, key: str, stored: Json | None, now: float
) -> CatalogUpdated:
    """Another key (by its fingerprint) encrypts from now on."""
    by.require("admin")
    record = key_record(key, actor, now, stored)
    return CatalogUpdated(
        at=now, actor=actor, type="secret", id=KEYS_ID, record=record, changed=["key"]
    )


def key_record(key: str, actor: Actor, now: float, stored: Json | None) -> Json:
    """The record that says which key (by its fingerprint) encrypts from now on."""
    revision = int(stored["revision"]) + 1 if stored else 1
    created = stored["created"] if stored else int(now)
    return {
        "id": KEYS_ID,
        "title": "Key of secrets",
        "key": key,
        "username": actor.id,
        "created": created,
        "modified": int(now),
        "revision": revision,
    }


def shown(record: Json) -> Json:
    """A secret as the API shows it: the names of its variables, never their values."""
    names = sorted(record.get("ciphertext", {}))
    return {key: value for key, value in record.items() if key != "ciphertext"} | {"names": names}


def assigned(
    records: Iterable[Json], *, event: str, category: str | None, plugin: str | None
) -> list[Json]:
    """The secrets that a job of this event gets, in the order in which they override."""
    wanted = dict(zip(ASSIGNED_TO, (event, category, plugin), strict=True))
    listed = [record for record in records if record.get("id") != KEYS_ID]
    return [
        record
        for place, id in wanted.items()
        for record in listed
        if id and id in (record.get(place) or ())
    ]


def _storable(given: Json) -> Json:
    kept = {key: value for key, value in cleaned(given).items() if key in _STORED}
    return {key: value for key, value in kept.items() if key not in SERVER_SET}


def _check(record: Json) -> None:
    if "title" in record:
        check_title(record["title"])
    check_text(record, "notes")
    for name in ASSIGNED_TO:
        if not all(is_word(id) for id in strings(record.get(name), name)):
            raise BadRequest(f"Parameter '{name}' must be an array of ids.")


def _updated(id: str, stored: Json, merged: Json, actor: Actor, now: float) -> CatalogUpdated:
    record = merged | {"modified": int(now), "revision": int(stored.get("revision") or 0) + 1}
    changed = changed_keys(stored, record)
    return bounded(
        CatalogUpdated(at=now, actor=actor, type="secret", id=id, record=record, changed=changed)
    )
