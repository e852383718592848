"""The processes of jobs: what one is made of, how it is watched and signalled, what it leaves.

A job's main process leads a session of its own. It is the child of a keeper (keeping.py), which
tells how it ended. What an earlier runner's keeper started is watched here, on a pidfd, and so is
all that a keeper leaves behind if it dies. Knows nothing of orders, logs or NATS.
"""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Set

from msgspec import Struct

from services.runner import procfs
from services.runner.accounts import Account
from services.runner.spool import Kill

Ended = Callable[[int | None, float], None]
"""Takes a status, -N for signal N, None if `exits` has to tell; and when, in monotonic seconds."""

# A keeper writes how a process ended within milliseconds, and only then is it gone.
GONE_WITHIN = 2.0
GONE_LOOK = 0.01
_STDERR = 2
_PR_SET_CHILD_SUBREAPER = 36


class Command(Struct, frozen=True):
    """What to run: an argument list whose first entry is an absolute path.

    `account` is None for the runner's own account.
    """

    argv: list[str]
    env: Mapping[str, str]
    cwd: str
    account: Account | None = None


class Streams(Struct, frozen=True):
    """The open descriptors of a job's output: what it writes to, and how its stderr is kept.

    `source` is the reading end of the pipe `err`, whose bytes go to the file at the path `kept`; it
    is None where stderr is itself that file. `exits` is the spool's.
    """

    out: int
    err: int
    source: int | None
    kept: str
    exits: int


class Child:
    """A running main process and its session. `start` is in clock ticks since boot."""

    def __init__(self, pid: int, start: int, pidfd: int = -1) -> None:
        self.pid = pid
        self.start = start
        self._pidfd = pidfd
        self._ending: asyncio.Task[None] | None = None

    @classmethod
    def adopted(cls, pid: int, start: int) -> "Child | None":
        """A process that somebody else started; None if it is over."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        if not procfs.is_alive(pid, start):
            os.close(pidfd)
            return None
        return cls(pid, start, pidfd)

    def watch(self, ended: Ended) -> None:
        """Call `ended` once when the process is over, for one that no keeper of ours tells about.

        The status is None unless the process came to us, as its keeper died.
        """
        loop = asyncio.get_running_loop()
        try:
            if self._pidfd < 0:
                self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            loop.call_soon(ended, None, time.monotonic())
        else:
            loop.add_reader(self._pidfd, self._on_end, ended)

    def _on_end(self, ended: Ended) -> None:
        self.forget()
        self._ending = asyncio.create_task(self._conclude(ended, time.monotonic()))

    async def _conclude(self, ended: Ended, now: float) -> None:
        ended(await gone(self.pid), now)

    def forget(self) -> None:
        """Stop watching; the process goes on. Fine to call twice."""
        if self._ending is not None:
            self._ending.cancel()
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def signal(self, number: signal.Signals, kill: Kill) -> None:
        """Send a signal as the kill policy says: to nobody, to the command, or to the session."""
        if kill == "none":
            return
        family = {p.pid for p in procfs.by_session({self.pid})[self.pid]}
        for pid in family if kill == "all" else family & {self.pid}:
            send(pid, number)


async def gone(pid: int) -> int | None:
    """Wait until an ended process was waited for, which is after its keeper wrote how it ended.

    If it came to us, as its keeper died, that is done here, and its status returned.
    """
    deadline = time.monotonic() + GONE_WITHIN
    while (process := procfs.read_process(pid)) is not None and process.state in "ZX":
        try:
            result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222
        except ChildProcessError:
            result = None
        if result is not None:
            return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(GONE_LOOK)
    return None


def has_group(session: int) -> bool:
    """Whether processes remain in the group of an ended session leader; one system call."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone or may belong to somebody else."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def prepare_process() -> None:
    """Make this process fit to start jobs; to be called once.

    Jobs inherit no descriptor that this process was itself given by mistake, and several files can
    be open per job.
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > _STDERR:
                os.set_inheritable(int(name), False)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def inherit_jobs() -> None:
    """From now on processes whose parent died become children of this one, if it is above them.

    So the jobs of a keeper that is killed tell how they end. `reap` has to be called now and then.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(mine: Set[int | None]) -> None:
    """Let go of inherited processes that have ended, except those in `mine`."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in mine:
            return
        os.waitpid(ended.si_pid, 0)
