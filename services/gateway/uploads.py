"""Uploaded files: from the request into CHUNKS, and into what a job's record says of them.

How uploads are kept is the business of `services/ledger/uploads.py`.
"""

from typing import TYPE_CHECKING

from domain.facts import Json
from services.gateway.params import Upload
from services.ledger import uploads

if TYPE_CHECKING:
    from services.gateway.body import Chunks
    from services.gateway.gateway import Gateway


async def store_upload(
    gateway: "Gateway", field: str, filename: str, content_type: str, parts: "Chunks"
) -> Upload:
    """Keep one uploaded file; of one that breaks off nothing is left."""
    id = gateway.new_id("f", gateway.clock())
    try:
        blob = await uploads.store(gateway.ledger, id, parts)
    except BaseException:
        await uploads.discard(gateway.ledger, [id])
        raise
    return Upload(id, field, uploads.clean_name(filename), content_type, blob)


async def publish(
    gateway: "Gateway", upload: Upload, owner: str, now: float, job: str | None
) -> Json:
    """Make the file reachable under its path; its record, with the place of its bytes."""
    record = uploads.file_record(
        upload.id, upload.filename, upload.blob, owner=owner, now=now, job=job
    )
    await uploads.publish(gateway.ledger, record)
    return record


async def discard(gateway: "Gateway", stored: list[Upload]) -> None:
    """Delete uploads that nothing refers to; what fails expires."""
    await uploads.discard(gateway.ledger, [upload.id for upload in stored])
