"""Reading facts as they are stored, byte by byte: for audits, erasing, rebuilds and replays.

Unlike a Follower this reads a closed range, at the pace of whoever takes the batches, and gives
headers and payload undecoded. Knows nothing of what the facts mean.
"""

import asyncio
import base64
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from domain.audit import RawFact
from domain.facts import Json
from services.ledger import reading
from services.ledger.errors import LedgerUnavailable, NotSent
from services.ledger.replies import parse_headers

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

# One pull asks for this many facts, or for this many bytes of them.
BATCH = 1000
BATCH_BYTES = 16 * 1024 * 1024
# A pull of facts that are there is answered at once; this is patience with a busy server.
SILENCE = 10.0
# After a broken connection the reader goes on where it was, for at most this long.
PATIENCE = 60.0
_INACTIVE = 60.0
_SECOND = 1_000_000_000
_NOT_FOUND = 10037
# How the answer to a deletion begins when the message is gone already.
_GONE = ("no message found", "message not found", "deleted message")


async def read_raw(
    ledger: "Ledger",
    *,
    after: int,
    upto: int,
    subjects: Sequence[str] = ("facts.>",),
    stream: str = reading.STREAM,
) -> AsyncGenerator[list[RawFact], None]:
    """The facts after `after` up to `upto`, in order, in batches of up to a thousand.

    Goes on by itself after a lost connection. Raises LedgerUnavailable if that lasts a minute.
    """
    position = after
    clock = asyncio.get_running_loop().time
    patience = clock() + PATIENCE
    while position < upto:
        try:
            async for batch in _one_consumer(ledger, position, subjects, stream):
                patience = clock() + PATIENCE
                if batch[-1].sequence >= upto:
                    if taken := [fact for fact in batch if fact.sequence <= upto]:
                        yield taken
                    return
                yield batch
                position = batch[-1].sequence
            return
        except LedgerUnavailable:
            if clock() > patience:
                raise
            await ledger.wait_connected(1.0)
            await asyncio.sleep(0.1)


async def raw_at(
    ledger: "Ledger", sequence: int, *, stream: str = reading.STREAM
) -> RawFact | None:
    """The message at this sequence, or None."""
    return await _get(ledger, {"seq": sequence}, stream)


async def raw_on(ledger: "Ledger", subject: str, after: int) -> RawFact | None:
    """The first message of this subject (or pattern) with a sequence greater than `after`."""
    return await _get(ledger, {"seq": after + 1, "next_by_subj": subject}, reading.STREAM)


async def remove(
    ledger: "Ledger", sequence: int, *, overwrite: bool, stream: str = reading.STREAM
) -> bool:
    """Remove one message for good; False if it was gone.

    With `overwrite` its bytes on disk are overwritten at once, which keeps the stream busy for
    10 ms; otherwise they go when the server compacts the file (0.5 ms).
    """
    body: Json = {"seq": sequence, "no_erase": not overwrite}
    answer = await ledger.api(f"STREAM.MSG.DELETE.{stream}", body)
    if str(answer.get("error", {}).get("description", "")).startswith(_GONE):
        return False
    reading.checked(answer)
    return True


async def _get(ledger: "Ledger", query: Json, stream: str) -> RawFact | None:
    answer = await ledger.api(f"STREAM.MSG.GET.{stream}", query)
    if answer.get("error", {}).get("err_code") == _NOT_FOUND:
        return None
    message = reading.checked(answer)["message"]
    return RawFact(
        sequence=message["seq"],
        subject=message["subject"],
        headers=base64.b64decode(message.get("hdrs", "")),
        data=base64.b64decode(message.get("data", "")),
    )


async def _one_consumer(
    ledger: "Ledger", after: int, subjects: Sequence[str], stream: str
) -> AsyncIterator[list[RawFact]]:
    """Batches from one consumer until it has no more; LedgerUnavailable if it fails us."""
    name = f"reader-{secrets.token_hex(8)}"
    inbox = ledger.nc.new_inbox()
    pull = _Pull()
    key = await ledger.subscribe_direct(inbox, pull.take)
    try:
        left = await _create(ledger, name, after, subjects, stream)
        number = 0
        while left > 0:
            await pull.send(ledger, stream, name, inbox)
            batch = await pull.batch()
            for numbered, _ in batch:
                number += 1
                if numbered != number:
                    raise LedgerUnavailable("The server left out a message.")
            left = pull.pending
            if batch:
                yield [fact for _, fact in batch]
            elif not pull.ended:
                return
    finally:
        await ledger.unsubscribe_direct(key)
        with suppress(NotSent):
            ledger.publish(f"$JS.API.CONSUMER.DELETE.{stream}.{name}", b"")


async def _create(
    ledger: "Ledger", name: str, after: int, subjects: Sequence[str], stream: str
) -> int:
    config: Json = {
        "name": name,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": after + 1,
        "ack_policy": "none",
        "replay_policy": "instant",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": int(_INACTIVE * _SECOND),
    }
    verb = f"CONSUMER.CREATE.{stream}.{name}"
    if len(subjects) == 1:
        config["filter_subject"] = subjects[0]
        verb += "." + subjects[0]
    else:
        config["filter_subjects"] = list(subjects)
    body = {"stream_name": stream, "config": config, "action": "create"}
    return int(reading.checked(await ledger.api(verb, body))["num_pending"])


@dataclass
class _Pull:
    """What one pull request brings; `pending` is what the consumer holds beyond it."""

    facts: list[tuple[int, RawFact]] = field(default_factory=list)
    pending: int = 0
    ended: bool = False
    trouble: str = ""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, ledger: "Ledger", stream: str, name: str, inbox: str) -> None:
        self.facts, self.ended, self.trouble, self.pending = [], False, "", 0
        self.news.clear()
        body = f'{{"batch":{BATCH},"max_bytes":{BATCH_BYTES},"no_wait":true}}'
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"
        ledger.publish(subject, body.encode(), reply=inbox)

    async def batch(self) -> list[tuple[int, RawFact]]:
        """The facts of this pull, with the consumer's own numbers."""
        try:
            async with asyncio.timeout(SILENCE):
                await self.news.wait()
        except TimeoutError:
            raise LedgerUnavailable(f"NATS sent nothing for {SILENCE:g} s.") from None
        if self.trouble:
            raise LedgerUnavailable(f"NATS ended the reading: {self.trouble}.")
        return self.facts

    def take(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """One message of the server, as it is parsed."""
        if not reply.startswith(b"$JS.ACK."):
            self._take_status(parse_headers(headers))
            return
        _, sequence, number, nanoseconds, pending = reply.rsplit(b".", 4)
        fact = RawFact(
            int(sequence), subject.decode(), bytes(headers or b""), data, int(nanoseconds) / _SECOND
        )
        self.facts.append((int(number), fact))
        self.pending = int(pending)
        if len(self.facts) == BATCH or self.pending == 0:
            self.news.set()

    def _take_status(self, headers: dict[str, str]) -> None:
        status, why = headers.get("Status"), headers.get("Description", "")
        if status == "100" or why.startswith("Batch Completed"):
            return  # a full pull is known by its count; this may come during the next one
        if status not in ("404", "408") and not why.startswith("Message Size Exceeds MaxBytes"):
            self.trouble = f"{status} {why}"
        self.ended = True
        self.news.set()
