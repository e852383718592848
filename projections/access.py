"""Who may sign in: API keys by their hash, users, sessions, and what roles add.

Answers with principals; one lookup costs the same however many accounts there are. Must not
know plain keys, passwords or session ids, only what stands on the ledger.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from domain import facts as f
from domain.access import Principal, principal_of, user_id
from domain.checks import is_number
from domain.facts import Json, Recorded

AccountType = Literal["api_key", "user"]


@dataclass(frozen=True, slots=True)
class StoredAccess:
    """What a snapshot keeps of Access."""

    position: int
    keys: dict[str, Json]
    users: dict[str, Json]
    roles: dict[str, Json]
    sequences: dict[str, int]
    key_by_hash: dict[str, str]
    sessions: dict[str, tuple[str, float]]


class Access:
    """Fold of all accounts. `keys` and `users` are by id on the ledger, in creation order."""

    def __init__(self) -> None:
        self.position = 0
        self.keys: dict[str, Json] = {}
        self.users: dict[str, Json] = {}
        self.roles: dict[str, Json] = {}
        self.sequences: dict[str, int] = {}
        self._key_by_hash: dict[str, str] = {}
        self._sessions: dict[str, tuple[str, float]] = {}
        self._sessions_of: dict[str, set[str]] = {}
        self._principals: dict[tuple[str, str], Principal] = {}

    # --- folding -------------------------------------------------------------------------------

    def apply(self, recorded: Recorded) -> None:
        """Take in one fact; those already taken in are ignored. Never raises."""
        if recorded.sequence <= self.position:
            return
        self.position = recorded.sequence
        fold = _FOLDS.get(type(recorded.fact))
        if fold is not None:
            fold(self, recorded.fact)

    def concerns(self, kind: type[f.FactBase]) -> bool:
        """Whether facts of this kind change anything here; no other needs to be applied."""
        return kind in _FOLDS

    def _account(self, fact: f.AccessCreated | f.AccessUpdated | f.AccessDeleted) -> None:
        if isinstance(fact, f.AccessDeleted):
            self._drop(fact.type, fact.id)
        else:
            self._put(fact.type, fact.id, fact.record)
        self.sequences[fact.id] = self.position

    def _session(self, fact: f.SessionStarted | f.SessionEnded) -> None:
        if isinstance(fact, f.SessionStarted):
            self._start(fact)
        else:
            self._end(fact.session)
        self.sequences[fact.id] = self.position

    def _role(self, fact: f.CatalogCreated | f.CatalogUpdated | f.CatalogDeleted) -> None:
        if fact.type != "role":
            return
        if isinstance(fact, f.CatalogDeleted):
            self.roles.pop(fact.id, None)
        else:
            self.roles[fact.id] = fact.record
        self._principals.clear()

    def _put(self, type: AccountType, id: str, record: Json) -> None:
        self._principals.pop((type, id), None)
        if type == "user":
            self.users[id] = record
            return
        self._forget_hash(id)
        self.keys[id] = record
        if isinstance(record.get("key"), str):
            self._key_by_hash[record["key"]] = id

    def _drop(self, type: AccountType, id: str) -> None:
        self._principals.pop((type, id), None)
        if type == "api_key":
            self._forget_hash(id)
            self.keys.pop(id, None)
            return
        self.users.pop(id, None)
        for session in list(self._sessions_of.get(id, ())):
            self._end(session)

    def _forget_hash(self, id: str) -> None:
        hash = self.keys.get(id, {}).get("key")
        if isinstance(hash, str) and self._key_by_hash.get(hash) == id:
            del self._key_by_hash[hash]

    def _start(self, fact: f.SessionStarted) -> None:
        self._end(fact.session)
        self._sessions[fact.session] = (fact.id, fact.expires)
        mine = self._sessions_of.setdefault(fact.id, set())
        mine.add(fact.session)
        for session in [s for s in mine if self._sessions[s][1] <= fact.at]:
            self._end(session)

    def _end(self, session: str) -> None:
        user, _ = self._sessions.pop(session, ("", 0.0))
        mine = self._sessions_of.get(user)
        if mine is not None:
            mine.discard(session)
            if not mine:
                del self._sessions_of[user]

    # --- snapshots -----------------------------------------------------------------------------

    def state(self) -> StoredAccess:
        """All that `restore` needs; not changed by what is folded later."""
        return StoredAccess(
            position=self.position,
            keys=dict(self.keys),
            users=dict(self.users),
            roles=dict(self.roles),
            sequences=dict(self.sequences),
            key_by_hash=dict(self._key_by_hash),
            sessions=dict(self._sessions),
        )

    def restore(self, state: StoredAccess) -> None:
        """Go on from a snapshot; only for a fold that has seen nothing yet."""
        self.position = state.position
        self.keys, self.users, self.roles = state.keys, state.users, state.roles
        self.sequences = state.sequences
        self._key_by_hash, self._sessions = state.key_by_hash, state.sessions
        for session, (user, _) in state.sessions.items():
            self._sessions_of.setdefault(user, set()).add(session)

    # --- questions -----------------------------------------------------------------------------

    def account(self, type: AccountType, id: str) -> Json | None:
        """The stored record of a key or a user, hashes included."""
        return (self.keys if type == "api_key" else self.users).get(id)

    def user(self, username: str) -> Json | None:
        """The user with this name, compared as api.md 8.1 says."""
        return self.users.get(user_id(username))

    def sessions_of(self, username: str) -> list[str]:
        """The hashes of a user's open sessions, those that end first coming first."""
        mine = self._sessions_of.get(user_id(username), ())
        return sorted(mine, key=lambda session: (self._sessions[session][1], session))

    def principal_for_key(self, hash: str, now: float) -> Principal | None:
        """Who an API key is; None if it is unknown, inactive or expired (api.md 1.4)."""
        id = self._key_by_hash.get(hash)
        record = self.keys.get(id) if id is not None else None
        if id is None or record is None or not record.get("active"):
            return None
        expires = record.get("expires")
        if is_number(expires) and expires and now >= expires:
            return None
        return self._principal("api_key", id, record)

    def principal_for_session(self, hash: str, now: float) -> Principal | None:
        """Who a session belongs to; None if it is unknown or over, or the user inactive."""
        user, expires = self._sessions.get(hash, ("", 0.0))
        record = self.users.get(user)
        if record is None or now >= expires or not record.get("active"):
            return None
        return self._principal("user", user, record)

    def must_change_password(self, user: str) -> bool:
        """Whether this user may do nothing but choose a new password (data.md 12.2, 13)."""
        return bool(self.users.get(user_id(user), {}).get("force_password_reset"))

    def max_per_sec(self, key_id: str) -> int:
        """How often a key may be used within a second; 0 = no limit."""
        limit = self.keys.get(key_id, {}).get("max_per_sec")
        return int(limit) if is_number(limit) and limit > 0 else 0

    def _principal(self, type: AccountType, id: str, record: Json) -> Principal:
        known = self._principals.get((type, id))
        if known is None:
            kind: Literal["key", "user"] = "key" if type == "api_key" else "user"
            known = self._principals[type, id] = principal_of(kind, record, self.roles.get)
        return known


# What does not stand here does not concern an Access.
_FOLDS: Mapping[type[f.FactBase], Callable[[Access, Any], None]] = {
    f.AccessCreated: Access._account,
    f.AccessUpdated: Access._account,
    f.AccessDeleted: Access._account,
    f.SessionStarted: Access._session,
    f.SessionEnded: Access._session,
    f.CatalogCreated: Access._role,
    f.CatalogUpdated: Access._role,
    f.CatalogDeleted: Access._role,
}
