"""The files of a runner's jobs: a folder for each, made before it is needed and used again.

    DIR/runner/jobs/PLACE/NAME/   a folder, under a name that no other job ever had
        out, err                  what the job's processes write, the latter if they do
        script                    its script, if it has one
        JOB/                      its working directory
        work                      until the job is started, what becomes that

On ext4 a new file or directory costs up to a millisecond where others were deleted in the last
minutes, because it passes by each of their inodes. So folders of ended jobs are used again, some
are made while there is no job, and they are made in places far from each other, so that few are
deleted in any of them. Where more orders wait than there are folders, an order has a name at first,
and a folder of an ended job, if there is one by then, when it starts.

A process that outlived its job must not meet another job there. So a folder that is used again has
another name, and nobody still has one of its files (spares.py); and as nothing tells whether a
process stands in a directory, working directories are always new.

Knows nothing of orders, nor how far a job got.
"""

import os
import secrets
import shutil
from collections import deque
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from services.logs import logger
from services.runner import spares

log = logger("files")

# The folders of this many ended jobs are kept to be used again: more than end between two
# cleanings, which wait while many jobs are started.
SPARE_JOBS = 3000
# For so many jobs they are made in advance, for so many of them at a time.
STOCK_JOBS = 1000
STOCK_AT_ONCE = 50
# What is new is scattered over so many parts of the disk: the more, the fewer freed inodes in each.
PLACES = 512

Stream = Literal["out", "err"]
# What is there before and after each job.
_FILES = {"out": 0o600, "script": 0o700}
# Made in advance as well, and renamed for the job.
_WORK = "work"
# So that jobs of all accounts reach what is theirs.
_PASSABLE = 0o711
# Where the release before had the files of its jobs, and its spare ones.
_FORMER = ("output", "work", "scripts", "spare-outputs", "spare-scripts", "spare-places")


@dataclass(slots=True)
class Folder:
    """The paths of one job's files, not to be changed.

    `name` tells its folder from all others; it is empty for a job of the release before, which had
    none.
    """

    name: str
    out: str
    err: str
    script: str
    work: str

    def make_work(self, owner: tuple[int, int] | None) -> None:
        """Have the working directory, which may be there already, for this account or our own.

        Raises OSError if the disk has no room.
        """
        try:
            os.rename(f"{os.path.dirname(self.work)}/{_WORK}", self.work)
        except FileNotFoundError:
            with suppress(FileExistsError):  # the job's input files are in it
                os.mkdir(self.work, 0o700)
        if owner is not None:
            os.chmod(os.path.dirname(self.work), _PASSABLE)
            os.chown(self.work, *owner)


class JobFiles:
    """Everything on the disk that belongs to single jobs.

    `clean` and `stock` may be called from one thread, all else from one other.
    """

    def __init__(self, directory: Path) -> None:
        """In `directory`, whose lock is to be held before anything is made or deleted."""
        spares.prepare_process()
        self._root = str(directory)
        self._jobs = f"{directory}/jobs"
        _have_directory(self._jobs)
        spares.scatter(self._jobs)
        self._run = secrets.token_hex(6)
        self._numbers = count()
        self._spare: deque[str] = deque()
        self._left: deque[str] = deque()
        self._unmade: set[str] = set()

    def folder(self, name: str, job: str) -> Folder:
        """The folder of this name, as that of this job."""
        if not name:
            return self._former(job)
        path = f"{self._jobs}/{name}"
        return Folder(name, f"{path}/out", f"{path}/err", f"{path}/script", f"{path}/{job}")

    def take(self) -> str:
        """The name of a folder for a new job; whether there is one already is `make`'s business."""
        if self._spare and not self._unmade:
            return self._spare.pop()
        name = self._new_name()
        self._unmade.add(name)
        return name

    def make(self, folder: Folder) -> None:
        """Have the folder that was taken, with empty files. Raises OSError without room."""
        name = folder.name
        if name not in self._unmade:
            return
        if self._spare:
            spare, path = f"{self._jobs}/{self._spare.pop()}", f"{self._jobs}/{name}"
            _in_place(path, lambda: os.rename(spare, path))
        else:
            self._fill(name)
        self._unmade.discard(name)

    def leave(self, folder: Folder) -> None:
        """The job needs it no more: have it cleaned up."""
        if folder.name in self._unmade:
            self._unmade.discard(folder.name)
        elif folder.name:
            self._left.append(folder.name)
        else:
            for path in (folder.out, folder.err, folder.script, folder.work):
                with suppress(OSError):
                    _remove(path)

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing for `clean` to do."""
        return not self._left

    def clean(self) -> None:
        """Make what was left fit for other jobs, or delete it."""
        with suppress(IndexError):
            while True:
                self._clean(self._left.popleft())

    def _clean(self, name: str) -> None:
        left, spare = f"{self._jobs}/{name}", self._new_name(name.partition("/")[0])
        path = f"{self._jobs}/{spare}"
        try:
            os.rename(left, path)
        except OSError:  # it may have been cleaned by a runner that died before it forgot the job
            shutil.rmtree(left, ignore_errors=True)
            return
        if len(self._spare) < SPARE_JOBS and _emptied(path):
            self._spare.append(spare)
        else:
            shutil.rmtree(path, ignore_errors=True)

    @property
    def is_stocked(self) -> bool:
        """Whether there are folders for as many jobs as wanted before they are needed."""
        return len(self._spare) >= STOCK_JOBS

    def stock(self) -> bool:
        """Make folders for some jobs that may come; False if the disk has no room."""
        try:
            for _ in range(min(STOCK_JOBS - len(self._spare), STOCK_AT_ONCE)):
                name = self._new_name()
                self._fill(name)
                self._spare.append(name)
        except OSError as error:
            log.debug("No files in advance", action="stock_failed", reason=str(error))
            return False
        return True

    def take_over(self, live: Set[str]) -> None:
        """Keep the folders of these names, and leave all others: spare ones, and ended jobs'.

        Of those whose order waits, or whose machine died before they were on the disk, there is
        none yet.
        """
        self._unmade |= {
            name for name in live if name and not os.path.isdir(f"{self._jobs}/{name}")
        }
        for place in filter(str.isdecimal, os.listdir(self._jobs)):
            names = (f"{place}/{name}" for name in os.listdir(f"{self._jobs}/{place}"))
            self._left += (name for name in names if name not in live)
        if "" not in live:
            for former in _FORMER:
                shutil.rmtree(f"{self._root}/{former}", ignore_errors=True)

    def _former(self, job: str) -> Folder:
        """Where the release before had this job's files, which stay there until it is reported."""
        output, root = f"{self._root}/output/{job}", self._root
        return Folder(
            "", f"{output}.out", f"{output}.err", f"{root}/scripts/{job}", f"{root}/work/{job}"
        )

    def _new_name(self, place: str = "") -> str:
        number = next(self._numbers)
        return f"{place or number % PLACES}/{self._run}-{number}"

    def _fill(self, name: str) -> None:
        """Make a folder of this name. Raises OSError without room."""
        path = self._make_directory(name)
        try:
            for file, mode in _FILES.items():
                flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(f"{path}/{file}", flags, mode))
            os.mkdir(f"{path}/{_WORK}", 0o700)
        except OSError:
            self._left.append(name)
            raise

    def _make_directory(self, name: str) -> str:
        path = f"{self._jobs}/{name}"
        _in_place(path, lambda: os.mkdir(path, 0o700))
        return path


def _in_place(path: str, have: Callable[[], None]) -> None:
    """Have something at this path, and the directory for it."""
    try:
        have()
    except FileNotFoundError:
        _have_directory(os.path.dirname(path))
        have()


def _have_directory(path: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(path)
    os.chmod(path, _PASSABLE)


def _emptied(path: str) -> bool:
    """Whether a folder has its files again, empty and ours alone, and a new directory."""
    try:
        for name in os.listdir(path):
            if name not in _FILES:
                _remove(f"{path}/{name}")
        os.mkdir(f"{path}/{_WORK}", 0o700)
    except OSError:
        return False
    return all(spares.emptied(f"{path}/{name}", mode) for name, mode in _FILES.items())


def _remove(path: str) -> None:
    """Delete whatever it is. Raises OSError."""
    try:
        os.rmdir(path)  # most jobs leave nothing in their directory
    except NotADirectoryError:
        os.unlink(path)
    except OSError:
        shutil.rmtree(path)
