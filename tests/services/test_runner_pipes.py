"""A job's stderr at its end, while a process that it left behind goes on to write there."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.runner.keeper import Job
from services.runner.output import PIPE, ErrorPipe, OutputFile, make_pipe

# As often the pipe is filled again before it is looked at: who waits for its end waits for these.
TIMES = 20


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a full pipe."""
    source, writing = make_pipe(None)
    os.set_blocking(source, False)
    os.set_blocking(writing, False)
    refill(writing)
    yield source, writing
    os.close(writing)


def refill(writing: int) -> None:
    """Write as much as there is room for."""
    try:
        while os.write(writing, bytes(PIPE)):
            pass
    except (BlockingIOError, BrokenPipeError):  # it is full, or nobody reads it any more
        return


def test_a_runner_takes_what_is_there_and_no_more(tmp_path: Path, ends: tuple[int, int]) -> None:
    """Given a pipe that is full again whenever a part of it was stored."""
    source, writing = ends
    file = OutputFile(str(tmp_path / "err"))
    left = iter(range(TIMES))

    def sink() -> OutputFile:
        if next(left, None) is not None:
            refill(writing)
        return file

    pipe = ErrorPipe(source, sink)
    pipe.drain()
    assert 0 < file.end <= 2 * PIPE
    pipe.close()
    file.close()


def test_a_keeper_takes_what_is_there_and_no_more(tmp_path: Path, ends: tuple[int, int]) -> None:
    """Given a file that is a pipe itself, whose reader sees to it that the first is full again."""
    source, writing = ends
    kept, stored = tmp_path / "err", []
    os.mkfifo(kept)

    def read() -> None:
        with kept.open("rb", buffering=0) as file:
            while part := file.read(PIPE):
                stored.append(len(part))
                if sum(stored) < TIMES * PIPE:
                    refill(writing)

    reader = threading.Thread(target=read)
    reader.start()
    job = Job(1, "j1 1", [os.open(os.devnull, os.O_WRONLY), source], str(kept))
    job.drain()
    job.close()
    reader.join()
    assert 0 < sum(stored) <= 2 * PIPE
