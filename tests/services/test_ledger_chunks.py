"""Large bytes come back as they went in."""

import os
from collections.abc import AsyncIterator

import pytest
from msgspec import structs

from domain.facts import Blob
from services.ledger.chunks import CHUNK, purge_chunks, read_chunks, read_range, write_chunks
from services.ledger.connection import Ledger
from services.ledger.errors import ChunksMissing

SUBJECT = "chunks.s1.j1"


async def whole(ledger: Ledger, blob: Blob) -> bytes:
    return b"".join([part async for part in read_chunks(ledger, blob)])


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 7 * CHUNK + 12345])
async def test_a_round_trip(ledger: Ledger, size: int) -> None:
    content = os.urandom(size)
    parts = [content[at : at + 70_001] for at in range(0, size, 70_001)]
    blob = await write_chunks(ledger, SUBJECT, parts)

    assert blob.size == size
    assert len(blob.sequences) == -(-size // CHUNK)
    assert await whole(ledger, blob) == content


async def test_an_asynchronous_source_is_read_as_well(ledger: Ledger) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for letter in b"abc":
            yield bytes([letter]) * CHUNK

    blob = await write_chunks(ledger, SUBJECT, parts())
    assert await whole(ledger, blob) == b"a" * CHUNK + b"b" * CHUNK + b"c" * CHUNK


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 10), (CHUNK - 5, 10), (CHUNK, CHUNK), (5, 3 * CHUNK), (3 * CHUNK, 99), (0, 0)],
)
async def test_a_part_can_be_read_alone(ledger: Ledger, offset: int, length: int) -> None:
    content = os.urandom(3 * CHUNK + 17)
    blob = await write_chunks(ledger, SUBJECT, [content])
    part = b"".join([p async for p in read_range(ledger, blob, offset, length)])
    assert part == content[offset : offset + length]


async def test_purging_one_job_leaves_the_others(ledger: Ledger) -> None:
    gone = await write_chunks(ledger, SUBJECT, [b"x" * 100])
    kept = await write_chunks(ledger, "chunks.s1.j2", [b"y" * 100])
    await purge_chunks(ledger, SUBJECT)

    assert await whole(ledger, kept) == b"y" * 100
    with pytest.raises(ChunksMissing, match="is gone"):
        await whole(ledger, gone)


async def test_other_bytes_than_were_written_are_noticed(ledger: Ledger) -> None:
    first = await write_chunks(ledger, SUBJECT, [b"x" * 100])
    second = await write_chunks(ledger, SUBJECT, [b"y" * 100])
    swapped = structs.replace(first, sequences=second.sequences)
    with pytest.raises(ChunksMissing, match="not those that were written"):
        await whole(ledger, swapped)


async def test_a_damaged_message_is_noticed(ledger: Ledger) -> None:
    blob = await write_chunks(ledger, SUBJECT, [b"x"])
    await ledger.request(SUBJECT, b"no zstd")
    damaged = structs.replace(blob, sequences=[blob.sequences[0] + 1])
    with pytest.raises(ChunksMissing, match="is damaged"):
        await whole(ledger, damaged)
