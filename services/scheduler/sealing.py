"""Sealing the audit chain: a keyed hash over all facts since the last seal (domain/audit.py).

Reads the facts' very bytes beside the deciding loop. Nothing is erased before it is sealed, so
that every fact that is gone was sealed when it was there. Knows nothing of what facts mean.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from domain import facts as f
from domain.audit import CHECKPOINT, NO_HASH, RawFact, fact_hash, seal
from domain.facts import Recorded
from services.ledger.connection import Ledger
from services.ledger.raw import read_raw
from services.ledger.secrets import audit_key

# A seal covers at most this many facts: it is some 20 KB then, and read within 50 ms.
MOST = 5000
# What was written is sealed after this many seconds, however little it is.
AT_LATEST = 600.0
# How often to see whether it is time, in seconds; who waits is heard at once.
LOOK = 5.0

log = structlog.get_logger()

Record = Callable[[Sequence[f.Fact]], Awaitable[list[int]]]


class Sealing:
    """How far the ledger is sealed. `end` is the last sequence that was read."""

    def __init__(
        self,
        ledger: Ledger,
        secret: bytes,
        record: Record,
        clock: Callable[[], float],
        end: Callable[[], int],
    ) -> None:
        self.actor = f.Actor(type="scheduler", id="")
        self.sealed = 0
        """Everything up to this sequence is covered by a seal on the ledger."""
        self._at = 0
        self._ledger = ledger
        self._key = audit_key(secret)
        self._record = record
        self._clock = clock
        self._end = end
        self._wanted = 0
        self._since = 0.0
        self._changed = asyncio.Condition()
        self._news = asyncio.Event()

    def note(self, recorded: Recorded) -> None:
        """One more fact was read."""
        if isinstance(recorded.fact, f.ChainSealed):
            self.sealed, self._at = recorded.fact.last, recorded.sequence

    async def run(self) -> None:
        """Seal whenever it is time, until cancelled."""
        last = await self._ledger.last_fact(CHECKPOINT)
        if last is not None:
            self.note(last)
        self._since = self._clock()
        while True:
            if self.is_due(self._clock()):
                await self.seal_once()
                continue
            self._news.clear()
            try:
                async with asyncio.timeout(LOOK):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def reached(self, sequence: int) -> None:
        """Have everything up to this sequence sealed, soon."""
        self._wanted = max(self._wanted, sequence)
        self._news.set()
        async with self._changed:
            await self._changed.wait_for(lambda: self.sealed >= sequence)

    def is_due(self, now: float) -> bool:
        """Whether enough was written, or somebody waits, or it has been long enough."""
        end = self._end()
        return (
            end - self.sealed >= MOST
            or self.sealed < self._wanted <= end
            or (end > max(self.sealed, self._at) and now - self._since >= AT_LATEST)
        )

    async def seal_once(self) -> None:
        """One more seal."""
        first, upto = self.sealed + 1, min(self._end(), self.sealed + MOST)
        hashes: list[bytes] = []
        async for batch in read_raw(self._ledger, after=first - 1, upto=upto):
            hashes += await asyncio.to_thread(_hashes, first + len(hashes), batch)
        hashes += [NO_HASH] * (upto - first + 1 - len(hashes))
        digest, tags = await asyncio.to_thread(seal, self._key, first, hashes)
        fact = f.ChainSealed(
            at=self._clock(), actor=self.actor, first=first, last=upto, digest=digest, tags=tags
        )
        await self._record([fact])
        self._since = self._clock()
        async with self._changed:
            self._changed.notify_all()


def _hashes(first: int, batch: list[RawFact]) -> list[bytes]:
    """The hashes from sequence `first` to the end of the batch; NO_HASH for what is missing."""
    hashes: list[bytes] = []
    for raw in batch:
        hashes += [NO_HASH] * (raw.sequence - first - len(hashes))
        hashes.append(fact_hash(raw))
    return hashes
