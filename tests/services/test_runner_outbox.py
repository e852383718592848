"""Reports on their way: what is held back goes when it may, and after a moment in any case."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.ledger.connection import Ledger
from services.runner import outbox as boxes
from services.runner.outbox import Outbox
from tests.services.wire import everything, tick

MANY = 20


@pytest.fixture
async def outbox(ledger: Ledger) -> AsyncIterator[Outbox]:
    """One that delivers to an empty ledger."""
    outbox = Outbox(ledger)
    task = asyncio.create_task(outbox.run())
    await asyncio.sleep(0)
    yield outbox
    task.cancel()


def put(outbox: Outbox, count: int = MANY) -> list[int]:
    """So many reports, each of another job; those that were delivered, in order."""
    delivered: list[int] = []
    for number in range(count):
        outbox.put(number, f"r{number}", tick(number), lambda n=number: delivered.append(n))
    return delivered


async def test_what_is_held_goes_when_it_is_released(
    outbox: Outbox, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "HELD", 60.0)
    outbox.hold()
    delivered = put(outbox)
    assert await ledger.end() == 0

    outbox.hold()  # once more: that changes nothing
    outbox.release()

    assert await outbox.emptied(5)
    assert delivered == list(range(MANY))
    assert [r.fact for r in await everything(ledger)] == [tick(n) for n in range(MANY)]


async def test_nothing_is_held_for_long(outbox: Outbox) -> None:
    outbox.hold()
    delivered = put(outbox)

    assert await outbox.emptied(5)
    assert delivered == list(range(MANY))


async def test_what_comes_after_a_release_is_not_held(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "HELD", 60.0)
    outbox.hold()
    outbox.release()
    put(outbox, 1)

    assert await outbox.emptied(5)
