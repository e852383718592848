"""What is read from nats-server's log: a write that failed, and whether there is room again."""

from pathlib import Path

import pytest

from services.cli import store_watch
from services.cli.store_watch import StoreWatch

FAILED = "[ERR] JetStream failed to store a msg on stream 'A > LEDGER': no space left on device\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log that tells of a failure long ago."""
    path = tmp_path / "nats.log"
    path.write_text(FAILED)
    return path


def add(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_a_failure_of_an_earlier_life_counts_no_more(log: Path) -> None:
    watch = StoreWatch(log)
    assert not watch.is_stuck()
    add(log, "[INF] Server is ready\n")
    assert not watch.is_stuck()


def test_each_new_failure_is_told_once(log: Path) -> None:
    watch = StoreWatch(log)
    for _ in range(2):
        add(log, FAILED)
        assert watch.is_stuck()
        assert not watch.is_stuck()


def test_without_room_it_waits(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = StoreWatch(log)
    add(log, FAILED)
    monkeypatch.setattr(store_watch, "_ROOM", 1 << 62)
    assert not watch.is_stuck()
    monkeypatch.setattr(store_watch, "_ROOM", 0)
    assert watch.is_stuck()


def test_a_log_that_was_set_aside_is_read_from_its_beginning(log: Path) -> None:
    watch = StoreWatch(log)
    log.write_text("[INF] new\n")
    assert not watch.is_stuck()
    log.unlink()
    assert not watch.is_stuck()
    log.write_text(FAILED)
    assert watch.is_stuck()
