"""Who leads: terms on the ledger, announcements beside it (design.md 3.4).

There is no lock service: a scheduler that appends TermStarted, expecting the last fact of
`facts.term` it knows, leads; its sequence is the token that guards every write of the term. The
announcements only tell standbys when it is worth trying.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from domain import facts as f
from services.ledger import live
from services.ledger.connection import Ledger
from services.ledger.errors import LedgerUnavailable, WrongSequence

ANNOUNCE_EVERY = 0.5  # seconds; three announcements fit into the shortest patience
# A leader whom nobody would replace need not be heard that often. Standbys are heard themselves.
ANNOUNCE_ALONE = 5.0
COMPANY = 300.0  # seconds since another scheduler was heard
PATIENCE = (1.5, 2.5)  # seconds of silence; random, so that standbys do not race each time
# A process that has run for longer than this does not start the service (scheduling.md 4.1).
STARTUP_WITHIN = 300.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoredTerm:
    """What a snapshot keeps: the last fact of facts.term, and whether it ended a term."""

    last: int
    vacant: bool


class Leadership:
    """One scheduler's knowledge of the current term, and its attempts to begin one."""

    def __init__(self, ledger: Ledger, instance: str, clock: Callable[[], float]) -> None:
        self.ledger = ledger
        self.instance = instance
        self.clock = clock
        self.term = 0  # the fencing token while this instance leads, else 0
        self.last = 0  # sequence of the last fact of facts.term that was read
        self.vacant = True  # whether that fact ended a term
        self.first = True  # whether no scheduler led while this process was up
        self._up_since = time.monotonic()
        self._heard = time.monotonic()
        self._company = float("-inf")
        self._changed = asyncio.Event()
        self._joined = asyncio.Event()

    def apply(self, recorded: f.Recorded) -> None:
        """Follow the terms: a newer term of somebody else ends ours."""
        match recorded.fact:
            case f.TermStarted(instance=instance):
                self.last, self.vacant = recorded.sequence, False
                if instance != self.instance:
                    self.term = 0
                self._heard = time.monotonic()
            case f.TermEnded():
                self.last, self.vacant = recorded.sequence, True
                self._changed.set()

    def state(self) -> StoredTerm:
        """All that `restore` needs."""
        return StoredTerm(self.last, self.vacant)

    def restore(self, state: StoredTerm) -> None:
        """Go on from a snapshot, before anything was read."""
        self.last, self.vacant = state.last, state.vacant

    def hear(self, message: dict[str, Any]) -> None:
        """Another scheduler's announcement."""
        if message.get("instance") == self.instance:
            return
        if self._is_alone():
            self._joined.set()
        self._company = time.monotonic()
        if message.get("leading"):
            self._heard, self.first = self._company, False

    async def announce(self) -> None:
        """Tell the others, until cancelled: twice a second, and a newcomer at once."""
        while True:
            self._joined.clear()
            message = {
                "instance": self.instance,
                "term": self.term,
                "leading": self.term != 0,
                "at": self.clock(),
            }
            if self.ledger.connected:
                live.publish(self.ledger, "live.scheduler", message)
            seldom = self.term and self._is_alone()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE_ALONE if seldom else ANNOUNCE_EVERY):
                    await self._joined.wait()

    def _is_alone(self) -> bool:
        return time.monotonic() - self._company > COMPANY

    async def win(self) -> int:
        """Wait until this instance leads; the term's fencing token."""
        while True:
            await self._silence()
            try:
                fact = f.TermStarted(
                    at=self.clock(),
                    actor=self.actor,
                    instance=self.instance,
                    startup=self._starts_the_service(),
                )
                command = f"term-{self.instance}-{self.last}"
                self.term = await self.ledger.append(fact, id=command, expect=self.last)
            except WrongSequence as lost:
                self._heard, self.vacant, self.first = time.monotonic(), False, False
                log.info("another scheduler leads", action="term_lost", last=lost.last)
            except LedgerUnavailable as error:
                self._heard = time.monotonic()
                log.warning(str(error), action="term_unknown")
            else:
                self.first = False
                log.info("this scheduler leads", action="term_started", term=self.term)
                return self.term

    def _starts_the_service(self) -> bool:
        """Whether this is a start of the service, not a standby that takes over."""
        return self.first and time.monotonic() - self._up_since < STARTUP_WITHIN

    async def resign(self) -> None:
        """End the own term on purpose, so that the next one takes over at once."""
        if not self.term:
            return
        fact = f.TermEnded(at=self.clock(), actor=self.actor, instance=self.instance)
        try:
            await self.ledger.append(fact, id=f"end-{self.term}", expect=self.term)
        except (WrongSequence, LedgerUnavailable) as error:
            log.warning("the term could not be ended", action="resign_failed", error=str(error))
        self.term = 0

    @property
    def actor(self) -> f.Actor:
        """Who decides: the term while leading."""
        return f.Actor(type="scheduler", id=str(self.term or self.instance))

    async def _silence(self) -> None:
        """Return when no leader was heard for a while, or at once when none is in office."""
        patience = random.uniform(*PATIENCE)  # noqa: S311 - not a secret
        while not self.vacant:
            left = self._heard + patience - time.monotonic()
            if left <= 0:
                return
            self._changed.clear()
            # Not wait_for: Python 3.11's forgets a cancellation that meets the end of the wait.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
