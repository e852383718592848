"""The first facts of a ledger, written once whoever starts first and however often.

One atomic batch, guarded by the empty subject `facts.ledger`, founds the ledger: its random id,
the fingerprint of the server secret, and the default records. Then the first API key: DIR/admin.key
is written before its record, so that a kill in between leaves a key that the next start records.
"""

import asyncio
import contextlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from domain.facts import (
    AccessCreated,
    Actor,
    CatalogCreated,
    CatalogUpdated,
    Fact,
    LedgerFounded,
    Recorded,
)
from domain.secrets import KEYS_ID, key_record
from domain.subjects import access_subject, catalog_subject, subject_of
from services.ledger.connection import TOLD_AFTER
from services.ledger.errors import LedgerUnavailable, StartupError, WrongSecret, WrongSequence
from services.ledger.reader import Follower
from services.ledger.secrets import (
    fingerprint,
    hash_api_key,
    mask_of,
    server_secret,
    write_private,
)
from services.ledger.vault import Vault
from services.logs import logger

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

FOUNDING = "facts.ledger"
ADMIN_KEY_ID = "kadmin"
ADMIN_KEY_FILE = "admin.key"
SYSTEM = Actor(type="system", id="system")

log = logger()


async def found(ledger: "Ledger", data_dir: Path, now: float) -> LedgerFounded:
    """Found the ledger if it is empty; else check that it is ours. Returns fact 1.

    `now` is in Unix seconds. Raises WrongSecret, StartupError (unwritable files),
    LedgerUnavailable.
    """
    secret = server_secret(data_dir)
    founded = await _first_fact(ledger)
    if founded is None:
        founded = await _write_first_facts(ledger, secret, now)
    if founded.fingerprint != fingerprint(secret):
        raise WrongSecret(
            f"The server secret of {data_dir} is not the one this ledger was founded with: "
            "copy server.secret from the first machine."
        )
    await _record_admin_key(ledger, data_dir, secret, now)
    await _check_keys_of_secrets(ledger, Vault.of(data_dir), now)
    return founded


async def ledger_id(ledger: "Ledger", *, within: float, consumer: str | None = None) -> str:
    """The random id of this ledger, read as a follower (as a runner may).

    Waits up to `within` seconds for the founding; LedgerUnavailable after that.
    """
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def apply(recorded: Recorded) -> None:
        if isinstance(recorded.fact, LedgerFounded) and not found.done():
            found.set_result(recorded.fact.ledger)

    follower = Follower(ledger, apply, after=0, subjects=(FOUNDING,), consumer=consumer)
    reading = asyncio.create_task(follower.run())
    telling = asyncio.get_running_loop().call_later(TOLD_AFTER, _tell_of_wait, within)
    try:
        await asyncio.wait((found, reading), timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
        if not found.done():
            raise LedgerUnavailable("This ledger is not founded: no gateway or scheduler ran yet.")
        return found.result()
    finally:
        telling.cancel()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _tell_of_wait(within: float) -> None:
    log.warning(
        f"This ledger is not founded yet: no gateway or scheduler ran; trying for {within:g} s",
        action="ledger_awaited",
    )


async def _first_fact(ledger: "Ledger") -> LedgerFounded | None:
    recorded = await ledger.last_fact(FOUNDING)
    if recorded is None:
        return None
    assert isinstance(recorded.fact, LedgerFounded)  # no other kind has this subject
    return recorded.fact


async def _write_first_facts(ledger: "Ledger", secret: bytes, now: float) -> LedgerFounded:
    """The founding batch, or what somebody else founded at the same time."""
    # Imported here: only a founder needs the default records.
    from domain.defaults import default_facts

    id = secrets.token_hex(12)
    first = LedgerFounded(at=now, actor=SYSTEM, ledger=id, fingerprint=fingerprint(secret))
    facts: list[Fact] = [first, *default_facts(now, SYSTEM)]
    named = [(f"{id}-{number}", fact) for number, fact in enumerate(facts)]
    try:
        await ledger.append_all(named, expect={subject_of(fact): 0 for fact in facts})
    except WrongSequence:
        log.info("Somebody else founded the ledger", action="founding_lost")
    else:
        log.info("Founded the ledger", action="founded", ledger=id)
    founded = await _first_fact(ledger)
    if founded is None:
        raise StartupError("The ledger has lost its first fact.")
    return founded


async def _record_admin_key(ledger: "Ledger", data_dir: Path, secret: bytes, now: float) -> None:
    """The key of DIR/admin.key, unless this ledger had its first key already."""
    if await ledger.last_sequence(access_subject(ADMIN_KEY_ID)):
        return
    file = data_dir / ADMIN_KEY_FILE
    try:
        fresh = secrets.token_urlsafe(32)
        made = write_private(file, fresh.encode() + b"\n", replace=False)
        plain = file.read_text().strip()
    except OSError as error:
        raise StartupError(f"{file} cannot be written: {error.strerror or error}.") from error
    fact = AccessCreated(
        at=now,
        actor=SYSTEM,
        type="api_key",
        id=ADMIN_KEY_ID,
        record={
            "id": ADMIN_KEY_ID,
            "title": "First admin key",
            "description": f"Written to {ADMIN_KEY_FILE} in the data directory at the first start.",
            "active": 1,
            "privileges": {"admin": True},
            "roles": [],
            "key": hash_api_key(secret, plain),
            "mask": mask_of(plain),
            "username": "admin",
            "created": int(now),
            "modified": int(now),
            "revision": 1,
        },
    )
    try:
        await ledger.append(fact, id=f"admin-key-{secrets.token_hex(8)}", expect=0)
    except WrongSequence:
        # Another machine recorded its own; a key made here in vain must not look valid.
        if made and not await _is_recorded(ledger, hash_api_key(secret, plain)):
            file.unlink(missing_ok=True)


async def _check_keys_of_secrets(ledger: "Ledger", vault: Vault, now: float) -> None:
    """The key in force is there; if none is yet, the newest one here is from now on."""
    subject = catalog_subject("secret", KEYS_ID)
    if not await ledger.last_sequence(subject):
        record = key_record(vault.keys[0], SYSTEM, now, None)
        first = CatalogCreated(at=now, actor=SYSTEM, type="secret", id=KEYS_ID, record=record)
        with contextlib.suppress(WrongSequence):
            await ledger.append(first, id=f"secret-keys-{secrets.token_hex(8)}", expect=0)
    recorded = await ledger.last_fact(subject)
    fact = recorded.fact if recorded else None
    if isinstance(fact, CatalogCreated | CatalogUpdated) and not vault.has(fact.record["key"]):
        raise WrongSecret(
            f"The key of secrets that this ledger uses is not in {vault.file}: "
            "copy the file from the first machine."
        )


async def _is_recorded(ledger: "Ledger", key: str) -> bool:
    recorded = await ledger.last_fact(access_subject(ADMIN_KEY_ID))
    return (
        recorded is not None
        and isinstance(recorded.fact, AccessCreated)
        and recorded.fact.record.get("key") == key
    )
