"""Large bytes on the stream CHUNKS: logs, files, and values too large for a fact.

A blob is a list of messages on one subject (`chunks.<server>.<job>`, `chunks.upload.<file>`),
each at most 512 KB before compression with zstd. A fact holds the list of their sequences; a
purge of the subject deletes them all, those of an interrupted writer included (design.md 8).
"""

import asyncio
import contextlib
import hashlib
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

import zstandard

from domain.facts import Blob, Json
from services.ledger import reading
from services.ledger.errors import ChunksMissing, LedgerUnavailable
from services.ledger.replies import Reply

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

STREAM = "CHUNKS"
CHUNK = 512 * 1024
# Chunks on their way to or from the server at the same time.
IN_FLIGHT = 8
READ_AHEAD = 3
ANSWER_WAIT = 10.0
# Packing this many bytes takes less than handing them to a thread.
PACKED_AT_ONCE = 16 * 1024
# Marks a message that tells of the bytes before it, and is none of them.
NOTE = "Chunks-Note"
# Text becomes no smaller with 3, and takes twice the time.
_LEVEL = 1


async def write_chunks(
    ledger: "Ledger",
    subject: str,
    parts: AsyncIterable[bytes] | Iterable[bytes],
    *,
    ttl: int | None = None,
) -> Blob:
    """Store bytes that come in parts of any size; nothing is kept in memory but a few chunks.

    After `ttl` seconds, if given, NATS deletes them. Raises LedgerUnavailable; what was stored
    until then is an orphan on its subject.
    """
    digest = hashlib.sha256()
    size = 0
    sequences: list[int] = []
    under_way: deque[asyncio.Future[Reply | None]] = deque()
    try:
        async for chunk in _in_chunks(parts):
            size += len(chunk)
            digest.update(chunk)
            small = len(chunk) <= PACKED_AT_ONCE
            packed = _pack(chunk) if small else await asyncio.to_thread(_pack, chunk)
            if len(under_way) == IN_FLIGHT:
                sequences.append(await _stored(ledger, subject, under_way.popleft()))
            under_way.append(ledger.begin(subject, packed, _expiring(ttl)))
        while under_way:
            sequences.append(await _stored(ledger, subject, under_way.popleft()))
    except BaseException:
        if under_way:  # whoever deletes what is left must find all of it
            await asyncio.wait(under_way, timeout=ANSWER_WAIT)
        raise
    return Blob(sequences=sequences, size=size, sha256=digest.hexdigest())


async def write_note(ledger: "Ledger", subject: str, note: Json, *, ttl: int | None = None) -> None:
    """Say something of the bytes on a subject, after them; `ttl` as in `write_chunks`.

    Raises LedgerUnavailable.
    """
    headers = {NOTE: "1"} | (_expiring(ttl) or {})
    data = json.dumps(note, separators=(",", ":")).encode()
    await _stored(ledger, subject, ledger.begin(subject, data, headers))


async def read_note(ledger: "Ledger", subject: str) -> Json | None:
    """The last message on a subject if it is a note; stored bytes are never taken for one."""
    stored = await reading.find(ledger, {"last_by_subj": subject}, STREAM)
    if stored is None or NOTE not in stored.headers:
        return None
    note: Json = json.loads(stored.data)
    return note


async def read_chunks(ledger: "Ledger", blob: Blob) -> AsyncIterator[bytes]:
    """The bytes of a blob, chunk by chunk.

    Raises ChunksMissing if a message is gone (deleted, expired) or the bytes are not those that
    were written, LedgerUnavailable if NATS does not answer.
    """
    digest = hashlib.sha256()
    async with contextlib.aclosing(_in_order(ledger, blob.sequences)) as found:
        async for chunk in found:
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != blob.sha256:
        raise ChunksMissing("The stored bytes are not those that were written.")


async def read_range(
    ledger: "Ledger", blob: Blob, offset: int, length: int
) -> AsyncIterator[bytes]:
    """`length` bytes from `offset` on, reading no chunk but those that hold them.

    Every chunk but the last is full, so the place of a byte is known. Errors as in
    `read_chunks`; the SHA-256 is not checked.
    """
    end = min(offset + length, blob.size)
    first, last = offset // CHUNK, -(-end // CHUNK)
    start = first * CHUNK
    async with contextlib.aclosing(_in_order(ledger, blob.sequences[first:last])) as found:
        async for chunk in found:
            yield chunk[max(offset - start, 0) : end - start]
            start += CHUNK


async def purge_chunks(ledger: "Ledger", subject: str) -> None:
    """Delete everything on this subject (a `>` at its end deletes all below)."""
    request: Json = {"filter": subject}
    reading.checked(await ledger.api(f"STREAM.PURGE.{STREAM}", request))


async def _in_chunks(parts: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of exactly CHUNK, but for the last one; such parts as they are."""
    buffer = bytearray()
    async for part in _each(parts):
        start = 0
        if buffer:
            start = min(CHUNK - len(buffer), len(part))
            buffer += part[:start]
            if len(buffer) == CHUNK:
                yield bytes(buffer)
                buffer.clear()
        while len(part) - start >= CHUNK:
            yield part[start : start + CHUNK]
            start += CHUNK
        buffer += part[start:]
    if buffer:
        yield bytes(buffer)


async def _each(parts: AsyncIterable[bytes] | Iterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(parts, AsyncIterable):
        async for part in parts:
            yield part
    else:
        for part in parts:
            yield part


async def _stored(ledger: "Ledger", subject: str, future: "asyncio.Future[Reply | None]") -> int:
    answer = json.loads((await ledger.answer(future, subject, ANSWER_WAIT)).data)
    if "error" in answer:
        raise LedgerUnavailable(f"NATS refused the bytes: {answer['error'].get('description')}.")
    return int(answer["seq"])


async def _in_order(ledger: "Ledger", sequences: Sequence[int]) -> AsyncGenerator[bytes, None]:
    """These chunks, the next ones under way while one is looked at."""
    under_way: deque[asyncio.Task[bytes]] = deque()
    try:
        for sequence in sequences:
            under_way.append(asyncio.create_task(_chunk(ledger, sequence)))
            if len(under_way) == READ_AHEAD:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()


async def _chunk(ledger: "Ledger", sequence: int) -> bytes:
    stored = await reading.stored_at(ledger, STREAM, sequence)
    if stored is None:
        raise ChunksMissing(f"Message {sequence} of the stored bytes is gone.")
    try:
        return await asyncio.to_thread(_unpack, stored.data)
    except zstandard.ZstdError as error:
        raise ChunksMissing(f"Message {sequence} is damaged: {error}.") from error


def _expiring(ttl: int | None) -> dict[str, str] | None:
    return None if ttl is None else {"Nats-TTL": f"{ttl}s"}


def _pack(chunk: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(chunk)


def _unpack(packed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(packed, max_output_size=CHUNK)
