"""NATS killed, stopped and frozen: what is acknowledged stays, what follows goes on."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from domain.facts import Recorded
from services.ledger.authority import Authority
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.errors import LedgerUnavailable, OutcomeUnknown
from services.ledger.reader import Follower
from services.ledger.streams import ensure_streams
from tests.services.wire import abort, following, tick, until


def kill(server: EmbeddedNats) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)


async def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(own_server: EmbeddedNats) -> None:
    """Writers go on across three kills; a follower sees each fact exactly once."""
    acknowledged: dict[str, int] = {}
    unknown: set[str] = set()
    stop = asyncio.Event()

    async def keep_writing(ledger: Ledger, writer: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name = f"w{writer}_{number}"
            try:
                acknowledged[name] = await ledger.append(abort(name), id=name)
            except OutcomeUnknown:
                unknown.add(name)

    seen: list[Recorded] = []
    async with (
        Ledger.open(own_server.url, name="writer") as ledger,
        Ledger.open(own_server.url, name="reader") as reader,
    ):
        await ensure_streams(ledger)
        async with following(reader, seen.append) as follower:
            writers = [asyncio.create_task(keep_writing(ledger, n)) for n in range(4)]
            for _ in range(3):
                target = len(acknowledged) + 200
                await until(lambda t=target: len(acknowledged) > t, "the writers stand still")  # type: ignore[misc]
                kill(own_server)
                await own_server.exited()
                await own_server.start()
            target = len(acknowledged) + 200
            await until(lambda: len(acknowledged) > target, "the writers did not come back")
            stop.set()
            await asyncio.gather(*writers)
            assert await follower.reached(await ledger.end(), 10)

    stored = {r.fact.job: r.sequence for r in seen}  # type: ignore[union-attr]
    assert len(stored) == len(seen), "a fact stands twice"
    assert [r.sequence for r in seen] == sorted(r.sequence for r in seen)
    assert {name: stored.get(name) for name in acknowledged} == acknowledged
    assert set(stored) - set(acknowledged) <= unknown


async def test_a_follower_goes_on_at_once_when_the_server_is_back(
    own_server: EmbeddedNats,
) -> None:
    async with Ledger.open(own_server.url, name="t") as ledger:
        await ensure_streams(ledger)
        seen: list[int] = []
        async with following(ledger, lambda r: seen.append(r.sequence)) as follower:
            assert await follower.reached(await ledger.append(tick(1), id="a"), 5)
            await own_server.stop()
            await own_server.start()
            sequence = await ledger.append(tick(2), id="b")
            assert await follower.reached(sequence, 2), "it waited for the watchdog"
            async with asyncio.timeout(2):
                await follower.caught_up.wait()
        assert seen == [1, 2]


async def test_a_frozen_server_is_waited_for_and_then_written_once(
    own_server: EmbeddedNats,
) -> None:
    async with Ledger.open(own_server.url, name="t") as ledger:
        await ensure_streams(ledger)
        assert own_server.pid is not None
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            write = asyncio.create_task(ledger.append(tick(1), id="a"))
            _, pending = await asyncio.wait([write], timeout=2.5)
            assert pending, "a frozen server cannot have answered"
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        assert await write == 1
        assert await ledger.end() == 1


async def test_a_server_that_starts_late_is_waited_for(tmp_path: Path) -> None:
    server = EmbeddedNats(tmp_path)

    async def use() -> bool:
        async with Ledger.open(server.url, name="early", wait=10) as ledger:
            return ledger.connected

    early = asyncio.create_task(use())
    await asyncio.sleep(0)
    await server.start()
    try:
        assert await early
    finally:
        await server.stop()


async def test_a_server_that_never_comes_ends_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match=r"^No NATS .* 127\.0\.0\.1:\d+ .*refused"):
        async with Ledger.open(EmbeddedNats(tmp_path).url, name="t", wait=0.5):
            pass


async def test_wrong_credentials_are_told_at_once(nats_server: EmbeddedNats) -> None:
    wrong = Authority.new().signer.login("owner").url(nats_server.setup.address)
    with pytest.raises(LedgerUnavailable, match="refused the credentials"):
        async with Ledger.open(wrong, name="t", wait=5):
            pass


async def test_a_follower_without_streams_waits_for_them(own_server: EmbeddedNats) -> None:
    async with Ledger.open(own_server.url, name="t") as ledger:
        follower = Follower(ledger, lambda _: None, after=0)
        task = asyncio.create_task(follower.run())
        await ensure_streams(ledger)
        assert await follower.reached(await ledger.append(tick(1), id="a"), 5)
        task.cancel()


async def test_listeners_hear_again_after_a_restart(own_server: EmbeddedNats) -> None:
    from services.ledger import live

    async with Ledger.open(own_server.url, name="t") as ledger:
        heard = asyncio.Event()

        async def hear(_: dict[str, object]) -> None:
            heard.set()

        await live.listen(ledger, "live.test", hear)
        back = asyncio.Event()
        ledger.on_reconnect.append(back.set)
        kill(own_server)
        await own_server.exited()
        await own_server.start()
        async with asyncio.timeout(5):
            await back.wait()
            assert live.publish(ledger, "live.test", {})
            await heard.wait()
