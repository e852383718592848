"""Who calls: session or API key to principal (api.md 1.4).

Credentials are looked up by their keyed hash and never kept, logged or handed on. Privileges
and limits are domain/access.py's; this module only proves identity, CSRF and the rate of keys.
"""

import hashlib
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from domain.access import Principal
from domain.errors import NotSignedIn, RateExceeded
from domain.facts import Actor, Json
from services.gateway.failures import network_of
from services.ledger.secrets import csrf_token, hash_api_key

if TYPE_CHECKING:
    from services.gateway.gateway import Gateway

_SAFE_METHODS = ("GET", "HEAD")


class Credentials(msgspec.Struct):
    """What a request brought along: its headers and the reserved keys of query and body."""

    headers: dict[bytes, bytes]
    reserved: Json = {}  # each gets its own
    cookie_session: str = ""
    """The session id from the cookie."""
    session_in_headers: str = ""
    """The session id from cookie or header."""

    def __post_init__(self) -> None:
        cookie = self.headers.get(b"cookie", b"")
        self.cookie_session = _session_in(cookie) if b"session_id" in cookie else ""
        self.session_in_headers = self.cookie_session or self._header(b"x-session-id")

    @property
    def session(self) -> str:
        """The session id from cookie, header or body; empty when none came."""
        return self.session_in_headers or self._reserved("session_id")

    @property
    def api_key(self) -> str:
        """The API key from header, body or query, in this order."""
        return self._header(b"x-api-key") or self._reserved("api_key")

    @property
    def csrf(self) -> str:
        """The CSRF token from header or body."""
        return self._header(b"x-csrf-token") or self._reserved("csrf_token")

    @property
    def complete(self) -> bool:
        """Whether the body need not be read to know who calls: a session has its token."""
        return bool(self.csrf if self.session else self.api_key)

    def _header(self, name: bytes) -> str:
        value = self.headers.get(name)
        return value.decode("latin-1").strip() if value else ""

    def _reserved(self, name: str) -> str:
        value = self.reserved.get(name) if self.reserved else ""
        return value if isinstance(value, str) else ""


def _session_in(cookie: bytes) -> str:
    """Whatever stands in the cookies beside it: those of a host are sent to all its ports."""
    session = b""
    for each in cookie.split(b";"):
        name, _, value = each.partition(b"=")
        if name.strip() == b"session_id":
            session = value.strip().strip(b'"')
    return session.decode("latin-1")


class KeyRates:
    """How often each rate-limited key was used within the current second (api.md 1.4)."""

    def __init__(self) -> None:
        self._second = 0
        self._calls: dict[str, int] = {}

    def count(self, key: str, limit: int, now: float) -> None:
        """Count one more call; RateExceeded for number `limit` + 1 within one clock second."""
        if int(now) != self._second:
            self._second = int(now)
            self._calls.clear()
        calls = self._calls[key] = self._calls.get(key, 0) + 1
        if calls > limit:
            raise RateExceeded("This API key allows no more calls within this second.")


def authenticate(
    gateway: "Gateway", given: Credentials, method: str, mutating: bool, now: float
) -> Principal:
    """The principal behind the credentials; NotSignedIn or RateExceeded if there is none.

    A session that is given wins over an API key, also when it is unknown.
    """
    if session := given.session:
        return _by_session(gateway, given, session, method, mutating, now)
    if key := given.api_key:
        return _by_key(gateway, key, now)
    raise NotSignedIn("No session and no API key was given.")


def still_known(gateway: "Gateway", given: Credentials) -> Callable[[], Principal | None]:
    """Who these credentials are, whenever it is asked; None once they are good for nothing."""
    views, clock = gateway.views, gateway.clock
    if session := given.session:
        hash = session_hash(session)
        return lambda: views.access.principal_for_session(hash, clock())
    hash = hash_api_key(gateway.secret, given.api_key)
    return lambda: views.access.principal_for_key(hash, clock())


def check_guesses(gateway: "Gateway", address: str | None, now: float) -> None:
    """RateExceeded for an address that tried too many wrong magic links within a minute.

    Their keys are chosen by people, so that even the right one is refused until it is over.
    """
    if gateway.guesses.locked(network_of(address), now):
        raise RateExceeded("Too many wrong links came from this address; try again in a minute.")


def actor_of(principal: Principal, address: str | None) -> Actor:
    """How facts name this principal."""
    kind = principal.kind
    return Actor(type=kind, id=principal.id, address=address)


def session_hash(session: str) -> str:
    """What the ledger knows of a session id."""
    return hashlib.sha256(session.encode()).hexdigest()


def same_token(given: str, expected: str) -> bool:
    """Whether a token is the expected one, in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _by_key(gateway: "Gateway", key: str, now: float) -> Principal:
    principal = gateway.views.access.principal_for_key(hash_api_key(gateway.secret, key), now)
    if principal is None:
        raise NotSignedIn("The API key is unknown, inactive or expired.")
    limit = gateway.views.access.max_per_sec(principal.id)
    if limit:
        gateway.rates.count(principal.id, limit, now)
    return principal


def _by_session(
    gateway: "Gateway", given: Credentials, session: str, method: str, mutating: bool, now: float
) -> Principal:
    """D11: what changes something needs the token with GET as well, if the session is a cookie."""
    principal = gateway.views.access.principal_for_session(session_hash(session), now)
    if principal is None:
        raise NotSignedIn("The session is unknown or has expired.")
    needed = method not in _SAFE_METHODS or (mutating and bool(given.cookie_session))
    expected = csrf_token(gateway.secret, session)
    if needed and not same_token(given.csrf, expected):
        raise NotSignedIn("The CSRF token is missing or wrong.")
    return principal
