"""Giving up calls that take too long: one timer for all of them, as nearly none ever does.

A timer of its own for each call would cost more than many a call. Knows nothing of what is done.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

# What takes too long is given up so late at most, in seconds.
LOOK = 1.0

T = TypeVar("T")


class GivenUp(Exception):
    """It took too long."""


class Patience:
    """Of one event loop; at most one call at a time of each task."""

    def __init__(self) -> None:
        self._until: dict[asyncio.Task[Any], float] = {}
        self._given_up: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.TimerHandle | None = None

    async def wait(self, work: Awaitable[T], seconds: float) -> T:
        """The result of `work`, which is cancelled after so many seconds: then GivenUp."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._until[task] = loop.time() + seconds
        if self._looking is None:
            self._looking = loop.call_later(LOOK, self._look)
        try:
            return await work
        except asyncio.CancelledError:
            if task in self._given_up and task.cancelling() == 1:
                raise GivenUp from None
            raise
        finally:
            del self._until[task]
            if task in self._given_up:
                self._given_up.remove(task)
                task.uncancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, until in self._until.items():
            if until <= now and task not in self._given_up:
                self._given_up.add(task)
                task.cancel()
        self._looking = loop.call_later(LOOK, self._look) if self._until else None
