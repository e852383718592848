"""What a URL of NATS says: where the servers are, who we are, and whom to trust.

    nats://TOKEN:SEED@host:4222      a login (credentials.py); or USER:PASSWORD
    tls://TOKEN:SEED@host:4222       the same, encrypted; the server must prove who it is
    tls://...@host:4222?ca=/FILE     by a certificate that this authority signed

Without `ca` the authority is the one in the file that JOBLEDGER_NATS_CA_FILE names, or else one
that this machine trusts anyway. Several URLs, separated by commas, name the nodes of a cluster.
"""

import os
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from services.ledger.credentials import Login
from services.ledger.errors import StartupError

CA_VARIABLE = "JOBLEDGER_NATS_CA_FILE"


@dataclass(frozen=True, slots=True)
class Access:
    """The parts of a URL. `servers` have no credentials; `tls` is set for encrypted ones."""

    servers: list[str]
    login: Login | None
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str) -> "Access":
        """Take a URL (or several, separated by commas) apart; StartupError if it is none."""
        try:
            parts = [urlsplit(one if "://" in one else f"nats://{one}") for one in url.split(",")]
            servers = [f"{part.scheme}://{part.hostname}:{part.port or 4222}" for part in parts]
            login = Login.of(parts[0])
        except ValueError as error:
            raise StartupError(f"The address of NATS is malformed: {error}.") from error
        return cls(servers, login, _context(parts[0]) if parts[0].scheme == "tls" else None)

    def options(self) -> dict[str, Any]:
        """The client's options that say who we are and whom we trust."""
        options: dict[str, Any] = {}
        login = self.login
        if login is not None and login.token:
            token = login.token.encode()
            options |= {"user_jwt_cb": lambda: token, "signature_cb": login.sign}
        elif login is not None:
            options |= {"user": login.name, "password": login.password}
        if self.tls is not None:
            options["tls"] = self.tls
        return options


def _context(url: SplitResult) -> ssl.SSLContext:
    named = parse_qs(url.query).get("ca", [os.environ.get(CA_VARIABLE, "")])[0]
    try:
        return ssl.create_default_context(cafile=named or None)
    except (OSError, ssl.SSLError) as error:
        raise StartupError(
            f"The certificate authority {named} cannot be read: {error.strerror or error}."
        ) from error
