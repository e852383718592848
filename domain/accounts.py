"""API keys and users: deciding about accounts (api.md 8.1, 8.2; data.md 12).

Secrets arrive hashed; a plain key or password never comes here. Roles are supporting records:
see `catalog.py`. Must not know sessions or how somebody logged in.
"""

import re
from typing import Literal, Protocol

from domain.access import NEW_USER_PRIVILEGES, SYSTEM, granted, user_id
from domain.checks import (
    SERVER_SET,
    bounded,
    changed_keys,
    check_count,
    check_flag,
    check_object,
    check_text,
    cleaned,
    require,
    strings,
)
from domain.commands import (
    CreateApiKey,
    CreateUser,
    DeleteApiKey,
    DeleteUser,
    UpdateApiKey,
    UpdateProfile,
    UpdateUser,
)
from domain.errors import BadRequest, RuleBroken
from domain.facts import AccessCreated, AccessDeleted, AccessUpdated, Actor, Json
from domain.ids import check_id, is_id

AccountType = Literal["api_key", "user"]

PROFILE_KEYS = frozenset(
    "full_name email icon language region num_format hour_cycle timezone color_acc privacy_mode "
    "effects page_info contrast motion volume searches".split()
)
"""What users may change of their own account (data.md 12.2)."""

HIDDEN = frozenset({"password", "salt"})
"""Keys of a user that never leave the server."""

_USERNAME = re.compile(r"[\w\-.]+", re.ASCII)
_KEY_SET_BY_SERVER = SERVER_SET | {"id", "key", "mask"}
_USER_SET_BY_SERVER = SERVER_SET | HIDDEN | {"id"}


class Accounts(Protocol):
    """The accounts in force, by their id on the ledger."""

    def account(self, type: AccountType, id: str) -> Json | None:
        """The stored record of a key or a user, hashes included."""
        ...


# --- API keys ----------------------------------------------------------------------------------


def decide_create_key(command: CreateApiKey, accounts: Accounts, now: float) -> AccessCreated:
    """A new API key. Raises BadRequest, AccessDenied, RuleBroken('api_key')."""
    given = _without(command.fields, _KEY_SET_BY_SERVER)
    require(given, ["title"])
    _check_key(given)
    command.by.require("admin")
    if _taken(command.id, accounts):
        raise RuleBroken("api_key", f"An account with this id exists already: {command.id}")
    defaults: Json = {"active": 1, "description": "", "privileges": {}, "roles": []}
    record = {"id": command.id} | defaults | given
    record |= {"key": command.key_hash, "mask": command.mask}
    record |= _signed(command.by.username, now)
    return bounded(
        AccessCreated(at=now, actor=command.actor, type="api_key", id=command.id, record=record)
    )


def decide_update_key(command: UpdateApiKey, accounts: Accounts, now: float) -> AccessUpdated:
    """The key's record with these keys replaced; its secret stays. Raises as creating does."""
    id = check_id(command.fields.get("id"))
    given = _without(command.fields, _KEY_SET_BY_SERVER)
    _check_key(given)
    command.by.require("admin")
    stored = accounts.account("api_key", id)
    if stored is None:
        raise RuleBroken("api_key", f"API key not found: {id}")
    return _updated("api_key", id, stored, stored | given, command.actor, now)


def decide_delete_key(command: DeleteApiKey, accounts: Accounts, now: float) -> AccessDeleted:
    """The end of an API key. Raises RuleBroken('api_key') for an unknown id."""
    id = check_id(command.id)
    command.by.require("admin")
    stored = accounts.account("api_key", id)
    if stored is None:
        raise RuleBroken("api_key", f"API key not found: {id}")
    record = without_secrets(stored)
    return AccessDeleted(at=now, actor=command.actor, type="api_key", id=id, record=record)


# --- users -------------------------------------------------------------------------------------


def decide_create_user(command: CreateUser, accounts: Accounts, now: float) -> AccessCreated:
    """A new user. Raises BadRequest, AccessDenied, RuleBroken('user' or 'user_exists')."""
    name = _username(command.fields.get("username"))
    given = _without(command.fields, _USER_SET_BY_SERVER)
    _check_user(given)
    command.by.require("admin")
    id = user_id(name)
    if _taken(id, accounts):
        raise RuleBroken("user_exists", f"User exists already: {name}")
    defaults: Json = {
        "full_name": "",
        "email": "",
        "active": 1,
        "privileges": dict.fromkeys(NEW_USER_PRIVILEGES, True),
        "roles": [],
        "categories": [],
        "groups": [],
    }
    record: Json = {"username": name} | defaults | given | {"username": name}
    if command.password_hash is not None:
        record["password"] = command.password_hash
    record = _admins_without_limits(record)
    record |= {"created": int(now), "modified": int(now), "revision": 1}
    return bounded(AccessCreated(at=now, actor=command.actor, type="user", id=id, record=record))


def decide_update_user(command: UpdateUser, accounts: Accounts, now: float) -> AccessUpdated:
    """A user's record with these keys replaced. Raises as creating does.

    A new password unlocks the account, unless `force_password_reset` says that its owner has to
    choose another one.
    """
    name = _username(command.fields.get("username"))
    given = _without(command.fields, _USER_SET_BY_SERVER)
    _check_user(given)
    command.by.require("admin")
    if command.password_hash is not None:
        given.setdefault("force_password_reset", False)
    return _user_updated(name, given, command.password_hash, command.actor, accounts, now)


def decide_update_profile(command: UpdateProfile, accounts: Accounts, now: float) -> AccessUpdated:
    """What users change of themselves; other keys than PROFILE_KEYS are ignored."""
    given = {key: value for key, value in command.fields.items() if key in PROFILE_KEYS}
    cleaned(command.fields)
    _check_user(given)
    if command.by.kind != "user":
        raise RuleBroken("user", "Only users have a profile.")
    if command.password_hash is not None:
        given["force_password_reset"] = False
    name = command.by.id
    return _user_updated(name, given, command.password_hash, command.actor, accounts, now)


def decide_delete_user(command: DeleteUser, accounts: Accounts, now: float) -> AccessDeleted:
    """The end of a user. Raises RuleBroken('user') for an unknown name."""
    name = _username(command.username)
    command.by.require("admin")
    stored = accounts.account("user", user_id(name))
    if stored is None:
        raise RuleBroken("user", f"User not found: {name}")
    record = without_secrets(stored)
    return AccessDeleted(at=now, actor=command.actor, type="user", id=user_id(name), record=record)


def set_password(
    username: str, password_hash: str, accounts: Accounts, actor: Actor, now: float
) -> AccessUpdated:
    """A new password set on the command line of the server itself."""
    command = UpdateUser(SYSTEM, actor, {"username": username}, password_hash)
    return decide_update_user(command, accounts, now)


# --- steps -------------------------------------------------------------------------------------


def without_secrets(record: Json) -> Json:
    """The record as clients may see it: no password, and a key's hash as `REDACTED` (8.2)."""
    shown = {key: value for key, value in record.items() if key not in HIDDEN}
    return shown | {"key": "REDACTED"} if "key" in shown else shown


def _user_updated(
    name: str,
    given: Json,
    password_hash: str | None,
    actor: Actor,
    accounts: Accounts,
    now: float,
) -> AccessUpdated:
    id = user_id(name)
    stored = accounts.account("user", id)
    if stored is None:
        raise RuleBroken("user", f"User not found: {name}")
    merged = stored | given
    if password_hash is not None:
        merged["password"] = password_hash
    return _updated("user", id, stored, _admins_without_limits(merged), actor, now)


def _updated(
    type: AccountType, id: str, stored: Json, merged: Json, actor: Actor, now: float
) -> AccessUpdated:
    revision = stored.get("revision")
    record = merged | {
        "modified": int(now),
        "revision": (revision if isinstance(revision, int) else 0) + 1,
    }
    changed = changed_keys(stored, record)
    return bounded(
        AccessUpdated(at=now, actor=actor, type=type, id=id, record=record, changed=changed)
    )


def _without(fields: Json, names: frozenset[str]) -> Json:
    return {key: value for key, value in cleaned(fields).items() if key not in names}


def _signed(username: str, now: float) -> Json:
    return {"username": username, "created": int(now), "modified": int(now), "revision": 1}


def _taken(id: str, accounts: Accounts) -> bool:
    """Keys and users share their places on the ledger, so they must not share ids."""
    return accounts.account("api_key", id) is not None or accounts.account("user", id) is not None


def _check_key(given: Json) -> None:
    _check_grants(given)
    check_text(given, "description")
    check_count(given, "expires", "max_per_sec")
    if given.get("active") is not None:
        check_flag(given["active"], "active")


def _check_user(given: Json) -> None:
    _check_grants(given)
    check_text(given, "full_name", "email")
    for name in ("active", "force_password_reset"):
        if given.get(name) is not None:
            check_flag(given[name], name)


def _check_grants(given: Json) -> None:
    check_object(given, "privileges")
    for name in ("roles", "categories", "groups"):
        strings(given.get(name), name)


def _username(value: object) -> str:
    if not isinstance(value, str) or _USERNAME.fullmatch(value) is None:
        raise BadRequest("Parameter 'username' must be of word characters, dashes and dots.")
    if not is_id(user_id(value)):
        raise BadRequest("Parameter 'username' must not be a reserved word or too long.")
    return value


def _admins_without_limits(record: Json) -> Json:
    if "admin" in granted(record.get("privileges")):
        return record | {"categories": [], "groups": []}
    return record
