"""Uploaded files: from the request into CHUNKS, and what a job's record says of them (data.md 7).

A file's name is data: directories, control characters and leading dots are taken off.
"""

import re
import secrets
from typing import TYPE_CHECKING

from domain.facts import Json
from services.gateway.params import Upload
from services.ledger.chunks import write_chunks

if TYPE_CHECKING:
    from services.gateway.body import Chunks
    from services.gateway.gateway import Gateway

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_URL_UNSAFE = re.compile(r"[^\w.\-]+", re.ASCII)
_LONGEST_NAME = 200


async def store_upload(
    gateway: "Gateway", field: str, filename: str, content_type: str, chunks: "Chunks"
) -> Upload:
    """Keep one uploaded file."""
    id = gateway.new_id("f", gateway.clock())
    blob = await write_chunks(gateway.ledger, f"chunks.upload.{id}", chunks)
    return Upload(id, field, clean_name(filename), content_type, blob)


def file_record(upload: Upload, owner: str, now: float) -> Json:
    """The File of the wire, with the place of its bytes for whoever fetches it."""
    name = _URL_UNSAFE.sub("_", upload.filename)
    return {
        "id": upload.id,
        "date": int(now),
        "filename": upload.filename,
        "path": f"files/{owner}/{secrets.token_urlsafe(24)}/{name}",
        "size": upload.blob.size,
        "username": owner,
        "blob": upload.blob.model_dump(),
    }


def clean_name(filename: str) -> str:
    """A file's name without directories, control characters and leading dots."""
    base = re.split(r"[/\\]", filename)[-1]
    return _CONTROL.sub("", base).lstrip(".").strip()[:_LONGEST_NAME]
