"""How a job's stdout is read and what its end means, by kind of plugin (plugins.md 4.1, 9.1).

Pure: joins the protocol (wire.py, news.py) with the rules of the shell plugin.
"""

import html
import re
import signal
import time

from domain.facts import Json
from services.runner.news import REPORTS, JobNews, Outcome, fold_message, settle
from services.runner.output import Reader
from services.runner.spool import Mode
from services.runner.wire import (
    PROTOCOL,
    Dialect,
    LogSegment,
    LogText,
    Message,
    Output,
    Remark,
    WireReader,
    read_message,
)

LONGEST_REASON = 256
"""Characters from which a first line of stderr is no part of the description."""

_PERCENT = re.compile(rb"[0-9]{1,20}%")
END_UNSEEN = "The end of the process was not seen."


def read_shell_line(line: bytes) -> Message | Remark | None:
    """As `read_message`, and a line of digits and `%` alone is progress."""
    if _PERCENT.fullmatch(line):
        return Message({"xy": 1, "progress": min(int(line[:-1][:9]), 100) / 100})
    return read_message(line)


# Many logs begin their lines with a date: only a whole percent line is worth a closer look.
SHELL = Dialect(
    opening=rf"(?:{PROTOCOL.opening}|[0-9]{{1,20}}%(?=\n))",
    undecided=rf"(?:{PROTOCOL.undecided}|[0-9]{{1,20}}%?)",
    read=read_shell_line,
)
"""Lines of the protocol and percent lines."""


class ProtocolReader(WireReader):
    """Reads the stdout of any plugin; the time of reading does not matter to it."""

    def at(self, now: float) -> None:
        """What is fed next was read at this Unix time."""


class ShellReader:
    """Reads the stdout of a script; with `annotate` each line of its log begins with a stamp."""

    def __init__(self, *, annotate: bool) -> None:
        self._wire = WireReader(SHELL)
        self._annotate = annotate
        self._stamp = b""
        self._line_begins = True
        self._unlogged = b""

    def at(self, now: float) -> None:
        """What is fed next was read at this Unix time; stamps are local time."""
        if self._annotate:
            self._stamp = time.strftime("[%Y/%m/%d %H:%M:%S] ", time.localtime(now)).encode()

    def feed(self, chunk: bytes, offset: int) -> list[Output]:
        """What the next bytes add."""
        news = self._wire.feed(chunk, offset)
        if not self._annotate:
            return news
        known, start = self._unlogged + chunk, offset - len(self._unlogged)
        stamped = self._stamped(news, known, start)
        held_from, _ = self._wire.resume_point
        self._unlogged = known[held_from - start :]
        return stamped

    def finish(self) -> list[Output]:
        """What the end of the stream adds."""
        start, _ = self._wire.resume_point
        news = self._wire.finish()
        return self._stamped(news, self._unlogged, start) if self._annotate else news

    def _stamped(self, news: list[Output], known: bytes, start: int) -> list[Output]:
        """The same with a stamp before each line; `known` are the bytes from `start` on."""
        stamped: list[Output] = []
        for item in news:
            if not isinstance(item, LogSegment):
                stamped.append(item)
                continue
            text = known[item.offset - start : item.offset - start + item.length]
            parts = []
            for line in _lines(text):
                parts.append(self._stamp + line if self._line_begins else line)
                self._line_begins = line.endswith(b"\n")
            stamped.append(LogText(b"".join(parts)))
        return stamped


def _lines(text: bytes) -> list[bytes]:
    """Lines ended by line feeds only."""
    *whole, rest = text.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])


def reader_for(mode: Mode) -> Reader:
    """What reads the job's stdout."""
    return ShellReader(annotate=mode.annotate) if mode.shell else ProtocolReader()


def first_message(mode: Mode, document: Json) -> Json | None:
    """What the shell plugin says before the script does: with `pass`, the input as output."""
    data = (document.get("input") or {}).get("data")
    return {"xy": 1, "data": data} if mode.shell and mode.passes and data else None


def result(mode: Mode, news: JobNews, status: int | None, pid: int, errors: bytes) -> Outcome:
    """The job's result; `status` is the exit status, or -N for signal N.

    `errors` is the beginning of stderr, which the shell plugin shows.
    """
    name = signal_name(-status) if status is not None and status < 0 else None
    if mode.shell and status is not None:
        fold_message(news, shell_end(name or status, errors, shown=_shows(news)))
    return settle(news, exit_status=status, signal=name, pid=pid)


def shell_end(code: int | str, errors: bytes, *, shown: bool) -> Json:
    """What the shell plugin says when its script has ended (plugins.md 9.1, 5 and 6).

    `shown` tells that the script posted a report itself.
    """
    text = errors.decode("utf-8", "replace").strip()
    description = f"Script exited with code: {code}" if code else ""
    first = text.partition("\n")[0].strip()
    if code and first and len(first) < LONGEST_REASON:
        description += f": {first}"
    message: Json = {"xy": 1, "complete": True, "code": code, "description": description}
    if text and not shown:
        content = f"<pre>{html.escape(text, quote=False)}</pre>"
        message["html"] = {"title": "Error Output", "content": content}
    return message


def _shows(news: JobNews) -> bool:
    return any(kind in news.fields for kind in REPORTS)


def signal_name(number: int) -> str:
    """SIGKILL for 9; SIG40 for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
