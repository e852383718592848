"""Has nats-server collect batches in memory until they are complete, where there is room.

nats-server 2.15 collects an atomic batch in a directory of its stream, with files and syncs of
its own: 3 ms for any batch. None of that has to outlive a crash: a batch that is not complete is
forgotten, a complete one is in the stream and on the disk before anybody is told. So this
directory becomes a link to a file system in memory. nats-server removes the link whenever it
starts. Where none can be made batches only take longer.
"""

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from services.ledger.streams import LEDGER

_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there is its owner's alone
# Bytes that must be free there: the thousand facts of a batch may be long.
_ROOM = 1024 * 1024 * 1024


def is_possible() -> bool:
    """Whether this machine has a file system in memory with enough room."""
    try:
        return shutil.disk_usage(_MEMORY).free >= _ROOM and os.access(_MEMORY, os.W_OK)
    except OSError:
        return False


class Staging:
    """Of the one nats-server whose home (with its store) is `home`; `look` now and then."""

    def __init__(self, home: Path) -> None:
        self._store = home / "store"
        # Names the directory in memory, so that the next start uses it again.
        self._record = home / "staging"

    def look(self) -> None:
        """Make the link if there is none and no batch is being collected."""
        for stream in self._store.glob(f"jetstream/*/streams/{LEDGER}"):
            batches = stream / "batches"
            if not batches.is_symlink():
                with suppress(OSError):  # it is tried again, and nothing depends on it
                    self._link(batches)

    def remove(self) -> None:
        """Leave nothing in memory, once nats-server has ended."""
        known = self._known()
        if known is not None:
            shutil.rmtree(known, ignore_errors=True)
            self._record.unlink(missing_ok=True)

    def _link(self, batches: Path) -> None:
        memory = self._directory()
        with suppress(FileNotFoundError):
            batches.rmdir()  # which fails while a batch is in it
        batches.symlink_to(memory)

    def _directory(self) -> Path:
        known = self._known()
        if known is not None:
            return known
        if not is_possible():
            raise OSError("too little memory")
        made = Path(tempfile.mkdtemp(prefix="jobledger-", dir=_MEMORY))
        self._record.unlink(missing_ok=True)
        self._record.symlink_to(made)
        return made

    def _known(self) -> Path | None:
        """The directory in memory, if there is one and it is nobody else's."""
        try:
            named = self._record.readlink()
            found = named.lstat()
        except OSError:
            return None
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        return named if own and named.parent == _MEMORY else None
