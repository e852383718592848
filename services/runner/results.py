"""How a job's stdout is read and what its end means, by kind of plugin (plugins.md 4.1, 9.1).

Pure: joins the protocol (wire.py, news.py) with the rules of the shell plugin.
"""

import signal

from domain.facts import Json
from services.runner.news import JobNews, Outcome, settle
from services.runner.output import Reader
from services.runner.spool import Mode
from services.runner.wire import WireReader

END_UNSEEN = "The end of the process was not seen."


def reader_for(mode: Mode) -> Reader:
    """What reads the job's stdout."""
    return WireReader()


def first_message(mode: Mode, document: Json) -> Json | None:
    """What the shell plugin says before the script does: with `pass`, the input as output."""
    data = (document.get("input") or {}).get("data")
    return {"xy": 1, "data": data} if mode.shell and mode.passes and data else None


def result(mode: Mode, news: JobNews, status: int | None, pid: int, errors: bytes) -> Outcome:
    """The job's result; `status` is the exit status, or -N for signal N."""
    name = signal_name(-status) if status is not None and status < 0 else None
    return settle(news, exit_status=status, signal=name, pid=pid)


def signal_name(number: int) -> str:
    """SIGKILL for 9; SIG40 for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
