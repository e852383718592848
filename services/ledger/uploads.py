"""Files given to a job: their bytes in CHUNKS, and the record that finds them (data.md 7).

The bytes of one upload stand on `chunks.upload.ID`, and after them, as a note there, its
record: so whoever knows its path finds a file by the id in it, without an index. Uploads expire
after 30 days. A file's name is data: directories, control characters and leading dots are
taken off. Knows neither requests nor where the bytes come from.
"""

import re
import secrets
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING

from domain.facts import Blob, Json, to_plain
from services import logs
from services.ledger import chunks
from services.ledger.errors import LedgerUnavailable

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

# How long an upload is kept, in seconds (execution.md 14).
EXPIRES = 30 * 86400
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URL_UNSAFE = re.compile(r"[^\w.\-]+", re.ASCII)
_UPLOAD = re.compile(r"files/uploads/([a-z0-9]+)/[\w\-]+/[^/]+", re.ASCII)
_LONGEST_NAME = 200

log = logs.logger("uploads")


async def store(ledger: "Ledger", id: str, parts: AsyncIterable[bytes] | Iterable[bytes]) -> Blob:
    """Keep the bytes of one upload; raises LedgerUnavailable."""
    return await chunks.write_chunks(ledger, _subject(id), parts, ttl=EXPIRES)


async def publish(ledger: "Ledger", record: Json) -> None:
    """Make a stored file reachable under its record's path; raises LedgerUnavailable."""
    await chunks.write_note(ledger, _subject(record["id"]), record, ttl=EXPIRES)


async def find(ledger: "Ledger", path: str) -> Json | None:
    """The record of the upload with this path, with the place of its bytes; None if it is gone."""
    named = _UPLOAD.fullmatch(path)
    record = await chunks.read_note(ledger, _subject(named[1])) if named else None
    if record is None:
        return None
    return record if secrets.compare_digest(record["path"].encode(), path.encode()) else None


async def discard(ledger: "Ledger", ids: Iterable[str]) -> None:
    """Delete uploads that nothing refers to; what fails expires."""
    for id in ids:
        try:
            await chunks.purge_chunks(ledger, _subject(id))
        except LedgerUnavailable as error:
            log.warning("An upload was left", action="upload_left", reason=str(error))


def file_record(
    id: str, filename: str, blob: Blob, *, owner: str, now: float, job: str | None = None
) -> Json:
    """The File of the wire, with the place of its bytes for whoever fetches it.

    `filename` is a clean one; `now` is in Unix seconds. `job` is the job that the file is uploaded
    with, and is erased with; without one it only expires.
    """
    name = _URL_UNSAFE.sub("_", filename)
    record: Json = {
        "id": id,
        "date": int(now),
        "filename": filename,
        "path": f"files/uploads/{id}/{secrets.token_urlsafe(32)}/{name}",
        "size": blob.size,
        "username": owner,
        "blob": to_plain(blob),
    }
    return record if job is None else record | {"job": job}


def clean_name(filename: str) -> str:
    """A file's name without directories, control characters and leading dots."""
    base = re.split(r"[/\\]", filename)[-1]
    return _CONTROL.sub("", base).lstrip(".").strip()[:_LONGEST_NAME]


def _subject(id: str) -> str:
    return f"chunks.upload.{id}"
