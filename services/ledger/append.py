"""Writing facts: exactly once, in order, and only on top of what the writer has seen.

A missing answer means *unknown*. It is settled by sending the same message again: the id makes
the server refuse the second copy, and a guard that fails is explained by looking at what stands
on the subject after the guarded sequence. Only what cannot be settled within `PATIENCE` is
reported as OutcomeUnknown (design.md 3.1).

What the server does (tests/services/test_ledger_append.py holds it to that):
- a repeated id is answered with the first copy's sequence; but on a guarded subject the guard is
  looked at first, so a repetition may be answered "wrong last sequence"; not so where the guard is
  on the id of the last message: only what is not stored is refused for that;
- in an atomic batch a repeated id refuses the whole batch (10201);
- a batch holds at most 1,000 messages; a guard in it is checked against the stream as it was.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from domain.facts import Fact, Json, encode
from domain.subjects import TERM, subject_of
from services.ledger import reading
from services.ledger.errors import (
    Deposed,
    LedgerUnavailable,
    NotSent,
    NotServed,
    OutcomeUnknown,
    WrongSequence,
)
from services.ledger.groups import GUARD, GUARD_SUBJECT, Message
from services.ledger.reading import Stored
from services.ledger.replies import Reply
from services.metrics import APPEND_SECONDS

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

# How long one call tries before it gives up, in seconds: a restarted nats-server is back in less.
PATIENCE = 5.0
# How long one try waits for the server's answer. A write takes 1 ms; a replicated stream without
# a leader answers nothing at all.
ANSWER_WAIT = 2.0
RETRY_WAIT = 0.05
BATCH_LIMIT = 1000

StoredCopy = Callable[[int, str, bytes], object]

_GUARD_LAST_ID = "Nats-Expected-Last-Msg-Id"
_GUARD_FAILED = (10071, 10164)
_NOT_BEHIND = 10070
_DUPLICATE_IN_BATCH = 10201


class _Deadline:
    """What is left of a call's patience, and what is known about its message so far."""

    def __init__(self, patience: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + patience
        self.sent = False
        """Whether some try was sent and not answered."""
        self.trouble = "NATS is not reachable"

    @property
    def left(self) -> float:
        return self._end - self._clock()

    async def pause(self, error: LedgerUnavailable) -> None:
        """Remember a trouble that may pass, and wait a little before the next try."""
        self.trouble = str(error).rstrip(".")
        await asyncio.sleep(RETRY_WAIT)

    @property
    def answer_wait(self) -> float:
        return max(0.001, min(ANSWER_WAIT, self.left))


async def append(
    ledger: "Ledger",
    fact: Fact,
    *,
    id: str,
    expect: int | None = None,
    patience: float = PATIENCE,
    stored: StoredCopy | None = None,
) -> int:
    """Record a fact on its subject; returns its sequence.

    `id` is the command's id: the same id within two minutes is the same fact, and its sequence
    is returned again. `expect` is the last sequence of the subject that the caller has seen (0
    for none). Takes at most about `patience` seconds. `stored` is told at once what stands
    where, if this very copy does: its sequence, subject and bytes.
    Raises WrongSequence, LedgerUnavailable (not stored), OutcomeUnknown.
    """
    message = _message(fact, id)
    if expect is not None:
        message.headers[GUARD] = str(expect)
    deadline = _Deadline(patience)
    while True:
        answer = await _exchange(ledger, [message], deadline)
        error = answer.get("error")
        if error is None:
            sequence = _noted(ledger, answer)
            if stored is not None and not answer.get("duplicate"):
                stored(sequence, message.subject, message.data)
            return sequence
        if expect is None or error.get("err_code") not in _GUARD_FAILED:
            raise _refused(error, deadline)
        found = await _look(
            deadline, ledger, lambda: reading.next_on(ledger, message.subject, expect)
        )
        if found is not None and found.headers.get("Nats-Msg-Id") == id:
            return found.sequence
        raise WrongSequence(_last_told(error))


def offer(
    ledger: "Ledger",
    fact: Fact,
    *,
    id: str,
    stored: Callable[[], None],
    otherwise: Callable[[], None],
) -> None:
    """Record a fact once; calls `stored` when it is on the ledger, else `otherwise`.

    Then it may be there or not: `append` under the same id settles that. This costs half of what
    `append` does, for those who have nothing to await.
    """
    began = time.perf_counter()

    def conclude(answer: "asyncio.Future[Reply | None]") -> None:
        APPEND_SECONDS.observe(time.perf_counter() - began)
        reply = None if answer.exception() else answer.result()
        (stored if _is_stored(ledger, reply) else otherwise)()

    message = _message(fact, id)
    try:
        answer = ledger.groups.write(message, ANSWER_WAIT)
    except LedgerUnavailable:
        otherwise()
    else:
        answer.add_done_callback(conclude)


def _is_stored(ledger: "Ledger", reply: Reply | None) -> bool:
    """Whether the server says so; no answer, or that nobody serves there, has no data."""
    if reply is None or not reply.data:
        return False
    answer: Json = msgspec.json.decode(reply.data)
    if "error" in answer:
        return False
    _noted(ledger, answer)
    return True


async def append_all(
    ledger: "Ledger",
    facts: Sequence[tuple[str, Fact]],
    *,
    expect: Mapping[str, int],
    patience: float = PATIENCE,
) -> int:
    """Record up to 1,000 (id, fact) pairs in one atomic batch, all or nothing.

    `expect` names the last sequence seen of literal subjects, whether or not the batch writes
    to them. Returns the last fact's sequence. Raises as `append` does.
    """
    messages = [_message(fact, id) for id, fact in facts]
    _put_guards(messages, expect)
    after = max(expect.values(), default=ledger.highest)
    try:
        return await _store_batch(ledger, messages, after, _Deadline(patience))
    except _GuardFailed as failure:
        raise WrongSequence(failure.last) from None


async def append_fenced(
    ledger: "Ledger",
    facts: Sequence[tuple[str, Fact]],
    term: int,
    *,
    behind: Collection[str] = (),
    patience: float = PATIENCE,
) -> int:
    """Record a leader's decisions, (id, fact) in order, if its term still is the last one.

    Returns the last fact's sequence. Raises Deposed once `facts.term` has moved on: then any
    number of the first facts may stand. On a single node fewer facts than are worth a batch are
    separate writes; more (and on a replicated stream two or more) stand or fall together, a
    thousand at a time. Those with an id in `behind` stand behind the fact before them or not at
    all, which is no error: they are left out if somebody else's fact came between.
    """
    if not facts:
        raise ValueError("there is nothing to append")
    messages = [_message(fact, id) for id, fact in facts]
    deadline = _Deadline(patience)
    enough = ledger.groups.enough if await reading.replicas(ledger) == 1 else 2
    try:
        if len(messages) < enough:
            for before, message in pairwise(messages):
                if message.id in behind:
                    message.headers[_GUARD_LAST_ID] = before.id
            return await _store_pipelined(ledger, messages, term, deadline)
        for start in range(0, len(messages), BATCH_LIMIT):
            batch = messages[start : start + BATCH_LIMIT]
            _fence(batch[0], term)
            last = await _store_batch(ledger, batch, term, deadline)
    except _GuardFailed:
        raise Deposed(f"Term {term} is over: another scheduler leads.") from None
    return last


async def _store_pipelined(
    ledger: "Ledger", messages: list[Message], term: int, deadline: _Deadline
) -> int:
    """Guarded writes, all in flight at once; what went unanswered is sent again, in order."""
    for message in messages:
        _fence(message, term)
    answers: dict[str, Json] = {}
    while missing := [message for message in messages if message.id not in answers]:
        answers |= await _exchange_each(ledger, missing, deadline)
        for message in messages:
            error = answers.get(message.id, {}).get("error")
            if error is None or error.get("err_code") == _NOT_BEHIND:
                continue
            if error.get("err_code") in _GUARD_FAILED:
                raise _GuardFailed(_last_told(error))
            raise _refused(error, deadline)
    return max(_noted(ledger, answer) for answer in answers.values() if "seq" in answer)


async def _exchange_each(
    ledger: "Ledger", messages: list[Message], deadline: _Deadline
) -> dict[str, Json]:
    """Send each message and await all answers; those that came, by id."""
    await _wait_connected(ledger, deadline)
    answers: dict[str, Json] = {}
    futures = []
    try:
        for message in messages:
            future = ledger.begin(message.subject, message.data, message.headers)
            futures.append(future)  # what was sent must be known
    except NotSent:
        deadline.sent = deadline.sent or bool(futures)
    # The last answer comes last: when it is there, the others need no waiting.
    for message, future in reversed(list(zip(messages, futures, strict=False))):
        try:
            reply = await ledger.answer(future, message.subject, deadline.answer_wait)
            answers[message.id] = msgspec.json.decode(reply.data)
        except OutcomeUnknown:
            deadline.sent = True
        except NotServed as error:
            await deadline.pause(error)
    return answers


async def _store_batch(
    ledger: "Ledger", messages: list[Message], after: int, deadline: _Deadline
) -> int:
    """One atomic batch; `after` is a sequence that its messages certainly stand behind."""
    if not 1 <= len(messages) <= BATCH_LIMIT:
        raise ValueError(f"a batch holds 1 to {BATCH_LIMIT} facts, not {len(messages)}")
    answer = await _exchange(ledger, messages, deadline)
    error = answer.get("error")
    if error is None:
        return _noted(ledger, answer)
    code = error.get("err_code")
    last = messages[-1]
    if code in _GUARD_FAILED or code == _DUPLICATE_IN_BATCH:
        stored = await _look(
            deadline,
            ledger,
            lambda: reading.stored_with_id(ledger, last.subject, last.id, after),
        )
        if stored is not None:
            return stored.sequence
    if code in _GUARD_FAILED:
        raise _GuardFailed(_last_told(error))
    raise _refused(error, deadline)


async def _exchange(ledger: "Ledger", messages: list[Message], deadline: _Deadline) -> Json:
    """The server's answer to one message, or to the last one of a batch; sent until it comes."""
    while True:
        if deadline.left <= 0 or not ledger.connected:
            await _wait_connected(ledger, deadline)
        try:
            within = deadline.answer_wait
            if len(messages) == 1:
                future = ledger.groups.write(messages[0], within)
            else:
                future = ledger.groups.write_batch(messages, within)
            reply = await ledger.answer(future, messages[-1].subject, within)
        except NotSent:
            continue
        except NotServed as error:
            await deadline.pause(error)
        except OutcomeUnknown:
            deadline.sent = True
        else:
            answer: Json = msgspec.json.decode(reply.data)
            return answer


async def _look(
    deadline: _Deadline, ledger: "Ledger", look: Callable[[], Awaitable[Stored | None]]
) -> Stored | None:
    """What stands on the ledger, asked until it is answered: until then nothing is known."""
    deadline.sent = True
    while True:
        await _wait_connected(ledger, deadline)
        try:
            return await look()
        except LedgerUnavailable as error:
            await deadline.pause(error)


async def _wait_connected(ledger: "Ledger", deadline: _Deadline) -> None:
    """Return once a try makes sense; the call's last word when its patience is over."""
    if deadline.left > 0:
        if ledger.connected:
            return
        if await ledger.wait_connected(deadline.left):
            return
    if deadline.sent:
        raise OutcomeUnknown(
            "NATS did not confirm the write, which may or may not be stored "
            "(a denied permission looks the same)."
        )
    raise LedgerUnavailable(f"{deadline.trouble}; nothing was stored.")


def _message(fact: Fact, id: str) -> Message:
    headers = {"Nats-Msg-Id": id, "Fact-Kind": fact.kind}
    return Message(subject_of(fact), encode(fact), headers)


def _put_guards(messages: list[Message], expect: Mapping[str, int]) -> None:
    """Guard each subject on the first message that may carry it: its own, else any free one."""
    elsewhere = dict(expect)
    for message in messages:
        sequence = elsewhere.pop(message.subject, None)
        if sequence is not None:
            message.headers[GUARD] = str(sequence)
    free = (message for message in messages if GUARD not in message.headers)
    for subject, sequence in elsewhere.items():
        carrier = next(free, None)
        if carrier is None:
            raise ValueError("a batch can guard at most as many subjects as it has facts")
        carrier.headers[GUARD] = str(sequence)
        carrier.headers[GUARD_SUBJECT] = subject


def _fence(message: Message, term: int) -> None:
    message.headers[GUARD] = str(term)
    message.headers[GUARD_SUBJECT] = TERM


class _GuardFailed(Exception):
    """The server refused a guard and our message is not what stands there."""

    def __init__(self, last: int | None) -> None:
        self.last = last


def _noted(ledger: "Ledger", answer: Json) -> int:
    sequence = int(answer["seq"])
    ledger.highest = max(ledger.highest, sequence)
    return sequence


def _last_told(error: Json) -> int | None:
    told = str(error.get("description", "")).rpartition(": ")[2]
    return int(told) if told.isdigit() else None


def _refused(error: Json, deadline: _Deadline) -> LedgerUnavailable:
    why = error.get("description", error)
    if deadline.sent:
        return OutcomeUnknown(f"NATS refused to repeat a write of unknown outcome: {why}.")
    return LedgerUnavailable(f"NATS refused the write: {why}.")
