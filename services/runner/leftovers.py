"""What jobs left behind: processes of sessions whose job is over (design.md 7).

They get SIGTERM at once and SIGKILL ten seconds later. Knows nothing of jobs but their session
and the time of their end.
"""

import contextlib
import os
import signal
from dataclasses import dataclass

from services.runner.children import has_group, send
from services.runner.procfs import Process

GRACE = 10.0


@dataclass(slots=True)
class _Session:
    ended: float
    terminated: bool = False


class Leftovers:
    """The sessions that may still have processes. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._sessions: dict[int, _Session] = {}

    @property
    def sessions(self) -> set[int]:
        """Which sessions to look for."""
        return set(self._sessions)

    def add(self, session: int, now: float) -> None:
        """The leader of this session has ended: whatever is left in its group shall end."""
        entry = _Session(now)
        if has_group(session):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(session, signal.SIGTERM)
            entry.terminated = True
        self._sessions[session] = entry

    def look(self, found: dict[int, list[Process]], now: float) -> None:
        """Take in one look at the process table (procfs.by_session) made at `now`."""
        for session, entry in list(self._sessions.items()):
            if session not in found:
                continue  # it ended after the look was begun
            family = found[session]
            if not family or any(p.pid == session for p in family):
                # Nobody is left, or the number names a new session by now.
                del self._sessions[session]
                continue
            overdue = now - entry.ended > GRACE
            if overdue or not entry.terminated:
                number = signal.SIGKILL if overdue else signal.SIGTERM
                for process in family:
                    send(process.pid, number)
                entry.terminated = True
