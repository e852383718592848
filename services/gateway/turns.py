"""Taking turns: who does something to the same thing within this gateway waits for the others.

Turns only save work: what makes a change safe is the guard with which it is recorded. So
whoever has waited long enough goes on without one. Knows nothing of what is done.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Turns:
    """Turns by name; a name is kept only while somebody has its turn or waits for it."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    def __len__(self) -> int:
        """How many names somebody is interested in."""
        return len(self._turns)

    @asynccontextmanager
    async def of(self, name: str, within: float | None = None) -> AsyncIterator[bool]:
        """Those who use the same name, one after the other; gives whether there was a wait.

        After `within` seconds nobody is waited for any longer.
        """
        turn = self._turns.setdefault(name, _Turn())
        turn.users += 1
        try:
            waits = turn.lock.locked()
            mine = await _acquired(turn.lock, within) if waits else await turn.lock.acquire()
            try:
                yield waits
            finally:
                if mine:
                    turn.lock.release()
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[name]


async def _acquired(lock: asyncio.Lock, within: float | None) -> bool:
    try:
        async with asyncio.timeout(within):
            return await lock.acquire()
    except TimeoutError:
        return False
