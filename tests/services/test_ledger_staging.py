"""Batches that nats-server collects in memory: the link, whatever nats-server does to it."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.staging import Staging, is_possible
from services.ledger.streams import ensure_streams
from tests.services.wire import abort, everything

pytestmark = pytest.mark.skipif(not is_possible(), reason="no room in /dev/shm")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where `own_server` keeps everything."""
    return tmp_path / "own" / "nats"


@pytest.fixture
async def staging(own_server: EmbeddedNats, home: Path) -> AsyncIterator[Staging]:
    """What sees to the link of a server with all its streams."""
    async with Ledger.open(own_server.url, name="test") as ledger:
        await ensure_streams(ledger)
    staging = Staging(home)
    yield staging
    staging.remove()


def link(home: Path) -> Path:
    """Where nats-server collects batches."""
    (stream,) = home.glob("store/jetstream/*/streams/LEDGER")
    return stream / "batches"


async def write(server: EmbeddedNats, tag: str) -> None:
    """A batch."""
    async with Ledger.open(server.url, name="test") as ledger:
        await ledger.append_all([(f"{tag}{n}", abort(f"{tag}{n}")) for n in range(10)])


async def test_batches_are_collected_in_memory(
    own_server: EmbeddedNats, staging: Staging, home: Path
) -> None:
    await write(own_server, "before")  # nats-server has made a directory
    staging.look()
    await write(own_server, "a")

    memory = link(home).readlink()
    assert memory.parent == Path("/dev/shm")
    assert memory.stat().st_mode & 0o777 == 0o700
    assert list(memory.iterdir()) == []


async def test_what_was_stored_outlives_a_kill(
    own_server: EmbeddedNats, staging: Staging, home: Path
) -> None:
    """And the link is made anew, to the same place, after each start."""
    staging.look()
    memory = link(home).readlink()
    await write(own_server, "a")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGKILL)
    await own_server.exited()
    await own_server.start()

    Staging(home).look()
    assert link(home).readlink() == memory
    await write(own_server, "b")
    async with Ledger.open(own_server.url, name="test") as ledger:
        assert len(await everything(ledger)) == 20


async def test_a_batch_that_is_being_collected_is_left_alone(
    own_server: EmbeddedNats, staging: Staging, home: Path
) -> None:
    async with Ledger.open(own_server.url, name="test") as ledger:
        begun = {"Nats-Batch-Id": "begun", "Nats-Batch-Sequence": "1"}
        ledger.publish("facts.job.j1", b"{}", headers=begun)
        await ledger.nc.flush()
        staging.look()
        assert not link(home).is_symlink()

        ended = {"Nats-Batch-Id": "begun", "Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
        reply = await ledger.request("facts.job.j2", b"{}", headers=ended)
        assert b'"count":2' in reply.data
        staging.look()
        assert link(home).is_symlink()


async def test_a_place_that_is_not_in_memory_is_neither_used_nor_removed(
    own_server: EmbeddedNats, staging: Staging, home: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / "staging").symlink_to(elsewhere)

    staging.remove()
    staging.look()

    assert elsewhere.is_dir()
    assert link(home).readlink() != elsewhere


async def test_in_the_end_nothing_is_left(
    own_server: EmbeddedNats, staging: Staging, home: Path
) -> None:
    staging.look()
    memory = link(home).readlink()
    await own_server.stop()
    staging.remove()

    assert not memory.exists()
    assert not (home / "staging").is_symlink()
