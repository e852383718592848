"""Looking up single facts on the ledger, by sequence or by subject.

What guards and read-backs rely on is asked from the stream's leader: on a replicated stream a
direct get may be answered by a follower that is behind.
"""

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.facts import Json, Recorded, UnreadableFact, decode
from services.ledger.errors import LedgerUnavailable
from services.ledger.replies import parse_headers

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

STREAM = "LEDGER"
_NOT_FOUND = 10037
_NO_STREAM = 10059


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it stands on a stream."""

    sequence: int
    subject: str
    headers: dict[str, str]
    data: bytes


async def end(ledger: "Ledger") -> int:
    """The last sequence of the ledger; 0 if it is empty."""
    info = checked(await ledger.api(f"STREAM.INFO.{STREAM}"))
    ledger.replicas = info["config"]["num_replicas"]
    last = int(info["state"]["last_seq"])
    ledger.highest = max(ledger.highest, last)
    return last


async def replicas(ledger: "Ledger") -> int:
    """How many copies the stream LEDGER has; asked once."""
    if not ledger.replicas:
        await end(ledger)
    return ledger.replicas


async def get(ledger: "Ledger", sequence: int) -> Recorded | None:
    """The fact at this sequence, or None (none yet, or erased).

    Raises UnreadableFact if this release does not know it.
    """
    return _recorded(await stored_at(ledger, STREAM, sequence))


async def last_fact(ledger: "Ledger", subject: str) -> Recorded | None:
    """The last fact of this literal subject, or None."""
    return _recorded(await find(ledger, {"last_by_subj": subject}))


async def last_sequence(ledger: "Ledger", subject: str) -> int:
    """The last sequence of this literal subject; 0 if there is none."""
    stored = await find(ledger, {"last_by_subj": subject})
    return stored.sequence if stored else 0


async def next_on(ledger: "Ledger", subject: str, after: int) -> Stored | None:
    """The first message of this subject (or pattern) with a sequence greater than `after`."""
    return await find(ledger, {"seq": after + 1, "next_by_subj": subject})


async def stored_with_id(ledger: "Ledger", subject: str, id: str, after: int) -> Stored | None:
    """The message of this subject after sequence `after` that was published with this id."""
    last = await find(ledger, {"last_by_subj": subject})
    if last is None or last.sequence <= after:
        return None
    if last.headers.get("Nats-Msg-Id") == id:
        return last
    stored = await next_on(ledger, subject, after)
    while stored is not None and stored.headers.get("Nats-Msg-Id") != id:
        stored = await next_on(ledger, subject, stored.sequence)
    return stored


async def find(ledger: "Ledger", query: Json, stream: str = STREAM) -> Stored | None:
    """What the stream's leader holds for this STREAM.MSG.GET query, or None."""
    answer = await ledger.api(f"STREAM.MSG.GET.{stream}", query)
    if answer.get("error", {}).get("err_code") == _NOT_FOUND:
        return None
    message = checked(answer)["message"]
    return Stored(
        sequence=message["seq"],
        subject=message["subject"],
        headers=parse_headers(base64.b64decode(message.get("hdrs", ""))),
        data=base64.b64decode(message.get("data", "")),
    )


async def stored_at(ledger: "Ledger", stream: str, sequence: int) -> Stored | None:
    """The message at this sequence of a stream, or None.

    Asks whichever replica is near first; what that one does not hold, the leader may.
    """
    query = b'{"seq":%d}' % sequence
    reply = await ledger.request(f"$JS.API.DIRECT.GET.{stream}", query)
    if reply.status is None:
        return Stored(sequence, reply.headers["Nats-Subject"], dict(reply.headers), reply.data)
    if reply.status != "404":
        why = reply.headers.get("Description", reply.status)
        raise LedgerUnavailable(f"NATS cannot read message {sequence}: {why}.")
    if await replicas(ledger) > 1:
        return await find(ledger, {"seq": sequence}, stream)
    return None


def checked(answer: Json) -> Json:
    """The answer of the JetStream API itself; LedgerUnavailable if it is an error."""
    error = answer.get("error")
    if error is None:
        return answer
    if error.get("err_code") == _NO_STREAM:
        raise LedgerUnavailable("The stream is missing: no gateway or scheduler made it yet.")
    raise LedgerUnavailable(f"NATS refused: {error.get('description', error)}.")


def _recorded(stored: Stored | None) -> Recorded | None:
    if stored is None:
        return None
    try:
        return Recorded(stored.sequence, stored.subject, decode(stored.data))
    except UnreadableFact as error:
        raise UnreadableFact(f"Fact {stored.sequence} is unreadable: {error}") from error
