"""Whether the disk under a data directory still has its reserve (design.md 11).

Below the reserve nothing new is recorded, so that what runs can be reported and nothing breaks.
"""

import shutil
import time
from pathlib import Path

# Free space is looked at this often, in seconds.
_LOOK = 1.0
# On a small disk the reserve is at most this share of it.
_SHARE = 0.05


class DiskReserve:
    """`reserve` bytes are to stay free on the disk of `directory`."""

    def __init__(self, directory: Path, reserve: int) -> None:
        self._directory = directory
        self._reserve = reserve
        self._looked = float("-inf")
        self._reached = False

    def is_reached(self) -> bool:
        """Whether less than the reserve is free; at most a second old."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            usage = shutil.disk_usage(self._directory)
            self._reached = usage.free < min(self._reserve, usage.total * _SHARE)
        return self._reached
