"""Who may do what on one NATS installation, and who may say so (design.md 14).

The operator's key signs one account; the account names one signing key per role, each with the
role's permissions (nats/permissions/ROLE.json). A login signed by a role's key has exactly these
permissions, so a gateway that holds the runners' key can make runners' logins and nothing else,
and NATS need not be told of a new login.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domain.facts import Json
from services.ledger.credentials import KeyPair, Login, signed

ROLES = ("owner", "gateway", "scheduler", "runner", "subscriber", "enrolment")
ENROLLABLE = ("runner", "subscriber")
"""The roles whose logins gateways and schedulers make."""

_NO_LIMITS = dict.fromkeys("subs data payload imports exports conn leaf".split(), -1)
_JETSTREAM = dict.fromkeys("mem_storage disk_storage streams consumer".split(), -1)
# An answer to a request may be sent this long after it, in nanoseconds; once.
# Roles that answer may also acknowledge facts ($JS.ACK), which they never do: where a role may not
# publish to a message's reply subject by itself, the server remembers each such subject as long as
# this, and now and then looks through all of them.
_ANSWER = {"max": 1, "ttl": 120_000_000_000}


@dataclass(frozen=True, slots=True)
class Signer:
    """The keys that sign logins of some roles. `address` is where their owners find NATS."""

    account: str
    keys: dict[str, KeyPair]
    address: str = ""

    @classmethod
    def of(cls, stored: Json) -> "Signer":
        """From the JSON of `stored()`; KeyError or ValueError if it is none."""
        keys = {role: KeyPair.of(seed) for role, seed in stored["keys"].items()}
        return cls(stored["account"], keys, stored.get("address", ""))

    def stored(self, roles: Iterable[str] = ENROLLABLE) -> Json:
        """What the holder of some of the keys keeps in its file."""
        keys = {role: self.keys[role].seed for role in roles}
        return {"account": self.account, "keys": keys, "address": self.address}

    def token(self, role: str, public: str, id: str = "") -> str:
        """A token for whoever has the key `public`. `id` is the runner's or the subscriber's."""
        content: Json = {"type": "user", "version": 2, "issuer_account": self.account}
        if role == "runner":
            content["tags"] = [f"server:{id}"]
        return signed(public, self.keys[role], f"{role}-{id}" if id else role, content)

    def login(self, role: str, id: str = "") -> Login:
        """A new login with a key of its own."""
        key = KeyPair.new("user")
        token = self.token(role, key.public, id)
        return Login(f"{role}-{id}" if id else role, token=token, seed=key.seed)


@dataclass(frozen=True, slots=True)
class Authority:
    """All keys of an installation. Whoever has them can make any login."""

    operator: KeyPair
    system: str
    signer: Signer

    @classmethod
    def new(cls, account: str = "") -> "Authority":
        """A fresh one; of an `account` that there is already, whose streams it goes on with."""
        keys = {role: KeyPair.new("account") for role in ROLES}
        account, system = account or KeyPair.new("account").public, KeyPair.new("account")
        return cls(KeyPair.new("operator"), system.public, Signer(account, keys))

    @classmethod
    def of(cls, stored: Json) -> "Authority":
        """From the JSON of `stored()`."""
        return cls(KeyPair.of(stored["operator"]), stored["system"], Signer.of(stored))

    def stored(self) -> Json:
        """All of it, as JSON."""
        mine = {"operator": self.operator.seed, "system": self.system}
        return mine | self.signer.stored(ROLES)

    def server_settings(self, permissions: Path) -> dict[str, str]:
        """What nats-server's configuration needs to trust this authority, each as its text.

        The permissions of each role are read from the folder `permissions`.
        """
        operator = {"type": "operator", "version": 2, "system_account": self.system}
        account = {
            "type": "account",
            "version": 2,
            "limits": _NO_LIMITS | _JETSTREAM | {"wildcards": True},
            "signing_keys": [self._scope(role, permissions) for role in ROLES],
            "default_permissions": {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}},
        }
        system = {"type": "account", "version": 2, "limits": _NO_LIMITS | {"wildcards": True}}
        accounts = {
            self.signer.account: signed(self.signer.account, self.operator, "jobledger", account),
            self.system: signed(self.system, self.operator, "system", system),
        }
        return {
            "TRUST_OPERATOR": json.dumps(
                signed(self.operator.public, self.operator, "jobledger", operator)
            ),
            "TRUST_SYSTEM": self.system,
            "TRUST_ACCOUNTS": json.dumps(accounts),
        }

    def _scope(self, role: str, permissions: Path) -> Json:
        """A role's signing key with what its logins may do."""
        rules: Any = json.loads((permissions / f"{role}.json").read_text())
        template: Json = {"pub": rules["publish"], "sub": rules["subscribe"]}
        template |= {"subs": -1, "data": -1, "payload": -1}
        if rules.get("allow_responses"):
            template["resp"] = _ANSWER
        key = self.signer.keys[role].public
        return {"kind": "user_scope", "key": key, "role": role, "template": template}
