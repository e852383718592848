"""Files of ended jobs that the next jobs use again.

On ext4 a new file costs a millisecond where files were deleted in the last seconds, because it
passes by each of their inodes; giving an old file a new name costs a twentieth of that.

A file is used again only if nobody can still see or change it: it has no other name, its owner
and mode are ours, and no process has it open, which the kernel tells by granting a write lease.
Knows nothing of jobs.
"""

import fcntl
import os
import signal
import stat
from collections import deque
from contextlib import suppress
from itertools import count
from pathlib import Path

# Beyond this size (bytes) emptying a file costs more than a new one.
MOST_BYTES = 1024 * 1024


class Spares:
    """Up to `most` empty files of one mode, in a directory of their own on the same disk.

    `put_at` and `keep` may be called from different threads.
    """

    def __init__(self, directory: Path, mode: int, most: int) -> None:
        """What an earlier process left in the directory is deleted."""
        self._directory = str(directory)
        self._mode = mode
        self._most = most
        self._files: deque[str] = deque()
        self._numbers = count()
        directory.mkdir(mode=0o700, exist_ok=True)
        for left in os.scandir(directory):
            os.unlink(left.path)
        # Somebody who opens a file while we hold a lease on it has us told by a signal.
        signal.signal(signal.SIGIO, signal.SIG_IGN)

    def put_at(self, path: str | Path) -> bool:
        """Have an empty file at `path`, in place of what is there; False if there is no spare."""
        try:
            os.rename(self._files.pop(), path)
        except (IndexError, FileNotFoundError):
            return False
        return True

    def keep(self, path: str | Path) -> None:
        """Take a file that is not needed any more, or delete it. Fine if it does not exist."""
        with suppress(FileNotFoundError):
            spare = f"{self._directory}/{next(self._numbers)}"
            if len(self._files) < self._most and self._emptied(path):
                os.rename(path, spare)
                self._files.append(spare)
            else:
                os.unlink(path)

    def _emptied(self, path: str | Path) -> bool:
        """Whether the file is ours alone; it is empty then.

        It is not opened for writing: a process that is being started in that moment would have it
        open as well until it has become another program, and so long no script in it can run.
        """
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError:
            return False
        try:
            found = os.fstat(file)
            expected = (stat.S_IFREG | self._mode, os.geteuid(), 1)
            if (found.st_mode, found.st_uid, found.st_nlink) != expected:
                return False
            if found.st_size > MOST_BYTES:
                return False
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            if found.st_size:
                os.truncate(f"/proc/self/fd/{file}", 0)
        except OSError:
            return False
        finally:
            os.close(file)
        return True
