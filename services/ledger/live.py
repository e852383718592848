"""Live messages over core NATS: telemetry and requests that nobody keeps.

JSON objects in, JSON objects out; a subject's meaning is the caller's business. What is
published while the connection is down is lost, as live messages may be.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from domain.facts import Json
from services.json_bytes import as_json, from_json
from services.ledger.errors import LedgerUnavailable, NotSent
from services.logs import logger

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

log = logger()

Listener = Callable[[Json], Awaitable[None]]
"""Gets each message, one after the other."""


class RawAnswer:
    """An answer that is bytes with headers instead of a JSON object."""

    __slots__ = ("data", "headers")

    def __init__(self, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.data = data
        self.headers = headers or {}


Answerer = Callable[[Json], Awaitable[Json | RawAnswer]]
"""Gets a request, gives the answer."""


def publish(ledger: "Ledger", subject: str, message: Json) -> bool:
    """Tell whoever listens; whether there was a connection to do so."""
    try:
        ledger.publish(subject, as_json(message))
    except NotSent:
        return False
    return True


async def listen(ledger: "Ledger", subject: str, handler: Listener) -> Subscription:
    """Hand every JSON object on `subject` to `handler`; `unsubscribe()` the result to end it.

    What is no JSON object is logged and left out; an error of the handler is logged.
    """

    async def receive(message: Msg) -> None:
        content = _decode(message)
        if content is not None:
            await _guarded(handler(content), message.subject)

    return await ledger.nc.subscribe(subject, cb=receive)


async def ask(
    ledger: "Ledger",
    subject: str,
    message: Json,
    timeout: float,  # noqa: ASYNC109
) -> Json:
    """Ask the service that answers on `subject`; a JSON object comes back.

    Raises NotServed if nobody answers there, OutcomeUnknown after `timeout` seconds,
    NotSent without a connection.
    """
    reply = await ask_raw(ledger, subject, message, timeout)
    answer = read_object(reply.data)
    if answer is None:
        raise LedgerUnavailable(f"The answer on {subject} is no JSON object.")
    return answer


async def ask_raw(
    ledger: "Ledger",
    subject: str,
    message: Json,
    timeout: float,  # noqa: ASYNC109
) -> RawAnswer:
    """As `ask`, for an answer of bytes and headers."""
    reply = await ledger.request(subject, as_json(message), within=timeout)
    return RawAnswer(reply.data, dict(reply.headers))


async def answer(
    ledger: "Ledger", subject: str, handler: Answerer, queue: str = ""
) -> Subscription:
    """Answer requests on `subject`, each as soon as it is ready; of one `queue`, one answers.

    An error of the handler is logged and answered as {"error": ...}.
    """
    under_way: set[asyncio.Task[None]] = set()

    async def receive(message: Msg) -> None:
        content = _decode(message)
        if content is not None and message.reply:
            task = asyncio.create_task(respond(message, content))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    async def respond(message: Msg, content: Json) -> None:
        try:
            result = await handler(content)
        except Exception as error:
            log.exception("A request failed", action="request_failed", subject=message.subject)
            result = {"error": str(error) or type(error).__name__}
        raw = result if isinstance(result, RawAnswer) else RawAnswer(as_json(result))
        try:
            ledger.publish(message.reply, raw.data, headers=raw.headers or None)
        except LedgerUnavailable as error:
            log.warning("An answer was lost", action="answer_lost", reason=str(error))

    return await ledger.nc.subscribe(subject, queue=queue, cb=receive)


async def _guarded(work: Awaitable[None], subject: str) -> None:
    try:
        await work
    except Exception:
        log.exception("A live message failed", action="live_failed", subject=subject)


def read_object(data: bytes) -> Json | None:
    """The JSON object in a message, or None if it is none."""
    try:
        content = from_json(data)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _decode(message: Msg) -> Json | None:
    content = read_object(message.data)
    if content is None:
        log.warning("A live message is no JSON object", action="live_bad", subject=message.subject)
    return content
