"""The parent of jobs: `python -I -S keeper.py SOCKET LOCK`, a small process beside its runner.

It starts commands as the runner asks for them, each in a session of its own, and tells it how they
end. If the runner is gone, jobs go on: the keeper starts nothing more, pours their stderr into its
file, and leaves with the last of them. A runner that comes later has a keeper of its own
(keeping.py); what it needs to know is in the spool's file `exits`:

    begin JOB ORDER 0          written before the command is started, so that none is started twice
    begin JOB ORDER PID
    end JOB ORDER STATUS       written before the process is waited for

Only the standard library, and little of that: it is to be small, and a process that lives as long
as jobs must not depend on an installation that is replaced meanwhile. Knows nothing of orders but
their number, and nothing of logs or NATS.

A request is one message: a JSON object {order, job, argv, env, cwd, account, files, kept}, with
open descriptors: stdin, stdout, stderr, `exits`, and where stderr is a pipe its reading end. A
message without bytes has its object in one more descriptor, the last. `account` is [uid, gid,
groups] or null, `files` the soft limit of open files, `kept` the path of the file that stderr is
poured into; a runner of the release before sent that file as a last descriptor instead. Answers:

    started ORDER PID TICKS AT NOW     its session is PID; start in clock ticks since boot
    refused ORDER ERRNO
    ended ORDER STATUS NOW             -N for signal N

AT is in Unix seconds, NOW in those of the monotonic clock.
"""

import array
import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time

SHELL = "/bin/sh"
NOT_STARTED = 126
"""The status of a command that could not be started, as shells have it."""
LARGEST = 64 * 1024
"""Bytes of a request beyond which it comes in a descriptor of its own."""
_ROOM = socket.CMSG_SPACE(16 * array.array("i").itemsize)
_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_PIPE = 1024 * 1024
_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
# So often it is tried again to write what a full disk did not take, in seconds.
_AGAIN = 1.0
ALL_SIGNALS = tuple(range(1, 32))
_TICKS = os.sysconf("SC_CLK_TCK")


class Request:
    """What to start; the names are those of the JSON object."""

    __slots__ = ("account", "argv", "cwd", "env", "files", "job", "kept", "order")

    def __init__(
        self,
        *,
        order: int,
        job: str,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        account: tuple[int, int, list[int]] | None,
        files: int,
        kept: str = "",
    ) -> None:
        self.order = order
        self.job = job
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.account = account
        self.files = files
        self.kept = kept


class Job:
    """A command that runs; `source` is the pipe of its stderr, `sink` the file for it once open."""

    __slots__ = ("exits", "kept", "left", "order", "sink", "source", "tag")

    def __init__(self, order: int, tag: str, files: list[int], kept: str) -> None:
        self.order = order
        self.tag = tag
        self.exits, self.source, self.sink = (*files, -1, -1)[:3]
        self.kept = kept
        self.left = b""

    def note(self, line: str) -> None:
        """Write to the spool's `exits`. Raises OSError, also if there is room for a part only."""
        data = line.encode()
        if os.write(self.exits, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def pour(self) -> bool:
        """Move what is in the pipe to its file; whether there was anything.

        What a full disk does not take stays in `left`, and the rest in the pipe. Raises EOFError if
        all who write to it are gone.
        """
        if not self.left:
            try:
                self.left = os.read(self.source, _PIPE)
            except BlockingIOError:
                return False
            if not self.left:
                raise EOFError
        with contextlib.suppress(OSError):
            if self.sink < 0:
                self.sink = os.open(self.kept, _APPENDING, 0o600)
            while self.left:
                self.left = self.left[os.write(self.sink, self.left) :]
        return True

    def drain(self) -> None:
        """Pour what is in the pipe now, and not all that is written into it meanwhile.

        One turn takes everything that is there; before the first there may be a rest.
        """
        with contextlib.suppress(EOFError):
            if self.pour() and not self.left:
                self.pour()

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in (self.exits, self.source, self.sink):
            if descriptor >= 0:
                os.close(descriptor)


class Keeper:
    """All jobs of one runner, and the runner for as long as it lives."""

    def __init__(self, runner: socket.socket, lock: int) -> None:
        """`lock`: a descriptor that is closed once nothing more will be started."""
        self._runner = runner
        self._number = runner.fileno()
        self._lock = lock
        self._alone = False
        self._jobs: dict[int, Job] = {}
        """By pidfd."""
        self._pipes: dict[int, Job] = {}
        """By the reading end, while there is no runner to read."""
        self._poll = select.epoll()
        self._poll.register(self._number, select.EPOLLIN)
        self._clock_tells_starts: bool | None = None

    def run(self) -> None:
        """Until the runner has gone and the last job has ended."""
        while self._jobs or not self._alone:
            stuck = [job for job in self._pipes.values() if job.left]
            for descriptor, what in self._poll.poll(_AGAIN if stuck else None):
                if descriptor in self._jobs:
                    self._end(descriptor)
                elif descriptor in self._pipes:
                    self._pour(descriptor)
                elif descriptor == self._number and not self._alone:
                    if what & select.EPOLLHUP:
                        self._be_alone()  # and what the runner asked for last is not done
                    else:
                        self._take()
            for job in stuck:
                if job.source in self._pipes:
                    self._pour(job.source)

    # --- the runner ------------------------------------------------------------------------------

    def _take(self) -> None:
        """Carry out one request; jobs that ended meanwhile have their turn before the next."""
        try:
            request, files, whole = _receive(self._runner)
        except OSError:
            self._be_alone()
            return
        if not whole:
            self._refuse(request, files)
        elif files:
            self._start(request, files)

    def _refuse(self, request: bytes, files: list[int]) -> None:
        """Some descriptors did not arrive: there are too many already.

        Where one of them was the request, nobody can be told which; who inherits finds that out.
        """
        for descriptor in files:
            os.close(descriptor)
        if not request:
            sys.exit("There are too many open files.")
        self._tell(f"refused {json.loads(request)['order']} {errno.EMFILE}")

    def _be_alone(self) -> None:
        """The runner is gone: whoever comes next learns from files what becomes of the jobs."""
        if self._alone:
            return
        self._alone = True
        self._poll.unregister(self._number)
        self._runner.close()
        os.close(self._lock)
        for job in self._jobs.values():
            if job.source >= 0:
                os.set_blocking(job.source, False)
                self._poll.register(job.source, select.EPOLLIN)
                self._pipes[job.source] = job

    def _tell(self, answer: str) -> None:
        if not self._alone:
            try:
                self._runner.send(answer.encode())
            except OSError:
                self._be_alone()

    # --- jobs ------------------------------------------------------------------------------------

    def _start(self, request: bytes, files: list[int]) -> None:
        if not request:
            request = os.pread(files[-1], os.fstat(files[-1]).st_size, 0)
            os.close(files.pop())
        wanted, streams = Request(**json.loads(request)), files[:3]
        job = Job(wanted.order, f"{wanted.job} {wanted.order}", files[3:], wanted.kept)
        at, since = time.time(), _ticks_now()
        try:
            # What is not known to have begun would be started again by the next runner.
            job.note(f"begin {job.tag} 0\n")
            pid = _spawn(wanted, streams)
        except (OSError, ValueError) as error:  # the latter of a zero byte, or half a character
            with contextlib.suppress(OSError):
                job.note(f"end {job.tag} {NOT_STARTED}\n")
            job.close()
            self._tell(f"refused {job.order} {getattr(error, 'errno', errno.EINVAL)}")
            return
        finally:
            for descriptor in streams:
                os.close(descriptor)
        with contextlib.suppress(OSError):  # then it is found by its environment
            job.note(f"begin {job.tag} {pid}\n")
        pidfd = os.pidfd_open(pid)
        self._jobs[pidfd] = job
        self._poll.register(pidfd, select.EPOLLIN)
        ticks = self._start_of(pid, since)
        self._tell(f"started {job.order} {pid} {ticks} {at!r} {time.monotonic()!r}")

    def _start_of(self, pid: int, since: int) -> int:
        """When a process began that was started just now, not before the tick `since`.

        To ask the kernel costs more than all else here. Its clock is ours on Linux, but not in any
        sandbox; and the start may have taken long.
        """
        if self._clock_tells_starts and _ticks_now() - since <= 1:
            return since
        with open(f"/proc/{pid}/stat", "rb") as file:
            start = int(file.read().rpartition(b") ")[2].split()[19])
        self._clock_tells_starts = since <= start <= _ticks_now()
        return start

    def _pour(self, source: int) -> None:
        """Pour; a pipe that waits for the disk, or has no writers, is not looked at."""
        job = self._pipes[source]
        waited = bool(job.left)
        try:
            job.pour()
        except EOFError:
            self._poll.unregister(source)
            del self._pipes[source]
            return
        if job.left and not waited:
            self._poll.unregister(source)
        elif waited and not job.left:
            self._poll.register(source, select.EPOLLIN)

    def _end(self, pidfd: int) -> None:
        """A command is over: what it wrote, then how it ended, and only then it is forgotten.

        In this order a keeper may die at any moment: whoever inherits the process is told again.
        """
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if ended is None:
            return
        job = self._jobs.pop(pidfd)
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        now = time.monotonic()
        if self._pipes.pop(job.source, None):
            if not job.left:
                self._poll.unregister(job.source)
            job.drain()
        with contextlib.suppress(OSError):  # then nobody knows, should the runner die now
            job.note(f"end {job.tag} {status}\n")
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        # Closing alone is not enough: a process that is being started has it for some time, too.
        self._poll.unregister(pidfd)
        os.close(pidfd)
        job.close()
        self._tell(f"ended {job.order} {status} {now!r}")


def _ticks_now() -> int:
    """The clock that start times are told by: ticks since the machine's boot, now."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS // 1_000_000_000


def _receive(runner: socket.socket) -> tuple[bytes, list[int], bool]:
    """The next request with its descriptors, and whether it has all; nothing from no runner."""
    found = array.array("i")
    data, ancillary, flags, _ = runner.recvmsg(LARGEST, _ROOM, _FLAGS)
    for _, _, content in ancillary:
        found.frombytes(content)
    return data, list(found), not flags & socket.MSG_CTRUNC


def _spawn(wanted: Request, streams: list[int]) -> int:
    """Start the command in a session of its own; its pid. Raises OSError."""
    os.chdir(wanted.cwd)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted.files, hard))
    try:
        try:
            return _start(wanted, wanted.argv, streams)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # As any shell does with a script that does not name its interpreter.
            return _start(wanted, [SHELL, *wanted.argv], streams)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        os.chdir("/")


def _start(wanted: Request, argv: list[str], streams: list[int]) -> int:
    if wanted.account is not None:
        return _start_as(*wanted.account, argv, wanted.env, streams)
    return os.posix_spawn(
        argv[0],
        argv,
        wanted.env,
        file_actions=[(os.POSIX_SPAWN_DUP2, source, to) for to, source in enumerate(streams)],
        setsid=True,
        setsigmask=(),
        setsigdef=ALL_SIGNALS,
    )


def _start_as(
    uid: int, gid: int, groups: list[int], argv: list[str], env: dict[str, str], streams: list[int]
) -> int:
    """Under another account, for which posix_spawn has no means."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for to, source in enumerate(streams):
                os.dup2(source, to)
            for number in ALL_SIGNALS:
                with contextlib.suppress(OSError):  # two of them are always at their default
                    signal.signal(number, signal.SIG_DFL)
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os.execve(argv[0], argv, env)  # noqa: S606
        except (OSError, ValueError) as error:
            os.write(writing, str(getattr(error, "errno", errno.EINVAL)).encode())
        finally:
            os._exit(NOT_STARTED)
    os.close(writing)
    with open(reading, "rb") as answer:
        refused = answer.read()
    if refused:
        os.waitpid(pid, 0)
        raise OSError(int(refused), os.strerror(int(refused)))
    return pid


def main() -> None:
    """Keep jobs until there is nobody to keep them for."""
    runner, lock = map(int, sys.argv[1:3])
    for descriptor in (runner, lock):
        os.set_inheritable(descriptor, False)
    Keeper(socket.socket(fileno=runner), lock).run()


if __name__ == "__main__":
    main()
