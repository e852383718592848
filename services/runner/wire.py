"""Tells messages from output in what a child writes to its stdout (plugins.md 2).

Responsible for lines: which are messages of the protocol, which are log. The log is not copied:
it is named by offset and length in the child's output file (design.md 7, Spool), with the
protocol lines left out. Pure: bytes come in as the file grows, in whatever pieces; what comes
out does not depend on the pieces. Must not know what a message means (`news.py`), nor touch the
file.

Plain output costs one regular expression search over the whole chunk, nothing per line.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from domain.checks import has_common_numbers
from domain.facts import Json

MAX_LINE = 32 * 1024 * 1024
"""Bytes of the longest line that is looked at as a message; longer ones are log."""

MAX_WARNINGS = 100
"""Warnings about the lines of one job; after these, odd lines are log without a remark."""


@dataclass(frozen=True, slots=True)
class LogSegment:
    """A stretch of the output file that belongs to the log; offset and length in bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class LogText:
    """Log bytes that stand in no file as they are: output with time stamps added."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the protocol, as parsed."""

    fields: Json


@dataclass(frozen=True, slots=True)
class Remark:
    """A warning for the job's meta log about a line that stays in the log."""

    text: str


Output = LogSegment | LogText | Message | Remark


@dataclass(frozen=True, slots=True)
class Dialect:
    """Which lines may be messages, and how to read one (without its line feed)."""

    opening: str
    """How such a line begins (regular expression)."""
    undecided: str
    """Beginnings that may still become such a line when cut off by the end of a chunk."""
    read: Callable[[bytes], Message | Remark | None]
    """The line as message, as output with a remark, or None as plain output."""


def read_message(line: bytes) -> Message | Remark | None:
    """A JSON object between blanks, whose `xy` is 1 or true, is a message (plugins.md 2)."""
    text = line.strip()
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return None
    try:
        fields = _decoded(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        return Remark(f"WARNING: Output looks like JSON but is not: {str(error)[:200]}")
    if _LONG_NUMBER.search(text) and not has_common_numbers(fields):
        return Remark("WARNING: Output looks like a message but holds a number that is too large")
    marker = fields.get("xy")
    if marker in (1, True):
        return Message(fields)
    if marker in (None, 0, False, ""):
        return None
    return Remark('WARNING: Output carries a marker "xy" that is neither 1 nor true')


def _decoded(text: str) -> Json:
    """The JSON in a line. Raises ValueError.

    Half a character, which programs write that do not know better (Python, of a file name that is
    no text), becomes the replacement character: it must not cost a job its result.
    """
    try:
        return msgspec.json.decode(text)  # type: ignore[no-any-return]
    except msgspec.DecodeError:
        if not _HALF.search(text):
            raise
    whole = _ESCAPE.sub(lambda found: found[0] if found[1] is None else r"\ufffd", text)
    return msgspec.json.decode(whole)  # type: ignore[no-any-return]


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
# A pair of halves, one alone, any other escape.
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(u[dD][89a-fA-F][\da-fA-F]{2})|.)"
)
# Fewer digits are a number that a double can hold.
_LONG_NUMBER = re.compile(rb"\d{309}")

_BLANKS = r"[ \t\r\f\v]*"

PROTOCOL = Dialect(opening=_BLANKS + r"\{", undecided=_BLANKS, read=read_message)


class WireReader:
    """Reads one output stream, from `position` on.

    `inside_line` goes on in a line already known to be log (see `resume_point`).
    """

    def __init__(
        self, dialect: Dialect = PROTOCOL, position: int = 0, *, inside_line: bool = False
    ) -> None:
        self._opening, self._next_opening, self._undecided = _patterns(
            dialect.opening, dialect.undecided
        )
        self._read = dialect.read
        self._position = position
        self._inside = inside_line
        self._held = bytearray()
        self._remarks = 0

    @property
    def held(self) -> bytes:
        """The start of a line that may yet become a message."""
        return bytes(self._held)

    @property
    def inside_line(self) -> bool:
        """Whether the last byte so far belongs to a log line that has not ended."""
        return self._inside

    @property
    def resume_point(self) -> tuple[int, bool]:
        """Where a new reader must start to go on exactly here: position and `inside_line`."""
        return self._position - len(self._held), self._inside

    def feed(self, chunk: bytes, offset: int) -> list[Output]:
        """What the next bytes of the stream add. `offset` is their place in the file.

        The start of a line that may yet become a message is held back until its end is seen.
        Raises ValueError when bytes are missing in between.
        """
        if offset != self._position:
            raise ValueError(f"expected output from {self._position} on, not from {offset}")
        self._position += len(chunk)
        news: list[Output] = []
        start = self._end_open_line(chunk, offset, news)
        if start < len(chunk):
            self._lines(chunk, start, offset, news)
        return news

    def finish(self) -> list[Output]:
        """The end of the stream: a last line without line feed counts like any other."""
        news: list[Output] = []
        start, self._inside = self._position - len(self._held), False
        self._held_line(start, len(self._held), news)
        return news

    def _end_open_line(self, chunk: bytes, offset: int, news: list[Output]) -> int:
        """Go on in the line that the last chunk ended in; gives the index of the next line."""
        if not self._inside and not self._held:
            return 0
        end = chunk.find(b"\n")
        stop = len(chunk) if end < 0 else end + 1
        if self._inside:
            _add_log(news, offset, stop)
            self._inside = end < 0
            return stop
        start = offset - len(self._held)
        self._held += chunk[: end if end >= 0 else stop]
        if end >= 0:
            self._held_line(start, len(self._held) + 1, news)
        elif not self._may_be_message(self._held):
            _add_log(news, start, len(self._held))
            self._held.clear()
            self._inside = True
        return stop

    def _held_line(self, start: int, length: int, news: list[Output]) -> None:
        """The held line is complete; `length` counts its line feed, if any."""
        line = bytes(self._held)
        self._held.clear()
        if not self._is_message(line, news):
            _add_log(news, start, length)

    def _lines(self, chunk: bytes, start: int, offset: int, news: list[Output]) -> None:
        """Step from one possible message to the next; everything between them is log."""
        logged = start
        line = self._candidate(chunk, start)
        while line >= 0 and (end := chunk.find(b"\n", line)) >= 0:
            found: list[Output] = []
            if self._is_message(chunk[line:end], found):
                _add_log(news, offset + logged, line - logged)
                logged = end + 1
            news += found
            line = self._candidate(chunk, end + 1)
        self._open_last_line(chunk, logged, line, offset, news)

    def _candidate(self, chunk: bytes, line: int) -> int:
        """Index of the first line at or after `line` that opens like a message; -1 if none."""
        if line == 0 and self._opening.match(chunk):
            return 0
        found = self._next_opening.search(chunk, max(line - 1, 0))
        return found.start() + 1 if found else -1

    def _open_last_line(
        self, chunk: bytes, logged: int, line: int, offset: int, news: list[Output]
    ) -> None:
        """Hold or log what follows the last line feed of a chunk."""
        start = line if line >= 0 else max(logged, chunk.rfind(b"\n") + 1)
        rest = chunk[start:]
        if rest and self._may_be_message(rest):
            self._held += rest
            _add_log(news, offset + logged, start - logged)
        else:
            self._inside = bool(rest)
            _add_log(news, offset + logged, len(chunk) - logged)

    def _may_be_message(self, piece: bytes | bytearray) -> bool:
        if len(piece) > MAX_LINE:
            return False
        return bool(self._opening.match(piece) or self._undecided.fullmatch(piece))

    def _is_message(self, line: bytes, news: list[Output]) -> bool:
        """Add the message or remark that a whole line holds; False if the line is log."""
        found = self._read(line) if len(line) <= MAX_LINE else None
        if isinstance(found, Remark):
            self._remarks += 1
            if self._remarks > MAX_WARNINGS:
                return False
        if found is not None:
            news.append(found)
        return isinstance(found, Message)


@functools.cache
def _patterns(opening: str, undecided: str) -> tuple[re.Pattern[bytes], ...]:
    """What begins a message; the same in the next line; what may yet begin one."""
    start = opening.encode()
    texts = (start, rb"\n(?:" + start + rb")", undecided.encode())
    return tuple(map(re.compile, texts))


def _add_log(news: list[Output], offset: int, length: int) -> None:
    last = news[-1] if news else None
    if isinstance(last, LogSegment) and last.offset + last.length == offset:
        news[-1] = LogSegment(last.offset, last.length + length)
    elif length:
        news.append(LogSegment(offset, length))
