"""The logs of jobs: from CHUNKS when finished, from the runner while running (api.md 6)."""

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from isal import isal_zlib

from domain.errors import BadRequest, NotFound
from domain.facts import Json
from domain.job import Job
from services.gateway import jobs
from services.gateway.auth import same_token
from services.gateway.endpoint import Answer, Call, Routes
from services.gateway.params import Params
from services.gateway.replies import Payload, Reply, ReplyStream, text_reply, wants_gzip
from services.ledger.chunks import read_chunks
from services.ledger.connection import LedgerUnavailable
from services.ledger.errors import ChunksMissing
from services.ledger.live import ask_raw
from services.ledger.secrets import log_token

api = Routes("Logs")

TEXT = (b"content-type", b"text/plain; charset=utf-8")
GZIPPED = (b"content-encoding", b"gzip")
APP = "Jobledger"
# The runner is asked for this many bytes of a running job's log at a time.
_PART = 512 * 1024
# A quarter of the time of zlib's lowest level, and a tenth smaller (benchmarks/NOTES.md).
_LEVEL = 1
# Packing this many bytes takes less than handing them to a thread.
_PACKED_AT_ONCE = 16 * 1024
# Parts of one log that are packed at the same time, each by a core.
_AT_ONCE = 2
# A member's head without name and time, and the empty block that ends it.
_MEMBER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_LAST_BLOCK = b"\x03\0"
_RUNNER_ANSWERS_WITHIN = 5.0
_LONGEST_TAIL = 1024 * 1024
_USUAL_TAIL = 32 * 1024


@dataclass(frozen=True, slots=True)
class Log:
    """A log that exists: its bytes, and whether the job is still running."""

    bytes: AsyncIterator[bytes]
    partial: bool


@api.endpoint(
    "get_job_log",
    "A job's log as text, always compressed with gzip.",
    parse=Params.id,
    fields={"id": "string!"},
)
async def get_job_log(call: Call, id: str) -> Answer:
    """api.md 6.1; of a running job what exists so far (D9)."""
    job, record = await jobs.find(call.gateway, id)
    if record is None:
        raise NotFound(f"Job not found: {id}")
    call.caller.require_access(record.get("category"), record.get("targets"))
    log = await _log(call, job, record)
    if log is None:
        return Reply(b"", [TEXT], 204)
    private = (b"cache-control", b"private, no-store")
    return ReplyStream(gzipped(log.bytes), [TEXT, GZIPPED, private])


def _with_token(params: Params) -> tuple[str, str]:
    return params.id(), params.required_text("t", r"^[\w\-]+\Z")


@api.endpoint(
    "download_job_log",
    "A job's log as a file; the token from get_job is the credential.",
    parse=_with_token,
    open=True,
    fields={"id": "string!", "t": "string!, the token from get_job"},
)
async def download_job_log(call: Call, asked: tuple[str, str]) -> Answer:
    """api.md 6.2."""
    log = await _log_by_token(call, *asked)
    if isinstance(log, Reply):
        return log
    name = f"{APP}-{'Partial-' if log.partial else ''}Job-Log-{asked[0]}.txt"
    attachment = (b"content-disposition", f"attachment; filename={name}".encode())
    return ReplyStream(gzipped(log.bytes), [TEXT, GZIPPED, attachment])


@api.endpoint(
    "view_job_log",
    "A job's log as plain text; the token from get_job is the credential.",
    parse=_with_token,
    open=True,
    fields={"id": "string!", "t": "string!, the token from get_job"},
)
async def view_job_log(call: Call, asked: tuple[str, str]) -> Answer:
    """api.md 6.3: compressed only if the client takes that."""
    log = await _log_by_token(call, *asked)
    if isinstance(log, Reply):
        return log
    if wants_gzip(call.credentials.headers.get(b"accept-encoding", b"")):
        return ReplyStream(gzipped(log.bytes), [TEXT, GZIPPED, (b"vary", b"Accept-Encoding")])
    return ReplyStream(log.bytes, [TEXT])


async def _log_by_token(call: Call, id: str, token: str) -> Log | Reply:
    """The log; or the refusal in plain text. The token is checked before the job is looked up."""
    if not same_token(token, log_token(call.gateway.secret, id)):
        return text_reply("The token is not valid for this job.\n", 403)
    job, record = await jobs.find(call.gateway, id)
    try:
        log = await _log(call, job, record) if record is not None else None
    except NotFound as error:
        return text_reply(f"{error.description}\n", 404)
    return log if log is not None else text_reply("There is no log for this job.\n", 404)


def _tail(params: Params) -> tuple[str, int]:
    return params.id(), params.integer("bytes", _USUAL_TAIL, minimum=1, maximum=_LONGEST_TAIL)


@api.endpoint(
    "tail_live_job_log",
    "The end of a running job's log.",
    parse=_tail,
    fields={"id": "string!", "bytes": "integer, default 32768"},
)
async def tail_live_job_log(call: Call, asked: tuple[str, int]) -> Payload:
    """api.md 6.4."""
    id, size = asked
    job, record = await jobs.find(call.gateway, id)
    if record is None:
        raise NotFound(f"Job not found: {id}")
    call.caller.require_access(record.get("category"), record.get("targets"))
    if job is None or job.server is None:
        return {"text": ""}
    data, offset, _ = await _ask_runner(call, job, -size, size)
    if offset > 0:
        data = data[data.find(b"\n") + 1 :]
    return {"text": data.decode("utf-8", "replace")}


async def _log(call: Call, job: Job | None, record: Json) -> Log | None:
    """The log of a job, wherever it is; None if there are no bytes."""
    if job is not None and job.finished is None:
        return await _live_log(call, job)
    blob = job.finished.log if job is not None and job.finished else jobs.log_of(record)
    if blob is None or blob.size == 0:
        return None
    parts = read_chunks(call.gateway.ledger, blob)
    try:
        first = await anext(parts, b"")
    except ChunksMissing:
        raise NotFound(f"The job's log is gone: {record['id']}") from None
    return Log(_from(first, parts), partial=False)


async def _from(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The whole log, of which a part was read before the reply began."""
    yield first
    async for part in rest:
        yield part


async def _live_log(call: Call, job: Job) -> Log | None:
    if job.server is None:
        return None
    first, _, size = await _ask_runner(call, job, 0, _PART)
    if not first:
        return None
    return Log(_parts(call, job, first, size), partial=True)


async def _parts(call: Call, job: Job, first: bytes, size: int) -> AsyncIterator[bytes]:
    """What the runner has by now, from its beginning to the size it had when first asked."""
    yield first
    offset = len(first)
    while offset < size:
        part, _, _ = await _ask_runner(call, job, offset, min(_PART, size - offset))
        if not part:
            return
        yield part
        offset += len(part)


async def _ask_runner(call: Call, job: Job, offset: int, length: int) -> tuple[bytes, int, int]:
    """Part of a running job's log: its bytes, where they begin, and the size of it all."""
    request = {"job": job.id, "offset": offset, "length": length}
    try:
        answer = await ask_raw(
            call.gateway.ledger, f"live.log.{job.server}", request, _RUNNER_ANSWERS_WITHIN
        )
    except LedgerUnavailable:
        return b"", 0, 0
    if "Log-Error" in answer.headers:
        return b"", 0, 0
    return answer.data, _number(answer.headers, "Log-Offset"), _number(answer.headers, "Log-Size")


def _number(headers: dict[str, str], name: str) -> int:
    value = headers.get(name, "0")
    if not value.isdigit():
        raise BadRequest("The runner's answer cannot be read.")
    return int(value)


async def gzipped(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes as one gzip member (RFC 1952); each part is packed by itself."""
    checksum = size = 0
    packing: deque[asyncio.Future[bytes]] = deque()
    yield _MEMBER
    async for part in parts:
        checksum, size = isal_zlib.crc32(part, checksum), size + len(part)
        packing.append(_packed(part))
        if len(packing) == _AT_ONCE:
            yield await packing.popleft()
    while packing:
        yield await packing.popleft()
    yield _LAST_BLOCK + struct.pack("<II", checksum, size & 0xFFFFFFFF)


def _packed(part: bytes) -> "asyncio.Future[bytes]":
    loop = asyncio.get_running_loop()
    if len(part) > _PACKED_AT_ONCE:
        return loop.run_in_executor(None, _deflated, part)
    future: asyncio.Future[bytes] = loop.create_future()
    future.set_result(_deflated(part))
    return future


def _deflated(part: bytes) -> bytes:
    """Blocks that others can follow: they end with a byte, and refer to nothing before them."""
    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    return packer.compress(part) + packer.flush(isal_zlib.Z_SYNC_FLUSH)
