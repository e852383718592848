"""The server secret, and what is derived from it; the same on all gateways and schedulers.

`DIR/server.secret` (mode 0600), or the file that JOBLEDGER_SERVER_SECRET_FILE names. The ledger
holds only a fingerprint of it (design.md 10).
"""

import base64
import hashlib
import hmac
import os
import secrets
from functools import lru_cache
from pathlib import Path

from services.ledger.errors import StartupError

_ENV = "JOBLEDGER_SERVER_SECRET_FILE"


def server_secret(data_dir: Path) -> bytes:
    """The secret of this installation; made at the first call. Raises StartupError."""
    named = os.environ.get(_ENV)
    file = Path(named) if named else data_dir / "server.secret"
    try:
        if not named and not file.exists():
            data_dir.mkdir(parents=True, exist_ok=True)
            write_private(file, secrets.token_hex(32).encode() + b"\n", replace=False)
        secret = file.read_bytes().strip()
    except OSError as error:
        raise StartupError(
            f"The server secret {file} cannot be read: {error.strerror or error}."
        ) from error
    if len(secret) < 16:
        raise StartupError(f"The server secret {file} is too short: 16 bytes at least.")
    return secret


def audit_key(secret: bytes) -> bytes:
    """The key of the audit chain's seals (domain/audit.py)."""
    return _digest(secret, "audit chain")


def csrf_token(secret: bytes, session: str) -> str:
    """64 hex digits that go with one session id (api.md 1.4)."""
    return _digest(secret, f"csrf {session}").hex()


def fingerprint(secret: bytes) -> str:
    """Tells two secrets apart without giving either away."""
    return _digest(secret, "fingerprint").hex()[:32]


def hash_api_key(secret: bytes, plain: str) -> str:
    """What is stored instead of an API key (data.md 1.3)."""
    return _digest(secret, plain).hex()


def mask_of(plain: str) -> str:
    """What is shown of an API key ever after: its ends (data.md 1.3)."""
    return f"{plain[:4]}{'*' * 8}{plain[-4:]}"


def log_token(secret: bytes, job: str) -> str:
    """22 characters that open one job's log (api.md 5, download_job_log)."""
    return base64.urlsafe_b64encode(_digest(secret, f"log {job}")[:16]).decode().rstrip("=")


def stream_token(secret: bytes, job: str) -> str:
    """64 hex digits that open one job's live stream (api.md, stream_job)."""
    return _digest(secret, f"stream {job}").hex()


def web_hook_key(secret: bytes, hook: str) -> bytes:
    """The key that signs what one web hook sends (execution.md 9.4).

    Its hex form is what a receiver is given, `hook` is the record's id, or the URL of an action
    without a record.
    """
    return _digest(secret, f"web_hook {hook}").hex().encode()


def write_private(file: Path, content: bytes, *, replace: bool) -> bool:
    """Write a file (mode 0600) whole or not at all; whether it was written.

    With `replace=False` an existing file is left as it is, whoever was first.
    """
    draft = file.with_name(f".{file.name}.{secrets.token_hex(6)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            draft.replace(file)
            return True
        try:
            os.link(draft, file)
        except FileExistsError:
            return False
        return True
    finally:
        draft.unlink(missing_ok=True)


def _digest(secret: bytes, purpose: str) -> bytes:
    keyed = _keyed(secret).copy()
    keyed.update(purpose.encode())
    return keyed.digest()


@lru_cache(4)
def _keyed(secret: bytes) -> hmac.HMAC:
    """To begin with a key takes longer than all the rest."""
    return hmac.new(secret, digestmod=hashlib.sha256)
