"""A process that stores the rows of a long history while its gateway folds the rest.

Threads of one interpreter would take turns (benchmarks/NOTES.md has what that costs). Rows and
position stay in one transaction, and only one of the two processes writes at a time. It is sent
more before it has answered, so that it never waits; once it could not store something it ends,
and stores nothing that was sent after that. It ends with its gateway as well, whose pipe then
breaks; whatever is not stored by then is read again. Knows nothing of views.
"""

import contextlib
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

_LENGTH = 8  # bytes before each message that say how long it is
# A scribe that was told to end has at most one transaction to finish (seconds).
_LAST_WORDS = 30.0
# So many outlines are remembered; each takes about 4 KB.
_MOST_OUTLINES = 2000


class Batch(msgspec.Struct, gc=False):
    """What History.apply_batch is given, in order, and what plain jobs in it have in common.

    In `entries` an outline is a number: its place among all that came in `outlines` so far, which
    `anew` forgets.
    """

    entries: msgspec.Raw
    upto: int
    outlines: list[Parts]
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
        self._outlines = _Numbered()

    def send(self, entries: Sequence[Entry], upto: int) -> None:
        """Have it do as History.apply_batch, after all that was sent before. Raises ScribeGone.

        Raises OverflowError if there are numbers that only JSON knows: nothing was sent then.
        """
        data = self._outlines.batch(entries, upto)
        assert self._process.stdin is not None
        try:
            _send(self._process.stdin, data)
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


class _Numbered:
    """Writes batches in which an outline is spelt out at its first mention only."""

    def __init__(self) -> None:
        self._numbers: dict[Outline, int] = {}
        self._new: list[Parts] = []
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._number)

    def batch(self, entries: Sequence[Entry], upto: int) -> bytes:
        """The bytes of a Batch. Raises OverflowError."""
        if len(self._numbers) > _MOST_OUTLINES:
            self._numbers.clear()
        anew, self._new = not self._numbers, []
        try:
            raw = msgspec.Raw(self._encoder.encode(entries))
            return _ENCODER.encode(Batch(raw, upto, self._new, anew))
        except OverflowError:
            self._numbers.clear()  # those that were new are not on their way
            raise

    def _number(self, value: object) -> int:
        if not isinstance(value, Outline):
            raise TypeError(f"{type(value)} is no part of what is stored")
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = len(self._numbers)
            self._new.append(value.parts)
        return number


class _Reading:
    """Reads what _Numbered wrote."""

    def __init__(self) -> None:
        self._outlines: list[Outline] = []
        self._decoder = msgspec.msgpack.Decoder(list[Entry], dec_hook=self._outline)

    def entries(self, batch: Batch) -> list[Entry]:
        """The entries of the next batch."""
        if batch.anew:
            self._outlines.clear()
        self._outlines += map(Outline, batch.outlines)
        return self._decoder.decode(batch.entries)

    def _outline(self, _: type, number: int) -> Outline:
        return self._outlines[number]


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
    connection = open_store(Path(path), ledger, int(end))
    history, reading = History(connection), _Reading()
    answer = Answer()
    while not answer.error and (data := _receive(sys.stdin.buffer)) is not None:
        batch = _BATCHES.decode(data)
        try:
            history.apply_batch(reading.entries(batch), batch.upto)
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
