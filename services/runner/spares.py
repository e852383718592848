"""What it takes to use files again, and to make new ones where that is cheap.

A file is used again only if nobody can still see or change it: it has no other name, its owner
and mode are ours, and no process has it open, which the kernel tells by granting a write lease.
Knows nothing of jobs.
"""

import fcntl
import os
import signal
import stat
import sys

# Beyond this size (bytes) emptying a file costs more than a new one.
MOST_BYTES = 1024 * 1024

# As in linux/fs.h; what `chattr +T` does.
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
_TOP_OF_HIERARCHIES = 0x00020000


def prepare_process() -> None:
    """Somebody who opens a file while we hold a lease on it has us told by a signal: ignore it."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)


def emptied(path: str, mode: int) -> bool:
    """Whether there is a file of this mode that is ours alone; it is empty then."""
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(file)
        expected = (stat.S_IFREG | mode, os.geteuid(), 1)
        if (found.st_mode, found.st_uid, found.st_nlink) != expected:
            return False
        if found.st_size > MOST_BYTES:
            return False
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)  # given back with the descriptor
        if found.st_size:
            os.ftruncate(file, 0)
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def scatter(directory: str) -> None:
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
