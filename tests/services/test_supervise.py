"""What keeps the services running, tried on small shell children."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli import supervise
from services.cli.supervise import _SHORT_LIFE, CANNOT_START, Child, Supervisor, holder_of
from services.errors import StartupError

PATIENCE = 10.0


@pytest.fixture
def said() -> list[str]:
    """The sentences that were announced."""
    return []


@pytest.fixture
def family(tmp_path: Path, said: list[str]) -> Iterator[Supervisor]:
    with Supervisor(tmp_path, tmp_path, said.append, verbose=False) as supervisor:
        yield supervisor


def child(script: str, name: str = "worker", **more: bool) -> Child:
    return Child(name, ["/bin/sh", "-c", script], **more)


def wait_for(family: Supervisor, condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    family.run(lambda: condition() or time.monotonic() > deadline, poll=0.01)
    assert condition(), what


def pid_in(path: Path) -> int:
    return int(path.read_text()) if path.exists() and path.read_text() else 0


def test_a_killed_child_is_back_within_a_second(
    family: Supervisor, tmp_path: Path, said: list[str]
) -> None:
    worker = child("exec sleep 60")
    family.start(worker)
    first = pid_in(tmp_path / "worker.pid")
    assert first == worker.pid == holder_of(tmp_path / "worker.pid")

    os.kill(first, signal.SIGKILL)
    began = time.monotonic()
    wait_for(family, lambda: pid_in(tmp_path / "worker.pid") not in (0, first), "not started again")

    assert time.monotonic() - began < 1
    assert said == ["worker was ended by SIGKILL; it is started again."]


def test_a_child_that_cannot_start_ends_everything_with_its_last_line(
    family: Supervisor,
) -> None:
    family.start(child(f"echo some log; echo The reason.; exit {CANNOT_START}"))

    with pytest.raises(StartupError, match=r"^The reason\.$"):
        family.run(lambda: False, poll=PATIENCE)


def test_what_once_was_up_is_started_again_whatever_it_says(
    family: Supervisor, said: list[str]
) -> None:
    family.settled = True
    family.start(child(f"exit {CANNOT_START}"))

    wait_for(family, lambda: len(said) > 1, "not started again")


def test_what_is_killed_again_and_again_is_never_given_up_once_all_was_up(
    family: Supervisor, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "RESTART_WAIT", 0.01)
    family.settled = True
    family.start(child("kill -9 $$"))

    wait_for(family, lambda: len(said) > 2 * supervise._MOST_FAILURES, "not started again")


def test_a_child_that_cannot_be_forked_is_tried_again(
    family: Supervisor, tmp_path: Path, said: list[str]
) -> None:
    """A directory in the log's place stands for a disk that takes no file."""
    (tmp_path / "worker.log").mkdir()
    worker = child("exec sleep 60")
    family.start(worker)
    assert said == ["worker cannot be started now (Is a directory)."]

    (tmp_path / "worker.log").rmdir()
    wait_for(family, lambda: worker.pid, "not started")


def test_a_child_that_never_stays_up_is_given_up_at_the_first_start(family: Supervisor) -> None:
    family.start(child("exit 1"))

    with pytest.raises(StartupError, match=r"does not stay up; see .*worker\.log"):
        family.run(lambda: False, poll=PATIENCE)


def test_stopping_ends_children_that_will_not_listen_and_the_last_one_last(tmp_path: Path) -> None:
    stubborn = child("trap '' TERM; echo up > stubborn; while :; do sleep 0.1; done", "stubborn")
    polite = child("trap 'exit 0' TERM; echo up > polite; while :; do sleep 0.1; done", "polite")
    base = child(
        "trap 'kill -0 $(cat stubborn.pid) 2>/dev/null && echo early > early; exit 0' TERM;"
        "echo up > base; while :; do sleep 0.1; done",
        "base",
        last=True,
    )
    marks = [tmp_path / name for name in ("stubborn", "polite", "base")]
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        with Supervisor(tmp_path, tmp_path, lambda _: None, verbose=False) as family:
            for one in (base, stubborn, polite):
                family.start(one)
            wait_for(family, lambda: all(mark.exists() for mark in marks), "children not up")
            began = time.monotonic()
    finally:
        os.chdir(here)

    assert time.monotonic() - began < 5
    assert all(one.pid == 0 for one in (base, stubborn, polite))
    assert not (tmp_path / "early").exists()
    assert not list(tmp_path.glob("*.pid"))


def test_a_function_runs_in_a_process_of_its_own_and_gives_the_status(
    family: Supervisor, tmp_path: Path, said: list[str]
) -> None:
    def work() -> int:
        print(os.getppid(), os.getsid(0) == os.getpid(), len(os.listdir("/proc/self/fd")))
        (tmp_path / "done").touch()
        time.sleep(_SHORT_LIFE)
        return 7

    family.start(Child("worker", work))
    wait_for(family, lambda: said, "the end was not announced")

    assert said[0] == "worker ended with status 7; it is started again."
    # Standard streams, the pidfile's lock, and the listing itself: nothing of the parent's.
    line = (tmp_path / "worker.log").read_text().splitlines()[0]
    assert line == f"{os.getpid()} True 5"


def test_a_function_that_fails_never_returns_into_this_process(
    family: Supervisor, tmp_path: Path, said: list[str]
) -> None:
    def work() -> int:
        raise SystemExit(3)

    family.start(Child("worker", work))
    wait_for(family, lambda: said, "the end was not announced")

    assert said[0] == "worker ended with status 1; it is started again."
    assert "SystemExit" in (tmp_path / "worker.log").read_text()


def test_a_pidfile_of_a_dead_process_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "stale.pid").write_text(f"{os.getpid()}\n")

    assert holder_of(tmp_path / "stale.pid") is None
    assert holder_of(tmp_path / "none.pid") is None


def test_a_stop_signal_ends_the_waiting(family: Supervisor) -> None:
    family.start(child("exec sleep 60"))
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()

    family.run(lambda: False, poll=PATIENCE)

    assert family.stopped


def test_children_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import pathlib
from services.cli.supervise import Child, Supervisor
here = pathlib.Path({str(tmp_path)!r})
with Supervisor(here, here, print, verbose=False) as family:
    family.start(Child("worker", ["/bin/sleep", "60"]))
    family.run(lambda: False, poll=60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + PATIENCE
    while not (worker := pid_in(tmp_path / "worker.pid")):
        assert time.monotonic() < deadline, "the worker was not started"
        time.sleep(0.01)
    pidfd = os.pidfd_open(worker)

    parent.kill()
    parent.wait()

    import select

    assert select.select([pidfd], [], [], PATIENCE)[0], "the worker outlived its supervisor"
    os.close(pidfd)
