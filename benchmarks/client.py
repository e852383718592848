"""An HTTP client that costs little: a general one would use more CPU than the server it measures.

Takes what any HTTP/1.1 server may send: a length, chunks, or an end of the connection; closed
keep-alive connections; no ledger sequence. Knows nothing of what is asked.
"""

import asyncio
import json
import re
import socket
import struct
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
import uvloop

Json = dict[str, Any]
T = TypeVar("T")

PATIENCE = 120.0
_PATIENCE = struct.pack("ll", int(PATIENCE), 0)
_NO_BODY = (204, 304)
_MUCH = 256 * 1024


class Address(Protocol):
    """Where a server is, and the API key that it takes."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def key(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply; `head` is in lower case, `size` are the bytes it took on the wire."""

    status: int
    head: bytes
    body: bytes
    size: int

    def header(self, name: bytes) -> bytes:
        """The value of a header, by its lower-case name; empty where it is not there."""
        return _header(self.head, name)


class _Outcome(msgspec.Struct):
    code: int | str
    description: object = ""


_OUTCOME = msgspec.json.Decoder(_Outcome)
# How a reply that says yes mostly begins: to read all of a long one takes longer than the call.
_FINE = re.compile(rb'\s*\{\s*"code"\s*:\s*0\s*[,}]')


class BadReply(RuntimeError):
    """A reply that says no, or that is none."""


class _Closed(BadReply):
    """The connection ended before anything of a reply came."""


def parse_reply(
    data: bytes | bytearray, size: int | None = None, *, ended: bool = False
) -> Reply | None:
    """The reply that the first `size` bytes begin with, None while there is not all of it.

    `ended`: the server sends no more. Raises BadReply if the bytes can become no reply.
    """
    size = len(data) if size is None else size
    end = data.find(b"\r\n\r\n", 0, size)
    if end < 0:
        if ended:
            raise BadReply("The connection ended within a reply's head.")
        return None
    # Only looked through for the few headers that matter here: a dictionary costs more.
    head = bytes(data[:end]).lower()
    status, start = int(head.split(None, 2)[1]), end + 4
    if status in _NO_BODY:
        return Reply(status, head, b"", start)
    if _header(head, b"transfer-encoding") == b"chunked":
        found = _chunks(bytes(data[:size]), start)
    elif length := _header(head, b"content-length"):
        stop = start + int(length)
        found = (bytes(memoryview(data)[start:stop]), stop) if size >= stop else None
    else:
        found = (bytes(memoryview(data)[start:size]), size) if ended else None
    if found is None:
        if ended:
            raise BadReply("The connection ended within a reply.")
        return None
    return Reply(status, head, *found)


def _header(head: bytes, name: bytes) -> bytes:
    _, _, found = head.partition(b"\r\n%b:" % name)
    return found.partition(b"\r\n")[0].strip()


def _chunks(data: bytes, start: int) -> tuple[bytes, int] | None:
    """The joined chunks and where they end; None while some are missing."""
    parts: list[bytes] = []
    while (line := data.find(b"\r\n", start)) >= 0:
        length = int(data[start:line].partition(b";")[0], 16)
        if length == 0:
            # Trailers, usually none, then an empty line.
            end = line + 2 if data[line + 2 : line + 4] == b"\r\n" else data.find(b"\r\n\r\n", line)
            return (b"".join(parts), end + (2 if end == line + 2 else 4)) if end >= 0 else None
        parts.append(data[line + 2 : line + 2 + length])
        start = line + 2 + length + 2
    return None


class Gathering:
    """One reply after the other, each in pieces that are looked through once there are enough.

    Their bytes are gathered in one place: memory that is new each time takes longer than a call.
    """

    def __init__(self) -> None:
        self._room = bytearray(_MUCH)
        self._size = self._needed = 0

    def begin(self) -> None:
        """Forget what came: the next reply is awaited."""
        self._size = self._needed = 0

    def add(self, piece: bytes | memoryview, *, ended: bool = False) -> Reply | None:
        """Take in what came next; the reply, once it is whole. Raises BadReply."""
        end = self._size + len(piece)
        if end > len(self._room):
            self._room += bytes(end)
        self._room[self._size : end] = piece
        self._size = end
        if end < self._needed and not ended:
            return None
        reply = parse_reply(self._room, end, ended=ended)
        if reply is None:
            self._needed = self._announced()
        return reply

    def _announced(self) -> int:
        """How long the reply is that has begun, if it says that."""
        end = self._room.find(b"\r\n\r\n", 0, self._size)
        length = _header(self._room[:end].lower(), b"content-length") if end >= 0 else b""
        return end + 4 + int(length) if length else 0


def request(server: Address, name: str, body: Json | None) -> bytes:
    """The bytes that POST the body, or GET without one."""
    verb, content, described = "GET", b"", ""
    if body is not None:
        verb, content = "POST", json.dumps(body).encode()
        # Only of a body: a server may read what is announced as JSON, and nothing is no JSON.
        described = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    head = (
        f"{verb} /api/app/{name} HTTP/1.1\r\nHost: {server.host}\r\n"
        f"X-API-Key: {server.key}\r\n{described}\r\n"
    )
    return head.encode() + content


def checked(name: str, reply: bytes) -> bytes:
    """The reply to a call, of which no more is read than its code; BadReply unless it is 0."""
    if _FINE.match(reply):
        return reply
    try:
        outcome = _OUTCOME.decode(reply)
    except msgspec.DecodeError:
        raise BadReply(f"{name}: {reply[:80]!r}") from None
    if outcome.code != 0:
        raise BadReply(f"{name}: {outcome.code} {outcome.description}")
    return reply


class Wire:
    """A connection that blocks, for one client: a loop for many would take time of its own."""

    def __init__(self, server: Address) -> None:
        self._server = server
        self._room = memoryview(bytearray(_MUCH))
        self._gathering = Gathering()
        self._socket: socket.socket | None = None
        self.size = 0
        """Bytes of the last reply."""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def raw(self, name: str, body: Json | None = None) -> bytes:
        """As Client.raw."""
        return checked(name, self.ask(request(self._server, name, body))[0].body)

    def ask(self, request: bytes) -> tuple[Reply, float, float]:
        """The reply, and when request and reply were there: in Unix seconds.

        Asks once more on a new connection if the old one was closed before any reply to this.
        Raises BadReply, or OSError.
        """
        if self._socket is not None:
            with suppress(_Closed, ConnectionError):
                return self._exchange(self._socket, request)
        self._close()
        self._socket = wire = socket.create_connection((self._server.host, self._server.port))
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Patience that the kernel has: with settimeout() each read were two calls.
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PATIENCE)
        return self._exchange(wire, request)

    def _exchange(self, wire: socket.socket, request: bytes) -> tuple[Reply, float, float]:
        reply, size, began = None, 0, time.time()
        self._gathering.begin()
        wire.sendall(request)
        while reply is None:
            came = wire.recv_into(self._room)
            at, size = time.time(), size + came
            if not size:
                raise _Closed("The connection was closed before any reply.")
            reply = self._gathering.add(self._room[:came], ended=not came)
        self.size = reply.size
        if not came or reply.header(b"connection") == b"close":
            self._close()
        return reply, began, at

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class _Connection(asyncio.Protocol):
    """One connection: a request at a time."""

    def __init__(self) -> None:
        self.closed = False
        self.began = False
        self._gathering = Gathering()
        self._reply: asyncio.Future[Reply] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[Reply]:
        self._reply = asyncio.get_running_loop().create_future()
        self._gathering.begin()
        self.began = False
        self.transport.write(request)
        return self._reply

    def data_received(self, data: bytes) -> None:
        self.began = True
        self._look(data, ended=False)

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        self._look(b"", ended=True)

    def _look(self, data: bytes, *, ended: bool) -> None:
        if self._reply is None or self._reply.done():
            return
        try:
            reply = self._gathering.add(data, ended=ended)
        except (BadReply, ValueError, IndexError) as error:
            self._reply.set_exception(BadReply(str(error)))
            return
        if reply is not None:
            self.closed |= reply.header(b"connection") == b"close"
            self._reply.set_result(reply)


class Client:
    """One kept-alive connection; `await call(name, body)` gives the reply's JSON."""

    def __init__(self, server: Address) -> None:
        self._server = server
        self._connection: _Connection | None = None
        self.sequence = 0
        """The ledger's sequence in the last reply that named one."""
        self.size = 0
        """Bytes of the last reply."""

    async def __aenter__(self) -> "Client":
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.transport.close()

    async def call(self, name: str, body: Json | None = None) -> Json:
        """POST the body, or GET without one; raises BadReply unless the code is 0."""
        reply: Json = json.loads(await self.raw(name, body))
        return reply

    async def raw(self, name: str, body: Json | None = None) -> bytes:
        """As `call`, the reply's bytes, of which no more is decoded than its code."""
        return checked(name, await self.text(name, body))

    async def text(self, name: str, body: Json | None = None) -> bytes:
        """As `raw`, whatever the reply is."""
        try:
            reply = await self._ask(request(self._server, name, body))
        except TimeoutError:
            raise BadReply(f"{name}: no reply within {PATIENCE:.0f} s") from None
        self.size = reply.size
        if sequence := reply.header(b"x-ledger-seq"):
            self.sequence = int(sequence)
        return reply.body

    async def _ask(self, request: bytes) -> Reply:
        """Once more on a new connection if the old one was closed before any reply to this."""
        async with asyncio.timeout(PATIENCE):
            connection = self._connection
            if connection is not None and not connection.closed:
                try:
                    return await connection.ask(request)
                except BadReply:
                    if connection.began:
                        raise
            return await (await self._connect()).ask(request)

    async def _connect(self) -> _Connection:
        _, self._connection = await asyncio.get_running_loop().create_connection(
            _Connection, self._server.host, self._server.port
        )
        return self._connection


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the faster loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
