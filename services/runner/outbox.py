"""Delivers the runner's reports: for ever, in order per job, each with effect once.

A report keeps its message id through every retry and every restart, so a repeated one is seen
by the ledger or ignored by the folds. Knows nothing of what the reports say.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.facts import Fact
from services.ledger.connection import LedgerUnavailable
from services.logs import logger

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

# Reports on their way at once; a round trip is 0.2 to 1 ms, so this is far more than needed.
WINDOW = 32
RETRY_WAIT = 0.2

log = logger("outbox")


@dataclass(frozen=True, slots=True)
class _Report:
    key: int
    id: str
    fact: Fact
    delivered: Callable[[], None]


class Outbox:
    """A queue of reports and the loop that empties it."""

    def __init__(self, ledger: "Ledger") -> None:
        self.depth = 0
        """Reports that are not on the ledger yet."""
        self._ledger = ledger
        self._reports: deque[_Report] = deque()
        self._news = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, key: int, id: str, fact: Fact, delivered: Callable[[], None]) -> None:
        """Deliver a fact under this message id, after earlier ones of the same `key`.

        `delivered` is called when it is on the ledger.
        """
        self._reports.append(_Report(key, id, fact, delivered))
        self.depth += 1
        self._empty.clear()
        self._news.set()

    async def emptied(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait up to `timeout` seconds until everything is delivered; whether it is."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._reports:
                await self._deliver_some()
            self._empty.set()

    async def _deliver_some(self) -> None:
        """The oldest reports together, but never two of one job."""
        chosen: dict[int, _Report] = {}
        left: deque[_Report] = deque()
        waiting: set[int] = set()
        while self._reports and len(chosen) < WINDOW:
            report = self._reports.popleft()
            if report.key in chosen or report.key in waiting:
                waiting.add(report.key)
                left.append(report)
            else:
                chosen[report.key] = report
        self._reports.extendleft(reversed(left))
        deliveries = [self._deliver(report) for report in chosen.values()]
        if len(deliveries) == 1:
            await deliveries[0]
        else:
            await asyncio.gather(*deliveries)

    async def _deliver(self, report: _Report) -> None:
        while True:
            try:
                await self._ledger.append(report.fact, id=report.id)
            except LedgerUnavailable as error:
                log.debug("A report waits", action="report_waits", id=report.id, reason=str(error))
                await self._pause()
            else:
                self.depth -= 1
                report.delivered()
                return

    async def _pause(self) -> None:
        if self._ledger.connected:
            await asyncio.sleep(RETRY_WAIT)
        else:
            await self._ledger.wait_connected(30.0)
