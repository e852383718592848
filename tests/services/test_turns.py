"""Taking turns: one after the other, nobody left behind, nothing remembered."""

import asyncio

from services.gateway.turns import Turns


async def test_a_turn_is_not_awaited_for_ever_and_forgotten_when_it_is_over() -> None:
    turns = Turns()
    async with turns.of("backup") as waited:
        assert not waited
        async with turns.of("backup", within=0.01) as waited, turns.of("other"):
            assert waited
            assert len(turns) == 2
    assert len(turns) == 0


async def test_whoever_leaves_the_queue_holds_up_nobody() -> None:
    """A client that goes away while it waits for its turn, or has just got it."""
    turns, order = Turns(), []

    async def take(name: str) -> None:
        async with turns.of("backup"):
            order.append(name)

    async with asyncio.timeout(5):
        async with turns.of("backup"):
            tasks = [asyncio.create_task(take(name)) for name in ("first", "second", "third")]
            await asyncio.sleep(0)
            tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.wait(tasks)
    assert order == ["third"]
    assert len(turns) == 0
