"""How a runner has its jobs' processes started and hears how they end: by its keeper (keeper.py).

The keeper is started with the first job, and again if it died. Then the runner inherits the
processes (`children.inherit_jobs`) and watches them itself; what the keeper had been asked and did
not answer has to be found out. Knows nothing of orders but their number.
"""

import asyncio
import errno
import fcntl
import os
import resource
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from services.json_bytes import as_json
from services.logs import logger
from services.runner import keeper
from services.runner.children import Child, Command, Streams

log = logger("keeping")

# How often it is looked whether the keeper of an earlier runner has noticed that this is gone.
LOOK = 0.02
ANSWER = 256
_OPEN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Client(Protocol):
    """Who asked for a command, and is told what becomes of it. Seconds are monotonic."""

    def on_start(self, child: Child, at: float, began: float) -> None:
        """It runs, since `at` in Unix seconds."""

    def on_refusal(self, error: OSError) -> None:
        """It cannot be started."""

    def on_silence(self) -> None:
        """The keeper died; it has to be found out whether it had started the command."""

    def on_end(self, status: int | None, now: float) -> None:
        """It is over; see `children.Ended`."""


class _Request(Struct, frozen=True):
    """A message that waits; `files` go with it, `own` are closed once it is sent."""

    order: int
    message: bytes
    files: list[int]
    own: list[int]


class Keeping:
    """The keeper of this runner."""

    def __init__(self, directory: Path, owed: Callable[[int], None]) -> None:
        """In `directory` stands the file that a keeper locks for as long as it starts commands.

        `owed` is told how many commands were asked for and neither run nor are refused, whenever
        that may have changed.
        """
        self.pid: int | None = None
        self._lock = directory / "keeper"
        self._owed = owed
        self._before = self._opened()
        self._socket: socket.socket | None = None
        self._unsent: deque[_Request] = deque()
        self._asked: dict[int, tuple[Client, str]] = {}
        self._running: dict[int, tuple[Client, Child]] = {}

    async def settled(self) -> None:
        """Wait until the keeper of an earlier runner starts nothing more.

        It notices at once that its runner is gone, unless it was stopped.
        """
        while self._before is not None:
            try:
                fcntl.flock(self._before, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(LOOK)
            else:
                os.close(self._before)
                self._before = None

    def start(
        self, client: Client, job: tuple[int, str], command: Command, stdin: bytes, streams: Streams
    ) -> None:
        """Have a command started in its own session, and the client told of all that follows.

        `job` is the order with the job's id. `streams.err`, if it is a pipe, is closed here, and
        `stdin` never touches a disk. Raises OSError if there can be no keeper.
        """
        request = _request(job, command, stdin, streams)
        self._unsent.append(request)
        self._asked[request.order] = client, command.argv[0]
        try:
            if self._socket is None:
                self._launch()
            if len(self._unsent) == 1:
                self._send()
        finally:
            self._owed(len(self._asked))

    def close(self) -> None:
        """Leave the jobs to the keeper, which goes on alone."""
        if self._socket is not None:
            self._hang_up(self._socket)
        while self._unsent:
            _close(self._unsent.popleft().own)
        if self._before is not None:
            os.close(self._before)
            self._before = None

    # --- the keeper's process --------------------------------------------------------------------

    def _launch(self) -> None:
        """Start a keeper; OSError if that cannot be, and nothing that waits is kept."""
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, open(self._new_lock(), "rb") as lock:
                self.pid = _spawn_keeper(theirs.fileno(), lock.fileno())
        except OSError:
            while self._unsent:
                request = self._unsent.popleft()
                _close(request.own)
                del self._asked[request.order]
            raise
        ours.setblocking(False)
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._hear, ours)

    def _opened(self) -> int | None:
        try:
            return os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def _new_lock(self) -> int:
        """A file of its own for each keeper: an earlier one may still hold the one before."""
        self._lock.unlink(missing_ok=True)
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock

    def _hang_up(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(ours)
        loop.remove_writer(ours)
        ours.close()
        self._socket = None

    # --- messages --------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send what waits, as far as the keeper has room for it."""
        while self._unsent and (ours := self._socket) is not None:
            request = self._unsent[0]
            try:
                socket.send_fds(ours, [request.message], request.files)
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(ours, self._go_on_sending, ours)
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:  # of descriptors on their way
                    asyncio.get_running_loop().call_later(LOOK, self._send)
                return  # or it is dead, which is heard as well
            _close(self._unsent.popleft().own)

    def _go_on_sending(self, ours: socket.socket) -> None:
        asyncio.get_running_loop().remove_writer(ours)
        self._send()

    def _hear(self, ours: socket.socket) -> None:
        while self._socket is ours:
            try:
                answer = ours.recv(ANSWER)
            except BlockingIOError:
                break
            except OSError:
                answer = b""
            if answer:
                self._take(answer.split())
            else:
                self._hang_up(ours)
                self._bury()
        self._owed(len(self._asked))

    def _take(self, answer: list[bytes]) -> None:
        what, order, rest = answer[0], int(answer[1]), answer[2:]
        if what == b"started":
            client, _ = self._asked.pop(order)
            child = Child(int(rest[0]), int(rest[1]))
            self._running[order] = client, child
            client.on_start(child, float(rest[2]), float(rest[3]))
        elif what == b"refused":
            client, program = self._asked.pop(order)
            number = int(rest[0])
            client.on_refusal(OSError(number, os.strerror(number), program))
        else:
            client, _ = self._running.pop(order)
            client.on_end(int(rest[0]), float(rest[1]))

    def _bury(self) -> None:
        """The keeper died. What it has not been told is told to the next one."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)  # whatever is left of it: nobody may start these jobs now
        os.waitpid(self.pid, 0)
        log.error("The keeper of jobs died", action="keeper_died", jobs=len(self._running))
        running, self._running = self._running, {}
        for client, child in running.values():
            child.watch(client.on_end)
        untold = {request.order for request in self._unsent}
        for order in [order for order in self._asked if order not in untold]:
            self._asked.pop(order)[0].on_silence()
        waiting = [self._asked[order][0] for order in untold]
        if waiting:
            try:
                self._launch()
            except OSError as error:
                for client in waiting:
                    client.on_refusal(error)
            else:
                self._send()


def _spawn_keeper(runner: int, lock: int) -> int:
    for descriptor in (runner, lock):
        os.set_inheritable(descriptor, True)
    nowhere = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    program = [sys.executable, "-I", "-S", str(Path(keeper.__file__).resolve())]
    return os.posix_spawn(
        sys.executable,
        [*program, str(runner), str(lock)],
        {},
        file_actions=nowhere,
        setsid=True,
        setsigmask=(),
        setsigdef=keeper.ALL_SIGNALS,
    )


def _request(job: tuple[int, str], command: Command, stdin: bytes, streams: Streams) -> _Request:
    own = [] if streams.source is None else [streams.err]
    try:
        account = command.account
        own.append(_memory_file("stdin", stdin))
        # The spool may begin a new file while this waits.
        own.append(os.dup(streams.exits))
        files = [own[-2], streams.out, streams.err, own[-1]]
        if streams.source is not None:
            files.append(streams.source)
        message = as_json(
            {
                "order": job[0],
                "job": job[1],
                "argv": command.argv,
                "env": command.env,
                "cwd": command.cwd,
                "account": account and (account.uid, account.gid, account.groups),
                "files": _OPEN_FILES,
                "kept": streams.kept,
            }
        )
        if len(message) > keeper.LARGEST:
            own.append(_memory_file("request", message))
            files.append(own[-1])
            message = b""
    except OSError:
        _close(own)
        raise
    return _Request(job[0], message, files, own)


def _memory_file(name: str, content: bytes) -> int:
    descriptor = os.memfd_create(name)
    written = 0
    while written < len(content):  # which leaves its reader at the beginning
        written += os.pwrite(descriptor, content[written:], written)
    return descriptor


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
