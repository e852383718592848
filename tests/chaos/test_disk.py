"""Disks that are full, read-only or forgetful: a clear word, and recovery without an operator."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.ledger.connection import Ledger
from services.ledger.snapshots import snapshots, write_snapshot
from tests.chaos.harness import Stack, eventually, job_event, of_kind, stack
from tests.chaos.invariants import check_definitions, check_views, wait_for_quiet

MEBIBYTE = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.decode().strip()}")
    yield path
    # Jobs may still leave files; nobody works there any more.
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def filled(disk: Path, *, but: int = 0) -> Iterator[None]:
    """The disk has only so many bytes left during the block."""
    ballast = disk / "ballast"
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):  # full
            while _free(disk) > but:
                os.write(file, b"x" * min(MEBIBYTE, max(4096, _free(disk) - but)))
        yield
    finally:
        os.close(file)
        ballast.unlink()


def _free(disk: Path) -> int:
    usage = os.statvfs(disk)
    return usage.f_bavail * usage.f_frsize


def refused(one: Stack, name: str, **values: Any) -> str | None:
    """The description of a 503, or None if the call was answered otherwise."""
    with suppress(httpx.HTTPError):
        reply = one.api.reply(name, **values)
        if reply.status_code == 503:
            assert reply.json()["code"] == "db"
            return str(reply.json()["description"])
    return None


def works(one: Stack, title: str) -> None:
    """A write is taken and a job runs to its end."""
    one.api.persist("update_event", id="hello", title=title)
    assert one.api.persist("get_event", id="hello")["event"]["title"] == title
    one.api.persist("run_event", id="hello")
    wait_for_quiet(one.api)


def test_disk_nearly_full_refuses_writes_and_answers_reads(small_disk: Path) -> None:
    """Below 5 % of a small disk nothing is recorded, by clients or by the clock."""
    with stack(small_disk / "data") as one:
        api = one.api
        api.call("create_event", **job_event("hello", "echo hello"))
        works(one, "before")
        clock = [{"type": "interval", "enabled": True, "start": int(time.time()), "duration": 1}]
        api.call("create_event", **job_event("clock", "true", triggers=clock))
        with filled(small_disk, but=2 * MEBIBYTE):
            told = eventually(
                lambda: refused(one, "update_event", id="hello", notes="last words"), "it refuses"
            )
            assert told == "The disk is nearly full: nothing more is recorded."
            assert api.call("get_event", id="hello")["event"]["title"] == "before"
            assert len(api.call("get_event_history", id="hello", limit=10)["rows"]) >= 2
            eventually(lambda: "disk_reserve_reached" in one.log("scheduler"), "fires are held")
            assert one.health() == 200
        eventually(lambda: refused(one, "get_event", id="hello") is None, "it answers")
        works(one, "after")
        facts = one.facts()
        assert not of_kind(facts, "FiresMissed")


@pytest.mark.timeout(180)
def test_disk_full_all_the_same_passes_without_an_operator(small_disk: Path) -> None:
    """nats-server falls silent and stays so; `up` starts it anew once there is room."""
    with stack(small_disk / "data", disk_reserve=0) as one:
        api = one.api
        api.call("create_event", **job_event("hello", "echo hello"))
        works(one, "before")
        acknowledged: list[str] = []
        with filled(small_disk):
            for number in range(50):
                title = f"{number:05} " + "x" * 20_000
                with suppress(httpx.HTTPError):
                    answer = api.ask("update_event", id="hello", title=title)
                    if answer["code"] != 0:
                        break
                    acknowledged.append(title)
            assert answer["code"] == "db", "the disk is not full"
            nats = one.pid("nats")
        eventually(lambda: one.pid("nats") not in (0, nats), "nats is started anew")
        assert one.said("The disk has room again; nats is started anew.")
        works(one, "after")
        facts = one.facts()
        stored = [fact.definition.get("title") for fact in of_kind(facts, "EventUpdated")]
        assert set(acknowledged) <= set(stored), "an acknowledged edit is lost"
        check_definitions(facts, one.api)
        check_views(one)


def test_a_torn_record_at_the_end_of_the_store_is_cut_off(tmp_path: Path) -> None:
    """The machine died while a fact was written, after the last acknowledged one."""
    with stack(tmp_path / "data") as one:
        one.api.call("create_event", **job_event("hello", "echo hello"))
        works(one, "before")
        before = one.facts()
        one.kill_all()
        blocks = sorted((one.home / "nats" / "store").glob("**/LEDGER/msgs/*.blk"))
        with blocks[-1].open("ab") as block:
            block.write(b"\xff\x00\x00\x00half a record")
        journal = one.home / "runner" / "journal"
        with journal.open("ab") as file:
            file.write(b'{"t":"ordered","o":99999,"fa')

        one.start()
        works(one, "after")
        after = one.facts()
        assert [r.fact for r in after[: len(before)]] == [r.fact for r in before]
        check_definitions(after, one.api)


@pytest.mark.parametrize("damage", ["overwritten", pytest.param("removed", marks=pytest.mark.long)])
def test_view_file_damaged_or_deleted_is_rebuilt(tmp_path: Path, damage: str) -> None:
    """The gateway's SQLite file goes while it is used: it comes back from the ledger."""
    with stack(tmp_path / "data") as one:
        one.api.call("create_event", **job_event("hello", "echo hello"))
        works(one, "before")
        (path,) = (one.home / "gateway").glob("history-*.sqlite")
        if damage == "removed":
            for file in path.parent.glob(path.name + "*"):
                file.unlink()
        else:
            for file in path.parent.glob(path.name + "*"):
                file.write_bytes(os.urandom(file.stat().st_size))
        one.kill("gateway")
        works(one, "after")
        assert one.api.persist("get_event_history", id="hello", limit=10)["list"]["length"] == 3
        check_views(one)
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)


def test_a_corrupt_snapshot_costs_a_sentence_and_nothing_else(tmp_path: Path) -> None:
    """The newest snapshot is rubbish: the next scheduler says so and reads what is older."""
    with stack(tmp_path / "data") as one:
        one.api.call("create_event", **job_event("hello", "echo hello"))
        works(one, "before")

        async def spoil(ledger: Ledger) -> int:
            end = await ledger.end()
            await write_snapshot(ledger, end, b"JLS2" + os.urandom(4096))
            return len(await snapshots(ledger))

        assert one.with_ledger(spoil) > 0
        one.kill("scheduler")
        eventually(lambda: "snapshot_discarded" in one.log("scheduler"), "it says so")
        works(one, "after")
        check_definitions(one.facts(), one.api)


def test_a_read_only_directory_is_named_at_the_start(tmp_path: Path) -> None:
    """`up` ends with one sentence, and works once the directory can be written."""
    one = Stack(tmp_path / "data")
    one.home.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(one.home)])
    if done.returncode:
        pytest.skip("a read-only disk cannot be mounted here")
    try:
        one.begin()
        assert one.process is not None
        assert one.process.wait(timeout=20) == 1
        (sentence,) = one.output.read_text().splitlines()
        assert f"data directory {one.home} cannot be used: Read-only file system" in sentence
    finally:
        subprocess.run(["umount", str(one.home)], check=True)
    one.start()
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(timeout=20) == 0
