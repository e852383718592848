"""Jobs that are to be started: in order, some at a time, and before all else that can wait.

What waits while many are being started are reports, as each has NATS, schedulers and gateways at
work, and the cleaning of ended jobs' files. Neither waits for long. Knows nothing of how a job is
started.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

from services.runner.launches import Launch
from services.runner.outbox import Outbox
from services.runner.running import Run

# For how long (seconds) jobs are started before anything else has a turn.
SLICE = 0.003
# Few enough are being started that nothing has to wait.
FEW = 32


class Starting:
    """The starts of one runner; its reports go through this outbox."""

    def __init__(self, outbox: Outbox) -> None:
        self.calm = asyncio.Event()
        """Set unless many jobs are being started."""
        self.calm.set()
        self._outbox = outbox
        self._waiting: deque[tuple[Run, Launch]] = deque()
        self._under_way = False
        self._owed = 0
        self._many = False

    def add(self, starts: Iterable[tuple[Run, Launch]]) -> None:
        """Start these after those that wait; that they start is in the spool already."""
        self._waiting += starts
        if not self._under_way:
            self._start_some()

    def owed(self, commands: int) -> None:
        """So many commands were asked for and neither run nor are refused yet."""
        self._owed = commands
        self._give_way()

    def _start_some(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE
        while self._waiting and loop.time() < until:
            run, launch = self._waiting.popleft()
            if run.entry.abort is None:
                run.start(launch)
        self._under_way = bool(self._waiting)
        if self._under_way:
            loop.call_soon(self._start_some)
        self._give_way()

    def _give_way(self) -> None:
        """Have all else wait: once there are many starts until there are none."""
        self._many = self._owed > FEW or (self._many and self._owed > 0)
        if self._many or self._under_way:
            self.calm.clear()
            self._outbox.hold()
        else:
            self.calm.set()
            self._outbox.release()
