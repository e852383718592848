"""One real nats-server for the whole run on a port of its own, and a fresh ledger per test."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.errors import LedgerUnavailable
from services.ledger.streams import ensure_streams
from tests.services.wire import Cable

# The server removes a deleted stream's files after it has answered (seconds).
STORE_GONE_WITHIN = 10.0


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedNats]:
    """The server that tests share; those that kill a server start their own."""
    server = EmbeddedNats(tmp_path_factory.mktemp("nats"))
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def ledger(nats_server: EmbeddedNats) -> AsyncIterator[Ledger]:
    """A connection to an empty ledger with all its streams."""
    async with Ledger.open(nats_server.url, name="test") as opened:
        await empty(opened)
        yield opened


@pytest.fixture
async def cable(ledger: Ledger, nats_server: EmbeddedNats) -> AsyncIterator[Cable]:
    """A cable to the server of the (fresh) ledger."""
    cable = Cable(nats_server.url)
    await cable.plug()
    yield cable
    await cable.cut()


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[EmbeddedNats]:
    """A server of one test's own, to be killed at will."""
    server = EmbeddedNats(tmp_path / "own")
    await server.start()
    yield server
    await server.stop()


async def empty(ledger: Ledger) -> None:
    """Make all streams anew."""
    for name in ("LEDGER", "CHUNKS", "SNAPSHOTS"):
        await ledger.api(f"STREAM.DELETE.{name}")
    ledger.highest = 0
    async with asyncio.timeout(STORE_GONE_WITHIN):
        while True:
            try:
                return await ensure_streams(ledger)
            except LedgerUnavailable as error:  # the old store's files are still being removed
                if "creating store" not in str(error):
                    raise
