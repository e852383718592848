"""The files of a runner's jobs: where they are, made when needed or before, deleted or used again.

    DIR/runner/output/   JOB.out and JOB.err, what the job's processes write
    DIR/runner/work/     one working directory per job
    DIR/runner/scripts/  one script file per job that has one
    DIR/runner/spare-*/  empty ones that the next jobs get (spares.py)

Knows nothing of orders, nor how far a job got.
"""

import os
import shutil
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path
from typing import Literal

from services.logs import logger
from services.runner.spares import Places, SpareDirectories, Spares

log = logger("files")

# The files of this many ended jobs are kept to be used again.
SPARE_JOBS = 1000
# For so many jobs they are made in advance, for so many of them at a time.
STOCK_JOBS = 400
STOCK_AT_ONCE = 50

Stream = Literal["out", "err"]
_STREAMS: tuple[Stream, Stream] = ("out", "err")


class JobFiles:
    """Everything on the disk that belongs to single jobs."""

    def __init__(self, directory: Path) -> None:
        """In `directory`, whose lock is to be held before anything is made or deleted."""
        self._root = str(directory)
        self.outputs_directory = f"{directory}/output"
        for name, mode in (("output", 0o700), ("work", 0o711), ("scripts", 0o711)):
            path = directory / name
            path.mkdir(exist_ok=True)
            path.chmod(mode)
        places = Places(directory / "spare-places")
        outputs, scripts = directory / "spare-outputs", directory / "spare-scripts"
        self.outputs = Spares(outputs, 0o600, 2 * SPARE_JOBS, places)
        self.scripts = Spares(scripts, 0o700, SPARE_JOBS, places)
        self.works = SpareDirectories(places, "work")

    def output(self, job: str, stream: Stream) -> str:
        """The path of the file into which a job's processes write."""
        return f"{self.outputs_directory}/{job}.{stream}"

    def work(self, job: str) -> str:
        """The path of the job's own working directory."""
        return f"{self._root}/work/{job}"

    def script(self, job: str) -> str:
        """The path of the job's script."""
        return f"{self._root}/scripts/{job}"

    def put_work(self, job: str) -> str:
        """Have the job's own working directory, which may be there already; returns its path."""
        path = self.work(job)
        if not self.works.put_at(path):
            with suppress(FileExistsError):  # its input files are in it
                os.mkdir(path, 0o700)
        return path

    def put_outputs(self, job: str) -> None:
        """Have empty files where a new job will write."""
        for stream in _STREAMS:
            self.outputs.put_at(self.output(job, stream))

    @property
    def is_stocked(self) -> bool:
        """Whether files for as many jobs as wanted are there before they are needed."""
        stocks = (len(self.works), len(self.scripts), len(self.outputs) // len(_STREAMS))
        return min(stocks) >= STOCK_JOBS

    def stock(self) -> bool:
        """Make files for some jobs that may come; safe in another thread.

        False if the disk has no room.
        """
        try:
            for spares, each in ((self.works, 1), (self.scripts, 1), (self.outputs, len(_STREAMS))):
                lacking = STOCK_JOBS * each - len(spares)
                for _ in range(min(lacking, STOCK_AT_ONCE * each)):
                    spares.make()
        except OSError as error:
            log.debug("No files in advance", action="stock_failed", reason=str(error))
            return False
        return True

    def remove(self, jobs: Iterable[str]) -> None:
        """Delete or put aside everything on the disk of these jobs; safe in another thread."""
        for job in jobs:
            work = self.work(job)
            try:
                os.rmdir(work)  # most jobs leave nothing there
            except OSError:
                shutil.rmtree(work, ignore_errors=True)
            self.scripts.keep(self.script(job))
            for stream in _STREAMS:
                self.outputs.keep(self.output(job, stream))

    def remove_strays(self, live: Set[str]) -> None:
        """Delete the files of jobs that are not `live`, which an earlier runner did not come to."""
        for name in ("output", "work", "scripts"):
            for found in os.scandir(f"{self._root}/{name}"):
                if found.name.partition(".")[0] in live:
                    continue
                if found.is_dir(follow_symlinks=False):
                    shutil.rmtree(found.path, ignore_errors=True)
                else:
                    os.unlink(found.path)
