"""The streams are made once and checked at every start."""

import asyncio

import pytest

from services.ledger import streams
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.errors import LedgerUnavailable, StreamMismatch
from services.ledger.streams import ensure_streams
from tests.services.wire import tick


async def test_a_second_start_changes_nothing(ledger: Ledger) -> None:
    await ledger.append(tick(), id="a")
    await ensure_streams(ledger)
    assert await ledger.end() == 1
    assert ledger.replicas == 1


async def test_many_may_start_at_once(ledger: Ledger, nats_server: EmbeddedNats) -> None:
    for name in ("LEDGER", "CHUNKS", "SNAPSHOTS"):
        await ledger.api(f"STREAM.DELETE.{name}")
    await asyncio.gather(*(ensure_streams(ledger) for _ in range(5)))
    assert await ledger.append(tick(), id="a") == 1


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("LEDGER", {"max_age": 3600 * 10**9}, "max_age"),
        ("LEDGER", {"republish": None}, "republish"),
        ("LEDGER", {"allow_atomic": False}, "allow_atomic"),
        ("CHUNKS", {"max_bytes": 1_000_000}, "max_bytes"),
    ],
)
async def test_another_setting_is_told_in_one_sentence(
    ledger: Ledger, name: str, change: dict[str, object], text: str
) -> None:
    wanted = next(config for config in streams.settings(1) if config["name"] == name)
    await ledger.api(f"STREAM.DELETE.{name}")
    answer = await ledger.api(f"STREAM.CREATE.{name}", wanted | change)
    assert "error" not in answer

    with pytest.raises(StreamMismatch, match=rf"^The NATS stream {name} has {text} = "):
        await ensure_streams(ledger)


async def test_a_stream_from_which_nothing_can_be_erased_is_refused(ledger: Ledger) -> None:
    await ledger.api("STREAM.DELETE.LEDGER")
    await ledger.api("STREAM.CREATE.LEDGER", streams.settings(1)[0] | {"deny_delete": True})
    with pytest.raises(StreamMismatch, match="deny_delete"):
        await ensure_streams(ledger)


async def test_without_streams_a_write_fails_in_one_sentence(ledger: Ledger) -> None:
    from services.ledger import append as appending

    await ledger.api("STREAM.DELETE.LEDGER")
    with pytest.raises(LedgerUnavailable, match="nothing was stored"):
        await appending.append(ledger, tick(), id="a", patience=0.3)
    with pytest.raises(LedgerUnavailable, match="stream is missing"):
        await ledger.end()
