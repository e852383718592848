"""What the shell runner makes of a script's output and end (plugins.md 9.1).

Responsible for progress lines (`NN%`), time stamps, the error box and the final message. Pure:
`now` and the time zone are passed in. Must not start or watch the script.
"""

import html
import re
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any

from domain.facts import Json
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

STDERR_KEPT = 32 * 1024
"""Bytes of stderr shown in the error box."""

MAX_FIRST_LINE = 256
"""A first stderr line shorter than this (in characters) joins the description."""

_PERCENT = re.compile(rb"(\d+)%\s*", re.ASCII)


def read_shell_line(line: bytes) -> Message | Remark | None:
    """Like `read_message`, and a line of only digits and `%` is progress."""
    found = _PERCENT.fullmatch(line)
    if found is None:
        return read_message(line)
    digits = found[1].lstrip(b"0") or b"0"
    percent = int(digits) if len(digits) <= 3 else 100
    return Message({"xy": 1, "progress": min(percent, 100) / 100})


SHELL = Dialect(
    opening=rf"{PROTOCOL.opening}|\d+%",
    undecided=rf"{PROTOCOL.undecided}|\d+",
    read=read_shell_line,
)


class ShellReader:
    """Reads a script's stdout; with `annotate`, each log line gets a time stamp in `zone`.

    Annotated output is no longer what stands in the file: all of it comes as LogText.
    """

    def __init__(
        self,
        zone: tzinfo,
        *,
        annotate: bool = False,
        position: int = 0,
        inside_line: bool = False,
    ) -> None:
        self._zone = zone
        self._annotate = annotate
        self._wire = WireReader(SHELL, position, inside_line=inside_line)

    @property
    def resume_point(self) -> tuple[int, bool]:
        """As WireReader.resume_point."""
        return self._wire.resume_point

    def feed(self, chunk: bytes, offset: int, now: float) -> list[Output]:
        """What the next bytes of stdout add; `now` (Unix seconds) is when they were read."""
        held, inside = self._wire.held, self._wire.inside_line
        news = self._wire.feed(chunk, offset)
        if not self._annotate:
            return news
        return self._stamped(news, held + chunk, offset - len(held), inside, now)

    def finish(self, now: float) -> list[Output]:
        """The end of stdout."""
        held, start = self._wire.held, self._wire.resume_point[0]
        news = self._wire.finish()
        return self._stamped(news, held, start, False, now) if self._annotate else news

    def _stamped(
        self, news: list[Output], data: bytes, start: int, inside: bool, now: float
    ) -> list[Output]:
        stamp = time_stamp(now, self._zone)
        stamped: list[Output] = []
        for each in news:
            if isinstance(each, LogSegment):
                begin = each.offset - start
                text = data[begin : begin + each.length]
                stamped.append(LogText(with_stamps(text, stamp, inside_line=inside)))
                inside = False
            else:
                stamped.append(each)
        return stamped


def time_stamp(now: float, zone: tzinfo) -> bytes:
    """`[YYYY/MM/DD HH:MM:SS] `"""
    return datetime.fromtimestamp(now, zone).strftime("[%Y/%m/%d %H:%M:%S] ").encode()


def with_stamps(text: bytes, stamp: bytes, *, inside_line: bool = False) -> bytes:
    """A stamp before each line that begins in the text; not before one that goes on in it."""
    first = b"" if inside_line or not text else stamp
    body, last = text[:-1], text[-1:]
    return first + body.replace(b"\n", b"\n" + stamp) + last


def opening_messages(params: Mapping[str, Any], given: Mapping[str, Any]) -> list[Json]:
    """What the runner says before the script starts: with `pass`, the input data as output."""
    data = given.get("data")
    return [{"xy": 1, "data": data}] if params.get("pass") and data else []


def final_message(
    exit_status: int | None, signal: str | None, stderr: bytes, *, html_sent: bool
) -> Json:
    """What the runner says when the script is over; a final message of its own came first.

    `stderr` is its beginning (STDERR_KEPT bytes are enough); `signal` a name such as SIGTERM.
    """
    code = signal or exit_status or 0
    errors = stderr[:STDERR_KEPT].decode("utf-8", "replace").strip()
    message: Json = {"xy": 1, "complete": True, "code": code, "description": ""}
    if code:
        message["description"] = f"Script exited with code: {code}{_first_line(errors)}"
    if errors and not html_sent:
        content = f"<pre>{html.escape(errors, quote=False)}</pre>"
        message["html"] = {"title": "Error Output", "content": content}
    return message


def _first_line(errors: str) -> str:
    line = errors.partition("\n")[0].rstrip()
    return f": {line}" if line and len(line) < MAX_FIRST_LINE else ""


def script_file(script: str) -> str:
    """The script as written to its file: LF line ends, and an interpreter in the first line."""
    text = script.replace("\r\n", "\n")
    return text if text.startswith("#!") else f"#!/bin/sh\n{text}"
