"""Uploaded files: from the request into CHUNKS, and what a job's record says of them (data.md 7).

The bytes of one upload stand on `chunks.upload.ID`, and after them, as a note there, its
record: so any gateway finds a file by the id in its path, without an index. Uploads expire
after 30 days. A file's name is data: directories, control characters and leading dots are
taken off.
"""

import re
import secrets
from typing import TYPE_CHECKING

from domain.facts import Json
from services import logs
from services.gateway.params import Upload
from services.ledger import chunks as stored
from services.ledger.errors import LedgerUnavailable

if TYPE_CHECKING:
    from services.gateway.body import Chunks
    from services.gateway.gateway import Gateway

# How long an upload is kept, in seconds (execution.md 14).
EXPIRES = 30 * 86400
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URL_UNSAFE = re.compile(r"[^\w.\-]+", re.ASCII)
_UPLOAD = re.compile(r"files/uploads/([a-z0-9]+)/[\w\-]+/[^/]+", re.ASCII)
_LONGEST_NAME = 200

log = logs.logger("uploads")


async def store_upload(
    gateway: "Gateway", field: str, filename: str, content_type: str, parts: "Chunks"
) -> Upload:
    """Keep one uploaded file."""
    id = gateway.new_id("f", gateway.clock())
    blob = await stored.write_chunks(gateway.ledger, _subject(id), parts, ttl=EXPIRES)
    return Upload(id, field, clean_name(filename), content_type, blob)


async def publish(gateway: "Gateway", upload: Upload, owner: str, now: float) -> Json:
    """Make the file reachable under its path; its record, with the place of its bytes."""
    record = file_record(upload, owner, now)
    await stored.write_note(gateway.ledger, _subject(upload.id), record, ttl=EXPIRES)
    return record


async def find_upload(gateway: "Gateway", path: str) -> Json | None:
    """The record of the upload with this path, with the place of its bytes; None if it is gone."""
    named = _UPLOAD.fullmatch(path)
    record = await stored.read_note(gateway.ledger, _subject(named[1])) if named else None
    if record is None:
        return None
    return record if secrets.compare_digest(record["path"].encode(), path.encode()) else None


async def discard(gateway: "Gateway", uploads: list[Upload]) -> None:
    """Delete uploads that nothing refers to; what fails expires."""
    for upload in uploads:
        try:
            await stored.purge_chunks(gateway.ledger, _subject(upload.id))
        except LedgerUnavailable as error:
            log.warning("An upload was left", action="upload_left", reason=str(error))


def file_record(upload: Upload, owner: str, now: float) -> Json:
    """The File of the wire, with the place of its bytes for whoever fetches it."""
    name = _URL_UNSAFE.sub("_", upload.filename)
    return {
        "id": upload.id,
        "date": int(now),
        "filename": upload.filename,
        "path": f"files/uploads/{upload.id}/{secrets.token_urlsafe(32)}/{name}",
        "size": upload.blob.size,
        "username": owner,
        "blob": upload.blob.model_dump(),
    }


def clean_name(filename: str) -> str:
    """A file's name without directories, control characters and leading dots."""
    base = re.split(r"[/\\]", filename)[-1]
    return _CONTROL.sub("", base).lstrip(".").strip()[:_LONGEST_NAME]


def _subject(id: str) -> str:
    return f"chunks.upload.{id}"
