"""Who leads is told to those who would take over (services/scheduler/leadership.py)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.ledger import live
from services.ledger.connection import Ledger
from services.scheduler import leadership
from services.scheduler.leadership import Leadership
from tests.services.wire import until

NEWCOMER = {"instance": "newcomer", "term": 0, "leading": False}


@pytest.fixture
async def leader(ledger: Ledger) -> Leadership:
    """A scheduler that leads, and has heard of no other."""
    leader = Leadership(ledger, "leader", lambda: 1.0)
    await leader.win()
    return leader


@asynccontextmanager
async def announcing(leader: Leadership) -> AsyncIterator[list[dict[str, Any]]]:
    """What the leader announces during the block, from its first announcement on."""
    said: list[dict[str, Any]] = []

    async def hear(message: dict[str, Any]) -> None:
        said.append(message)

    listening = await live.listen(leader.ledger, "live.scheduler", hear)
    await leader.ledger.nc.flush()
    telling = asyncio.create_task(leader.announce())
    try:
        await until(lambda: bool(said), "nothing was announced")
        yield said
    finally:
        telling.cancel()
        await listening.unsubscribe()


async def test_a_newcomer_hears_at_once_that_somebody_leads(
    leader: Leadership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "ANNOUNCE_ALONE", 60.0)
    async with announcing(leader) as said:
        leader.hear(NEWCOMER)
        await until(lambda: len(said) > 1, "the newcomer was told nothing", within=0.4)
    assert all(message["leading"] for message in said)


async def test_whoever_has_company_is_heard_often_enough_for_the_shortest_patience(
    leader: Leadership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leadership, "ANNOUNCE_ALONE", 60.0)
    leader.hear(NEWCOMER)
    async with announcing(leader) as said:
        await until(lambda: len(said) > 3, "a standby lost patience", leadership.PATIENCE[0] + 0.5)


async def test_the_own_announcement_is_no_company(
    leader: Leadership, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a leader would keep itself awake."""
    monkeypatch.setattr(leadership, "ANNOUNCE_EVERY", 0.01)
    monkeypatch.setattr(leadership, "ANNOUNCE_ALONE", 60.0)
    async with announcing(leader) as said:
        leader.hear(said[0])
        for _ in range(3):  # what it would say, and what comes back of it
            await leader.ledger.nc.flush()
    assert len(said) == 1
