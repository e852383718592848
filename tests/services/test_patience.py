"""Calls that take too long are given up, others are left alone."""

import asyncio

import pytest

from services.gateway import patience
from services.gateway.patience import GivenUp, Patience


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LOOK", 0.01)


async def test_what_takes_too_long_is_cancelled_and_given_up() -> None:
    gave_up = Patience()
    cancelled = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with asyncio.timeout(5):
        with pytest.raises(GivenUp):
            await gave_up.wait(endless(), 0.01)
    assert cancelled.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_what_comes_in_time_is_returned_also_next_to_what_does_not() -> None:
    gave_up, go = Patience(), asyncio.Event()

    async def good() -> str:
        await go.wait()
        return "done"

    async with asyncio.timeout(5):
        patient = asyncio.create_task(gave_up.wait(good(), 60))
        with pytest.raises(GivenUp):
            await gave_up.wait(asyncio.Event().wait(), 0)
        go.set()
        assert await patient == "done"


async def test_a_caller_that_is_cancelled_stays_cancelled() -> None:
    """The same moment may be that of both: whoever ends the task is obeyed."""
    gave_up, begun = Patience(), asyncio.Event()

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(5):
        task = asyncio.create_task(gave_up.wait(endless(), 60))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
