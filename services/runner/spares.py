"""Files and directories that are there before a job needs them.

On ext4 a new file or directory costs up to a millisecond where others were deleted in the last
minutes, because it passes by each of their inodes; giving one that is there a new name costs a
twentieth of that. So files of ended jobs are used again, some are made while there is no job, and
new ones are made in places far from each other, so that few were deleted in any of them.

A file is used again only if nobody can still see or change it: it has no other name, its owner
and mode are ours, and no process has it open, which the kernel tells by granting a write lease.
Nothing tells that of a directory, where a process that outlived its job may stand: those are
always new. Knows nothing of jobs.
"""

import fcntl
import os
import signal
import stat
import sys
from collections import deque
from contextlib import suppress
from itertools import count
from pathlib import Path

# Beyond this size (bytes) emptying a file costs more than a new one.
MOST_BYTES = 1024 * 1024

# What is new is scattered over so many parts of the disk.
PLACES = 16
# As in linux/fs.h; what `chattr +T` does.
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_TOP_OF_HIERARCHIES = 0x00020000


class Places:
    """Directories far from each other, in one for our account alone; for more than one thread.

    What is made in one of them stays near it on the disk, also under a name elsewhere.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        _scatter(directory)
        self._directory = directory
        self._there: set[str] = set()

    def path(self, name: str, number: int) -> str:
        """Where to make what is called so; `number` counts them, so that all places are used."""
        place = f"{self._directory}/place-{number % PLACES}"
        if place not in self._there:
            with suppress(FileExistsError):
                os.mkdir(place, 0o700)
            self._there.add(place)
        return f"{place}/{name}-{number}"

    def left(self, name: str) -> list[Path]:
        """What of this name an earlier process made and did not use."""
        return list(self._directory.glob(f"place-*/{name}-*"))


class Spares:
    """Up to `most` empty files of one mode, in a directory of their own on the same disk.

    `put_at` may be called from one thread, the others from one other.
    """

    def __init__(self, directory: Path, mode: int, most: int, places: Places) -> None:
        """What an earlier process left in the directory is taken over."""
        # Somebody who opens a file while we hold a lease on it has us told by a signal.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        self._directory = str(directory)
        self._mode = mode
        self._most = most
        self._places = places
        self._name = directory.name
        self._files: deque[str] = deque()
        left = _left_in(directory)
        self._numbers = count(max(left, default=-1) + 1)
        for number in left:
            self.keep(f"{directory}/{number}")

    def __len__(self) -> int:
        return len(self._files)

    def put_at(self, path: str | Path) -> None:
        """Have an empty file at `path`, in place of what is there; a new one without a spare.

        Raises OSError if the disk has no room.
        """
        with suppress(IndexError, FileNotFoundError):
            os.rename(self._files.pop(), path)
            return
        os.rename(self._new(next(self._numbers)), path)

    def keep(self, path: str | Path) -> None:
        """Take a file that is not needed any more, or delete it. Fine if it does not exist."""
        with suppress(FileNotFoundError):
            spare = f"{self._directory}/{next(self._numbers)}"
            if len(self._files) < self._most and self._emptied(path):
                os.rename(path, spare)
                self._files.append(spare)
            else:
                os.unlink(path)

    def make(self) -> None:
        """Have one more. Raises OSError if the disk has no room."""
        number = next(self._numbers)
        spare = f"{self._directory}/{number}"
        os.rename(self._new(number), spare)
        self._files.append(spare)

    def _new(self, number: int) -> str:
        path = self._places.path(self._name, number)
        # Not for writing, as in `_emptied`.
        flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(path, flags, self._mode))
        return path

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
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)  # given back with the descriptor
            if found.st_size:
                fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
                os.truncate(f"/proc/self/fd/{file}", 0)
        except OSError:
            return False
        finally:
            os.close(file)
        return True


class SpareDirectories:
    """Empty directories for our account alone (mode 0700) that nobody has used yet.

    `put_at` may be called from one thread, `make` from another.
    """

    def __init__(self, places: Places, name: str) -> None:
        """What an earlier process made is taken over; `name` tells it from other things there."""
        self._places = places
        self._name = name
        left = places.left(name)
        numbers = [int(path.name.rpartition("-")[2]) for path in left]
        self._paths = deque(map(str, left))
        self._numbers = count(max(numbers, default=-1) + 1)

    def __len__(self) -> int:
        return len(self._paths)

    def put_at(self, path: str) -> bool:
        """Have an empty directory at `path`; False if there is something that stays.

        Raises OSError if the disk has no room.
        """
        if not self._paths:
            self.make()
        spare = self._paths.pop()
        try:
            os.rename(spare, path)
        except OSError:
            self._paths.append(spare)
            return False
        return True

    def make(self) -> None:
        """Have one more. Raises OSError if the disk has no room."""
        spare = self._places.path(self._name, next(self._numbers))
        os.mkdir(spare, 0o700)
        self._paths.append(spare)


def _scatter(directory: Path) -> None:
    """Have ext4 lay each directory in this one where there is much room, far from the others."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        told = int.from_bytes(flags, sys.byteorder) | _TOP_OF_HIERARCHIES
        fcntl.ioctl(descriptor, _SET_FLAGS, told.to_bytes(8, sys.byteorder))
    except OSError:
        pass  # not ext4: it has no such costs either
    finally:
        os.close(descriptor)


def _left_in(directory: Path) -> list[int]:
    """The numbers that an earlier process used as names; makes the directory if need be."""
    directory.mkdir(mode=0o700, exist_ok=True)
    return sorted(int(name) for name in os.listdir(directory) if name.isdecimal())
