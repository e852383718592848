"""A job's output files: read as they grow, and the job's log made of them (design.md 7).

The log is a list of segments of the files in the order in which they were read, without the
protocol's lines. The order is kept in the spool, so a runner that adopts the job reads the same
log. Messages go to whoever asked for them (`news`); this module must not know what they mean.

A job may empty its own output file (`echo x > /dev/stdout` does). What was read before is then
kept in a side file, so it stays in the log. Scripts do so with stderr all the time, where nothing
may be lost: it is a pipe, which cannot be emptied, and is poured into its file here.
"""

import contextlib
import fcntl
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from domain.masking import Masking
from domain.masking import Stream as MaskedStream
from services.ledger import chunks
from services.runner.job_files import Folder, Stream
from services.runner.spool import Read
from services.runner.wire import LogSegment, LogText, Message, Output, Remark

CHUNK = 512 * 1024
"""Bytes of a stream that are read at a time; others get a turn between two of them."""
PIPE = 1024 * 1024
"""Bytes of stderr that a job can write before it waits for the runner."""
BUSY = 16 * 1024
"""Bytes in a pipe from which it is looked at again at once."""
KEPT = 256 * 1024
"""Bytes per stream that survive being emptied by the job; of more, the length survives."""


ERROR_HEAD = 32 * 1024
"""Bytes of stderr that the shell plugin shows as "Error Output"."""


TAIL = 64
"""Bytes before `position` by which a file is known to be the one that was read."""


class Reader(Protocol):
    """What tells log from messages in stdout (wire.py)."""

    def feed(self, chunk: bytes, offset: int) -> list[Output]:
        """What the next bytes add."""

    def finish(self) -> list[Output]:
        """What the end of the stream adds."""

    def at(self, now: float) -> None:
        """What is fed next was read at this Unix time."""


class OutputFile:
    """One file that grows; offsets count everything ever written, emptied or not."""

    def __init__(
        self, path: str, account: tuple[int, int] | None = None, *, known: bool = False
    ) -> None:
        """Open the file; with `known`, an earlier runner may have kept parts of it aside."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self.path = path
        self.descriptor = os.open(path, flags, 0o600)
        if account is not None:
            os.fchown(self.descriptor, *account)
        self.position = 0
        self._base = 0
        self._tail = b""
        self._kept = bytearray()
        self._olds: list[Path] = []
        self._starts: list[int] = []
        while known and (old := self._side_file()).exists():
            self._remember(old)

    @property
    def end(self) -> int:
        """The offset after the last byte written so far."""
        return self._base + os.fstat(self.descriptor).st_size

    def notice_emptied(self) -> int:
        """If the job has emptied the file since it was last read, keep what was read.

        Then the file ends before `position`, or other bytes stand where the last ones were read.
        Returns the `end`.
        """
        read = self.position - self._base
        size = os.fstat(self.descriptor).st_size
        if size == read or (size > read and self._tail_stands(read)):
            return self._base + size
        old = self._side_file()
        try:
            with open(old, "wb") as file:
                file.write(self._kept)
                file.truncate(read)
        except OSError:
            return self.position  # a full disk: what was written since is looked at later
        self._remember(old)
        self._kept.clear()
        return self._base + size

    def _tail_stands(self, read: int) -> bool:
        tail = self._tail[-read:] if read else b""
        return os.pread(self.descriptor, len(tail), read - len(tail)) == tail

    def next_chunk(self, upto: int) -> bytes:
        """The next bytes after `position`, at most CHUNK of them and none beyond `upto`."""
        chunk = self.read(self.position, min(CHUNK, upto - self.position))
        if self.position - self._base + len(chunk) <= KEPT:
            self._kept += chunk
        self._tail = (self._tail + chunk[-TAIL:])[-TAIL:]
        self.position += len(chunk)
        return chunk

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`; fewer where the file ends or was emptied."""
        if length <= 0:
            return b""
        if offset >= self._base:
            return os.pread(self.descriptor, length, offset - self._base)
        index = bisect_right(self._starts, offset) - 1
        stop = self._starts[index + 1] if index + 1 < len(self._starts) else self._base
        with self._olds[index].open("rb") as file:
            file.seek(offset - self._starts[index])
            return file.read(min(length, stop - offset))

    def _side_file(self) -> Path:
        """Where the next kept part goes."""
        return Path(f"{self.path}.{len(self._olds) + 1}")

    def _remember(self, old: Path) -> None:
        self._olds.append(old)
        self._starts.append(self._base)
        self._base += old.stat().st_size

    def close(self) -> None:
        """Close the file and delete the kept parts; fine to call twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            for old in self._olds:
                old.unlink(missing_ok=True)


class TextFile:
    """Bytes of a log that the job did not write itself.

    What a full disk does not take is kept in memory until it does: it is no more than what the job
    has written to that disk.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._written = 0
        self._left = b""

    def add(self, text: bytes) -> int:
        """Append a text; the offset where it begins."""
        offset = self._written + len(self._left)
        self._left += text
        with contextlib.suppress(OSError):
            if self._descriptor < 0:
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, 0o600)
            while self._left:
                written = os.pwrite(self._descriptor, self._left, self._written)
                self._written += written
                self._left = self._left[written:]
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes at `offset`."""
        part = b""
        if offset < self._written:
            part = os.pread(self._descriptor, min(length, self._written - offset), offset)
            offset, length = offset + len(part), length - len(part)
        start = offset - self._written
        return part + self._left[start : start + length] if start >= 0 else part

    def close(self) -> None:
        """Close and delete the file; fine to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            Path(self._path).unlink(missing_ok=True)


class ErrorPipe:
    """The pipe that a job's stderr is, and the file that its bytes are poured into."""

    def __init__(self, source: int, sink: Callable[[], OutputFile]) -> None:
        """`source` is the reading end, which is closed with this; `sink` opens the file."""
        self.source = source
        self._sink = sink
        self._left = b""
        os.set_blocking(source, False)

    def pour(self) -> bool:
        """Move what is in the pipe; whether it was so much that more may follow at once."""
        if self.source < 0:
            return False
        try:
            self._left = self._left or os.read(self.source, PIPE)
        except BlockingIOError:
            return False
        size = len(self._left)
        try:
            while self._left:
                self._left = self._left[os.write(self._sink().descriptor, self._left) :]
        except OSError:
            return False  # a full disk: the job waits until there is room again
        return size >= BUSY

    def drain(self) -> None:
        """Move what is in the pipe now, and not all that is written into it meanwhile.

        A read takes everything that is there; before the first there may be an earlier one's rest.
        """
        self.pour()
        self.pour()

    def close(self) -> None:
        """Let go of the pipe; fine to call twice."""
        if self.source >= 0:
            os.close(self.source)
            self.source = -1


def make_pipe(owner: tuple[int, int] | None) -> tuple[int, int]:
    """A pipe with all the room that it can have: its reading and its writing end."""
    source, writing = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # beyond the account's share of memory it stays small
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE)
    if owner is not None:
        os.fchown(writing, *owner)
    return source, writing


class JobLog:
    """Segments in reading order; offsets count bytes of the log."""

    def __init__(self) -> None:
        self.size = 0
        self._starts: list[int] = []
        self._segments: list[tuple[OutputFile | TextFile, int, int]] = []

    def add(self, file: OutputFile | TextFile, offset: int, length: int) -> None:
        """Append a stretch of a file; one that goes on where the last ended lengthens it."""
        if length <= 0:
            return
        if self._segments:
            last, start, size = self._segments[-1]
            if last is file and start + size == offset:
                self._segments[-1] = (file, start, size + length)
                self.size += length
                return
        self._starts.append(self.size)
        self._segments.append((file, offset, length))
        self.size += length

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the log from `offset` on (from the end, if negative), at most `length`."""
        if offset < 0:
            offset = max(0, self.size + offset)
        length = min(length, self.size - offset)
        parts: list[bytes] = []
        index = bisect_right(self._starts, offset) - 1
        while length > 0:
            file, start, size = self._segments[index]
            skip = offset - self._starts[index]
            part = file.read(start + skip, min(length, size - skip))
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
            if offset >= self._starts[index] + size:
                index += 1
        return b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """The whole log in pieces as they are stored."""
        offset = 0
        while part := self.read(offset, chunks.CHUNK):
            yield part
            offset += len(part)


class JobOutput:
    """Both streams of one job. `noted` is told of every read, `news` of what is no log."""

    def __init__(
        self,
        folder: Folder,
        reader: Reader,
        *,
        news: Callable[[Output], None],
        noted: Callable[[Stream, int, float], None],
        owner: tuple[int, int] | None = None,
        known: bool = False,
        masking: Masking | None = None,
    ) -> None:
        """Open the files of a new job, or of one `known` to an earlier runner.

        With `masking`, log and news hold only what that lets through.
        """
        self.out = OutputFile(folder.out, owner, known=known)
        self._err: OutputFile | None = None
        self._err_path = folder.err
        self._owner = owner
        self._known = known
        if known:
            self.err()
        self.log = JobLog()
        self._texts = TextFile(f"{folder.out}.text")
        self._pipe: ErrorPipe | None = None
        self._reader = reader
        self._news = news
        self._noted = noted
        self._masking = masking
        # The log of a job with secrets is a masked copy of what the job wrote.
        self._masks: dict[Stream, MaskedStream] = (
            {"out": masking.stream(), "err": masking.stream()} if masking else {}
        )

    def err(self) -> OutputFile:
        """The file of stderr. Few jobs write there, so that it is made when it is needed first."""
        if self._err is None:
            self._err = OutputFile(self._err_path, self._owner, known=self._known)
        return self._err

    def replay(self, reads: list[Read]) -> None:
        """Read again what an earlier runner read, in its order."""
        for read in reads:
            file = self._file(read.stream)
            self._reader.at(read.at)
            while file.position < read.upto and (chunk := file.next_chunk(read.upto)):
                self._take(read.stream, file, chunk)

    def pour_from(self, source: int) -> None:
        """Stderr is a pipe with this reading end, which is closed with the rest."""
        self._pipe = ErrorPipe(source, self.err)

    def poll(self, now: float, upto: tuple[int, int] | None = None) -> bool:
        """Read what has come, at most a chunk per stream; whether there may be more.

        `upto` bounds the offsets in stdout and stderr: what the end of the job left there.
        """
        more = self._pipe is not None and upto is None and self._pipe.pour()
        streams: tuple[Stream, Stream] = ("out", "err")
        for index, stream in enumerate(streams):
            file = self.out if stream == "out" else self._err
            if file is None:
                continue
            end = file.notice_emptied()
            if upto is not None:
                end = min(end, upto[index])
            if end <= file.position:
                continue
            chunk = file.next_chunk(end)
            if not chunk:
                continue
            self._reader.at(now)
            self._take(stream, file, chunk)
            self._noted(stream, file.position, now)
            more = more or file.position < end
        return more

    def ends(self) -> tuple[int, int]:
        """Where both streams end now, whatever processes that were left behind go on to write."""
        if self._pipe is not None:
            self._pipe.drain()
        return self.out.notice_emptied(), self._err.notice_emptied() if self._err else 0

    def finish(self) -> None:
        """Nothing more will be read: a last line without line feed counts."""
        for item in self._reader.finish():
            self._add(self.out, item)
        for mask in self._masks.values():
            self._add_text(mask.finish())

    def error_head(self) -> bytes:
        """The first bytes of stderr."""
        if self._err is None:
            return b""
        head = self._err.read(0, ERROR_HEAD)
        if self._masking is None:
            return head
        mask = self._masking.stream()
        text = mask.feed(head)
        return text + mask.finish() if len(head) < ERROR_HEAD else text

    def close(self) -> None:
        """Let go of the files; stdout's and stderr's own are the spool's to delete."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        for file in (self.out, self._err, self._texts):
            if file is not None:
                file.close()

    def _file(self, stream: Stream) -> OutputFile:
        return self.out if stream == "out" else self.err()

    def _take(self, stream: Stream, file: OutputFile, chunk: bytes) -> None:
        offset = file.position - len(chunk)
        if stream == "err":
            self._add_log(stream, file, offset, len(chunk))
            return
        for item in self._reader.feed(chunk, offset):
            self._add(file, item)

    def _add(self, file: OutputFile, item: Output) -> None:
        match item:
            case LogSegment(offset, length):
                self._add_log("out", file, offset, length)
            case LogText(text):
                self._add_text(self._masks["out"].feed(text) if self._masks else text)
            case Message(fields) if self._masking is not None:
                self._news(Message(self._masking.fields(fields)))
            case Remark(text) if self._masking is not None:
                self._news(Remark(self._masking.text(text)))
            case _:
                self._news(item)

    def _add_log(self, stream: Stream, file: OutputFile, offset: int, length: int) -> None:
        """A stretch of a file as it is; of a job with secrets, a masked copy."""
        if not self._masks:
            self.log.add(file, offset, length)
            return
        while length > 0 and (part := file.read(offset, min(length, CHUNK))):
            self._add_text(self._masks[stream].feed(part))
            offset += len(part)
            length -= len(part)

    def _add_text(self, text: bytes) -> None:
        """Log bytes that the job did not write itself go to a file of their own."""
        if not text:
            return
        self.log.add(self._texts, self._texts.add(text), len(text))
