"""Server-sent events: a stream of updates to one client (api.md 4.11).

The stream is pulled, never pushed: what a client is told is computed when its connection can
take it, so nothing piles up behind a slow one, and one that takes nothing for too long is
dropped. Knows nothing of jobs.
"""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from litestar.types import HTTPScope, Receive, Send

from services import logs
from services.gateway.patience import GivenUp, Patience
from services.gateway.replies import AT_ONCE, encode

# A client that takes no byte for this many seconds is gone or hopelessly behind.
PATIENCE = 20.0

log = logs.logger("stream")


class Last(bytes):
    """The last events of a stream, which ends with them."""


@dataclass(frozen=True, slots=True)
class EventStream:
    """A reply that is a stream of events; an ASGI application of its own.

    `name` tells in the log what is streamed. A client that left is noticed at the next event:
    there should be one each second.
    """

    events: AsyncGenerator[bytes, None]
    name: str
    patience: Patience

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Send the events until they end, the client leaves, or it takes nothing any more."""
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            (b"access-control-allow-origin", b"*"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await _body(send, b"", more=False)
            return
        at_once: Any = (scope.get("extensions") or {}).get(AT_ONCE)
        left = at_once["left"] if at_once is not None else _stays
        try:
            async with contextlib.aclosing(self.events) as events:
                async for event in events:
                    if left():
                        return
                    more = not isinstance(event, Last)
                    await self.patience.wait(_body(send, event, more=more), PATIENCE)
                    if not more:
                        return
            await _body(send, b"", more=False)
        except GivenUp:
            log.warning(
                "A client takes its stream too slowly and is dropped",
                action="stream_dropped",
                stream=self.name,
                reason=f"nothing was taken for {PATIENCE:g} s",
            )


def event(name: str, data: Any) -> bytes:
    """One event on the wire: exactly two lines and an empty one."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(data))


async def _body(send: Send, data: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


def _stays() -> bool:
    return False
