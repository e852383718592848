"""Breaks an installation at random moments that a seed reproduces."""

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.chaos.harness import Stack, send

# Between two blows, in seconds.
PAUSE = (0.1, 1.5)
# A service that is stopped for this long (seconds) is not dead yet to anybody.
STOPPED = (0.2, 3.0)
# Of a hundred blows so many stop a process instead of killing it, or hit all at once.
STOPS = 25
ALL_AT_ONCE = 6


@dataclass
class Mayhem:
    """`run(blows)`; the same seed deals the same blows with the same pauses."""

    stack: Stack
    seed: int
    dealt: Counter[str] = field(default_factory=Counter)

    def run(self, blows: int) -> None:
        """Deal so many blows."""
        draw = random.Random(self.seed)
        for _ in range(blows):
            self._blow(draw)
            time.sleep(draw.uniform(*PAUSE))

    def _blow(self, draw: random.Random) -> None:
        kind, victim, seconds = (
            draw.randrange(100),
            draw.choice(self.stack.services),
            draw.uniform(*STOPPED),
        )
        if kind < ALL_AT_ONCE:
            self.dealt["all"] += 1
            self.stack.kill_all()
            self.stack.begin()
            return
        pid = self.stack.pid(victim)
        if kind < ALL_AT_ONCE + STOPS:
            self.dealt[f"stop {victim}"] += send(pid, signal.SIGSTOP)
            time.sleep(seconds)
            send(pid, signal.SIGCONT)
        else:
            self.dealt[f"kill {victim}"] += send(pid, signal.SIGKILL)
