"""Notices that the own nats-server stores nothing any more although the disk has room again.

After a write failed for want of space nats-server answers no further write to that stream, also
when there is space again; only a new start helps (tests/chaos/test_disk.py). Each write that it
cannot store leaves a line in its log, which is all that is read here.
"""

import shutil
from contextlib import suppress
from pathlib import Path

WATCH = 1.0
"""How often to look, in seconds."""
_FAILED = b"failed to store a msg"
# With less room (bytes) than this the next write would fail as well.
_ROOM = 4 * 1024 * 1024


class StoreWatch:
    """Reads what nats-server adds to its log from now on."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = self._size()
        self._failed = False

    def is_stuck(self) -> bool:
        """Whether a write failed since the last True, and there is room now."""
        self._failed = self._failed or _FAILED in self._news()
        if not self._failed or shutil.disk_usage(self._log.parent).free < _ROOM:
            return False
        self._failed = False
        return True

    def _news(self) -> bytes:
        size = self._size()
        if size == self._read:
            return b""
        begin = self._read if size > self._read else 0  # a smaller one is a new file
        with suppress(FileNotFoundError), self._log.open("rb") as file:
            file.seek(begin)
            news = file.read(size - begin)
            self._read = size
            return news
        return b""

    def _size(self) -> int:
        with suppress(FileNotFoundError):
            return self._log.stat().st_size
        return 0
