"""Replies: JSON with a newline, rows encoded once, compression, headers (api.md 1.7 to 1.9).

Knows nothing of what is replied.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from isal import isal_zlib
from litestar.types import HTTPScope, Receive, Send

from domain.facts import Json
from services import logs
from services.ledger.errors import ChunksMissing, LedgerUnavailable

log = logs.logger("replies")

JSON_TYPE = (b"content-type", b"application/json")
PRIVATE = (b"cache-control", b"private, no-store")
ANY_ORIGIN = (b"access-control-allow-origin", b"*")
_JSON = (JSON_TYPE, ANY_ORIGIN)
_PRIVATE_JSON = (*_JSON, PRIVATE)
# An extension of the scope, for what need not be awaited: `arrived` gives the request's body if
# all of it is here, `reply` sends a whole reply, `left` says whether the client is gone
# (connections.Exchange).
AT_ONCE = "jobledger.at_once"
# Below this a compressed reply is hardly smaller; above the other it is packed off the loop.
_WORTH_PACKING = 1024
_PACK_ASIDE = 512 * 1024
# Has a whole gzip member written.
_GZIP = 16 + isal_zlib.MAX_WBITS

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Rows:
    """A list reply: rows already encoded, and how many match in all."""

    rows: list[bytes]
    length: int
    extra: Json = field(default_factory=dict)

    def body(self) -> bytes:
        """The JSON text of the reply."""
        extra = b"," + encode(self.extra)[1:-1] if self.extra else b""
        return b'{"code":0,"rows":[%b],"list":{"length":%d}%b}\n' % (
            b",".join(self.rows),
            self.length,
            extra,
        )


@dataclass(frozen=True, slots=True)
class Encoded:
    """A whole JSON reply as bytes, newline included."""

    body: bytes


class Manner(msgspec.Struct, frozen=True):
    """How the client wants its reply."""

    gzip: bool = False
    pretty: bool = False
    private: bool = True
    sequence: int = 0
    headers: Sequence[tuple[bytes, bytes]] = ()


Payload = Json | Rows | Encoded


def body_of(payload: Payload) -> bytes:
    """A payload as JSON text with a newline; `code` is 0 unless the payload says otherwise."""
    match payload:
        case Rows() | Encoded():
            return payload.body() if isinstance(payload, Rows) else payload.body
        case _:
            return encode({"code": 0} | payload) + b"\n"


class Reply(msgspec.Struct, frozen=True):
    """A complete HTTP reply; an ASGI application of its own.

    `code` is what its JSON says. `recurring` are headers as well, but none that belong to this
    reply alone: their text is kept.
    """

    body: bytes
    headers: list[tuple[bytes, bytes]]
    status: int = 200
    code: int | str = 0
    recurring: tuple[tuple[bytes, bytes], ...] = ()

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Send it."""
        if self.recurring:
            at_once: Any = (scope.get("extensions") or {}).get(AT_ONCE)
            if at_once and at_once["reply"](self.status, self.recurring, self.headers, self.body):
                return
        headers = [*self.recurring, *self.headers]
        if self.status != 204:
            headers = [*headers, (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass(frozen=True, slots=True)
class ReplyStream:
    """A reply whose body comes in parts, of unknown length."""

    parts: AsyncIterator[bytes]
    headers: list[tuple[bytes, bytes]]

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Send it as it comes."""
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send_parts(self.parts, scope, send)


async def send_parts(parts: AsyncIterator[bytes], scope: HTTPScope, send: Send) -> None:
    """Send a reply's body as it is read.

    Where bytes are gone it has no end: the connection is cut, so that nobody takes the reply for
    whole.
    """
    if scope["method"] != "HEAD":
        try:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except (ChunksMissing, LedgerUnavailable) as error:
            path, reason = scope["path"], str(error)
            log.warning("A reply was cut off", action="reply_cut_off", path=path, reason=reason)
            return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def json_reply(payload: Payload, manner: Manner, status: int = 200) -> Reply:
    """The HTTP reply that carries this payload."""
    body = body_of(payload)
    if manner.pretty:
        text = json.dumps(json.loads(body), indent="\t", ensure_ascii=False)
        body = text.encode() + b"\n"
    headers = [*manner.headers]
    if manner.sequence:
        headers.append((b"x-ledger-seq", b"%d" % manner.sequence))
    if status == 200 and len(body) >= _WORTH_PACKING:
        headers.append((b"vary", b"Accept-Encoding"))
        if manner.gzip:
            body = await packed(body)
            headers.append((b"content-encoding", b"gzip"))
    code = payload.get("code", 0) if isinstance(payload, dict) else 0
    return Reply(body, headers, status, code, _PRIVATE_JSON if manner.private else _JSON)


def text_reply(text: str, status: int) -> Reply:
    """A plain text reply."""
    return Reply(text.encode(), [(b"content-type", b"text/plain; charset=utf-8")], status)


def preflight(origin: str, asked_headers: str) -> Reply:
    """The answer to a CORS preflight (api.md 1.9)."""
    return Reply(
        b"",
        [
            (b"access-control-allow-origin", _printable(origin) or b"*"),
            (b"access-control-allow-methods", b"POST, GET, HEAD, OPTIONS"),
            (b"access-control-allow-headers", _printable(asked_headers)),
            (b"access-control-max-age", b"1728000"),
        ],
    )


def _printable(text: str) -> bytes:
    """What of a request's header may stand in a reply's."""
    return "".join(char for char in text if " " <= char <= "~").encode()


async def packed(body: bytes) -> bytes:
    """`body` as gzip; large ones are packed outside the event loop."""
    if len(body) < _PACK_ASIDE:
        return _gzipped(body)
    return await asyncio.to_thread(_gzipped, body)


def _gzipped(body: bytes) -> bytes:
    return isal_zlib.compress(body, wbits=_GZIP)


def wants_gzip(accept_encoding: bytes) -> bool:
    """Whether the client takes gzip (a `q=0` refuses it); its name says more than `*`."""
    taken = {}
    for part in accept_encoding.lower().split(b","):
        name, _, quality = part.strip().partition(b";")
        refused = quality.replace(b" ", b"") in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
        taken[name.strip()] = not refused
    return taken.get(b"gzip", taken.get(b"*", False))


def dumps(value: Any) -> str:
    """One line of JSON."""
    return encode(value).decode()
