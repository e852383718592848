"""Starts a job's command, tells when it has ended, and ends it and what it left behind.

A job's main process is a `/bin/sh` wrapper, the leader of a session of its own, that runs the
command and writes its begin and its end to the spool's `exits`; so the status is known even if
no runner was there to wait. While a runner lives, it waits on a pidfd. No thread per child, no
signal handler. Knows nothing of orders, logs or NATS.

Nothing ties a child to the runner's life: children go on when the runner dies.
"""

import asyncio
import contextlib
import fcntl
import functools
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from services.runner import procfs
from services.runner.accounts import Account
from services.runner.spool import Kill

Ended = Callable[[int | None], None]

_MESSAGES = 2  # the wrapper's own stderr: the shell's remarks, kept out of the job's output
_FILE = 6
_SOURCE = 7
_ERR = 8
_EXITS = 9
_ADOPTED = signal.SIGUSR2
_MOVE = fcntl.F_DUPFD_CLOEXEC
_AT_ONCE = os.O_NONBLOCK | os.O_CLOEXEC
_SOFT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
_FILES = "unlimited" if _SOFT == resource.RLIM_INFINITY else str(_SOFT)

# $0 is "JOB ORDER", $1 the working directory, the rest the command. A shell reports "killed by
# signal N" and "exit 128+N" alike; only for the former it prints a remark, so the wrapper then
# dies by the same signal. The command runs in a subshell of its own so that the remark does not
# go to the job's stderr. A script that signals its whole group (`kill 0`) must not end the wrapper
# with it: trapped signals, unlike ignored ones, are at their default again in the command.
# Stderr is a pipe where it can be (output.py): the wrapper keeps its reading end open for the time
# between two runners, and saves what is in it when the command ends while there is none. A runner
# that adopts the pipe says so by a signal, as with two readers the bytes would change places; its
# number stands in the file $3, that of the first one is $2.
WRAPPER = f"""\
trap : 1 2 3 10 13 14 15
trap 'read -r runner <"$pids"' {int(_ADOPTED)}
echo "begin $0 $$" >&{_EXITS}
ulimit -Sn {_FILES}
cd "$1" || exit 126
runner=$2 pids=$3
shift 3
(exec "$@" 2>&{_ERR} {_FILE}>&- {_SOURCE}<&- {_ERR}>&- {_EXITS}>&-)
s=$?
if [ ! -e /proc/$runner ]; then
  PATH=/usr/bin:/bin dd if=/proc/self/fd/{_SOURCE} iflag=nonblock bs=1M count=1 >&{_FILE} 2>&-
fi
if [ $s -gt 128 ] && [ -s /proc/self/fd/{_MESSAGES} ]; then
  echo "end $0 -$((s - 128))" >&{_EXITS}
  ulimit -c 0
  trap - $((s - 128))
  kill -$((s - 128)) $$
fi
echo "end $0 $s" >&{_EXITS}
exit $s
"""
SHELL = "/bin/sh"
_ALL_SIGNALS = tuple(range(1, 32))


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: an argument list whose first entry is an absolute path.

    `account` is None for the runner's own account.
    """

    argv: list[str]
    env: Mapping[str, str]
    cwd: str
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Streams:
    """The open descriptors of a job's output: what it writes to, and how its stderr is kept.

    `source` is the reading end of the pipe `err`, whose bytes go to the file `kept`; where
    stderr is itself a file, all three are that file.
    """

    out: int
    err: int
    source: int
    kept: int


def start(
    command: Command, tag: str, stdin: bytes, streams: Streams, exits: int, pid_file: str
) -> int:
    """Start a command in its own session; returns the wrapper's pid, which is the session.

    `tag` is "JOB ORDER", `exits` an open descriptor; whoever adopts the process has its own pid in
    `pid_file`. `stdin` never touches a disk. Raises OSError if the process cannot be made.
    """
    wanted = {
        1: streams.out,
        _FILE: streams.kept,
        _SOURCE: streams.source,
        _ERR: streams.err,
        _EXITS: exits,
    }
    own = [_memory_file("stdin", stdin), _memory_file("remarks", b"")]
    targets = {0: own[0], _MESSAGES: own[1]} | wanted
    try:
        for number, descriptor in targets.items():
            if descriptor <= _EXITS:  # out of the way of the numbers they go to
                targets[number] = fcntl.fcntl(descriptor, _MOVE, _EXITS + 1)
                own.append(targets[number])
        if command.account is None:
            return _spawn(command, [tag, command.cwd, str(os.getpid()), pid_file], targets)
        return _spawn_as(command, command.account, [tag, ".", str(os.getpid()), pid_file], targets)
    finally:
        for descriptor in own:
            os.close(descriptor)


def _spawn(command: Command, words: list[str], targets: Mapping[int, int]) -> int:
    return os.posix_spawn(
        SHELL,
        [SHELL, "-c", WRAPPER, *words, *command.argv],
        command.env,
        file_actions=[(os.POSIX_SPAWN_DUP2, source, number) for number, source in targets.items()],
        setsid=True,
        setsigmask=(),
        setsigdef=_ALL_SIGNALS,
    )


def _spawn_as(
    command: Command, account: Account, words: list[str], targets: Mapping[int, int]
) -> int:
    """As `_spawn`, under another account, for which posix_spawn has no means."""
    argv = [SHELL, "-c", WRAPPER, *words, *command.argv]
    above = max(*targets.values(), *targets) + 1
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for number, source in list(_high(targets, above)):
            os.dup2(source, number)
        for name in _ALL_SIGNALS:
            with contextlib.suppress(OSError):
                signal.signal(name, signal.SIG_DFL)
        os.chdir(command.cwd)
        os.setgroups(account.groups)
        os.setgid(account.gid)
        os.setuid(account.uid)
        os.execve(SHELL, argv, dict(command.env))  # noqa: S606
    finally:
        os._exit(126)


def _high(targets: Mapping[int, int], above: int) -> Iterable[tuple[int, int]]:
    """The targets with sources moved out of the way of the numbers they go to."""
    for number, source in targets.items():
        yield number, os.dup2(source, above + number, inheritable=False)


def take_stderr_of(pid: int) -> int | None:
    """The reading end of the pipe that a wrapper keeps for its command's stderr, if there is one.

    From now on the wrapper leaves the pipe to the caller, who has to close it.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/fd/{_SOURCE}", os.O_RDONLY | _AT_ONCE)
    except OSError:
        return None
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        send(pid, _ADOPTED)
        return descriptor
    os.close(descriptor)
    return None


def _memory_file(name: str, content: bytes) -> int:
    descriptor = os.memfd_create(name)
    written = 0
    while written < len(content):  # which leaves its reader at the beginning
        written += os.pwrite(descriptor, content[written:], written)
    return descriptor


class Child:
    """A running main process, started here or adopted. `start` is in clock ticks since boot."""

    def __init__(self, pid: int, start: int, pidfd: int, *, own: bool) -> None:
        self.pid = pid
        self.start = start
        self._own = own
        self._pidfd = pidfd

    @classmethod
    def started(cls, pid: int, since: int) -> "Child":
        """A process that this runner has just started, not before the tick `since`.

        To ask the kernel when would cost more than all else here; it may have taken long, though.
        """
        pidfd = os.pidfd_open(pid)
        if procfs.ticks_now() - since <= 1 and _clock_tells_starts():
            return cls(pid, since, pidfd, own=True)
        process = procfs.read_process(pid)
        return cls(pid, process.start if process else 0, pidfd, own=True)

    @classmethod
    def adopted(cls, pid: int, start: int) -> "Child | None":
        """A process that an earlier runner started; None if it is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        if not procfs.is_alive(pid, start):
            os.close(pidfd)
            return None
        return cls(pid, start, pidfd, own=False)

    def watch(self, ended: Ended) -> None:
        """Call `ended` once, with the exit status or -N for signal N, when the process is over.

        The status of an adopted process is None here: its wrapper wrote it to `exits`.
        """
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end, ended)

    def _on_end(self, ended: Ended) -> None:
        status = self._wait() if self._own else None
        self.forget()
        ended(status)

    def _wait(self) -> int | None:
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:
            return None
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return result.si_status
        return -result.si_status

    def forget(self) -> None:
        """Stop watching; the process goes on. Fine to call twice."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def signal(self, number: signal.Signals, kill: Kill) -> None:
        """Send a signal as the kill policy says: to nobody, to the command, or to the session.

        The wrapper itself gets SIGKILL only: it lives as long as its command.
        """
        if kill == "none":
            return
        sessions = procfs.by_session({self.pid})[self.pid]
        family = [p.pid for p in sessions if p.pid != self.pid]
        if kill == "parent":
            family = [p.pid for p in sessions if p.parent == self.pid]
        for pid in family:
            send(pid, number)
        if number is signal.SIGKILL and (kill == "all" or not family):
            send(self.pid, number)


@functools.cache
def _clock_tells_starts() -> bool:
    """Whether start times in /proc are those of our clock, as on Linux but not in any sandbox."""
    since = procfs.ticks_now()
    pid = os.posix_spawn(SHELL, [SHELL, "-c", ":"], {})
    process = procfs.read_process(pid)
    os.waitpid(pid, 0)
    return process is not None and since <= process.start <= procfs.ticks_now()


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

    Jobs inherit no descriptor that this process was itself given by mistake, three files
    can be open per job, and those do not get the numbers that the wrapper has for its own.
    """
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > _MESSAGES:
                os.set_inheritable(int(name), False)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    while (descriptor := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) <= _EXITS:
        pass
    os.close(descriptor)
