"""Sessions: started by a login, ended by a logout or a new password (api.md 1.4, 8.1).

The ledger holds the SHA-256 of a session's id, so every gateway knows it and none can tell it.
Knows nothing of passwords.
"""

import secrets

from domain.access import user_id
from domain.facts import AccessUpdated, Actor, Json, SessionEnded, SessionStarted
from services.gateway.auth import session_hash
from services.gateway.endpoint import Call
from services.gateway.gateway import Decision

DAY = 86400.0
# A user's oldest session ends when there are more than so many.
MOST_SESSIONS = 200


async def start_session(call: Call, record: Json) -> str:
    """Record a new session of this user; its id, which is kept nowhere."""
    gateway = call.gateway
    name = str(record["username"])
    id, session = user_id(name), secrets.token_hex(32)
    fact = SessionStarted(
        at=call.now,
        actor=Actor(type="user", id=name, address=call.address),
        id=id,
        session=session_hash(session),
        expires=call.now + gateway.settings.session_days * DAY,
    )

    def decide() -> list[Decision]:
        open_now = gateway.views.access.sessions_of(id)
        surplus = open_now[: max(0, len(open_now) + 1 - MOST_SESSIONS)]
        return [*(Decision(_ended(call, fact.actor, id, old)) for old in surplus), Decision(fact)]

    if len(decisions := decide()) == 1:
        await gateway.submit(call, lambda: decisions[0])
    else:
        await gateway.submit_all(call, decide)
    return session


async def end_session(call: Call, session: str) -> None:
    """Record the end of a session; nothing for one that is not open."""
    access, hash = call.gateway.views.access, session_hash(session)
    principal = access.principal_for_session(hash, call.now)
    if principal is None:
        return
    actor = Actor(type="user", id=principal.id, address=call.address)
    fact = _ended(call, actor, user_id(principal.id), hash)
    await call.gateway.submit(call, lambda: Decision(fact))


def with_sessions_ended(call: Call, fact: AccessUpdated) -> list[Decision]:
    """A change of a user's record; with a new password, or none allowed any more, its sessions
    end, except the caller's own."""
    access = call.gateway.views.access
    decisions = [Decision(fact, access.sequences.get(fact.id, 0))]
    if "password" in fact.changed or not fact.record.get("active"):
        own = session_hash(call.credentials.session)
        others = [session for session in access.sessions_of(fact.id) if session != own]
        decisions += [Decision(_ended(call, fact.actor, fact.id, session)) for session in others]
    return decisions


def _ended(call: Call, actor: Actor, user: str, hash: str) -> SessionEnded:
    return SessionEnded(at=call.now, actor=actor, id=user, session=hash)
