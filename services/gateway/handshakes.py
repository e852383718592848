"""Handshakes of HTTPS: how many are under way at once, and how long one may take.

A server of asyncio lets whoever says nothing hold a connection for a minute, and as many of them
as there are files to open: nobody else gets in. Here those who have not shaken hands are counted,
and give way. Knows nothing of HTTP; what comes after the handshake is connections.py's.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

# A handshake must be over within so many seconds.
PATIENCE = 15.0
_FEWEST = 16
# Of one burst so many connections are accepted before others have their turn.
_AT_ONCE = 64
# When no connection can be accepted, for want of open files, so many seconds pass.
_REST = 1.0


def most_handshakes(connections: int) -> int:
    """How many may be under way where so many connections are allowed."""
    return _FEWEST + connections // 4


def connections_of(files: int) -> int:
    """For how many connections so many open files are enough, handshakes included."""
    return (files - _FEWEST) * 4 // 5


class Handshakes:
    """Accepts a listener's connections and makes them HTTPS; of too many the oldest gives way."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        most: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._context = context
        self._protocol = protocol
        self._most = most
        self._under_way: dict[asyncio.Task[None], None] = {}
        self._listen()

    def close(self) -> None:
        """Accept nothing more, and let go of those who have not shaken hands."""
        self._loop.remove_reader(self._listener)
        for task in self._under_way:
            task.cancel()

    async def wait_closed(self) -> None:
        """Until nobody shakes hands any more; those who have are uvicorn's business."""
        if self._under_way:
            await asyncio.wait(list(self._under_way))

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_REST, self._listen)
                return
            if len(self._under_way) >= self._most:
                oldest = next(iter(self._under_way))
                self._over(oldest)
                oldest.cancel()
            task = self._loop.create_task(self._shake_hands(connection))
            self._under_way[task] = None
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)

    async def _shake_hands(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # who does not shake hands is no news
            await self._loop.connect_accepted_socket(
                self._protocol, connection, ssl=self._context, ssl_handshake_timeout=PATIENCE
            )
