"""A ledger in one file: the streams LEDGER and CHUNKS as the server itself copies them.

The file is a tar archive packed with zstd: `manifest.json`, then each stream's description and
its parts, then `checksums.json`, without which the file is not whole. Sequences and bytes stay as
they are, so audits hold on the copy as well. Secrets are in no backup: the manifest only names
the fingerprint of the server secret.
"""

import asyncio
import hashlib
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

from domain.facts import Json, LedgerFounded
from services.ledger import reading
from services.ledger.errors import LedgerError, LedgerUnavailable
from services.ledger.replies import parse_headers
from services.ledger.streams import CHUNKS, LEDGER, SNAPSHOTS, ensure_streams

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

FORMAT = 1
# LEDGER first: the bytes that its facts name were on CHUNKS before them.
STREAMS = (LEDGER, CHUNKS)
_PART = 256 * 1024
# The server sends this many bytes before it wants to hear that they were taken.
_WINDOW = 8 * 1024 * 1024
_SILENCE = 30.0
_LEVEL = 3
_NAME_IN_USE = 10130
# So often, every so many seconds, a restore makes way that was interrupted before.
_TRIES, _RETRY = 150, 0.2

Progress = Callable[[str, int], None]
"""Called with (what is copied, bytes so far)."""


class BackupUnusable(LedgerError):
    """The file is no whole backup, or does not belong here."""


class _NameTaken(LedgerUnavailable):
    """Another restore has the stream's name."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself; `at` is in Unix seconds."""

    ledger: str
    fingerprint: str
    at: float
    streams: dict[str, Json]


async def backup(ledger: "Ledger", file: Path, *, now: float, progress: Progress) -> Manifest:
    """Write all that is on the ledger now into a file (mode 0600), whole or not at all.

    Services may go on meanwhile. Raises LedgerUnavailable, OSError.
    """
    first = await ledger.get(1)
    if first is None or not isinstance(first.fact, LedgerFounded):
        raise LedgerUnavailable("There is nothing to back up: the ledger is not founded yet.")
    about: Json = {
        "format": FORMAT,
        "ledger": first.fact.ledger,
        "fingerprint": first.fact.fingerprint,
        "at": now,
    }
    draft = file.with_name(f".{file.name}.part")
    sums: dict[str, Json] = {}
    streams: dict[str, Json] = {}
    try:
        with _packing(draft) as archive:
            _put(archive, "manifest.json", json.dumps(about).encode())
            for name in STREAMS:
                streams[name], sums[name] = await _copy_stream(ledger, name, archive, progress)
            _put(archive, "checksums.json", json.dumps(sums).encode())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return Manifest(about["ledger"], about["fingerprint"], now, streams)


def check_backup(file: Path) -> Manifest:
    """Read a backup from end to end. Raises BackupUnusable unless every byte is as written."""
    about: Json = {}
    sums: dict[str, Json] = {}
    streams: dict[str, Json] = {}
    digests = {name: hashlib.sha256() for name in STREAMS}
    for name, data in _members(file):
        stream, _, part = name.partition("/")
        if name == "manifest.json":
            about = json.loads(data)
            if about.get("format") != FORMAT:
                raise BackupUnusable(f"{file} has a format that this release does not know.")
        elif name == "checksums.json":
            sums = json.loads(data)
        elif part == "stream.json":
            streams[stream] = json.loads(data)
        elif stream in digests:
            digests[stream].update(data)
    if not about or set(sums) != set(STREAMS):
        raise BackupUnusable(f"{file} is not a whole backup: its end is missing.")
    for name, digest in digests.items():
        if digest.hexdigest() != sums[name]["sha256"]:
            raise BackupUnusable(f"{file} is damaged: the bytes of {name} are not as written.")
    return Manifest(about["ledger"], about["fingerprint"], about["at"], streams)


async def restore(
    ledger: "Ledger", file: Path, *, force: bool, replicas: int, progress: Progress
) -> Manifest:
    """Put a backup in the place of an empty ledger; with `force`, of any ledger.

    No service may be running. The file is read through before anything is removed. Raises
    BackupUnusable, LedgerUnavailable.
    """
    manifest = await asyncio.to_thread(check_backup, file)
    if not force:
        await _check_empty(ledger)
    for name in (*STREAMS, SNAPSHOTS):
        if await _exists(ledger, name):
            await _delete(ledger, name)
    # The facts last: whoever starts services after an interruption finds no ledger, and not one
    # whose logs and files are gone.
    for name in reversed(STREAMS):
        await _restore_anew(ledger, name, file, manifest.streams[name], replicas, progress)
    await ensure_streams(ledger, replicas=replicas)
    return manifest


# --- one stream ----------------------------------------------------------------------------------


async def _copy_stream(
    ledger: "Ledger", name: str, archive: tarfile.TarFile, progress: Progress
) -> tuple[Json, Json]:
    """The stream's description and the checksum of its parts, all written to the archive."""
    inbox = ledger.nc.new_inbox()
    parts: asyncio.Queue[tuple[bytes, bytes, bytes | None]] = asyncio.Queue()
    key = await ledger.subscribe_direct(
        inbox, lambda _, reply, data, headers: parts.put_nowait((reply, data, headers))
    )
    try:
        body = {
            "deliver_subject": inbox,
            "no_consumers": True,
            "chunk_size": _PART,
            "window_size": _WINDOW,
        }
        answer = await ledger.api(f"STREAM.SNAPSHOT.{name}", body, within=_SILENCE)
        described = {key: reading.checked(answer)[key] for key in ("config", "state")}
        _put(archive, f"{name}/stream.json", json.dumps(described).encode())
        digest, size, number = hashlib.sha256(), 0, 0
        async for data in _sent(ledger, parts):
            number += 1
            size += len(data)
            digest.update(data)
            await asyncio.to_thread(_put, archive, f"{name}/{number:08}", data)
            progress(name, size)
    finally:
        await ledger.unsubscribe_direct(key)
    return described, {"sha256": digest.hexdigest(), "bytes": size, "parts": number}


async def _sent(
    ledger: "Ledger", parts: "asyncio.Queue[tuple[bytes, bytes, bytes | None]]"
) -> AsyncIterator[bytes]:
    """The parts that the server sends; each is acknowledged once the caller wants the next."""
    while True:
        try:
            async with asyncio.timeout(_SILENCE):
                reply, data, headers = await parts.get()
        except TimeoutError:
            raise LedgerUnavailable("NATS stopped sending the copy of a stream.") from None
        if not data:
            status = parse_headers(headers)
            if status.get("Status", "204") not in ("204", "200"):
                raise LedgerUnavailable(f"NATS could not copy a stream: {status}.")
            return
        yield data
        if reply:
            ledger.publish(reply.decode(), b"")


async def _restore_anew(
    ledger: "Ledger", name: str, file: Path, described: Json, replicas: int, progress: Progress
) -> None:
    """Restore a stream, in the place of what an interrupted restore may yet bring about.

    The server keeps a stream's name for that one until it gives it up, or even ends it by itself,
    if all of it had come. Bytes without facts may go then; facts may be somebody's.
    """
    for left in reversed(range(_TRIES)):
        try:
            await _restore_stream(ledger, name, file, described, replicas, progress)
            return
        except _NameTaken:
            there = await _exists(ledger, name)
            if not left or (there and name == LEDGER):
                raise
            if there:
                await _delete(ledger, name)
            await asyncio.sleep(_RETRY)


async def _restore_stream(
    ledger: "Ledger", name: str, file: Path, described: Json, replicas: int, progress: Progress
) -> None:
    config = described["config"] | {"num_replicas": replicas}
    body = {"config": config, "state": described["state"]}
    answer = _taken(await ledger.api(f"STREAM.RESTORE.{name}", body, within=_SILENCE))
    subject = answer["deliver_subject"]
    size = 0
    members = _members(file)
    while (member := await asyncio.to_thread(next, members, None)) is not None:
        stream, _, part = member[0].partition("/")
        if stream == name and part.isdigit():
            reply = await ledger.request(subject, member[1], within=_SILENCE)
            if reply.data:
                _taken(json.loads(reply.data))
            size += len(member[1])
            progress(name, size)
    reply = await ledger.request(subject, b"", within=_SILENCE * 4)
    state = _taken(json.loads(reply.data))["state"]
    wanted = described["state"]
    if any(state[key] != wanted[key] for key in ("messages", "last_seq")):
        raise LedgerUnavailable(f"NATS restored {name} otherwise than it was.")


def _taken(answer: Json) -> Json:
    """An answer of the server to a restore; _NameTaken, LedgerUnavailable if it is an error."""
    if answer.get("error", {}).get("err_code") == _NAME_IN_USE:
        raise _NameTaken("NATS still holds the stream for a restore that was interrupted.")
    return reading.checked(answer)


async def _delete(ledger: "Ledger", name: str) -> None:
    reading.checked(await ledger.api(f"STREAM.DELETE.{name}", within=_SILENCE))


async def _exists(ledger: "Ledger", name: str) -> bool:
    return "error" not in await ledger.api(f"STREAM.INFO.{name}")


async def _check_empty(ledger: "Ledger") -> None:
    """BackupUnusable if there are facts; bytes without facts are what an interruption left."""
    info = await ledger.api(f"STREAM.INFO.{LEDGER}")
    if "error" not in info and info["state"]["last_seq"]:
        raise BackupUnusable(
            f"The ledger is not empty: it holds {info['state']['messages']} facts. "
            "--force replaces it."
        )


# --- the file ------------------------------------------------------------------------------------


@contextmanager
def _packing(file: Path) -> Iterator[tarfile.TarFile]:
    """A new archive to put parts into; on disk when the `with` ends."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with (
            zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).stream_writer(
                raw, closefd=False
            ) as packed,
            tarfile.open(mode="w|", fileobj=packed) as archive,
        ):
            yield archive
        raw.flush()
        os.fsync(raw.fileno())


def _put(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = 0o600
    archive.addfile(entry, io.BytesIO(data))


def _members(file: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every part of a backup, in order. Raises BackupUnusable."""
    try:
        with (
            file.open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw) as packed,
            tarfile.open(mode="r|", fileobj=packed) as archive,
        ):
            for entry in archive:
                content: Any = archive.extractfile(entry)
                yield entry.name, content.read() if content is not None else b""
    except (zstandard.ZstdError, tarfile.TarError, EOFError) as error:
        raise BackupUnusable(f"{file} is no backup, or is damaged: {error}.") from error
    except OSError as error:
        raise BackupUnusable(f"{file} cannot be read: {error.strerror or error}.") from error
