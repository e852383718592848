"""Users: logging in and out, their own account, and administering them (api.md 8.1)."""

from typing import Any

from domain import accounts
from domain.access import user_id
from domain.commands import CreateUser, DeleteUser, UpdateProfile, UpdateUser
from domain.errors import BadRequest, NotSignedIn, RuleBroken
from domain.facts import Json
from services.gateway.auth import session_hash
from services.gateway.endpoint import Call, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Page, Params, page
from services.gateway.passwords import check_password
from services.gateway.replies import Payload, Rows, encode
from services.gateway.sessions import DAY, end_session, start_session, with_sessions_ended
from services.ledger.secrets import csrf_token

api = Routes("Accounts", "user")

TYPES: dict[str, Any] = {
    "active": "flag",
    "force_password_reset": "flag",
    "privileges": "object",
    "roles": "array",
    "categories": "array",
    "groups": "array",
}
_NAME = r"^[\w\-.]+\Z"
_EMAIL = r"^\S+@\S+\Z"
_PASSWORDS = ("password", "new_password", "old_password")
_USERS = 50
_USER_FIELDS = {
    "username": "string!",
    "email": "string",
    "full_name": "string",
    "active": "boolean",
    "privileges": "object",
    "roles": "array",
    "categories": "array",
    "groups": "array",
    "force_password_reset": "boolean, whether the user must choose another password first",
}

# --- sessions ----------------------------------------------------------------------------------


def _credentials(params: Params) -> tuple[str, str]:
    name = params.required_text("username", _NAME)
    return name, check_password(params.values.get("password"))


@api.endpoint(
    "login",
    "Log in: sets the session's cookie, and tells the token that its changes need.",
    parse=_credentials,
    open=True,
    method="POST",
    fields={"username": "string!", "password": "string!"},
    example={"username": "admin", "password": "..."},
)
async def login(call: Call, asked: tuple[str, str]) -> Payload:
    """api.md 8.1; every gateway knows the session."""
    record = await call.gateway.logins.prove(call, *asked, code="login")
    session = await start_session(call, record)
    _set_cookie(call, session, int(call.gateway.settings.session_days * DAY))
    return _signed_in(call, record, session)


@api.endpoint("logout", "End the session, if there is one.", open=True, method="POST")
async def logout(call: Call) -> Payload:
    """api.md 8.1. A link alone cannot log anybody out: by GET the session's token is needed."""
    session = call.credentials.session
    if session and call.gateway.views.access.principal_for_session(session_hash(session), call.now):
        call.sign_in(mutating=call.scope["method"] != "POST", before_password=True)
        await end_session(call, session)
    _set_cookie(call, "", 0)
    return {}


@api.endpoint("resume_session", "Who the session's cookie belongs to.", open=True, method="POST")
async def resume_session(call: Call) -> Payload:
    """api.md 8.1; without a cookie nothing but success."""
    session = call.credentials.session
    if not session:
        return {}
    access = call.gateway.views.access
    principal = access.principal_for_session(session_hash(session), call.now)
    record = access.user(principal.id) if principal is not None else None
    if record is None:
        raise NotSignedIn("The session is unknown or has expired.")
    return _signed_in(call, record, session)


def _signed_in(call: Call, record: Json, session: str) -> Json:
    return {
        "username": record["username"],
        "user": accounts.without_secrets(record),
        "csrf_token": csrf_token(call.gateway.secret, session),
        "epoch": call.now,
    }


def _set_cookie(call: Call, session: str, seconds: int) -> None:
    cookie = f"session_id={session}; Path=/; HttpOnly; SameSite=Lax; Max-Age={seconds}"
    if call.scope["scheme"] == "https":
        cookie += "; Secure"
    call.reply_headers.append((b"set-cookie", cookie.encode()))


# --- one's own account -------------------------------------------------------------------------


def _profile(params: Params) -> tuple[str, str, str | None, Json]:
    name = params.required_text("username", _NAME)
    old = check_password(params.values.get("old_password"), "old_password")
    new = params.values.get("new_password")
    new = None if new in (None, "") else check_password(new, "new_password")
    return name, old, new, _without_passwords(params)


@api.endpoint(
    "update",
    "Change one's own profile or password; other sessions end with the old password.",
    parse=_profile,
    mutating=True,
    before_password=True,
    fields={
        "username": "string!",
        "old_password": "string!",
        "new_password": "string",
        "full_name": "string",
        "email": "string",
    },
    example={"username": "admin", "old_password": "...", "new_password": "..."},
)
async def update(call: Call, asked: tuple[str, str, str | None, Json]) -> Payload:
    """api.md 8.1."""
    name, old, new, fields = asked
    gateway = call.gateway
    if call.caller.kind != "user" or user_id(name) != user_id(call.caller.id):
        raise RuleBroken("user", "This is not the account of whoever is logged in.")
    await gateway.logins.prove(call, name, old, code="user")
    hash = await gateway.logins.passwords.hash(new) if new not in (None, old) else None
    command = UpdateProfile(call.caller, call.actor, fields, hash)
    await gateway.submit_all(
        call,
        lambda: with_sessions_ended(
            call, accounts.decide_update_profile(command, gateway.views.access, call.now)
        ),
    )
    return {"user": accounts.without_secrets(gateway.views.access.user(name) or {})}


# --- administration ----------------------------------------------------------------------------


def _new_user(params: Params) -> tuple[str, Json]:
    params.required_text("username", _NAME)
    params.required_text("email", _EMAIL)
    params.required_text("full_name")
    return check_password(params.values.get("password")), _without_passwords(params)


@api.endpoint(
    "admin_create",
    "Make a user.",
    parse=_new_user,
    privilege="admin",
    mutating=True,
    fields=_USER_FIELDS | {"password": "string!", "email": "string!", "full_name": "string!"},
    example={
        "username": "anna",
        "email": "anna@example.org",
        "full_name": "Anna",
        "password": "...",
    },
)
async def admin_create(call: Call, asked: tuple[str, Json]) -> Payload:
    """api.md 8.1."""
    password, fields = asked
    gateway = call.gateway
    hash = await gateway.logins.passwords.hash(password)
    command = CreateUser(call.caller, call.actor, fields, hash)

    def decide() -> Decision:
        access = gateway.views.access
        fact = accounts.decide_create_user(command, access, call.now)
        return Decision(fact, access.sequences.get(fact.id, 0))

    await gateway.submit(call, decide)
    return {}


def _changed_user(params: Params) -> tuple[str | None, Json]:
    params.required_text("username", _NAME)
    password = params.values.get("new_password") or params.values.get("password")
    return check_password(password) if password else None, _without_passwords(params)


@api.endpoint(
    "admin_update",
    "Change a user: each given key replaces the stored one; a new password ends its sessions.",
    parse=_changed_user,
    privilege="admin",
    mutating=True,
    fields=_USER_FIELDS | {"new_password": "string"},
    example={"username": "anna", "active": False},
)
async def admin_update(call: Call, asked: tuple[str | None, Json]) -> Payload:
    """api.md 8.1."""
    password, fields = asked
    gateway = call.gateway
    hash = await gateway.logins.passwords.hash(password) if password is not None else None
    command = UpdateUser(call.caller, call.actor, fields, hash)
    await gateway.submit_all(
        call,
        lambda: with_sessions_ended(
            call, accounts.decide_update_user(command, gateway.views.access, call.now)
        ),
    )
    return {}


def _username(params: Params) -> str:
    return params.required_text("username", _NAME)


@api.endpoint(
    "admin_delete",
    "Delete a user; its sessions end.",
    parse=_username,
    privilege="admin",
    mutating=True,
    fields={"username": "string!"},
    example={"username": "anna"},
)
async def admin_delete(call: Call, name: str) -> Payload:
    """api.md 8.1."""
    access = call.gateway.views.access
    command = DeleteUser(call.caller, call.actor, name)

    def decide() -> Decision:
        fact = accounts.decide_delete_user(command, access, call.now)
        return Decision(fact, access.sequences.get(fact.id, 0))

    await call.gateway.submit(call, decide)
    return {}


@api.endpoint(
    "admin_get_user",
    "One user.",
    parse=_username,
    privilege="admin",
    fields={"username": "string!"},
)
async def admin_get_user(call: Call, name: str) -> Payload:
    """api.md 8.1."""
    record = call.gateway.views.access.user(name)
    if record is None:
        raise RuleBroken("user", f"User not found: {name}")
    return {"user": accounts.without_secrets(record)}


@api.endpoint(
    "admin_get_users",
    "List the users by name.",
    parse=lambda params: page(params, _USERS),
    privilege="admin",
    fields={"offset": "integer", "limit": "integer, default 50"},
)
async def admin_get_users(call: Call, part: Page) -> Payload:
    """api.md 8.1."""
    users = sorted(call.gateway.views.access.users.items())
    rows = [encode(accounts.without_secrets(record)) for _, record in part.of(users)]
    return Rows(rows, len(users))


def _without_passwords(params: Params) -> Json:
    """The record's keys among the parameters: no password may end up in one."""
    fields = params.typed(TYPES)
    if not isinstance(fields.get("email", ""), str):
        raise BadRequest("Parameter 'email' must be a string.")
    return {name: value for name, value in fields.items() if name not in _PASSWORDS}
