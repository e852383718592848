"""What the leader does beside deciding about jobs: seal the audit chain, erase what must go.

Both run off the deciding loop and only while this scheduler leads. What they want recorded goes
through the outbox into the leader's rounds, under the fence of its term. Knows nothing of jobs.
"""

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog
from msgspec.structs import replace

from domain import facts as f
from domain.facts import Recorded
from projections.active_jobs import ActiveJobs
from services.ledger.connection import Ledger
from services.ledger.errors import LedgerError
from services.scheduler.erasing import Eraser
from services.scheduler.sealing import Sealing
from services.settings import Settings

# Of a round of decisions, upkeep takes at most this many: jobs come first.
SHARE = 100
# After a failure the part that failed begins again; a lost connection mends in less.
AGAIN_AFTER = 5.0

log = structlog.get_logger()


class Outbox:
    """Facts on their way into a round of the leader; `wake` makes the next round begin."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._facts: deque[tuple[str, f.Fact]] = deque()
        self._waiting: dict[str, asyncio.Future[int]] = {}
        self._origin = secrets.token_hex(6)
        self._numbers = itertools.count()

    async def record(self, facts: Sequence[f.Fact]) -> list[int]:
        """Have these facts recorded; their sequences, once they were read back."""
        futures = []
        for fact in facts:
            id = f"upkeep-{self._origin}-{next(self._numbers)}"
            future = asyncio.get_running_loop().create_future()
            self._waiting[id] = future
            self._facts.append((id, replace(fact, cause=id)))
            futures.append(future)
        self._wake()
        return list(await asyncio.gather(*futures))

    def take(self, limit: int) -> list[tuple[str, f.Fact]]:
        """The next facts for a round."""
        return [self._facts.popleft() for _ in range(min(limit, len(self._facts)))]

    def note(self, recorded: Recorded) -> None:
        """A fact was read back."""
        if not self._waiting:
            return
        future = self._waiting.pop(str(recorded.fact.cause), None)
        if future is not None and not future.done():
            future.set_result(recorded.sequence)

    def clear(self) -> None:
        """Forget everything: whoever waited for it is gone."""
        self._facts.clear()
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()


class Upkeep:
    """The leader's background work. Times are Unix seconds; `end` is the last sequence read."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        jobs: ActiveJobs,
        secret: bytes,
        *,
        clock: Callable[[], float],
        end: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self.outbox = Outbox(wake)
        self.sealing = Sealing(ledger, secret, self.outbox.record, clock, end)
        self.eraser = Eraser(settings, ledger, jobs, self.sealing, self.outbox.record, clock, end)
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, actor: f.Actor) -> None:
        """A term begins, or goes on after an append of unknown outcome: start anew."""
        self.end()
        self.sealing.actor = self.eraser.actor = actor
        for name, run in (("sealing", self.sealing.run), ("erasing", self.eraser.run)):
            self._tasks.append(asyncio.create_task(_again_and_again(name, run), name=name))

    def end(self) -> None:
        """This scheduler leads no longer."""
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self.outbox.clear()

    def decisions(self, room: int) -> list[tuple[str, f.Fact]]:
        """What goes into this round."""
        return self.outbox.take(max(0, min(SHARE, room)))

    def note(self, recorded: Recorded) -> None:
        """One more fact was read."""
        self.outbox.note(recorded)
        self.sealing.note(recorded)
        self.eraser.note(recorded)


async def _again_and_again(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run until cancelled, whatever happens: upkeep must not end the leader's term."""
    while True:
        try:
            await run()
        except LedgerError as error:
            log.warning(str(error), action="upkeep_waits", part=name)
        except Exception:
            log.exception("upkeep failed", action="upkeep_failed", part=name)
        await asyncio.sleep(AGAIN_AFTER)
