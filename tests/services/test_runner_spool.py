"""The runner's memory on disk survives kills, torn lines and compaction."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from domain.facts import Actor, JobAssigned, JobFinished, MadeOf
from services.errors import ConfigError
from services.runner.spool import Exit, Mode, Phase, Read, Spool

ACTOR = Actor(type="scheduler", id="1")
SHELL = Mode(shell=True, kill="all")


def assigned(job: str) -> JobAssigned:
    """An order for this job."""
    return JobAssigned(
        at=1.0, actor=ACTOR, server="s1", boot="b1", event="e1", job=job, attempt=1,
        made_of=MadeOf(event=1), launch={"overrides": {"params": {"script": "echo ü"}}},
    )  # fmt: skip


def report(job: str, order: int) -> JobFinished:
    """The end of this job."""
    return JobFinished(
        at=2.0, actor=ACTOR, server="s1", boot="b1", event="e1", job=job, order=order,
        code=0, description="", ended=2.0,
    )  # fmt: skip


def used(directory: Path) -> Spool:
    """A spool with one order in each phase, closed."""
    spool = Spool(directory, "machine1")
    spool.belongs_to("l1")
    spool.take([(1, assigned("j1"), None), (2, assigned("j2"), SHELL)], 7)
    spool.take([(n, assigned(f"j{n}"), SHELL) for n in (3, 4, 5, 6)], 9)
    for order in (3, 4, 5, 6):
        spool.started(order, 100 + order, 5, 1.5)
    spool.told(3)
    spool.read(3, "out", 10, 1.6)
    spool.read(3, "err", 4, 1.7)
    spool.read(3, "out", 30, 1.8)
    spool.abort(3, "Enough.")
    spool.ended(4, -9, 1.9)
    spool.ended(5, 0, 1.9)
    spool.finished(5, report("j5", 5))
    spool.finished(6, report("j6", 6))
    spool.reported(6)
    spool.close()
    return spool


def test_a_new_runner_knows_what_the_last_one_knew(tmp_path: Path) -> None:
    """Every entry, the position and the ledger fold from the journal; reported orders are gone."""
    before = used(tmp_path)
    for _ in range(3):  # each start compacts what the last one wrote
        spool = Spool(tmp_path, "machine1")
        assert spool.entries == before.entries
        assert (spool.position, spool.ledger) == (9, "l1")
        spool.close()
    assert set(spool.entries) == {1, 2, 3, 4, 5}
    assert [entry.phase for entry in spool.entries.values()] == [
        Phase.ORDERED,
        Phase.STARTING,
        Phase.STARTED,
        Phase.ENDED,
        Phase.ENDED,
    ]
    assert spool.entries[3].reads == [
        Read("out", 10, 1.6),
        Read("err", 4, 1.7),
        Read("out", 30, 1.8),
    ]
    assert spool.entries[5].report == report("j5", 5)


def test_many_starts_are_on_the_disk_after_one_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What many jobs are launched with may come at once; a sync for each would hold all up."""
    spool = Spool(tmp_path, "machine1")
    spool.take([(n, assigned(f"j{n}"), None) for n in (1, 2, 3)], 3)
    syncs: list[int] = []
    monkeypatch.setattr("services.runner.spool.os.fdatasync", syncs.append)
    spool.starting([(1, SHELL), (2, SHELL)])
    spool.starting([])
    assert len(syncs) == 1
    phases = {order: entry.phase for order, entry in spool.entries.items()}
    assert phases == {1: Phase.STARTING, 2: Phase.STARTING, 3: Phase.ORDERED}
    spool.close()


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_tells_nothing(tmp_path: Path, cut: int) -> None:
    """The machine died while the journal was written: what stood before it counts."""
    spool = Spool(tmp_path, "machine1")
    spool.take([(1, assigned("j1"), SHELL)], 1)
    spool.close()
    journal = tmp_path / "journal"
    whole = journal.read_bytes()
    Spool(tmp_path, "machine1").close()
    spool = Spool(tmp_path, "machine1")
    spool.take([(2, assigned("j2"), SHELL)], 2)
    spool.close()
    journal.write_bytes(journal.read_bytes()[:-cut])
    spool = Spool(tmp_path, "machine1")
    assert spool.entries[1].job == "j1"
    spool.take([(3, assigned("j3"), SHELL)], 3)
    spool.close()
    spool = Spool(tmp_path, "machine1")
    assert spool.entries[3].job == "j3"
    assert whole
    spool.close()


def test_the_journal_does_not_grow_with_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is reported is forgotten on the disk as well."""
    monkeypatch.setattr("services.runner.spool.COMPACT_ABOVE", 20_000)
    spool = Spool(tmp_path, "machine1")
    for order in range(1, 500):
        spool.take([(order, assigned(f"j{order}"), SHELL)], order)
        spool.reported(order)
    assert (tmp_path / "journal").stat().st_size < 25_000
    spool.close()


def test_exits_are_read_as_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line once it is whole; a keeper may go on in the file that was rotated away."""
    monkeypatch.setattr("services.runner.spool.COMPACT_ABOVE", 0)
    monkeypatch.setattr("services.runner.spool.ROTATE_EXITS_ABOVE", 10)
    spool = Spool(tmp_path, "machine1")
    spool.take([(n, assigned(f"j{n}"), SHELL) for n in (1, 2, 3)], 3)
    with (tmp_path / "exits").open("ab", buffering=0) as keeper:
        keeper.write(b"begin j1 1 11\nend j1 1")
        assert spool.read_exits() == {1: Exit(11)}
        spool.reported(2)
        keeper.write(b" 7\nbegin j3 3 13\n")
    (tmp_path / "exits").write_bytes(b"end j3 3 0\n")
    assert spool.read_exits() == {1: Exit(11, 7), 3: Exit(13, 0)}
    spool.close()


def test_exits_are_rotated_and_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper that began before the rotation is known by its lines in either file."""
    monkeypatch.setattr("services.runner.spool.COMPACT_ABOVE", 0)
    monkeypatch.setattr("services.runner.spool.ROTATE_EXITS_ABOVE", 100)
    spool = Spool(tmp_path, "machine1")
    spool.take([(n, assigned(f"j{n}"), SHELL) for n in (1, 2, 3)], 3)
    exits = tmp_path / "exits"
    exits.write_text("begin j1 1 11\n" * 10 + "torn li")
    spool.reported(2)
    assert not exits.stat().st_size
    exits.write_text("end j1 1 -9\nbegin j3 3 33\nend j3\n")
    seen = spool.read_exits()
    assert (seen[1].pid, seen[1].status) == (11, -9)
    assert (seen[3].pid, seen[3].status) == (33, None)
    for order in (1, 3):
        spool.reported(order)
    for order in range(4, 10):
        spool.take([(order, assigned(f"j{order}"), SHELL)], order)
        spool.reported(order)
    assert not (tmp_path / "exits.old").exists()
    spool.close()


def test_a_spool_belongs_to_one_ledger_and_one_runner(tmp_path: Path) -> None:
    """Another ledger, or a second runner, is refused with one sentence."""
    spool = Spool(tmp_path, "machine1")
    spool.belongs_to("l1")
    spool.belongs_to("l1")
    with pytest.raises(ConfigError, match="belongs to another ledger"):
        spool.belongs_to("l2")
    with pytest.raises(ConfigError, match="Another runner uses"):
        Spool(tmp_path, "machine1")
    spool.close()
    Spool(tmp_path, "machine1").close()


def test_files_for_coming_jobs_are_made_in_advance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few at a time until there are enough, and no more than that."""
    monkeypatch.setattr("services.runner.job_files.STOCK_JOBS", 3)
    monkeypatch.setattr("services.runner.job_files.STOCK_AT_ONCE", 2)
    spool = Spool(tmp_path, "machine1")
    stocked = [spool.files.is_stocked]
    for _ in range(3):
        assert spool.files.stock()
        stocked.append(spool.files.is_stocked)
    assert stocked == [False, False, True, True]
    assert len(list(tmp_path.glob("jobs/*/*/script"))) == 3
    spool.take([(1, assigned("j1"), None)], 1)
    assert not spool.files.is_stocked
    assert len(list(tmp_path.glob("jobs/*/*/script"))) == 3
    spool.close()


def test_each_job_has_a_folder_that_a_new_runner_finds_again(tmp_path: Path) -> None:
    """Those of jobs that are forgotten are cleaned up at the start."""
    before = used(tmp_path)
    folders = {order: entry.folder for order, entry in before.entries.items()}
    assert len({folder.name for folder in folders.values()}) == 5
    for folder in folders.values():
        before.files.make(folder)
        Path(folder.out).write_text("said")
    spool = Spool(tmp_path, "machine1")
    assert {order: entry.folder for order, entry in spool.entries.items()} == folders
    spool.reported(4)
    shutil.rmtree(Path(folders[5].out).parent)  # made just before the machine died
    spool.files.take_over({entry.folder.name for entry in spool.entries.values()})
    spool.files.clean()
    assert Path(folders[3].out).read_text() == "said"
    assert not Path(folders[5].out).parent.exists()
    spool.files.make(folders[5])
    assert not Path(folders[5].out).read_text()
    assert not Path(folders[4].out).exists()
    spool.close()


def test_orders_that_cannot_be_kept_leave_no_folder_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to another job under another name, as a later runner may find the order after all."""
    monkeypatch.setattr("services.runner.job_files.STOCK_JOBS", 1)
    spool = Spool(tmp_path, "machine1")
    assert spool.files.stock()

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("services.runner.spool.os.fdatasync", no_room)
        with pytest.raises(OSError, match="No space"):
            spool.take([(1, assigned("j1"), None)], 1)
    (name,) = tmp_path.glob("jobs/*/*")
    spool.files.clean()
    spool.take([(2, assigned("j2"), None)], 2)
    assert spool.entries[2].folder.name
    assert not name.exists()
    assert len(list(tmp_path.glob("jobs/*/*"))) == 1
    spool.close()


def test_a_full_disk_costs_no_descriptors_and_ends_no_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is to be written anew, again and again, and there is no room for it."""
    monkeypatch.setattr("services.runner.spool.COMPACT_ABOVE", 1)
    spool = Spool(tmp_path, "machine1")
    spool.take([(n, assigned(f"j{n}"), None) for n in range(1, 9)], 8)
    before = len(os.listdir("/proc/self/fd"))

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("services.runner.spool.os.fsync", no_room)
        for order in range(1, 9):
            spool.reported(order)
            spool.flush()
    assert len(os.listdir("/proc/self/fd")) == before
    spool.take([(9, assigned("j9"), None)], 9)
    spool.close()

    again = Spool(tmp_path, "machine1")
    assert again.entries.keys() == {9}
    again.close()


def as_of_before(directory: Path) -> None:
    """Have the spool look as the release before this one wrote it."""
    journal = directory / "journal"
    journal.write_bytes(re.sub(rb'"d":"[^"]*",', b"", journal.read_bytes()))
    shutil.rmtree(directory / "jobs")
    for name in ("output", "work", "scripts", "spare-outputs", "spare-scripts", "spare-places"):
        (directory / name).mkdir()
    (directory / "spare-outputs" / "1").touch()


def test_jobs_of_the_release_before_stay_where_they_are_until_they_are_reported(
    tmp_path: Path,
) -> None:
    """It had no folders: their files had the names of their jobs."""
    used(tmp_path)
    as_of_before(tmp_path)
    (tmp_path / "output" / "j3.out").write_text("said")
    (tmp_path / "work" / "j3").mkdir()
    (tmp_path / "work" / "j3" / "file").touch()
    for _ in range(2):
        spool = Spool(tmp_path, "machine1")
        spool.files.take_over({entry.folder.name for entry in spool.entries.values()})
        folder = spool.entries[3].folder
        assert Path(folder.out).read_text() == "said"
        assert Path(folder.work, "file").exists()
        spool.close()
    spool = Spool(tmp_path, "machine1")
    spool.files.leave(folder)
    assert not any((tmp_path / "output").iterdir())
    assert not any((tmp_path / "work").iterdir())
    for order in list(spool.entries):
        spool.reported(order)
    spool.files.take_over({entry.folder.name for entry in spool.entries.values()})
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"jobs"}
    spool.close()
