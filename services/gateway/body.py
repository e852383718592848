"""Reading a request: query string and body to parameters (api.md 1.2), within bounds.

JSON, form and multipart bodies; file parts of the latter go straight to whoever takes uploads,
so a large file is never held in memory. Refuses NUL characters, NaN, excessive nesting and
bodies above the limit with an error, never with a crash.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from domain.errors import BadRequest
from domain.facts import Json
from services.gateway.errors import BodyTooLarge
from services.gateway.params import (
    MAX_DEPTH,
    RESERVED,
    Params,
    Upload,
    check_common,
    check_depth,
    check_no_nul,
    check_numbers,
)

Chunks = AsyncIterator[bytes]
StoreUpload = Callable[[str, str, str, Chunks], Awaitable[Upload]]

_MAX_FIELDS = 10_000
_MAX_TEXT_FIELD = 64 * 1024 * 1024
# What may be an integer that no double can hold.
_HUGE = re.compile(rb"(?<!\d)\d{309}")
_DECODE = msgspec.json.Decoder().decode


def query_values(query: bytes) -> Json:
    """The parameters of a query string; a repeated key gives a list."""
    return _pairs(query) if query else {}


def may_hold_files(content_type: str) -> bool:
    """Whether a body of this type can hold files."""
    return "multipart/form-data" in content_type.lower()


class Body(msgspec.Struct, frozen=True):
    """What a body held; `is_text` if its values came as text."""

    values: Json = {}  # each gets its own
    is_text: bool = False
    uploads: list[Upload] = []


async def read(content_type: str, chunks: Chunks, limit: int, store: StoreUpload | None) -> Body:
    """A request's body as it comes. Raises as `whole` does, BodyTooLarge above `limit` bytes.

    Without `store`, files are refused.
    """
    bounded = _bounded(chunks, limit)
    if may_hold_files(content_type):
        values, uploads = await _multipart(content_type, bounded, store)
        return Body(values, True, uploads)
    return whole(content_type, b"".join([chunk async for chunk in bounded]))


def whole(content_type: str, data: bytes) -> Body:
    """A body without files, all of it. Raises BadRequest if it is malformed."""
    kind = content_type.lower()
    if "x-www-form-urlencoded" in kind:
        return Body(_pairs(data), True)
    if "js" in kind or "javascript" in kind or "text" in kind:
        return Body(json_body(data))
    return Body()


def json_body(body: bytes) -> Json:
    """A JSON body as an object; an empty one, or anything but an object, counts as {}."""
    if not body or body.isspace():
        return {}
    try:
        value = _DECODE(body)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.") from error
    if not isinstance(value, dict):
        return {}
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        check_depth(value)
    if b"\\u0000" in body:
        check_no_nul(value)
    if _HUGE.search(body):
        check_numbers(value)
    return value


def merge(query: Json, body: Body, *, body_wins: bool = False) -> Params:
    """Query and body as one set of parameters, reserved keys set apart (D3, D4).

    The query's value of a key wins, except with `body_wins` (run_event). Of the reserved keys
    the body's always wins (api.md 1.4).
    """
    own, asked = _unreserved(body.values), _unreserved(query)
    values = asked | own if body_wins else own | asked
    textual = asked.keys() - own.keys() if body_wins and not body.is_text else asked.keys()
    return Params(
        check_common(values),
        frozenset(textual | own.keys()) if body.is_text else frozenset(textual),
        reserved_of(query) | reserved_of(body.values),
        asked,
        own,
        body.uploads,
    )


def reserved_of(values: Json) -> Json:
    """The reserved keys among these."""
    if RESERVED.isdisjoint(values):
        return {}
    return {name: values[name] for name in RESERVED & values.keys()}


def _unreserved(values: Json) -> Json:
    if RESERVED.isdisjoint(values):
        return values
    return {name: value for name, value in values.items() if name not in RESERVED}


async def _bounded(chunks: Chunks, limit: int) -> Chunks:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"The body is larger than {limit} bytes.")
        yield chunk


def _pairs(data: bytes) -> Json:
    """What need not be escaped is UTF-8 as well: curl and node send a form's text as it is."""
    try:
        text = data.decode()
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise BadRequest("The parameters are not valid UTF-8, or too many.") from error
    values: Json = {}
    for name, value in pairs:
        _add(values, name, value)
    if "%00" in text or "\0" in text:
        check_no_nul(values)
    return values


def _add(values: Json, name: str, value: str) -> None:
    if name not in values:
        values[name] = value
    elif isinstance(values[name], list):
        values[name].append(value)
    else:
        values[name] = [values[name], value]


async def _multipart(
    content_type: str, chunks: Chunks, store: StoreUpload | None
) -> tuple[Json, list[Upload]]:
    boundary = parse_options_header(content_type)[1].get("boundary", "")
    values: Json = {}
    uploads: list[Upload] = []
    try:
        events = _events(PushMultipartParser(boundary, max_segment_count=_MAX_FIELDS), chunks)
        async for event in events:
            if not isinstance(event, MultipartSegment):
                continue
            if event.filename is None:
                _add(values, event.name, await _text_part(events))
            elif store is None:
                raise BadRequest("This call takes no files.")
            else:
                uploads.append(await _file_part(event, events, store))
    except MultipartError as error:
        raise BadRequest(f"The multipart body is malformed: {error}") from error
    check_no_nul(values)
    return values, uploads


async def _events(parser: PushMultipartParser, chunks: Chunks) -> AsyncIterator[Any]:
    """The parser's events: a segment, its bytes, None at its end; and again."""
    with parser:
        async for chunk in chunks:
            if chunk:
                for event in parser.parse(chunk):
                    yield event


async def _part(events: AsyncIterator[Any]) -> Chunks:
    async for event in events:
        if event is None:
            return
        yield bytes(event)


async def _text_part(events: AsyncIterator[Any]) -> str:
    data = b"".join([chunk async for chunk in _bounded(_part(events), _MAX_TEXT_FIELD)])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest("A form field is not valid UTF-8.") from error


async def _file_part(
    segment: MultipartSegment, events: AsyncIterator[Any], store: StoreUpload
) -> Upload:
    """Keep one file; one without a name or without bytes is refused (api.md 3.6)."""
    upload = await store(
        segment.name, segment.filename or "", segment.content_type or "", _part(events)
    )
    if not upload.filename or upload.blob.size == 0:
        raise BadRequest("An uploaded file has no name or is empty.")
    return upload
