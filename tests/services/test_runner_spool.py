"""The runner's memory on disk survives kills, torn lines and compaction."""

from pathlib import Path

import pytest

from domain.facts import Actor, JobAssigned, JobFinished, MadeOf
from services.errors import ConfigError
from services.runner.spool import Mode, Phase, Read, Spool

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
    patterns = ("spare-places/*/work-*", "spare-scripts/*", "spare-outputs/*")
    assert [len(list(tmp_path.glob(pattern))) for pattern in patterns] == [3, 3, 6]
    assert (spool.files.put_work("j1"), spool.files.is_stocked) == (spool.files.work("j1"), False)
    assert len(list(tmp_path.glob("spare-places/*/work-*"))) == 2
    spool.close()


def test_files_of_forgotten_jobs_are_removed_at_the_start(tmp_path: Path) -> None:
    """A runner that died between report and clean-up leaves strays."""
    spool = used(tmp_path)
    spool = Spool(tmp_path, "machine1")
    for job in ("j3", "j6"):
        Path(spool.files.output(job, "out")).touch()
        Path(spool.files.work(job)).mkdir()
        Path(spool.files.work(job), "file").touch()
    spool.files.remove_strays({entry.job for entry in spool.entries.values()})
    assert Path(spool.files.output("j3", "out")).exists()
    assert not Path(spool.files.output("j6", "out")).exists()
    assert not Path(spool.files.work("j6")).exists()
    spool.close()
