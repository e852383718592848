"""Keeps child processes running: starts them, starts them again when they die, stops them.

One thread, no event loop: it sleeps in a selector on the children's pidfds and on a pipe that
signals write to. A child is a program, or a function that runs in a fork of this process: of
what this process has imported nothing need be imported again, only what that service alone uses.
Children end when this process dies. Each has a session of its own, so that Ctrl-C
reaches only this process, which then stops them in order.

A child holds a lock on its pidfile while it lives (`holder_of`), so a stale pid misleads nobody.
"""

import ctypes
import fcntl
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from services.errors import StartupError
from services.ledger.embedded import allow_late_timers

# A child that ends with this status said why in its last line. At first, starting it again is no
# use; later the reason may pass, a full disk for instance.
CANNOT_START = 78
# Dead children are back within a second; one that dies at once is not started in a busy loop.
RESTART_WAIT = 0.5
_SHORT_LIFE = 1.0
# At first, a child that never stayed up is given up after this many tries.
_MOST_FAILURES = 6
# Services get this long (seconds) to end by themselves, nats-server after them: below 5 together.
STOP_WAIT = 3.6
LAST_WAIT = 1.0
# Beyond this size (bytes) a log file is set aside when its child starts.
_LOG_SIZE = 10 * 1024 * 1024
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
# The pidfile's descriptor in a child, where no other one is left open above standard error.
_PIDFILE_FD = 3


@dataclass(slots=True)
class Child:
    """One process to keep running: a program (nats-server), or a function giving the status.

    `last` children are stopped after the others.
    """

    name: str
    work: Sequence[str] | Callable[[], int]
    last: bool = False
    pid: int = 0
    pidfd: int = -1
    started: float = 0.0
    due: float | None = None
    short_lives: int = 0
    stayed_up: bool = False
    postponed: bool = False


class Supervisor:
    """`with Supervisor(...) as family:` start children, then `run` until something is true.

    `announce` gets one sentence whenever a child died. Leaving the block stops all children
    within five seconds. A stop signal makes `stopped` true and ends `run`. No threads may run
    in this process, because it forks.
    """

    def __init__(
        self, run_dir: Path, log_dir: Path, announce: Callable[[str], None], *, verbose: bool
    ) -> None:
        self._run_dir = run_dir
        self._log_dir = log_dir
        self._announce = announce
        self._verbose = verbose
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._old: dict[signal.Signals, object] = {}
        self.settled = False
        """Set it when all are up: from then on what cannot start may do so later."""
        self.stopped = False

    def __enter__(self) -> "Supervisor":
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in _STOPPING:
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_all()
        signal.set_wakeup_fd(-1)
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def start(self, child: Child) -> None:
        """Start a child and keep it running from now on."""
        self._children.append(child)
        self._launch(child)

    def kill(self, name: str) -> None:
        """Have a child started anew, whatever it is doing."""
        for child in self._children:
            if child.name == name and child.pid:
                _send(child, signal.SIGKILL)

    def run(self, until: Callable[[], bool], poll: float) -> None:
        """Keep the children running until a stop signal, or until `until()` is true.

        `until` is asked at least every `poll` seconds. Raises StartupError when a child never
        stays up, or says that it cannot start while not all is `settled`.
        """
        while not self.stopped and not until():
            self._step(poll)

    # --- one step --------------------------------------------------------------------------

    def _step(self, timeout: float) -> None:
        now = time.monotonic()
        dues = [child.due for child in self._children if child.due is not None]
        wait = max(0.0, min([timeout, *(due - now for due in dues)]))
        for key, _ in self._selector.select(wait):
            if key.data is None:
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
            else:
                self._bury(key.data)
        if self.stopped:
            return
        for child in self._children:
            if child.due is not None and time.monotonic() >= child.due:
                self._launch(child)

    def _launch(self, child: Child) -> None:
        try:
            with self._output(child) as output, self._pidfile(child).open("a") as pidfile:
                fcntl.flock(pidfile, fcntl.LOCK_EX)
                child.pid = _fork(child, output.fileno(), pidfile.fileno())
                with suppress(OSError):  # a full disk must not end a child that runs
                    os.truncate(pidfile.fileno(), 0)
                    os.write(pidfile.fileno(), b"%d\n" % child.pid)
        except OSError as error:
            self._postpone(child, error)
            return
        child.due, child.postponed = None, False
        child.started = time.monotonic()
        child.pidfd = os.pidfd_open(child.pid)
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)

    def _postpone(self, child: Child, error: OSError) -> None:
        """Try again soon: for want of memory or disk space, even a fork or a log may fail."""
        if not child.postponed:
            self._announce(f"{child.name} cannot be started now ({error.strerror}).")
        child.postponed = True
        child.due = time.monotonic() + RESTART_WAIT

    def _bury(self, child: Child) -> None:
        """Take note of a child's end and plan its next start."""
        status = self._forget(child)
        if self.stopped:
            return
        if time.monotonic() - child.started < _SHORT_LIFE:
            child.short_lives += 1
        else:
            child.short_lives, child.stayed_up = 0, True
        if status == CANNOT_START and not self.settled:
            raise StartupError(self._last_words(child))
        if not (self.settled or child.stayed_up) and child.short_lives >= _MOST_FAILURES:
            raise StartupError(f"The {child.name} does not stay up; see {self._log(child)}.")
        child.due = time.monotonic() + (RESTART_WAIT if child.short_lives else 0)
        self._announce(f"{child.name} {_how(status)}; it is started again.")

    def _forget(self, child: Child) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        self._selector.unregister(child.pidfd)
        os.close(child.pidfd)
        child.pid = 0
        self._pidfile(child).unlink(missing_ok=True)
        return status

    # --- stopping --------------------------------------------------------------------------

    def _stop_all(self) -> None:
        self.stopped = True
        self._end([child for child in self._children if not child.last], STOP_WAIT)
        self._end([child for child in self._children if child.last], LAST_WAIT)

    def _end(self, children: list[Child], wait: float) -> None:
        """SIGTERM, and SIGKILL for those that are still there after `wait` seconds."""
        running = [child for child in children if child.pid]
        for child in running:
            _send(child, signal.SIGTERM)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline and any(child.pid for child in running):
            self._step(deadline - time.monotonic())
        for child in running:
            if child.pid:
                _send(child, signal.SIGKILL)
                self._forget(child)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True

    # --- files -----------------------------------------------------------------------------

    def _pidfile(self, child: Child) -> Path:
        return self._run_dir / f"{child.name}.pid"

    def _log(self, child: Child) -> Path:
        return self._log_dir / f"{child.name}.log"

    def _output(self, child: Child) -> IO[bytes]:
        if self._verbose:
            return os.fdopen(os.dup(2), "wb")
        log = self._log(child)
        if log.exists() and log.stat().st_size > _LOG_SIZE:
            log.replace(log.with_suffix(".log.1"))
        return log.open("ab")

    def _last_words(self, child: Child) -> str:
        if self._verbose:
            return f"The {child.name} cannot start."
        lines = self._log(child).read_text(errors="replace").splitlines()
        return lines[-1] if lines else f"The {child.name} cannot start."


def holder_of(pidfile: Path) -> int | None:
    """The process that a pidfile names, if it still lives; None otherwise."""
    try:
        with pidfile.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def ending_with(parent: int) -> Callable[[], None]:
    """What a new child calls to get SIGTERM when its parent dies, however that happens."""
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def _fork(child: Child, output: int, pidfile: int) -> int:
    """Start the child's work in a process of its own; its id."""
    name_process = ctypes.CDLL(None).prctl
    end_with_parent = ending_with(os.getpid())
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in _STOPPING:
            signal.signal(number, signal.SIG_DFL)
        end_with_parent()
        name_process(_PR_SET_NAME, child.name.encode())
        _arrange_descriptors(output, pidfile)
        if callable(child.work):
            os.set_inheritable(_PIDFILE_FD, False)
            status = child.work()
        else:
            allow_late_timers()
            os.execv(child.work[0], list(child.work))  # noqa: S606 - our own command, no shell
    except BaseException:
        traceback.print_exc()
    finally:
        # Never back into the parent's code, nor into its clean-up.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _arrange_descriptors(output: int, pidfile: int) -> None:
    """Nothing to read, the log to write to, the pidfile's lock; and nothing of the parent's."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(pidfile, _PIDFILE_FD)
    os.closerange(_PIDFILE_FD + 1, os.sysconf("SC_OPEN_MAX"))
    # Whatever the parent had put in their place stays behind.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - for the process's life
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def _send(child: Child, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.pidfd, number)


def _how(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
