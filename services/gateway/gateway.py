"""The gateway itself: its views, the way a command becomes a fact, and whether it is ready.

Every write goes through `submit`: decide on the views, append with the sequence the decision
was made on, decide again if somebody else wrote first, then wait until the own views have seen
the fact, so that a client reads what it wrote (design.md 4). Knows nothing of HTTP.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from domain.facts import Fact, MadeOf, Recorded
from domain.ids import make_id
from domain.subjects import subject_of
from services.disk import DiskReserve
from services.gateway import uploads
from services.gateway.auth import KeyRates
from services.gateway.encoded import EventRows
from services.gateway.errors import NotYet
from services.gateway.failures import Failures
from services.gateway.jobs import Seen
from services.gateway.live import LiveData
from services.gateway.logins import Logins
from services.gateway.patience import Patience
from services.gateway.turns import Turns
from services.gateway.views import REPEATABLE, Views
from services.gateway.waiting import Updates
from services.ledger.connection import Ledger, LedgerUnavailable, WrongSequence
from services.ledger.enrolment import enrolment_signer
from services.ledger.reader import Follower
from services.ledger.vault import Vault
from services.settings import Settings

if TYPE_CHECKING:
    from services.gateway.body import Chunks
    from services.gateway.endpoint import Call
    from services.gateway.params import Upload

# How long a reply waits for the own view; what is acknowledged stands all the same.
SEEN_WITHIN = 5.0
# How long a call waits for the owner's answer (design.md 4).
ANSWERED_WITHIN = 10.0
# Wrong magic links from one address, and within how many seconds.
MOST_GUESSES = 100
GUESSES_WITHIN = 60.0
# Deciding again when somebody else wrote first: another gateway, or a scheduler.
TRIES = 8
# Changes of one object wait for each other, but not behind those that get no answer (seconds).
TURN_WITHIN = 5.0
# So many events are known to be launchable as they are.
MOST_LAUNCHABLE = 20_000
DISK_FULL = "The disk is nearly full: nothing more is recorded."


class Decision(msgspec.Struct, frozen=True):
    """A fact to be recorded, and the last sequence of its subject that was decided on.

    `expect` None: whatever else stands there does not matter.
    """

    fact: Fact
    expect: int | None = None


class Gateway:
    """One gateway process. `clock` gives Unix seconds."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        secret: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.secret = secret
        self.signer = enrolment_signer(settings.data_dir)
        self.vault = Vault.of(settings.data_dir)
        self.clock = clock
        self.views = Views(settings.timezone, settings.dst_policy)
        self.live = LiveData(self.views, clock)
        self.seen = Seen(self.views.active, self.views.activity, self.views.fleet, self.live.of)
        self.updates = Updates(self)
        self.rates = KeyRates()
        self.logins = Logins()
        self.guesses = Failures(MOST_GUESSES, GUESSES_WITHIN)
        self.event_rows = EventRows()
        self.follower = Follower(
            ledger,
            self.views.apply,
            after=0,
            breathe=self.views.breathe,
            apply_all=self.views.apply_all,
        )
        self.launchable: dict[tuple[str, bool], MadeOf] = {}
        """What a plain launch was made of that is allowed; by event, and whether by an admin."""
        self.patience = Patience()
        self.stopping = asyncio.Event()
        self._started = False
        self._ids = 0
        self._turns = Turns()
        self._disk = DiskReserve(settings.data_dir, settings.disk_reserve)

    # --- ids ---------------------------------------------------------------------------------

    def new_id(self, prefix: str, now: float) -> str:
        """A new id with this prefix (data.md 1.1)."""
        self._ids += 1
        return make_id(prefix, now, self._ids, os.urandom(8))

    def command_id(self, call: "Call") -> str:
        """The id under which the call's fact is recorded; the client's key makes it repeatable.

        Such an id is bound to the caller, or to the link that was called, and to the endpoint.
        What a stranger calls without a link (a login) cannot be repeated.
        """
        key = call.header(b"idempotency-key")
        caller = f"{call.known.kind} {call.known.id}" if call.known else " ".join(call.tail[:1])
        if not key or not caller:
            return os.urandom(10).hex()
        origin = f"{caller}\x1f{call.endpoint}\x1f{key}"
        return REPEATABLE + hashlib.sha256(origin.encode()).hexdigest()[:32]

    def remember_launchable(self, event: str, admin: bool, made_of: MadeOf) -> None:
        """Such launches need not be looked at again while the same records are in force."""
        if len(self.launchable) >= MOST_LAUNCHABLE:
            self.launchable.clear()
        self.launchable[event, admin] = made_of

    # --- writing -----------------------------------------------------------------------------

    async def submit(self, call: "Call", decide: Callable[[], Decision]) -> Recorded:
        """Record what `decide` returns, and see it in the own views; the fact that stands.

        `decide` is called again on newer views when somebody else wrote to the same subject
        first. A command that was recorded before under the same Idempotency-Key is not decided
        again: its fact is returned. Raises DomainError from `decide`, LedgerUnavailable.
        """
        command = self.command_id(call)
        if not command.startswith(REPEATABLE):
            return await self._submit_once(call, command, decide)
        async with self._turns.of(command):
            return await self._first_effect(call, command) or await self._submit_once(
                call, command, decide
            )

    async def _first_effect(self, call: "Call", command: str) -> Recorded | None:
        sequence = self.views.commands.get(command)
        recorded = await self.ledger.get(sequence) if sequence is not None else None
        if recorded is not None:
            call.sequence = recorded.sequence
        return recorded

    async def _submit_once(
        self, call: "Call", command: str, decide: Callable[[], Decision]
    ) -> Recorded:
        self.check_disk()
        decision = decide()
        if decision.expect is None:
            return await self._record(call, command, decision, decide)
        async with self._turns.of(subject_of(decision.fact), TURN_WITHIN) as waited:
            return await self._record(call, command, decide() if waited else decision, decide)

    async def _record(
        self, call: "Call", command: str, decision: Decision, decide: Callable[[], Decision]
    ) -> Recorded:
        """Append the decision, or what is decided instead once others have written."""
        floor = 0
        for _ in range(TRIES):
            fact = replace(decision.fact, cause=command)
            expect = None if decision.expect is None else max(decision.expect, floor)
            try:
                sequence = await self.ledger.append(
                    fact, id=command, expect=expect, stored=self.follower.take_own
                )
            except WrongSequence as wrong:
                floor = wrong.last or await self.ledger.end()
                await self.reached(floor)
                decision = decide()
                continue
            call.sequence = sequence
            if self.follower.position < sequence:
                await self.reached(sequence)
            return await self._recorded(sequence, fact, command)
        raise NotYet("Others keep changing the same object; try again.")

    async def _recorded(self, sequence: int, fact: Fact, command: str) -> Recorded:
        """The fact as it stands: a repeated command may have been recorded by another gateway."""
        if command.startswith(REPEATABLE):
            stored = await self.ledger.get(sequence)
            if stored is not None:
                return stored
        return Recorded(sequence, "", fact)

    async def submit_all(self, call: "Call", decide: Callable[[], list[Decision]]) -> None:
        """Record several facts on different subjects, all or none; else as `submit`."""
        command = self.command_id(call)
        if not command.startswith(REPEATABLE):
            await self._submit_all_once(call, command, decide)
            return
        async with self._turns.of(command):
            if (sequence := self.views.commands.get(command)) is not None:
                call.sequence = sequence
            else:
                await self._submit_all_once(call, command, decide)

    async def _submit_all_once(
        self, call: "Call", command: str, decide: Callable[[], list[Decision]]
    ) -> None:
        self.check_disk()
        for _ in range(TRIES):
            decisions = decide()
            facts = [replace(d.fact, cause=command) for d in decisions]
            named = [(f"{command}-{number}", fact) for number, fact in enumerate(facts)]
            expect = {subject_of(d.fact): d.expect for d in decisions if d.expect is not None}
            try:
                call.sequence = await self.ledger.append_all(named, expect=expect)
            except WrongSequence as wrong:
                await self.reached(wrong.last or await self.ledger.end())
                continue
            await self.reached(call.sequence)
            return
        raise NotYet("Others keep changing the same objects; try again.")

    async def answer_to(self, sequence: int) -> Recorded:
        """The fact by which the owner answered the request at `sequence` (design.md 4).

        Raises NotYet if it does not come in time.
        """
        with self.views.watch(str(sequence)) as watch:
            try:
                async with asyncio.timeout(ANSWERED_WITHIN):
                    while (answer := self.views.answers.get(sequence)) is None:
                        watch.changed.clear()
                        await watch.changed.wait()
            except TimeoutError:
                raise NotYet("The request is recorded, but not yet carried out.") from None
        return answer

    async def reached(self, sequence: int) -> bool:
        """Wait, bounded, until the views have seen this sequence; whether they have."""
        return await self.follower.reached(sequence, SEEN_WITHIN)

    def check_disk(self) -> None:
        """LedgerUnavailable when the disk reserve is reached (design.md 11)."""
        if self._disk.is_reached():
            raise LedgerUnavailable(DISK_FULL)

    async def store_upload(
        self, field: str, filename: str, content_type: str, chunks: "Chunks"
    ) -> "Upload":
        """Keep an uploaded file in CHUNKS."""
        self.check_disk()
        return await uploads.store_upload(self, field, filename, content_type, chunks)

    async def discard(self, stored: list["Upload"]) -> None:
        """Delete uploaded files that nothing refers to."""
        await uploads.discard(self, stored)

    def wake_all(self) -> None:
        """Have everybody who waits look again, because the service stops."""
        self.views.wake_all()

    # --- readiness ---------------------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether the views have been complete at least once."""
        self._started = self._started or self.follower.caught_up.is_set()
        return self._started

    def troubles(self) -> list[str]:
        """Why this gateway is not ready; nothing when it is."""
        troubles = []
        if not self.ledger.connected:
            troubles.append("The ledger cannot be reached.")
        if not self.follower.caught_up.is_set():
            troubles.append("The views are being folded from the ledger.")
        return troubles

    def warnings(self) -> list[str]:
        """What is wrong although this gateway is ready: reads go on below the disk reserve."""
        return [DISK_FULL] if self._disk.is_reached() else []
