"""The bytes to and from nats-server: nats-py's client, with short ways for what is frequent.

nats-py connects, logs in, subscribes, pings and connects anew. What is sent often goes straight
to the socket's transport, and messages of busy subscriptions are handed over while the bytes
that came are looked through: no queue, no task, no header dictionary in between. Must not know
what is sent, nor who awaits an answer.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import (
    BadSubjectError,
    ConnectionClosedError,
    Error,
    MaxPayloadError,
    OutboundBufferLimitError,
)

Handler = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Gets subject, reply, payload and raw headers of a message; is quick and does not raise."""

_NO_SUBJECT = re.compile(r"[\s\x00]")
_CRLF = b"\r\n"
# So many parts of messages are written before the turn of the loop ends.
_MANY = 400
# So long is no line of the protocol, but what a server tells of itself and its cluster.
_LONGEST_LINE = 1024 * 1024


class FastClient(Client):
    """nats-py's client; `direct` holds the handlers of busy subscriptions by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.direct: dict[int, Handler] = {}
        self._outgoing: list[bytes] = []

    @property
    def server_is_alone(self) -> bool:
        """Whether what we are connected to is a whole JetStream and no part of a cluster."""
        told = self._server_info
        return bool(told.get("jetstream")) and "cluster" not in told

    @property
    def server_version(self) -> str:
        """What the server called itself as it greeted."""
        return str(self._server_info.get("version", ""))

    def send(self, subject: str, payload: bytes, headers: bytes = b"", reply: str = "") -> None:
        """Send a message, together with all others of this turn of the loop.

        Raises OutboundBufferLimitError or ConnectionClosedError without a connection,
        MaxPayloadError, BadSubjectError: then nothing was or will be sent.
        """
        if not self.is_connected:
            raise ConnectionClosedError if self.is_closed else OutboundBufferLimitError
        if len(payload) > self._max_payload:
            raise MaxPayloadError
        if _NO_SUBJECT.search(f"{subject}{reply}") or not subject:
            raise BadSubjectError
        size = len(payload)
        if headers:
            head = f"HPUB {subject} {reply} {len(headers)} {len(headers) + size}\r\n"
        else:
            head = f"PUB {subject} {reply} {size}\r\n"
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self.write_out)
        self._outgoing += (head.encode(), headers, payload, _CRLF)
        if len(self._outgoing) > _MANY:  # the server may begin while the others are made
            self.write_out()

    def write_out(self) -> None:
        """Hand everything to the transport at once: each write wakes the server."""
        if not self.is_connected or self._transport is None:
            self._outgoing.clear()
            return
        outgoing = [*self._pending, *self._outgoing]  # a subscription goes before its request
        self.drop_unsent()
        if not outgoing:
            return
        # A transport that was closed just now refuses: who awaits an answer is told of the
        # broken connection in a moment.
        with contextlib.suppress(RuntimeError):
            self._transport.write(b"".join(outgoing))

    def drop_unsent(self) -> None:
        """Forget what is not yet on the wire, so that it cannot be sent after a reconnect."""
        self._pending = []
        self._outgoing.clear()
        self._pending_data_size = 0

    async def _send_ping(self, future: "asyncio.Future[bool] | None" = None) -> None:
        """A ping comes after all that was sent before: its answer says that the server has it.

        (nats-py writes it past what is pending, subscriptions above all.)
        """
        self.write_out()
        await super()._send_ping(future)

    async def _read_loop(self) -> None:
        """Look through what comes before nats-py does, from now on."""
        assert isinstance(self._transport, TcpTransport)
        reader: Any = self._transport._io_reader
        intake = Intake(self.direct, reader.feed_data)
        early = bytes(reader._buffer)
        reader._buffer.clear()
        reader.feed_data = intake.feed
        intake.feed(early)
        await super()._read_loop()

    async def _process_err(self, err_msg: str) -> None:
        """A denied permission is reported; after anything else the client connects anew.

        (nats-py would close for good.)
        """
        if "permissions violation" in err_msg:
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(Error(f"nats: {err_msg}"))


class Intake:
    """Hands messages of `direct` subscriptions to their handlers, all other bytes to `others`."""

    def __init__(self, direct: Mapping[int, Handler], others: Callable[[bytes], None]) -> None:
        self._direct = direct
        self._others = others
        self._rest = bytearray()
        self._needed = 0
        """So many bytes make what has begun complete, as far as is known."""
        self._broken = False

    def feed(self, data: bytes) -> None:
        """Take in what came, cut anywhere; what is incomplete waits for the rest."""
        if self._broken:
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
            self._rest.clear()
        try:
            done = self._look_through(data)
        except (ValueError, IndexError):
            self._broken = True
            self._others(b"-ERR 'not the protocol of NATS'\r\n")  # so the client connects anew
            return
        if done < len(data):
            self._rest += data[done:]

    def _look_through(self, data: bytes) -> int:
        """Hand on what is complete; how many bytes that was."""
        self._needed = at = 0
        while (end_of_line := data.find(_CRLF, at)) >= 0:
            body = end_of_line + 2
            if not data.startswith((b"MSG ", b"HMSG "), at):
                self._others(data[at:body])
                at = body
                continue
            words = data[at:end_of_line].split(b" ")
            end = body + int(words[-1])
            if end + 2 > len(data):
                self._needed = end + 2 - at
                return at
            handler = self._direct.get(int(words[2]))
            if handler is None:
                self._others(data[at : end + 2])
            elif words[0] == b"MSG":
                reply = words[3] if len(words) == 5 else b""
                handler(words[1], reply, data[body:end], None)
            else:
                reply = words[3] if len(words) == 6 else b""
                payload = body + int(words[-2])
                handler(words[1], reply, data[payload:end], data[body:payload])
            at = end + 2
        if len(data) - at > _LONGEST_LINE:
            raise ValueError("a line without an end")
        return at


def header_block(headers: Mapping[str, str]) -> bytes:
    """Headers as NATS wants them; a line break in a value becomes a space."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not lines.count("\r") == lines.count("\n") == len(headers):
        flat = {n: v.replace("\r", " ").replace("\n", " ") for n, v in headers.items()}
        lines = "".join([f"{name}: {value}\r\n" for name, value in flat.items()])
    return f"NATS/1.0\r\n{lines}\r\n".encode()
