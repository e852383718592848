"""Key pairs, signed tokens and logins for NATS (its decentralised JWT authentication).

A login is a token that names its owner and role, signed by somebody whom the server trusts, and
the private key that goes with it; the server is shown a signature, never the key. A login stands
in a URL as `nats://TOKEN:SEED@host:port`, and in the `.creds` file that any NATS client reads.
Knows the formats; who may sign what is authority.py's.
"""

import base64
import hashlib
import json
import re
import secrets
import time
from binascii import crc_hqx  # CRC-16/XMODEM, as NATS uses it
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, unquote

from domain.facts import Json

if TYPE_CHECKING:
    from nacl.signing import SigningKey

Kind = Literal["operator", "account", "user"]

_SEED = 18 << 3
_SEED_BYTES = 32
_PREFIXES: dict[Kind, int] = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key pair in NATS's text form: `seed` is private (S...), `public` is the name."""

    seed: str
    public: str

    @classmethod
    def new(cls, kind: Kind) -> "KeyPair":
        """A fresh pair."""
        raw = secrets.token_bytes(_SEED_BYTES)
        prefix = _PREFIXES[kind]
        return cls.of(_text(bytes([_SEED | prefix >> 5, (prefix & 31) << 3]) + raw))

    @classmethod
    def of(cls, seed: str) -> "KeyPair":
        """The pair of a seed; ValueError for anything else."""
        raw = _checked(seed)
        if len(raw) != 34 or raw[0] & 0xF8 != _SEED:
            raise ValueError("This is no seed of a NATS key.")
        prefix = (raw[0] & 7) << 5 | raw[1] >> 3
        public = bytes(_private(raw[2:]).verify_key)
        return cls(seed, _text(bytes([prefix]) + public))

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return _private(_checked(self.seed)[2:]).sign(message).signature


@dataclass(frozen=True, slots=True)
class Login:
    """What a client shows to NATS: a token with its key, or a user's name and password."""

    name: str
    password: str = ""
    token: str = ""
    seed: str = ""

    @classmethod
    def of(cls, address: SplitResult) -> "Login | None":
        """The login in a URL; None if it has none. ValueError if its key is malformed."""
        user, password = unquote(address.username or ""), unquote(address.password or "")
        if _TOKEN.fullmatch(user) and password:
            KeyPair.of(password)
            return cls.from_token(user, password)
        return cls(name=user, password=password) if user else None

    @classmethod
    def from_token(cls, token: str, seed: str) -> "Login":
        """The login of a token, by the name that stands in it."""
        return cls(name=str(claims(token).get("name", "")), token=token, seed=seed)

    @property
    def role(self) -> str:
        """The role that a token was signed for: the first word of its name."""
        return self.name.partition("-")[0] if self.token else ""

    @property
    def account(self) -> str:
        """The account that a token belongs to: another installation has another one."""
        return str(claims(self.token)["nats"].get("issuer_account", "")) if self.token else ""

    def sign(self, nonce: str) -> bytes:
        """The answer to the server's challenge."""
        return base64.b64encode(KeyPair.of(self.seed).sign(nonce.encode()))

    def url(self, address: str) -> str:
        """The addresses (host:port, or URLs, separated by commas) with this login in each."""
        secret = f"{self.token}:{self.seed}" if self.token else f"{self.name}:{self.password}"
        return ",".join(_with_login(one, secret) for one in address.split(","))

    def creds(self) -> str:
        """The content of a `.creds` file."""
        return (
            f"-----BEGIN NATS USER JWT-----\n{self.token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.seed}\n------END USER NKEY SEED------\n"
        )


def signed(subject: str, by: KeyPair, name: str, nats: Json) -> str:
    """A token about the key `subject`, signed by a key; `nats` is its content."""
    body = {"iat": int(time.time()), "iss": by.public, "name": name, "sub": subject, "nats": nats}
    digest = hashlib.new("sha512_256", json.dumps(body, sort_keys=True).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    text = f"{_base64(_HEADER)}.{_base64(body)}"
    return f"{text}.{_unpadded(by.sign(text.encode()))}"


def claims(token: str) -> Json:
    """What a token says, unchecked: the server checks. ValueError if it is none."""
    part = token.split(".")[1]
    body: Json = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return body


def is_user_key(public: object) -> bool:
    """Whether this is the public key of a user."""
    try:
        return isinstance(public, str) and _checked(public)[0] == _PREFIXES["user"]
    except ValueError:
        return False


def without_login(url: str) -> str:
    """URLs, separated by commas, without credentials: fit to be shown."""
    return ",".join(_with_login(one, "") for one in url.split(","))


def _with_login(url: str, secret: str) -> str:
    scheme, found, rest = url.partition("://")
    host = (rest if found else url).rpartition("@")[2]
    return f"{scheme if found else 'nats'}://{secret}{'@' if secret else ''}{host}"


def _private(raw: bytes) -> "SigningKey":
    from nacl.signing import SigningKey

    return SigningKey(raw)


def _text(raw: bytes) -> str:
    return base64.b32encode(raw + crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _checked(text: str) -> bytes:
    """The bytes in a key's text form; ValueError if its checksum is wrong."""
    raw = base64.b32decode(text + "=" * (-len(text) % 8))
    if len(raw) < 3 or crc_hqx(raw[:-2], 0).to_bytes(2, "little") != raw[-2:]:
        raise ValueError("This is no NATS key.")
    return raw[:-2]


def _base64(value: Json) -> str:
    return _unpadded(json.dumps(value, separators=(",", ":")).encode())


def _unpadded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
