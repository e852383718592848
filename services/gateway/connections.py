"""Connections: how many there are, how long one may take, how much a request's head may hold.

uvicorn's protocol, with bounds on what costs a client nothing: connections that say nothing,
heads that never end, readers that never read. Knows neither calls nor callers; bodies are
bounded where they are read (endpoint.py).
"""

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGISendEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from services.gateway.replies import AT_ONCE, encode

# A request's head must be complete within so many seconds after the connection was made or its
# first byte came.
HEAD_PATIENCE = 15.0
# Bytes of a head, its URL included, and how many header fields there may be.
MOST_HEAD = 64 * 1024
MOST_FIELDS = 100
# A client that takes less than this many bytes of its reply in so many seconds is dropped.
READ_PATIENCE = 30.0
SLOWEST_READER = 16 * 1024
# A reply's head and a body of less than this become one: to copy it costs less than two writes.
_COPIED = 16 * 1024


Headers = Sequence[tuple[bytes, bytes]]

_CHUNKED = (b"transfer-encoding", b"chunked")
_END = b"0\r\n\r\n"
_FRAMING = (b"content-length", b"transfer-encoding")


class _HeadRefused(Exception):
    """Raised within the parser; the reply is in `_refusal`."""


class _Ignored(list[tuple[bytes, bytes]]):
    """Where the fields go that follow a body (trailers): nobody may take them for the head's."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Forget it."""


class Exchange(RequestResponseCycle):
    """One request and its reply.

    The head of a reply waits for the first of its body, so that most replies are one write: each
    write wakes the client up.
    """

    _start: HTTPResponseStartEvent | None = None

    async def run_asgi(self, app: Any) -> None:
        """Have the application answer.

        What is offered to it leads back here. Let go of, all of this is freed at once; otherwise
        it waits for the search for garbage, which then holds up a call every few hundred calls.
        """
        try:
            await super().run_asgi(app)
        finally:
            self.scope.pop("extensions", None)

    async def send(self, message: ASGISendEvent) -> None:
        """Take a part of the reply, as ASGI says."""
        if message["type"] == "http.response.start" and not self.response_started:
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            if message["type"] == "http.response.body" and not self.flow.write_paused:
                more = message.get("more_body", False)
                if self._send_at_once(start, message.get("body", b""), more=more):
                    return
            await super().send(start)
        await super().send(message)

    def _send_at_once(self, start: HTTPResponseStartEvent, body: bytes, *, more: bool) -> bool:
        """Send the head and the first of the body, if they are ordinary; whether they are.

        Ordinary are a whole reply whose length is told, and the beginning of one whose is not.
        """
        named = dict(start["headers"])
        length, status = named.get(b"content-length"), start["status"]
        chunked = length is None and status == 200 and b"transfer-encoding" not in named
        whole = not more and length == b"%d" % len(body)
        ordinary = self.keep_alive and self.scope["method"] != "HEAD" and b"connection" not in named
        if not ordinary or not (chunked or whole):
            return False
        lines = [*self.default_headers, *start["headers"]]
        if chunked:
            lines.append(_CHUNKED)
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + _END * (not more)
        self._write(status, header_lines(lines), body, chunked=chunked, more=more)
        return True

    def reply(self, status: int, recurring: bytes, headers: Headers, body: bytes) -> bool:
        """Send a whole reply, if nothing is unusual about it; whether it was sent.

        `recurring` are lines of its head, `headers` more of them.
        """
        unusual = not self.keep_alive or self.response_started or self._start is not None
        if unusual or self.flow.write_paused or self.scope["method"] == "HEAD":
            return False
        date = recurring_lines(tuple(self.default_headers))
        length = b"content-length: %d\r\n" % len(body)
        head = b"".join((date, recurring, header_lines(headers), length))
        self._write(status, head, body, chunked=False, more=False)
        return True

    def _write(self, status: int, head: bytes, body: bytes, *, chunked: bool, more: bool) -> None:
        self.waiting_for_100_continue = False
        self.response_started, self.chunked_encoding = True, chunked
        if self.disconnected:
            return
        head = b"%b%b\r\n" % (STATUS_LINE[status], head)
        if len(body) < _COPIED:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))
        if not more:
            self.response_complete = True
            self.message_event.set()
            self.on_response()

    def left(self) -> bool:
        """Whether the client closed its connection."""
        return bool(self.disconnected)

    def arrived(self) -> bytes | None:
        """The request's body, if all of it is here by now; it is given once."""
        if self.more_body or self.waiting_for_100_continue or self.disconnected:
            return None
        body, self.body = bytes(self.body), bytearray()
        self.message_event.clear()
        return body


def header_lines(headers: Headers) -> bytes:
    """Headers as they stand in a reply's head. RuntimeError for values that would break it."""
    if headers and HEADER_VALUE_RE.search(b"".join(chain.from_iterable(headers))):
        raise RuntimeError("A header holds what would break the reply's head.")
    return b"".join([b"%b: %b\r\n" % line for line in headers])


recurring_lines = lru_cache(64)(header_lines)
"""As `header_lines`, for a tuple of headers that come again and again, and are no secrets."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `most_connections` is for the whole process."""

    most_connections = 4096

    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _head_size = 0
    _idle_since = 0.0
    _in_body = False
    _going_on = False
    _without_body = 0
    _unread = 0
    _refusal: tuple[int, str] | None = None

    # --- coming and going ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection; when there are too many, one that is idle gives way."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > self.most_connections and not self._make_room():
            self._refuse(503, "There are too many connections.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and all that was timed for it."""
        self._head_arrived()
        self._reader_goes_on()
        super().connection_lost(exc)
        super()._unset_keepalive_if_required()

    def _make_room(self) -> bool:
        for other in self.connections:
            if other is not self and isinstance(other, GuardedProtocol) and other.idle:
                other.transport.abort()
                self.connections.discard(other)
                return True
        return False

    @property
    def idle(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    # --- heads ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse what came; a head that grows too large is refused before it is complete.

        The rest of a body that was refused already is read and dropped, so that the client
        gets to see the refusal; but not for long.
        """
        self._without_body += len(data)
        self._parse(data)
        if self._in_body:
            if self._without_body > MOST_HEAD:
                self._body_is_none()
        elif self._head_timer is not None or self.idle:
            if self._head_timer is None:
                self._await_head()
            self._head_size += len(data)
            if self._head_size > MOST_HEAD:
                self._refuse(431, f"A request's head may have at most {MOST_HEAD} bytes.")

    def _parse(self, data: bytes) -> None:
        """Have the parser take all of it.

        It stops after a head that offers another protocol (Upgrade), as Java's client does with
        HTTP/2 on each new connection, and takes no body of it. None is spoken here: what follows
        is that request's body, and then the next request.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self.send_400_response("")
            except httptools.HttpParserUpgrade as offered:
                data = self._body_announced() + data[offered.args[0] :]
                continue
            return

    def _body_announced(self) -> bytes:
        """What makes a new parser expect the body of this request, if there is to be one."""
        framing = [field for field in self.scope["headers"] if field[0] in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._going_on = True
        return b"POST / HTTP/1.1\r\n%b\r\n" % header_lines(framing)

    def on_headers_complete(self) -> None:
        """The head is here: answer it, if it is not too large."""
        if self._going_on:
            self._going_on = False
            return
        self._without_body = 0
        self._head_arrived()
        self._in_body = True
        size = len(self.url) + sum(map(len, chain.from_iterable(self.headers)))
        if size > MOST_HEAD or len(self.headers) > MOST_FIELDS:
            text = f"at most {MOST_HEAD} bytes and {MOST_FIELDS} fields"
            self._refusal = (431, f"A request's head may have {text}.")
            raise _HeadRefused
        try:
            self._complete_scope()
        except (httptools.HttpParserInvalidURLError, UnicodeError) as error:
            self._refusal = (400, "The request's URL is malformed.")
            raise _HeadRefused from error
        self._begin()
        self.headers = _Ignored()

    def _complete_scope(self) -> None:
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = self.parser.get_http_version()
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""

    def _begin(self) -> None:
        """Answer the request, after those that came before it on this connection."""
        before = self.cycle
        self.cycle = Exchange(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.scope["http_version"] != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        at_once: dict[object, object] = {
            "arrived": self.cycle.arrived,
            "reply": self.cycle.reply,
            "left": self.cycle.left,
        }
        self.scope["extensions"] = {AT_ONCE: at_once}
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        """A part of the body is here."""
        self._without_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is here as well; if nobody waited for it, the next head is what may come."""
        if self.parser.should_upgrade():
            return  # see `_parse`
        self._in_body = False
        super().on_message_complete()
        if self._head_timer is not None:
            self._head_arrived()
            self._await_head()

    def on_response_complete(self) -> None:
        """The reply is sent; a body that was not awaited may not hold the connection."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self._idle_since = self.loop.time()
                if self.timeout_keep_alive_task is None:
                    self._keep_alive(self.timeout_keep_alive)
        if self._in_body and self._head_timer is None:
            self._await_head()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was idle for long; a head that has begun is timed by itself."""
        self.timeout_keep_alive_task = None
        if not self.idle or self._head_timer is not None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._keep_alive(left)
        else:
            super().timeout_keep_alive_handler()

    def _keep_alive(self, seconds: float) -> None:
        """One timer for as many requests as there come meanwhile; uvicorn takes one for each."""
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _unset_keepalive_if_required(self) -> None:
        """What came does not end the timer, see `timeout_keep_alive_handler`."""

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the form of all refusals."""
        self._refuse(*(self._refusal or (400, "This is not a valid HTTP request.")))

    def _await_head(self) -> None:
        self._head_size = 0
        self._head_timer = self.loop.call_later(HEAD_PATIENCE, self._head_is_late)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._in_body:
            self.transport.close()
        else:
            self._refuse(408, "The request did not come in time.")

    def _body_is_none(self) -> None:
        """Refuse what frames a body (trailers, extensions of chunks) and never ends."""
        if self.idle:
            self.transport.close()
        else:
            self._refuse(431, f"What frames a body may have at most {MOST_HEAD} bytes.")

    def _refuse(self, status: int, description: str) -> None:
        """Say why and close; where a reply is on its way already, only close."""
        self._head_arrived()
        if self.transport.is_closing():
            return
        if not self.idle and self.cycle.response_started:
            self.transport.abort()
            return
        if not self.idle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        body = encode({"code": "api", "description": description}) + b"\n"
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            + b"connection: close\r\n\r\n"
            + body
        )
        self.transport.close()

    # --- slow readers --------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """More waits to be sent than the connection takes: watch whether it goes on."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client has taken nearly everything."""
        super().resume_writing()
        self._reader_goes_on()

    def _watch_reader(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._read_timer = self.loop.call_later(READ_PATIENCE, self._check_reader)

    def _check_reader(self) -> None:
        if self._unread - self.transport.get_write_buffer_size() < SLOWEST_READER:
            self.transport.abort()
        else:
            self._watch_reader()

    def _reader_goes_on(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None


def guarded(most_connections: int) -> type[asyncio.Protocol]:
    """The protocol for a process that takes this many connections at once."""
    bounds: dict[str, Any] = {"most_connections": most_connections}
    return cast("type[asyncio.Protocol]", type("Protocol", (GuardedProtocol,), bounds))
