"""A gateway goes on from its snapshot: no finished job is lost or stored twice."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from domain import facts as f
from domain.facts import Json, Recorded
from domain.subjects import subject_of
from projections import snapshot, store
from services.gateway.views import Views, ViewsState
from tests.projections.test_active_jobs import assigned, completed, fact, requested

LEDGER = "ledger-1"
JOBS = 6


def history() -> list[Recorded]:
    """Jobs that overlap: each is requested before the one before it ends."""
    lives: list[f.Fact] = [fact(f.EventCreated, definition={"id": "e1", "title": "One"})]
    for number in range(JOBS):
        lives += [requested(f"j{number}"), assigned(f"j{number}")]
        if number:
            lives.append(completed(f"j{number - 1}"))
    return [Recorded(n, subject_of(x), x) for n, x in enumerate(lives, 1)]


class Disk:
    """The history file of one gateway, which outlives it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "history.sqlite"

    async def opened(self, end: int) -> Views:
        """Views that went on from the newest snapshot."""
        views = Views("UTC")
        views.open_history(self.path, LEDGER, end)
        for _, data in views.kept_states():
            state = snapshot.load(data, ViewsState)
            if state is not None:
                views.restore(state)
                break
        return views

    def rows(self) -> list[tuple[str, Json]]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute("SELECT id, brief, details FROM jobs ORDER BY id").fetchall()
        finally:
            connection.close()


def read(views: Views, facts: Sequence[Recorded]) -> None:
    for recorded in facts:
        if recorded.sequence > views.position:
            views.apply(recorded)


@pytest.fixture
async def once(tmp_path: Path) -> AsyncIterator[tuple[Views, Disk]]:
    """Views that have read everything at once."""
    disk = Disk(tmp_path / "once")
    views = await disk.opened(len(history()))
    read(views, history())
    await views.history(lambda _: None)
    yield views, disk
    await views.close()


@pytest.mark.parametrize("kept", [1, 4, 9, 17])
@pytest.mark.parametrize("stored", [0, 3, 8])
async def test_a_restart_anywhere_leaves_each_finished_job_once(
    once: tuple[Views, Disk], tmp_path: Path, kept: int, stored: int
) -> None:
    """The snapshot is of `kept`; the rows are `stored` facts further when the gateway dies."""
    facts = history()
    disk = Disk(tmp_path / "killed")
    first = await disk.opened(len(facts))
    read(first, facts[:kept])
    state = first.state()
    read(first, facts[kept : kept + stored])
    await first.keep_state(state.position, snapshot.dump(state))
    await first.close()

    second = await disk.opened(len(facts))
    assert second.position == kept
    read(second, facts)
    await second.history(lambda _: None)

    views, whole = once
    assert second.state() == views.state()
    await second.close()
    assert disk.rows() == whole.rows()
    assert len(disk.rows()) == JOBS - 1


async def test_a_snapshot_is_never_ahead_of_the_rows(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    views = await disk.opened(100)
    read(views, history())
    await views.keep_state(views.position, snapshot.dump(views.state()))

    connection = store.open_reader(disk.path)
    [(position, _)] = store.kept_states(connection)
    assert position == store.read_meta(connection, "position") == len(history())
    connection.close()
    await views.close()


async def test_a_lost_history_file_takes_its_snapshots_along(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    views = await disk.opened(100)
    read(views, history())
    await views.keep_state(views.position, snapshot.dump(views.state()))
    await views.close()
    for file in tmp_path.glob("history.sqlite*"):
        file.write_bytes(b"no database")

    again = await disk.opened(100)
    assert (again.position, again.kept_states()) == (0, [])
    await again.close()


async def test_a_damaged_snapshot_gives_way_to_the_older_one(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    views = await disk.opened(100)
    for place in (5, 10, 15):
        read(views, history()[:place])
        data = snapshot.dump(views.state())
        await views.keep_state(views.position, data if place < 15 else data[:-9])
    await views.close()

    again = await disk.opened(100)
    assert [position for position, _ in again.kept_states()] == [15, 10]
    assert again.position == 10
    await again.close()


async def test_reading_waits_for_what_is_not_stored_yet(tmp_path: Path) -> None:
    views = await Disk(tmp_path).opened(10**6)
    for sequence in range(1, 9000):
        switched = fact(f.MasterSwitched, enabled=True)
        views.apply(Recorded(sequence, subject_of(switched), switched))
    assert views.history_position == 0

    await views.breathe()

    assert views.history_position > 2000
    await views.close()
