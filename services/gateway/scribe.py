"""A process that stores the rows of a long history while its gateway folds the rest.

Threads of one interpreter would take turns (benchmarks/NOTES.md has what that costs). Rows and
position stay in one transaction, and only one of the two processes writes at a time. It is sent
more before it has answered, so that it never waits; once it could not store something it ends,
and stores nothing that was sent after that. It ends with its gateway as well, whose pipe then
breaks; whatever is not stored by then is read again. Knows nothing of views.
"""

import contextlib
import gc
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from projections.history import Entry, History
from projections.plain_jobs import Outline, Parts
from projections.store import open_store
from services.gateway.dictation import Dictated, Reading

_LENGTH = 8  # bytes before each message that say how long it is
# A scribe that was told to end has at most one transaction to finish (seconds).
_LAST_WORDS = 30.0
# So many outlines are remembered; each takes about 4 KB.
_MOST_OUTLINES = 4000


class Batch(msgspec.Struct, gc=False):
    """What several Dictated hold, one transaction, and up to which sequence that is all.

    `outlines` are those that the scribe does not know yet; `anew`: it shall forget the others.
    """

    parts: list[msgspec.Raw]
    upto: int
    outlines: dict[int, Parts]
    anew: bool


class Answer(msgspec.Struct, gc=False):
    """What became of a batch: `code` is SQLite's for an error."""

    error: str = ""
    code: int = 0


class ScribeGone(Exception):
    """The scribe has ended; whether it stored its last batch, the position in the file tells."""


_ENCODER = msgspec.msgpack.Encoder()
_BATCHES = msgspec.msgpack.Decoder(Batch)
_ANSWERS = msgspec.msgpack.Decoder(Answer)


class Scribe:
    """The gateway's end: to be used by one thread at a time."""

    def __init__(self, path: Path, ledger: str, end: int) -> None:
        program = [sys.executable, "-m", __name__, str(path), ledger, str(end)]
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._process.pid
        self._known: set[int] = set()

    def send(self, parts: Sequence[Dictated], upto: int) -> None:
        """Have it do as History.apply_batch, after all that was sent before. Raises ScribeGone."""
        anew = len(self._known) > _MOST_OUTLINES
        if anew:
            self._known.clear()
        new: dict[int, Parts] = {}
        for part in parts:
            for number in part.outlines.keys() - self._known:
                new[number] = part.outlines[number].parts
        self._known |= new.keys()
        batch = Batch([msgspec.Raw(part.data) for part in parts], upto, new, anew)
        assert self._process.stdin is not None
        try:
            _send(self._process.stdin, _ENCODER.encode(batch))
        except OSError as error:
            raise ScribeGone(str(error)) from error

    def confirm(self) -> None:
        """Wait until the oldest of what was sent is stored.

        Raises what History.apply_batch raises, and has ended then; or ScribeGone.
        """
        assert self._process.stdout is not None
        answered = _receive(self._process.stdout)
        if answered is None:
            raise ScribeGone("it has ended")
        answer = _ANSWERS.decode(answered)
        if answer.error:
            raised = sqlite3.DatabaseError(answer.error)
            raised.sqlite_errorcode = answer.code
            raise raised

    def close(self) -> None:
        """Have it end, and wait until it has."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it holds back goes to nobody
                    pipe.close()
        try:
            self._process.wait(_LAST_WORDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _send(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(_LENGTH) + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """The next message; None if there is none any more."""
    length = int.from_bytes(pipe.read(_LENGTH))
    data = pipe.read(length)
    return data if length and len(data) == length else None


def main(path: str, ledger: str, end: str) -> None:
    """The scribe's life: until nobody is left who would send more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the gateway
    gc.disable()  # nothing of what it is sent or writes refers to itself
    connection = open_store(Path(path), ledger, int(end))
    history, reading = History(connection), Reading()
    outlines: dict[int, Outline] = {}
    answer = Answer()
    while not answer.error and (data := _receive(sys.stdin.buffer)) is not None:
        batch = _BATCHES.decode(data)
        if batch.anew:
            outlines.clear()
        outlines |= {number: Outline(parts) for number, parts in batch.outlines.items()}
        entries: list[Entry] = []
        for part in batch.parts:
            entries += reading.entries(part, outlines)
        try:
            history.apply_batch(entries, batch.upto)
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
            answer = Answer(str(error) or "an error without words", code)
        try:
            _send(sys.stdout.buffer, _ENCODER.encode(answer))
        except OSError:
            break  # nobody is left
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
