"""The verbs verify, replay, rebuild, retention, backup and restore on a data directory."""

import asyncio
import json
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from domain import facts as f
from services.cli.main import app
from services.cli.replay import parse_moment
from services.errors import ConfigError
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.raw import raw_on, remove
from services.ledger.streams import ensure_streams
from tests.services.deletion_kit import WHO, gone, leading_scheduler, write_job
from tests.services.gateway_kit import EVENT, running_gateway


@dataclass
class Home:
    """A data directory whose services are stopped, and sequences worth knowing."""

    path: Path
    before_update: int = 0
    waiting: int = 0

    @property
    def view(self) -> Path:
        return self.path / "gateway" / "history-5522.sqlite"

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--data-dir", str(self.path)])

    def ok(self, *words: str) -> str:
        result = self.run(*words)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def rows(self) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.view)
        try:
            return sorted(connection.execute("SELECT id, brief, details FROM jobs"))
        finally:
            connection.close()


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A directory that was used and stopped; tests that change it take a copy."""
    home = Home(tmp_path_factory.mktemp("home"))
    asyncio.run(live(home))
    return home


@pytest.fixture
def home(lived_in: Home, tmp_path: Path) -> Home:
    path = tmp_path / "data"
    shutil.copytree(lived_in.path, path)
    return Home(path, lived_in.before_update, lived_in.waiting)


async def live(home: Home) -> None:
    server = EmbeddedNats(home.path)
    await server.start()
    try:
        async with Ledger.open(server.url, name="test") as ledger:
            await ensure_streams(ledger)
            async with running_gateway(ledger, home.path) as api:
                await fill(home, ledger, api)
    finally:
        await server.stop()
    home.view.parent.mkdir()
    connection = sqlite3.connect(home.path / "history.sqlite")
    connection.execute("VACUUM INTO ?", (str(home.view),))
    connection.close()
    connection = sqlite3.connect(home.view)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


async def fill(home: Home, ledger: Ledger, api: object) -> None:
    api.clock.now = time.time()
    await api.ok("create_event", EVENT)
    for n in range(4):
        await write_job(ledger, f"j{n}")
    doomed = await write_job(ledger, "jgone")
    home.before_update = await ledger.end()
    await api.ok("update_event", {"id": "backup", "title": "Renamed"})
    asked = f.JobRequested(
        at=time.time(), actor=WHO, event="backup", job="jlive", made_of=f.MadeOf(event=0),
        source="user", username="anna", now=time.time(),
    )  # fmt: skip
    home.waiting = await ledger.append(asked, id="jlive")
    flushed = f.QueueFlushed(at=time.time(), actor=WHO, event="backup", jobs=["jlive"])
    queued = f.JobQueued(at=time.time(), actor=WHO, event="backup", job="jlive", reason="full")
    for fact in (queued, flushed):
        await ledger.append(fact, id=fact.kind)
    async with leading_scheduler(ledger, home.path) as scheduler:
        await api.ok("delete_job", {"id": "jgone"})
        await gone(ledger, doomed)
        await scheduler.upkeep.sealing.reached(await ledger.end())
    assert await api.gateway.reached(await ledger.end())
    await api.gateway.views.history(lambda history: history.position)


async def tamper(home: Path) -> int:
    """Remove a fact behind everybody's back; its sequence."""
    server = EmbeddedNats(home)
    await server.start()
    try:
        async with Ledger.open(server.url, name="test") as ledger:
            raw = await raw_on(ledger, "facts.job.backup.j2", 0)
            assert raw is not None
            await remove(ledger, raw.sequence, overwrite=False)
            return raw.sequence
    finally:
        await server.stop()


def test_a_ledger_as_it_was_recorded_passes(lived_in: Home) -> None:
    told = lived_in.ok("verify")
    assert "6 erased by recorded deletions" in told
    assert "no differences from the ledger" in told
    assert told.endswith("Everything is as it was recorded.\n")


def test_a_removed_fact_fails_the_check_and_is_named(home: Home) -> None:
    sequence = asyncio.run(tamper(home.path))
    result = home.run("verify")
    assert result.exit_code == 1
    assert f"fact {sequence}: missing, and no recorded deletion names it" in result.stdout
    assert "a row of j2 is not in the ledger" in result.stdout


def test_a_replay_shows_the_event_before_its_last_update(lived_in: Home) -> None:
    sequence = str(lived_in.before_update)
    then = json.loads(lived_in.ok("replay", "--to", sequence, "--json"))
    now = json.loads(lived_in.ok("replay", "--to", "999999", "--json"))
    assert [event["title"] for event in then["events"]] == ["Backup"]
    assert [event["title"] for event in now["events"]] == ["Renamed"]
    assert then["sequence"] < lived_in.before_update + 1 <= now["sequence"]
    assert (then["finished"], now["finished"]) == (4, 4)


def test_a_replay_by_time_stops_where_the_replay_by_sequence_does(lived_in: Home) -> None:
    by_sequence = json.loads(lived_in.ok("replay", "--to", str(lived_in.waiting), "--json"))
    by_time = json.loads(lived_in.ok("replay", "--to", repr(by_sequence["at"]), "--json"))
    assert by_time == by_sequence
    assert [job["id"] for job in by_sequence["jobs"]] == ["jlive"]


def test_a_replay_of_one_job_shows_it_live_and_finished(lived_in: Home) -> None:
    live = json.loads(
        lived_in.ok("replay", "--to", str(lived_in.waiting), "--job", "jlive", "--json")
    )
    assert live["job"]["state"] == "ready"
    final = json.loads(lived_in.ok("replay", "--to", "999999", "--job", "j1", "--json"))
    assert final["job"]["final"] is True
    assert not any(key.startswith("_") for key in final["job"])
    assert lived_in.run("replay", "--to", "999999", "--job", "jgone").exit_code == 1


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("17", (17, None)),
        ("1800000000.5", (None, 1800000000.5)),
        ("2026-01-31T12:00:00+00:00", (None, 1769860800.0)),
    ],
)
def test_a_moment_is_a_sequence_or_a_time(text: str, moment: tuple[object, object]) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan"])
def test_what_is_no_moment_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="--to takes"):
        parse_moment(text)


def test_a_rebuilt_view_has_the_same_rows(home: Home) -> None:
    before = home.rows()
    connection = sqlite3.connect(home.view)
    with connection:
        connection.execute("DELETE FROM jobs WHERE id = 'j1'")
    connection.close()
    assert home.rows() != before
    assert "folded anew" in home.ok("rebuild")
    assert home.rows() == before
    assert "no differences" in home.ok("verify")


def test_a_damaged_view_is_rebuilt(home: Home) -> None:
    before = home.rows()
    home.view.write_bytes(b"no database" * 500)
    home.ok("rebuild")
    assert home.rows() == before


def test_a_view_in_use_is_not_rebuilt(home: Home) -> None:
    gateway = sqlite3.connect(home.view)
    gateway.execute("SELECT COUNT(*) FROM jobs").fetchone()
    try:
        result = home.run("rebuild")
    finally:
        gateway.close()
    assert result.exit_code == 1
    assert "stop it first" in str(result.exception)


def test_retention_tells_what_it_would_erase_and_erases_nothing(home: Home) -> None:
    assert "is 0" in home.ok("retention", "--dry-run")
    assert home.ok("retention", "--dry-run", "--days", "1").startswith("0 finished jobs")
    told = home.ok("retention", "--dry-run", "--days", "0.00000001")
    assert told.startswith("5 finished jobs with 26 facts")
    assert "backup: 5" in told
    assert "Everything is as it was recorded" in home.ok("verify")


def test_a_backup_restores_into_an_empty_directory_of_the_same_secret(
    home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "ledger.backup"
    assert "up to fact" in home.ok("backup", str(file))
    other = Home(tmp_path / "other")
    other.path.mkdir()
    refused = other.run("restore", str(file))
    assert "server.secret" in str(refused.exception)
    shutil.copy(home.path / "server.secret", other.path)
    assert "is restored" in other.ok("restore", str(file))
    assert "Everything is as it was recorded" in other.ok("verify")
    other.ok("rebuild")
    assert other.rows() == home.rows()
    assert "not empty" in str(other.run("restore", str(file)).exception)
    other.ok("restore", str(file), "--force")
    assert not other.view.exists()


def test_another_secret_does_not_take_the_backup(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "ledger.backup"
    home.ok("backup", str(file))
    (home.path / "server.secret").write_text("0" * 64)
    assert "not the one of the backup" in str(home.run("restore", str(file), "--force").exception)


def test_a_directory_without_a_ledger_is_told_in_one_sentence(tmp_path: Path) -> None:
    assert "no data directory" in str(Home(tmp_path / "none").run("replay", "--to", "1").exception)
