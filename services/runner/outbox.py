"""Delivers the runner's reports: for ever, in order per job, each with effect once.

A report keeps its message id through every retry and every restart, so a repeated one is seen
by the ledger or ignored by the folds. Knows nothing of what the reports say.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from domain.facts import Fact
from services.ledger.connection import LedgerUnavailable
from services.logs import logger

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

# Reports on their way at once: many, as those that wait go together (ledger/groups.py).
WINDOW = 200
RETRY_WAIT = 0.2
# What is held back goes after so many seconds all the same.
HELD = 0.3

log = logger("outbox")


class _Report(Struct, frozen=True):
    key: int
    id: str
    fact: Fact
    delivered: Callable[[], None]


class Outbox:
    """Reports on their way to the ledger, and those that wait for their turn."""

    def __init__(self, ledger: "Ledger") -> None:
        self.depth = 0
        """Reports that are not on the ledger yet."""
        self._ledger = ledger
        self._waiting: deque[_Report] = deque()
        self._later: dict[int, deque[_Report]] = {}
        """By key of what is waiting or under way: what comes after it."""
        self._under_way = 0
        self._insisting: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] | None = None
        """While it runs; tells of a defect in what a delivery leads to."""
        self._empty = asyncio.Event()
        self._empty.set()
        self._held: asyncio.TimerHandle | None = None

    def put(self, key: int, id: str, fact: Fact, delivered: Callable[[], None]) -> None:
        """Deliver a fact under this message id, after earlier ones of the same `key`.

        `delivered` is called when it is on the ledger.
        """
        report = _Report(key, id, fact, delivered)
        self.depth += 1
        self._empty.clear()
        if key in self._later:
            self._later[key].append(report)
        else:
            self._later[key] = deque()
            self._waiting.append(report)
            self._send()

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
        self._broken = asyncio.get_running_loop().create_future()
        try:
            self._send()
            await self._broken
        finally:
            self._broken = None
            for task in self._insisting:
                task.cancel()

    def hold(self) -> None:
        """Gather what comes until `release`, or for a moment: there is something more urgent."""
        if self._held is None:
            self._held = asyncio.get_running_loop().call_later(HELD, self.release)

    def release(self) -> None:
        """Send what was gathered, and what comes."""
        if self._held is not None:
            self._held.cancel()
            self._held = None
            self._send()

    def _send(self) -> None:
        """Send what waits, as far as the window is open."""
        if self._held is not None:
            return
        while self._waiting and self._under_way < WINDOW and self._broken is not None:
            report = self._waiting.popleft()
            self._under_way += 1
            self._ledger.offer(
                report.fact,
                id=report.id,
                stored=partial(self._stored, report),
                otherwise=partial(self._insist, report),
            )

    def _stored(self, report: _Report) -> None:
        if self._broken is None:
            return
        self.depth -= 1
        self._under_way -= 1
        if self._later[report.key]:
            self._waiting.append(self._later[report.key].popleft())
        else:
            del self._later[report.key]
        try:
            report.delivered()
        except Exception as error:
            if not self._broken.done():
                self._broken.set_exception(error)
            return
        self._send()
        if not self.depth:
            self._empty.set()

    def _insist(self, report: _Report) -> None:
        """It is not known to be on the ledger: append it until it is."""
        if self._broken is not None:
            task = asyncio.create_task(self._append(report))
            self._insisting.add(task)
            task.add_done_callback(self._insisting.discard)

    async def _append(self, report: _Report) -> None:
        while True:
            try:
                await self._ledger.append(report.fact, id=report.id)
            except LedgerUnavailable as error:
                log.debug("A report waits", action="report_waits", id=report.id, reason=str(error))
                await self._pause()
            else:
                self._stored(report)
                return

    async def _pause(self) -> None:
        if self._ledger.connected:
            await asyncio.sleep(RETRY_WAIT)
        else:
            await self._ledger.wait_connected(30.0)
