"""Brings files of this machine along with the launches that a scheduler plugin allows (3.7).

What is read is bounded: plain files, through no link, none of the service's own, and of a plugin
that runs under an account of its own only that account's. The bytes become uploads, so the job
finds them wherever it runs. Knows nothing of how the plugin was asked.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import structlog
from msgspec.structs import replace

from domain.facts import Json
from domain.firing import Launch
from domain.ids import make_id
from domain.trigger_plugin import Allowed, Answer, Refused
from services.disk import DiskReserve
from services.ledger import uploads
from services.ledger.connection import Ledger
from services.ledger.errors import LedgerUnavailable
from services.scheduler.plugin_process import account_of, working_directory
from services.settings import Settings

# All files of one launch together, in bytes: the places of their chunks stand in one fact.
LARGEST = 1024**3
MAX_FILES = 100
TRIES = 3
RECONNECTED_WITHIN = 30.0
AGAIN_AFTER = 1.0

_PART = 512 * 1024
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe or a device must not make the open wait.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

BringFiles = Callable[[Json, Sequence[Answer]], Awaitable[Sequence[Answer]]]

log = structlog.get_logger()


class Unusable(Exception):
    """A file cannot be brought along; the text says why, without the file's name."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that a plugin named: its absolute path, its name in the job, and what becomes of it.

    owner: the user id that it must belong to, or None
    """

    path: Path
    filename: str
    delete: bool
    owner: int | None


class PluginFiles:
    """Uploads what plugins name. `clock` gives Unix seconds."""

    def __init__(self, ledger: Ledger, settings: Settings, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._hidden = settings.data_dir.resolve()
        self._disk = DiskReserve(settings.data_dir, settings.disk_reserve)
        self._clock = clock
        self._ids = itertools.count()

    async def bring(self, plugin: Json, answers: Sequence[Answer]) -> list[Answer]:
        """The answers with their files uploaded; a file's error forbids its launch alone.

        Several launches may want the same file: none is deleted before all have it.
        """
        brought: list[Answer] = []
        used: dict[Path, LocalFile] = {}
        for answer in answers:
            if isinstance(answer, Allowed) and answer.files:
                answer, files = await self._bring(plugin, answer)
                used |= {file.path: file for file in files if file.delete}
            brought.append(answer)
        for file in used.values():
            await asyncio.to_thread(_delete, file)
        return brought

    async def _bring(self, plugin: Json, answer: Allowed) -> tuple[Answer, list[LocalFile]]:
        """The answer with its files as input, and those files; or a refusal."""
        if len(answer.files) > MAX_FILES:
            return Refused(f"The plugin names more than {MAX_FILES} files."), []
        records: list[Json] = []
        files: list[LocalFile] = []
        for entry in answer.files:
            try:
                file = self._named(plugin, entry)
                room = LARGEST - sum(record["size"] for record in records)
                records.append(await self._upload(file, room, answer.launch))
            except Unusable as error:
                await uploads.discard(self._ledger, [record["id"] for record in records])
                return Refused(f"{_said(entry)} cannot be brought along: {error}."), []
            files.append(file)
        launch = answer.launch
        launch = replace(launch, input_files=(*launch.input_files, *records))
        return Allowed(launch), files

    def _named(self, plugin: Json, entry: Json) -> LocalFile:
        """The file that an entry means; a relative path begins where the plugin runs."""
        given, filename = entry.get("path"), entry.get("filename")
        if not _is_text(given):
            raise Unusable("it has no usable path")
        path = Path(working_directory(plugin)).resolve() / given
        if ".." in path.parts:
            raise Unusable("its path must not go up")
        if self._hidden in (path, *path.parents):
            raise Unusable("it belongs to this service")
        try:
            owner = account_of(plugin)
        except KeyError as error:
            raise Unusable("the plugin's account does not exist") from error
        name = uploads.clean_name(filename) if _is_text(filename) else ""
        name = name or uploads.clean_name(path.name) or "file"
        return LocalFile(path, name, bool(entry.get("delete")), owner)

    async def _upload(self, file: LocalFile, room: int, launch: Launch) -> Json:
        """The record of the uploaded file, which must not exceed `room` bytes."""
        if self._disk.is_reached():
            raise Unusable("the disk is nearly full")
        id = make_id("f", self._clock(), next(self._ids), os.urandom(8))
        tries = TRIES
        while True:
            try:
                return await self._store(id, file, room, launch)
            except (Unusable, OSError, LedgerUnavailable) as error:
                tries -= 1
                if not tries or not isinstance(error, LedgerUnavailable):
                    await uploads.discard(self._ledger, [id])
                    raise _unusable(error) from error
                log.warning(str(error), action="plugin_file_waits", path=str(file.path))
            await self._pause()

    async def _store(self, id: str, file: LocalFile, room: int, launch: Launch) -> Json:
        async with contextlib.aclosing(_parts(file, room)) as parts:
            blob = await uploads.store(self._ledger, id, parts)
        now = self._clock()
        record = uploads.file_record(
            id, file.filename, blob, owner=launch.username, now=now, job=launch.job
        )
        await uploads.publish(self._ledger, record)
        return record

    async def _pause(self) -> None:
        if self._ledger.connected:
            await asyncio.sleep(AGAIN_AFTER)
        else:
            await self._ledger.wait_connected(RECONNECTED_WITHIN)


async def refuse_files(_plugin: Json, answers: Sequence[Answer]) -> list[Answer]:
    """In the place of `PluginFiles.bring` where there is no ledger to bring files to."""
    return [
        Refused("The plugin's files cannot be brought along.")
        if isinstance(answer, Allowed) and answer.files
        else answer
        for answer in answers
    ]


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether the value can name a file and stand in a fact: JSON may hold half characters."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _said(entry: Json) -> str:
    path = entry.get("path")
    return f"The plugin's file {path[:200]}" if _is_text(path) else "A file of the plugin"


def _unusable(error: Exception) -> Unusable:
    match error:
        case Unusable():
            return error
        case FileNotFoundError():
            return Unusable("it does not exist")
        case OSError(errno=errno.ELOOP | errno.ENOTDIR):
            return Unusable("its path leads through a link or something that is no directory")
        case OSError():
            return Unusable(f"it cannot be read ({error.strerror})")
        case _:
            return Unusable(f"it cannot be stored ({str(error).rstrip('.')})")


async def _parts(file: LocalFile, room: int) -> AsyncGenerator[bytes, None]:
    """The content, read beside the event loop. Raises Unusable and OSError."""
    source = await asyncio.to_thread(_open, file)
    with source:
        while part := await asyncio.to_thread(source.read, _PART):
            room -= len(part)
            if room < 0:
                raise Unusable(f"the files of one launch are limited to {LARGEST} bytes")
            yield part


def _open(file: LocalFile) -> BinaryIO:
    with _folder_of(file.path) as folder:
        descriptor = os.open(file.path.name, _FILE, dir_fd=folder)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unusable("it is no plain file")
        if file.owner is not None and found.st_uid != file.owner:
            raise Unusable("it does not belong to the plugin's account")
    except Unusable:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def _delete(file: LocalFile) -> None:
    """The bytes are kept elsewhere: a file that stays forbids nothing."""
    try:
        with _folder_of(file.path) as folder:
            os.unlink(file.path.name, dir_fd=folder)
    except OSError as error:
        log.warning("A plugin's file was left", action="plugin_file_left", reason=str(error))


@contextlib.contextmanager
def _folder_of(path: Path) -> Iterator[int]:
    """A descriptor of the file's directory, reached step by step: no step may be a link."""
    folder = os.open("/", _FOLDER)
    try:
        for step in path.parent.parts[1:]:
            below = os.open(step, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)
