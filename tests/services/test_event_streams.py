"""Streams end when they are over, when their client is gone, and when it takes nothing."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from services.gateway import patience, sse
from services.gateway.patience import Patience
from services.gateway.replies import AT_ONCE
from services.gateway.sse import EventStream, Last


class Told:
    """The events of a stream, and whether it was let go of."""

    def __init__(self) -> None:
        self.closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            yield b"second"
            yield Last(b"third")
        finally:
            self.closed = True


async def streamed(told: Told, send: Any, left: Callable[[], bool]) -> None:
    scope: Any = {"type": "http", "method": "GET", "extensions": {AT_ONCE: {"left": left}}}
    receive: Any = None
    async with asyncio.timeout(5):
        await EventStream(told.events(), "job j1", Patience())(scope, receive, send)


async def test_the_last_events_end_the_stream() -> None:
    told, sent = Told(), []

    async def send(message: Any) -> None:
        sent.append(message)

    await streamed(told, send, lambda: False)
    assert [part["body"] for part in sent[1:]] == [b"first", b"second", b"third"]
    assert [part["more_body"] for part in sent[1:]] == [True, True, False]
    assert told.closed


async def test_a_client_that_left_is_told_nothing_more() -> None:
    told, sent = Told(), []

    async def send(message: Any) -> None:
        sent.append(message)

    await streamed(told, send, lambda: len(sent) == 2)
    assert [part["body"] for part in sent[1:]] == [b"first"]
    assert told.closed


async def test_a_client_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LOOK", 0.01)
    monkeypatch.setattr(sse, "PATIENCE", 0.01)
    told, asked = Told(), []

    async def send(message: Any) -> None:
        asked.append(message)
        if "body" in message:
            await asyncio.Event().wait()

    await streamed(told, send, lambda: False)
    assert [part.get("body") for part in asked] == [None, b"first"]
    assert told.closed
