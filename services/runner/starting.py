"""Jobs that are to be started: in order, some at a time, and before all else that can wait.

What waits while many are being started are reports, as each has NATS, schedulers and gateways at
work, and the cleaning of ended jobs' files. Neither waits for long. Jobs themselves wait where this
process, or the keeper, would run out of descriptors: for others to end, as they must not fail for
that. Knows nothing of how a job is started.
"""

import asyncio
import resource
import sys
from collections import deque
from collections.abc import Iterable, Set

from services.runner.launches import Launch
from services.runner.outbox import Outbox
from services.runner.running import Run

# For how long (seconds) jobs are started before anything else has a turn.
SLICE = 0.003
# Few enough are being started that nothing has to wait.
FEW = 32
# So many are asked for at the most and not started yet.
MOST = 256
# Descriptors: of a job that is being started, of one that runs, here or at the keeper; of all else.
_STARTING, _RUNNING, _OTHERS = 5, 4, 64


class Starting:
    """The starts of one runner; its reports go through this outbox.

    `holding` are the jobs that have files open.
    """

    def __init__(self, outbox: Outbox, holding: Set[Run]) -> None:
        self.calm = asyncio.Event()
        """Set unless many jobs are being started."""
        self.calm.set()
        self._outbox = outbox
        self._holding = holding
        self._most, self._room = _bounds(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        self._waiting: deque[tuple[Run, Launch]] = deque()
        self._under_way = False
        self._owed = 0
        self._many = False

    def add(self, starts: Iterable[tuple[Run, Launch]]) -> None:
        """Start these after those that wait; that they start is in the spool already."""
        self._waiting += starts
        self.go_on()

    def go_on(self) -> None:
        """Start what waits, as far as there is room: a job may have ended."""
        if not self._under_way:
            self._start_some()

    def owed(self, commands: int) -> None:
        """So many commands were asked for and neither run nor are refused yet."""
        self._owed = commands
        self.go_on()

    def _start_some(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SLICE
        self._under_way = True
        while self._has_room() and loop.time() < until:
            run, launch = self._waiting.popleft()
            if run.entry.abort is None:
                run.start(launch)
        self._under_way = self._has_room()
        if self._under_way:
            loop.call_soon(self._start_some)
        self._give_way()

    def _has_room(self) -> bool:
        """Whether one waits that can be started."""
        return bool(self._waiting) and self._owed < self._most and len(self._holding) < self._room

    def _give_way(self) -> None:
        """Have all else wait: once there are many starts until there are none."""
        self._many = self._owed > FEW or (self._many and self._owed > 0)
        if self._many or self._under_way:
            self.calm.clear()
            self._outbox.hold()
        else:
            self.calm.set()
            self._outbox.release()


def _bounds(descriptors: int) -> tuple[int, int]:
    """How many jobs may be asked for and not started, and how many may have files."""
    if descriptors == resource.RLIM_INFINITY:
        return MOST, sys.maxsize
    most = max(1, min(MOST, descriptors // 16))
    return most, max(1, (descriptors - _OTHERS - _STARTING * most) // _RUNNING)
