"""Following the ledger: every fact in order, to one `apply`, as fast as it can be decoded.

A `Follower` keeps two pull requests open on a consumer in the server's memory and makes a new
consumer from its position whenever anything is odd: a gap in the consumer's own numbering, a
reconnect, missing heartbeats, a vanished consumer. So it may be slow for a moment, but it never
skips, repeats or reorders a fact. It must not know what the facts mean.

Sequences on the ledger may have gaps: erased facts are gone. A follower's position is therefore
"everything up to here has been applied or no longer exists"; when it has caught up, that is the
end of the stream, whatever stands there.
"""

import asyncio
import contextlib
import heapq
import itertools
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from domain.facts import Json, Recorded, UnreadableFact, decode
from domain.subjects import standing
from services.ledger import reading
from services.ledger.errors import AheadOfLedger, LedgerUnavailable, NotSent
from services.ledger.replies import parse_headers
from services.logs import logger

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

# Two pulls of this many facts are open; the second is being filled while the first is applied.
PULL = 2000
# A pull ends early when this many bytes are under way (a fact has at most 4 MiB).
PULL_BYTES = 16 * 1024 * 1024
PULL_EXPIRES = 30.0
# A server that is silent for three looks has lost our consumer; we ask for heartbeats so often.
# Looks, not seconds: while this process is busy or stopped, what came waits to be read.
HEARTBEAT = 1.0
LOOK = 0.85
SILENT_LOOKS = 3
# In a cluster another node may have had our consumer, and is gone. A server that is alone loses
# it with the connection or says so: seldom looking is enough, and each heartbeat wakes both.
LONE = 5.0
# Facts applied before other tasks get a turn; and where they are applied together, which does not
# pay for few of them.
SLICE = 200
TOGETHER = 1000
FEW = 100
# A consumer that nobody pulls from is dropped by the server after this long.
INACTIVE = 30.0
RETRY_WAIT = 0.2
_SECOND = 1_000_000_000
# How a status 409 begins that ends one pull and not the consumer.
_END_OF_PULL = ("Batch Completed", "Message Size Exceeds MaxBytes")

log = logger()

_Message = tuple[bytes, bytes, bytes, bytes | None]


class _Restart(Exception):
    """The consumer cannot be trusted any more; the text says why."""


class Follower:
    """Feeds facts in order to `apply`; a position can be awaited.

    `after`: the sequence up to which everything is known already. `subjects`: what to follow.
    `after_batch` is called whenever all facts at hand are applied. `consumer`: a fixed consumer
    name, for roles that may use only that one (and may look up nothing: their position is then
    only what was applied). `apply_all` is called instead of `apply` where many facts are at
    hand. `breathe` is awaited now and then while facts are applied: a reader
    that cannot keep up makes us wait there.
    """

    def __init__(
        self,
        ledger: "Ledger",
        apply: Callable[[Recorded], None],
        *,
        after: int,
        subjects: Sequence[str] = ("facts.>",),
        after_batch: Callable[[], None] | None = None,
        consumer: str | None = None,
        breathe: Callable[[], Awaitable[None]] | None = None,
        apply_all: Callable[[Sequence[Recorded]], None] | None = None,
    ) -> None:
        self.position = after
        self.caught_up = asyncio.Event()
        """Set when the end, as it was at the start or at the last reconnect, is reached."""
        self._ledger = ledger
        self._apply = apply
        self._subjects = tuple(subjects)
        self._after_batch = after_batch
        self._fixed_name = consumer
        self._breathe = breathe
        self._apply_all = apply_all
        self._slice = SLICE if apply_all is None else TOGETHER
        self._holding = False
        """Whether `breathe` lets nothing more be applied just now."""
        self._inbox: deque[_Message] = deque()
        self._news = asyncio.Event()
        self._reconnected = False
        self._waiters: list[tuple[int, int, asyncio.Future[bool]]] = []
        self._tickets = itertools.count()

    async def run(self) -> None:
        """Follow until cancelled.

        Raises UnreadableFact for a fact that this release does not know (it is not applied, and
        neither is anything after it), AheadOfLedger if the ledger ends before the position, and
        whatever `apply` raises.
        """
        self._ledger.on_reconnect.append(self._on_reconnect)
        try:
            while True:
                try:
                    await self._follow()
                except _Restart as reason:
                    log.info(
                        "Following the ledger anew",
                        action="follower_restarted",
                        position=self.position,
                        reason=str(reason),
                    )
                except LedgerUnavailable as error:
                    log.debug("Cannot follow yet", action="follower_waits", reason=str(error))
                    await self._pause()
        finally:
            self._ledger.on_reconnect.remove(self._on_reconnect)

    async def reached(self, sequence: int, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait up to `timeout` seconds until `sequence` is applied; whether it is."""
        if sequence <= self.position:
            return True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        heapq.heappush(self._waiters, (sequence, next(self._tickets), future))
        late = loop.call_later(timeout, _tell, future, False)
        try:
            return await future
        finally:
            late.cancel()

    def take_own(self, sequence: int, subject: str, data: bytes) -> None:
        """Apply what this process has just written and the server confirmed, if it comes next.

        Its delivery is passed over then. Whoever follows less than everything must not use this.
        """
        if sequence == self.position + 1 and not self._holding:
            self._apply(Recorded(sequence, subject, decode(data)))
            self._advance(sequence)

    # --- one consumer's life -----------------------------------------------------------------

    async def _follow(self) -> None:
        """Make a consumer from our position and apply what it delivers, until it fails us."""
        self.caught_up.clear()
        self._reconnected = False
        self._inbox.clear()
        known = self.position  # own writes may be taken while the end is asked for
        end = await reading.end(self._ledger)
        if end < known:
            raise AheadOfLedger(known, end)
        name = self._fixed_name or f"follower-{secrets.token_hex(8)}"
        subject = self._ledger.nc.new_inbox()
        key = await self._ledger.subscribe_direct(subject, self._on_message)
        try:
            pending = await self._create_consumer(name)
            await _Delivery(self, name, subject, pending, end).run()
        finally:
            await self._end_consumer(name, key)

    async def _create_consumer(self, name: str) -> int:
        """Make the consumer; returns how many facts it has for us now."""
        if self._fixed_name:
            await self._ledger.api(f"CONSUMER.DELETE.{reading.STREAM}.{name}")
        config: Json = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.position + 1,
            "ack_policy": "none",
            "max_deliver": -1,
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(INACTIVE * _SECOND),
        }
        verb = f"CONSUMER.CREATE.{reading.STREAM}.{name}"
        if len(self._subjects) == 1:
            config["filter_subject"] = self._subjects[0]
            verb += "." + self._subjects[0]
        else:
            config["filter_subjects"] = list(self._subjects)
        body = {"stream_name": reading.STREAM, "config": config, "action": "create"}
        return int(reading.checked(await self._ledger.api(verb, body))["num_pending"])

    async def _end_consumer(self, name: str, key: int) -> None:
        """Let go of subscription and consumer; the server drops what it does not hear about."""
        await self._ledger.unsubscribe_direct(key)
        with contextlib.suppress(NotSent):
            self._ledger.publish(f"$JS.API.CONSUMER.DELETE.{reading.STREAM}.{name}", b"")

    async def _pause(self) -> None:
        if self._ledger.connected:
            await asyncio.sleep(RETRY_WAIT)
        else:
            await self._ledger.wait_connected(PULL_EXPIRES)

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self._inbox.append((subject, reply, data, headers))
        self._news.set()

    def _on_reconnect(self) -> None:
        self._reconnected = True
        self._news.set()

    def _advance(self, sequence: int) -> None:
        """Nothing more will come up to `sequence`: let those who waited for it go on."""
        self.position = sequence
        self._tell_waiters()

    def _tell_waiters(self) -> None:
        while self._waiters and self._waiters[0][0] <= self.position:
            _tell(heapq.heappop(self._waiters)[2], True)


class _Delivery:
    """What one consumer delivers: counts its messages and keeps pulls open."""

    def __init__(self, follower: Follower, name: str, subject: str, pending: int, end: int) -> None:
        self._follower = follower
        self._ledger = follower._ledger
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{reading.STREAM}.{name}"
        self._subject = subject
        self._left = pending
        self._passed = 0
        """Facts still missing until we have caught up."""
        self._end = end
        self._number = 0
        """Of the last message of this consumer: it counts them without gaps."""
        self._asked = 0
        """Facts that open pulls may still deliver."""
        self._quiet = 0
        """So many looks have passed since anything came."""
        self._pace = LONE if self._ledger.nc.server_is_alone else 1.0

    async def run(self) -> None:
        await self._pull()
        await self._pull()
        await self._check_caught_up()
        looking = asyncio.create_task(self._look())
        follower = self._follower
        try:
            while True:
                await follower._news.wait()
                follower._news.clear()
                if follower._inbox:
                    self._quiet = 0
                await self._drain()
                if follower._reconnected:
                    raise _Restart("the connection was renewed")
                if self._quiet >= SILENT_LOOKS:
                    raise _Restart("the server is silent")
        finally:
            looking.cancel()

    async def _look(self) -> None:
        """Count how long nothing came: one timer instead of one for every message."""
        while True:
            await asyncio.sleep(LOOK * self._pace)
            self._quiet += 1
            if self._quiet >= SILENT_LOOKS:
                self._follower._news.set()

    async def _drain(self) -> None:
        """Apply everything at hand, in slices between which others get a turn."""
        follower = self._follower
        before = follower.position
        while follower._inbox:
            self._take(min(follower._slice, len(follower._inbox)))
            if self._asked <= PULL:
                await self._pull()
            if follower._breathe is not None:
                follower._holding = True
                await follower._breathe()
                follower._holding = False
            if follower._inbox:
                await asyncio.sleep(0)
        if follower._after_batch is not None and follower.position != before:
            follower._after_batch()
        await self._check_caught_up()

    def _take(self, count: int) -> None:
        """Apply the next messages, or note what the server says in between."""
        follower = self._follower
        facts = self._facts(count)
        if follower._apply_all is None or count < FEW:
            apply, waiters = follower._apply, follower._waiters
            for recorded in facts:
                apply(recorded)
                follower.position = recorded.sequence
                if waiters:
                    follower._tell_waiters()
            self._pass_over()
            return
        together: list[Recorded] = []
        try:
            together.extend(facts)
        finally:  # what comes before something odd counts
            if together:
                follower._apply_all(together)
                follower._advance(together[-1].sequence)
            self._pass_over()

    def _pass_over(self) -> None:
        """Nobody waits for what was last and counts for nothing."""
        if self._passed > self._follower.position:
            self._follower._advance(self._passed)

    def _facts(self, count: int) -> Iterator[Recorded]:
        """The facts among the next messages."""
        follower = self._follower
        inbox, known = follower._inbox, follower.position
        for _ in range(count):
            subject, reply, data, headers = inbox.popleft()
            if not reply.startswith(b"$JS.ACK."):
                self._take_status(parse_headers(headers))
                continue
            sequence = self._place(reply)
            if sequence <= known:
                continue  # our own, and taken already
            on = subject.decode()
            try:
                fact = standing(on, data)
            except UnreadableFact as error:
                raise UnreadableFact(f"Fact {sequence} on {on}: {error}") from error
            if fact is None:
                log.error(
                    "A runner wrote what is not its to say",
                    action="fact_out_of_place",
                    subject=on,
                    sequence=sequence,
                )
                self._passed = sequence
                continue
            yield Recorded(sequence, on, fact)

    def _place(self, reply: bytes) -> int:
        """The sequence of a message; _Restart if one is missing before it."""
        _, stream, number, _, pending = reply.rsplit(b".", 4)
        self._number += 1
        if int(number) != self._number:
            raise _Restart(f"message {int(number)} came after {self._number - 1}")
        self._asked -= 1
        if self._left > 0:
            self._left -= 1
            if (left := int(pending)) < self._left:  # what was erased meanwhile does not come
                self._left = left
        return int(stream)

    def _take_status(self, headers: dict[str, str]) -> None:
        """A heartbeat, or the end of a pull with what it did not deliver."""
        status, why = headers.get("Status"), headers.get("Description", "")
        if status == "100":
            return
        if status in ("404", "408") or why.startswith(_END_OF_PULL):
            self._asked -= int(headers.get("Nats-Pending-Messages", 0))
            return
        raise _Restart(f"{status} {why}")

    async def _pull(self) -> None:
        body = (
            f'{{"batch":{PULL},"max_bytes":{PULL_BYTES},"expires":{int(PULL_EXPIRES * _SECOND)},'
            f'"idle_heartbeat":{int(HEARTBEAT * self._pace * _SECOND)}}}'
        )
        self._ledger.publish(self._next, body.encode(), reply=self._subject)
        self._asked += PULL

    async def _check_caught_up(self) -> None:
        """Once nothing is left that stood there at the start, the end itself is reached."""
        follower = self._follower
        if self._left > 0 or follower.caught_up.is_set():
            return
        if follower.position < self._end and follower._fixed_name is None:
            if self._ledger.replicas > 1 and await self._something_left():
                return  # the replica that serves us is behind; it will come
            follower._advance(self._end)
        follower.caught_up.set()

    async def _something_left(self) -> bool:
        """Whether the stream's leader holds facts for us up to the end."""
        after = self._follower.position
        for subject in self._follower._subjects:
            stored = await reading.next_on(self._ledger, subject, after)
            if stored is not None and stored.sequence <= self._end:
                return True
        return False


def _tell(future: asyncio.Future[bool], reached: bool) -> None:
    if not future.done():
        future.set_result(reached)
