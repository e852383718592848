"""The keys of secrets, and encrypting with them (AES-256-GCM).

`DIR/secrets.keys` (mode 0600), or the file that JOBLEDGER_SECRETS_KEYS_FILE names: one key per
line, the newest first; the same on all gateways and schedulers. The ledger holds ciphertext and
the fingerprint of the key in force. A ciphertext names its key and is bound to the secret and
the variable it was made for, so nobody can move it to another one.
"""

import base64
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from domain.facts import Json
from services.ledger.errors import LedgerError, StartupError
from services.ledger.secrets import write_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEYS_VARIABLE = "JOBLEDGER_SECRETS_KEYS_FILE"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class Unreadable(LedgerError):
    """A value cannot be decrypted here: its key is missing, or it was tampered with."""


def new_keys_file() -> bytes:
    """The content of a file with one fresh key."""
    return base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n"


class Vault:
    """Encrypts and decrypts with the keys of one file, which is read again for an unknown one."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._keys: dict[str, bytes] = {}
        self.reload()

    @classmethod
    def of(cls, data_dir: Path) -> "Vault":
        """The vault of this installation; its first key is made at the first call.

        Raises StartupError if the file cannot be read, or holds no keys.
        """
        named = os.environ.get(KEYS_VARIABLE)
        file = Path(named) if named else data_dir / "secrets.keys"
        try:
            if not named and not file.exists():
                data_dir.mkdir(parents=True, exist_ok=True)
                write_private(file, new_keys_file(), replace=False)
        except OSError as error:
            raise StartupError(f"{file} cannot be written: {error.strerror or error}.") from error
        return cls(file)

    @property
    def keys(self) -> list[str]:
        """The fingerprints of the keys, newest first."""
        return list(self._keys)

    def has(self, key: str) -> bool:
        """Whether the key with this fingerprint is there; looks into the file again if not."""
        if key not in self._keys:
            self.reload()
        return key in self._keys

    def reload(self) -> None:
        """Read the file (again); StartupError if it cannot be used."""
        try:
            lines = self.file.read_bytes().split()
            raw = [base64.urlsafe_b64decode(line) for line in lines]
        except (OSError, ValueError) as error:
            raise StartupError(
                f"The keys of secrets {self.file} cannot be read: {error}."
            ) from error
        if not raw or any(len(key) != _KEY_BYTES for key in raw):
            raise StartupError(f"{self.file} does not hold keys of secrets, one per line.")
        self._keys = {_fingerprint(key): key for key in raw}

    def seal(self, secret: str, name: str, value: str, key: str) -> str:
        """A value of the variable `name` as ciphertext under the key with this fingerprint.

        Raises Unreadable without that key.
        """
        if not self.has(key):
            raise Unreadable(f"The key {key} is not in {self.file}.")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        content = value.encode("utf-8", "surrogatepass")
        sealed = _cipher(self._keys[key]).encrypt(nonce, content, _place(secret, name))
        return f"{key}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def unseal(self, secret: str, name: str, token: str) -> str:
        """The value in the clear; raises Unreadable."""
        key, _, text = token.partition(".")
        if not self.has(key):
            raise Unreadable(f"The key {key} of the secret {secret} is not in {self.file}.")
        from cryptography.exceptions import InvalidTag

        try:
            raw = base64.urlsafe_b64decode(text)
            opened = _cipher(self._keys[key]).decrypt(
                raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _place(secret, name)
            )
        except (InvalidTag, ValueError) as error:
            raise Unreadable(f"The value of {name} in the secret {secret} is damaged.") from error
        return opened.decode("utf-8", "surrogatepass")

    def values(self, record: Json) -> dict[str, str]:
        """All variables of a secret's record in the clear; raises Unreadable."""
        sealed: Mapping[str, str] = record.get("ciphertext") or {}
        return {name: self.unseal(record["id"], name, token) for name, token in sealed.items()}


def add_key(file: Path) -> str:
    """Put a fresh key in front of the others; its fingerprint. Nothing uses it yet."""
    fresh = new_keys_file()
    write_private(file, fresh + file.read_bytes(), replace=True)
    return _fingerprint(base64.urlsafe_b64decode(fresh))


def forget_other_keys(file: Path, key: str) -> int:
    """Remove all keys but one; how many went. What they encrypted is lost with them."""
    lines = file.read_bytes().split()
    kept = [line for line in lines if _fingerprint(base64.urlsafe_b64decode(line)) == key]
    if kept:
        write_private(file, b"\n".join(kept) + b"\n", replace=True)
    return len(lines) - len(kept) if kept else 0


def _cipher(key: bytes) -> "AESGCM":
    # Imported here: it is 6 MB in a process, and most installations have no secrets.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(b"jobledger secrets " + key).hexdigest()[:16]


def _place(secret: str, name: str) -> bytes:
    return f"{secret}/{name}".encode()
