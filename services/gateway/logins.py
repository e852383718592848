"""Proving who one is with a password (api.md 8.1).

Whoever fails more than five times within an hour is locked out for as long; the gateways tell
each other of failures, so that asking another one does not help. Knows nothing of sessions.
"""

import hashlib
import secrets
from typing import TYPE_CHECKING

from domain.access import user_id
from domain.errors import RuleBroken
from domain.facts import Json
from services import logs
from services.gateway.failures import Failures, network_of
from services.gateway.passwords import Passwords
from services.ledger.connection import Ledger
from services.ledger.live import listen, publish

if TYPE_CHECKING:
    from services.gateway.endpoint import Call

HOUR = 3600.0
MOST_FAILURES = 5
# Many people may share an address; nobody mistypes this often.
MOST_FAILURES_OF_ADDRESS = 30
SUBJECT = "live.logins"

log = logs.logger("gateway")


class Logins:
    """What one gateway knows of failed logins."""

    def __init__(self) -> None:
        self.passwords = Passwords()
        self._id = secrets.token_hex(8)
        self._users = Failures(MOST_FAILURES, HOUR)
        self._addresses = Failures(MOST_FAILURES_OF_ADDRESS, HOUR)

    async def listen(self, ledger: Ledger) -> None:
        """Hear of failures at other gateways, from now on."""

        async def heard(message: Json) -> None:
            user, at = message.get("user"), message.get("at")
            if message.get("gateway") != self._id and isinstance(user, str):
                self._users.add(user, float(at) if isinstance(at, int | float) else 0.0)

        await listen(ledger, SUBJECT, heard)

    async def prove(self, call: "Call", username: str, password: str, code: str) -> Json:
        """The record of the user whose password this is. Raises RuleBroken(`code`).

        An unknown user takes as long as a wrong password, and is locked out like one.
        """
        id, network = user_id(username), network_of(call.address)
        record = call.gateway.views.access.users.get(id)
        user = _counted_as(id, record)
        self._check(user, network, call.now, code)
        stored = record.get("password") if record is not None else None
        matches = await self.passwords.matches(stored, password)
        self._check(user, network, call.now, code)  # others may have failed meanwhile
        if record is None or not matches:
            self._failed(call, id, user, network)
            raise RuleBroken(code, "The user name or the password is wrong.")
        if not record.get("active"):
            raise RuleBroken(code, "This account is disabled.")
        self._users.forget(user)
        return record

    def _check(self, user: str, network: str, now: float, code: str) -> None:
        if self._users.locked(user, now) or self._addresses.locked(network, now):
            raise RuleBroken(code, "Too many failed logins; try again in an hour.")

    def _failed(self, call: "Call", id: str, user: str, network: str) -> None:
        self._users.add(user, call.now)
        self._addresses.add(network, call.now)
        log.warning("A login failed", action="login_failed", user=id[:64], address=call.address)
        message = {"gateway": self._id, "user": user, "at": call.now}
        publish(call.gateway.ledger, SUBJECT, message)


def _counted_as(id: str, record: Json | None) -> str:
    """Under which name a user's failures are counted: a new password starts anew."""
    if record is None:
        return hashlib.sha256(id.encode()).hexdigest()[:16]
    return hashlib.sha256(f"{id} {record.get('password')}".encode()).hexdigest()[:16]
