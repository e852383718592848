"""Files by their path: uploads and what jobs left, over HTTP (api.md 8.6, data.md 7).

Whoever knows a path may read the file: it holds 32 random bytes. Answers HEAD, ranges and
conditional requests. What a browser might run in our name is always an attachment.
"""

import mimetypes
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from litestar.types import HTTPScope, Receive, Send

from domain.checks import is_number
from domain.facts import Blob, Json
from services.gateway import jobs
from services.gateway.auth import same_token
from services.gateway.replies import ANY_ORIGIN, Reply, send_parts, text_reply
from services.ledger import uploads
from services.ledger.chunks import read_range
from services.ledger.errors import ChunksMissing

if TYPE_CHECKING:
    from services.gateway.gateway import Gateway

_OF_JOB = re.compile(r"files/jobs/([a-z0-9_]+)/[\w\-]+/[^/]+", re.ASCII)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_END_OF_TIME = 1e11  # Unix seconds; what comes after it has no date
_UNKNOWN_TYPE = "application/octet-stream"
# A page or a drawing may hold scripts; they would run with the reader's session.
_ACTIVE = re.compile(r"html|xml|svg|script|pdf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants of a file. `headers` are the request's; `download` as in api.md 8.6."""

    path: str
    headers: dict[bytes, bytes]
    download: str | None = None


@dataclass(frozen=True, slots=True)
class FileReply:
    """A file, or a stretch of it, of known length; an ASGI application of its own."""

    parts: AsyncIterator[bytes]
    headers: list[tuple[bytes, bytes]]
    status: int

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Send it as it is read."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send_parts(self.parts, scope, send)


async def find(gateway: "Gateway", path: str) -> Json | None:
    """The record of the file at this path, with the place of its bytes; None if there is none."""
    named = _OF_JOB.fullmatch(path)
    if named is None:
        return await uploads.find(gateway.ledger, path)
    job, record = await jobs.find(gateway, named[1], raw=True)
    if record is None:
        return None
    if job is not None and job.finished is None:
        return None
    files = await jobs.files_of(gateway, record)
    return next((file for file in files if same_token(str(file.get("path")), path)), None)


async def reply_to(gateway: "Gateway", asked: Asked) -> Reply | FileReply:
    """The answer to a request for a file: 200, 206, 304, 416, or 404 as text."""
    record = await find(gateway, asked.path)
    blob = jobs.blob_of(record.get("blob")) if record is not None else None
    if record is None or blob is None:
        return text_reply("There is no such file.\n", 404)
    date = _date(record)
    headers = _headers(record, blob, asked.download)
    if _is_known(asked.headers, blob, date):
        return Reply(b"", headers, 304)
    stretch = _stretch(asked.headers, blob, date)
    if stretch is None:
        return Reply(b"", [*headers, (b"content-range", b"bytes */%d" % blob.size)], 416)
    offset, length = stretch
    parts = read_range(gateway.ledger, blob, offset, length)
    try:
        first = await anext(parts, b"")
    except ChunksMissing:
        return text_reply("The file is gone.\n", 404)
    headers.append((b"content-length", b"%d" % length))
    if length == blob.size:
        return FileReply(_from(first, parts), headers, 200)
    shown = b"bytes %d-%d/%d" % (offset, offset + length - 1, blob.size)
    return FileReply(_from(first, parts), [*headers, (b"content-range", shown)], 206)


def _headers(record: Json, blob: Blob, download: str | None) -> list[tuple[bytes, bytes]]:
    name = str(record.get("filename") or "file")
    kind = mimetypes.guess_type(name)[0] or _UNKNOWN_TYPE
    if download not in (None, "", "1", "true"):
        name = uploads.clean_name(str(download)) or name
    kept = download in (None, "", "0", "false") and not _ACTIVE.search(kind)
    manner = "inline" if kept else "attachment"
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", name)
    disposition = f"{manner}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    charset = "; charset=utf-8" if kind.startswith("text/") else ""
    return [
        (b"content-type", (kind + charset).encode("latin-1")),
        (b"content-disposition", disposition.encode("latin-1")),
        (b"etag", _tag(blob)),
        (b"last-modified", formatdate(_date(record), usegmt=True).encode()),
        (b"accept-ranges", b"bytes"),
        (b"cache-control", b"private, no-cache"),
        (b"content-security-policy", b"sandbox; default-src 'none'"),
        ANY_ORIGIN,
    ]


def _date(record: Json) -> int:
    """When the file was stored, in Unix seconds; 0 where the record does not say."""
    date = record.get("date")
    return int(date) if is_number(date) and 0 <= date < _END_OF_TIME else 0


def _tag(blob: Blob) -> bytes:
    return b'"%b"' % blob.sha256.encode()


def _is_known(headers: dict[bytes, bytes], blob: Blob, date: int) -> bool:
    """Whether the client has these bytes already; a tag says more than a time."""
    tags = headers.get(b"if-none-match")
    if tags is not None:
        known = [tag.strip().removeprefix(b"W/") for tag in tags.split(b",")]
        return b"*" in known or _tag(blob) in known
    since = _time(headers.get(b"if-modified-since"))
    return since is not None and date <= since


def _stretch(headers: dict[bytes, bytes], blob: Blob, date: int) -> tuple[int, int] | None:
    """(offset, length) of what is asked for; None if it lies beyond the end.

    Several ranges at once, and what is no range, count as the whole file (RFC 9110, 14.2).
    """
    asked = _RANGE.fullmatch(headers.get(b"range", b"").decode("latin-1").replace(" ", ""))
    if asked is None or asked[1] == asked[2] == "" or not _unchanged(headers, blob, date):
        return 0, blob.size
    if not asked[1]:
        length = min(int(asked[2]), blob.size)
        return (blob.size - length, length) if length else None
    first, last = int(asked[1]), int(asked[2] or blob.size - 1)
    if asked[2] and last < first:
        return 0, blob.size
    if first >= blob.size:
        return None
    return first, min(last, blob.size - 1) - first + 1


def _unchanged(headers: dict[bytes, bytes], blob: Blob, date: int) -> bool:
    condition = headers.get(b"if-range")
    if condition is None:
        return True
    return condition.strip() == _tag(blob) or _time(condition) == date


def _time(header: bytes | None) -> float | None:
    try:
        return parsedate_to_datetime((header or b"").decode("latin-1")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


async def _from(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for part in rest:
        yield part
