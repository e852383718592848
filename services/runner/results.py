"""How a job's stdout is read and what its end means, by kind of plugin (plugins.md 4.1, 9.1).

Pure: joins the protocol (wire.py, news.py) with the rules of the shell plugin.
"""

import html
import re
import signal

from domain.facts import Json
from services.runner.news import REPORTS, JobNews, Outcome, fold_message, settle
from services.runner.output import Reader
from services.runner.spool import Mode
from services.runner.wire import (
    PROTOCOL,
    Dialect,
    Message,
    Remark,
    WireReader,
    read_message,
)

LONGEST_REASON = 256
"""Characters from which a first line of stderr is no part of the description."""

_PERCENT = re.compile(rb"[0-9]+%")
END_UNSEEN = "The end of the process was not seen."


def read_shell_line(line: bytes) -> Message | Remark | None:
    """As `read_message`, and a line of digits and `%` alone is progress."""
    if _PERCENT.fullmatch(line):
        return Message({"xy": 1, "progress": min(int(line[:-1][:9]), 100) / 100})
    return read_message(line)


SHELL = Dialect(
    opening=rf"(?:{PROTOCOL.opening}|[0-9])",
    undecided=PROTOCOL.undecided,
    read=read_shell_line,
)
"""Lines of the protocol and percent lines."""


def reader_for(mode: Mode) -> Reader:
    """What reads the job's stdout."""
    return WireReader(SHELL if mode.shell else PROTOCOL)


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
