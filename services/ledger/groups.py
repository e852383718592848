"""Writes that go together: what is asked for while others are under way shares one sync.

A write that finds few others under way goes at once. The rest waits until there is room again,
and goes as one atomic batch then: nats-server brings each single write to the disk by itself, a
batch with one sync. Nobody asked for all or nothing here, so when a batch is refused (a guard
failed, an id was there before) each of its writes goes once more by itself, under the same id,
and gets an answer of its own. Knows nothing of what is written.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from domain.facts import Json
from services.ledger.errors import LedgerUnavailable
from services.ledger.replies import Reply

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

# From so many facts on a batch costs less than single writes: where nats-server collects it in
# memory (staging.py), and where it makes files for it (benchmarks/NOTES.md).
_IN_MEMORY = 4
_ON_DISK = 16
# A batch is held in the server's memory until it is complete: so many facts, so many bytes.
_MOST = 500
_LARGEST = 4 * 1024 * 1024

GUARD = "Nats-Expected-Last-Subject-Sequence"
GUARD_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"

Answer = asyncio.Future[Reply | None]


class Message(msgspec.Struct, frozen=True):
    """What is to be written to the stream."""

    subject: str
    data: bytes
    headers: dict[str, str]

    @property
    def id(self) -> str:
        """By which the server knows a repetition."""
        return self.headers["Nats-Msg-Id"]

    @property
    def guarded(self) -> str | None:
        """The subject that its guard is on, if it has one."""
        return self.headers.get(GUARD_SUBJECT, self.subject) if GUARD in self.headers else None


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    message: Message
    within: float
    answer: Answer


class Groups:
    """The writes of one connection."""

    def __init__(self, ledger: "Ledger") -> None:
        self.in_memory = False
        """Whether nats-server collects batches in memory."""
        self._ledger = ledger
        self._under_way = 0
        self._waiting: list[_Waiting] = []

    @property
    def enough(self) -> int:
        """So many facts are worth a batch."""
        return _IN_MEMORY if self.in_memory else _ON_DISK

    def write(self, message: Message, within: float) -> Answer:
        """Send a message now or with the next group; its answer comes later.

        An answer that does not come within so many seconds is given up. Raises (or answers with)
        NotSent or LedgerUnavailable if the message was not sent.
        """
        if self._under_way < self.enough and not self._waiting:
            return self._write_alone(message, within)
        answer: Answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(message, within, answer))
        return answer

    def write_batch(self, messages: Sequence[Message], within: float) -> Answer:
        """Send an atomic batch now; its answer is that to the last message. Else as `write`."""
        *staged, (last, headers) = zip(messages, _as_batch(messages), strict=True)
        for message, marked in staged:
            self._ledger.publish(message.subject, message.data, marked)
        return self._ledger.begin(last.subject, last.data, headers, within)

    def _write_alone(self, message: Message, within: float) -> Answer:
        answer = self._ledger.begin(message.subject, message.data, message.headers, within)
        self._under_way += 1
        answer.add_done_callback(self._answered)
        return answer

    def _answered(self, _: Answer) -> None:
        self._under_way -= 1
        if self._waiting:
            self._go_on()

    def forget_waiting(self, why: LedgerUnavailable) -> None:
        """Nothing that waits will be sent."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            _fail(each, why)

    def _go_on(self) -> None:
        """Send what waits, as far as there is room; nothing that was given up meanwhile."""
        self._waiting = [each for each in self._waiting if not each.answer.done()]
        while self._waiting and self._under_way < self.enough:
            if len(self._waiting) < self.enough:
                self._send_alone(self._waiting.pop(0))
            else:
                self._send_group(self._next_group())

    def _next_group(self) -> list[_Waiting]:
        """What comes next, up to the first guard on a subject that is written to before.

        Guards are checked on the stream as it is before the batch: of two writers who have seen
        the same, both would succeed.
        """
        group: list[_Waiting] = []
        written: set[str] = set()
        size = 0
        for waiting in self._waiting[:_MOST]:
            message = waiting.message
            size += len(message.data)
            if group and (size > _LARGEST or message.guarded in written):
                break
            written.add(message.subject)
            group.append(waiting)
        del self._waiting[: len(group)]
        return group

    def _send_group(self, group: list[_Waiting]) -> None:
        if len(group) == 1:
            self._send_alone(group[0])
            return
        try:
            answer = self.write_batch([waiting.message for waiting in group], group[0].within)
        except LedgerUnavailable:
            for waiting in group:  # one of them may be too large
                self._send_alone(waiting)
        else:
            self._under_way += len(group)
            answer.add_done_callback(partial(self._group_answered, group))

    def _group_answered(self, group: list[_Waiting], answer: Answer) -> None:
        self._under_way -= len(group)
        reply = answer.result()
        told: Json = msgspec.json.decode(reply.data) if reply and reply.data else {}
        if "error" in told:
            for waiting in group:
                self._send_alone(waiting)
        elif "seq" in told:
            # A batch stands in one piece, whoever else writes (test_ledger_groups.py).
            for sequence, waiting in enumerate(group, int(told["seq"]) - len(group) + 1):
                _tell(waiting, Reply(b'{"seq":%d}' % sequence, {}))
        else:
            for waiting in group:
                _tell(waiting, reply)
        self._go_on()

    def _send_alone(self, waiting: _Waiting) -> None:
        try:
            answer = self._write_alone(waiting.message, waiting.within)
        except LedgerUnavailable as error:
            _fail(waiting, error)
        else:
            answer.add_done_callback(lambda answer: _tell(waiting, answer.result()))


def _as_batch(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages' headers with those of a new atomic batch."""
    batch = secrets.token_hex(8)
    marked = [
        {**message.headers, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
        for number, message in enumerate(messages, 1)
    ]
    marked[-1]["Nats-Batch-Commit"] = "1"
    return marked


def _tell(waiting: _Waiting, reply: Reply | None) -> None:
    if not waiting.answer.done():  # its caller may have gone away
        waiting.answer.set_result(reply)


def _fail(waiting: _Waiting, error: LedgerUnavailable) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
