"""Scheduler plugins decide launches: real processes, beside a clockwork that goes on."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from domain import facts as f
from domain.facts import Json
from services.ledger import reading, uploads
from services.ledger.chunks import read_chunks
from services.ledger.connection import Ledger
from services.scheduler import plugin_files
from services.scheduler.asking import Asking
from services.scheduler.plugin_files import BringFiles, PluginFiles, refuse_files
from services.settings import Settings
from tests.contract.stack import running_stack
from tests.services.test_acting_stack import Client
from tests.services.test_firing import MINUTELY, NOON, Clockwork, created, on

PATIENCE = 20.0
READ = "#!/bin/sh\nread -r line\n"


class Asker:
    """A clockwork whose questions are asked."""

    def __init__(self, clock: Clockwork, files: BringFiles = refuse_files) -> None:
        assert clock.leader is not None
        leader = clock.leader
        self.clock = clock
        self.news = asyncio.Event()
        self.asking = Asking(
            leader.firing,
            leader.definitions,
            leader.jobs,
            clock.settings,
            self.news.set,
            files=files,
        )

    async def settle(self, launches: int) -> None:
        """Rounds until so many launches of `e1` are on the ledger."""
        while True:
            self.clock.run()
            if len(self.clock.fired()) >= launches:
                return
            self.asking.look()
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.news.wait()
            except TimeoutError:
                pytest.fail(f"waited {PATIENCE} s for an answer; so far {self.clock.fired()}")
            self.news.clear()


@contextlib.asynccontextmanager
async def asking(clock: Clockwork, files: BringFiles = refuse_files) -> AsyncIterator[Asker]:
    asker = Asker(clock, files)
    task = asyncio.create_task(asker.asking.run())
    try:
        yield asker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def gate(script: str, **keys: Any) -> f.CatalogCreated:
    keys = {"type": "scheduler", "command": "/bin/sh", "script": script} | keys
    record = keys | {"id": "gate", "title": "Gate", "enabled": keys.get("enabled", True)}
    return f.CatalogCreated(
        at=NOON - 900.0, actor=created("tag", "x").actor, type="plugin", id="gate", record=record
    )


def saying(*items: Any) -> str:
    return READ + "cat <<'END'\nsome text\n" + json.dumps({"xy": 1, "items": items}) + "\nEND\n"


def clock_with(*triggers: Json, script: str, **keys: Any) -> Clockwork:
    clock = Clockwork()
    clock.given(gate(script, **keys))
    clock.event(*triggers, on("plugin", plugin_id="gate", params={"a": 1}))
    return clock


async def test_the_plugin_says_yes_no_and_how() -> None:
    said = {"launch": True, "delay": 90, "data": {"b": 2}, "invisible": True}
    clock = clock_with(
        MINUTELY, MINUTELY, MINUTELY | {"data": {"a": 1}}, script=saying(True, False, said, True)
    )
    clock.now = NOON + 1
    async with asking(clock) as asker:
        await asker.settle(3)
    first, second = clock.of(f.JobRequested)
    assert (first.source, first.splugin, first.invisible) == ("plugin", "gate", False)
    assert (second.until, second.invisible) == (NOON + 90, True)
    assert second.input["data"] == {"a": 1, "b": 2}
    [refused] = clock.of(f.LaunchRejected)
    assert (refused.reason, refused.fire.trigger) == ("The plugin said no.", 1)


async def test_the_plugin_reads_what_it_decides_about(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f'read -r line\necho "$line" > {seen}\necho \'{{"xy":1,"items":[true]}}\'\n'
    clock = clock_with(on("interval", start=NOON + 7, duration=90), script=script)
    clock.now = NOON + 8
    async with asking(clock) as asker:
        await asker.settle(1)
    request = json.loads(seen.read_text())
    [item] = request["items"]
    assert (request["type"], request["active_jobs"]) == ("trigger", [])
    assert (item["params"], item["now"], item["timezone"]) == ({"a": 1}, NOON + 7, "UTC")
    assert (item["dargs"]["hour"], item["dargs"]["minute"]) == (12, 0)
    assert (item["job"]["event"], item["job"]["stype"]) == ("e1", "interval")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "The plugin ended with status 3."),
        ("echo hello", "The plugin's last line is not JSON."),
        ("echo '{}'", "The plugin's last line is not a message."),
        ("""echo '{"xy":1,"items":[]}'""", "The plugin's message has no items."),
        ("sleep 60 & sleep 60", "The plugin did not end within 0.3 seconds."),
    ],
)
async def test_a_failed_execution_launches_nothing(script: str, reason: str) -> None:
    clock = clock_with(MINUTELY, script=script, timeout=0.3 if "sleep" in script else 10)
    clock.now = NOON + 1
    async with asking(clock) as asker:
        await asker.settle(1)
    assert [fact.reason for fact in clock.of(f.LaunchRejected)] == [reason]


async def test_who_catches_up_is_asked_once_more_after_a_failure(tmp_path: Path) -> None:
    marker = tmp_path / "tried"
    script = (
        f'[ -e {marker} ] || {{ touch {marker}; exit 1; }}\necho \'{{"xy":1,"items":[1,true]}}\''
    )
    clock = clock_with(MINUTELY, MINUTELY, on("catchup"), script=script)
    clock.now = NOON + 1
    async with asking(clock) as asker:
        await asker.settle(2)
    assert [fact.fire.trigger for fact in clock.of(f.JobRequested)] == [1]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"enabled": False}, "Plugin is disabled: Gate"),
        ({"type": "event"}, "Plugin not found: gate"),
    ],
)
async def test_a_plugin_that_cannot_decide_refuses(keys: Json, reason: str) -> None:
    clock = clock_with(MINUTELY, script="", **keys)
    clock.now = NOON + 1
    async with asking(clock) as asker:
        await asker.settle(1)
    assert [fact.reason for fact in clock.of(f.LaunchRejected)] == [reason]


async def test_a_slow_plugin_holds_up_nobody_else() -> None:
    clock = clock_with(MINUTELY, script="sleep 60", timeout=60)
    clock.event(MINUTELY, id="e2")
    clock.now = NOON + 1
    async with asking(clock) as asker:
        clock.run()
        asker.asking.look()
        await asyncio.sleep(0)
        clock.at(NOON + 61)
    assert clock.fired("e2") == [0, 60]
    assert clock.fired() == []


def test_a_successor_asks_what_was_not_answered() -> None:
    clock = clock_with(MINUTELY, script="")
    clock.at(NOON + 1)
    clock.firing.take_questions("gate", 10)
    clock.at(NOON + 30)
    clock.take_over()
    clock.run()
    [question] = clock.firing.take_questions("gate", 10)
    assert question.launch.key.due == NOON


def test_a_tick_leaves_unanswered_questions_out() -> None:
    clock = clock_with(MINUTELY, script="")
    clock.at(NOON + 1)
    clock.at(NOON + 3700)
    [*_, tick] = [r.fact for r in clock.facts if isinstance(r.fact, f.TickFired)]
    assert tick.evaluated == NOON - 1


# --- files that a plugin brings along --------------------------------------------------------


@pytest.fixture
def files(ledger: Ledger, tmp_path: Path) -> PluginFiles:
    """What the scheduler of a process brings files with; `service` is its own directory."""
    own = tmp_path / "service"
    own.mkdir()
    (own / "key").write_text("a key of the service")
    return PluginFiles(ledger, Settings(data_dir=own), lambda: NOON + 2.0)


def naming(*launches: list[Any], folder: Path, **keys: Any) -> Clockwork:
    """A clock at which the plugin lets launches happen that name these files."""
    said = [{"launch": True, "files": named} for named in launches]
    triggers = [MINUTELY] * len(launches)
    clock = clock_with(*triggers, script=saying(*said), cwd=str(folder), **keys)
    clock.now = NOON + 1
    return clock


async def content(ledger: Ledger, record: Json) -> bytes:
    blob = f.from_plain(f.Blob, record["blob"])
    return b"".join([part async for part in read_chunks(ledger, blob)])


async def stored_messages(ledger: Ledger) -> int:
    return int((await ledger.api("STREAM.INFO.CHUNKS"))["state"]["messages"])


async def test_a_launched_job_gets_the_files_that_the_plugin_names(
    ledger: Ledger, tmp_path: Path, files: PluginFiles
) -> None:
    large = os.urandom(1_200_000)  # three chunks
    (tmp_path / "large.bin").write_bytes(large)
    (tmp_path / "note").write_text("hello")
    renamed = {"path": "note", "filename": "../.my note.txt", "delete": True}
    clock = naming([str(tmp_path / "large.bin"), renamed], folder=tmp_path)
    async with asking(clock, files.bring) as asker:
        await asker.settle(1)
    [job] = clock.of(f.JobRequested)
    first, second = job.input["files"]
    assert (first["filename"], first["size"]) == ("large.bin", 1_200_000)
    assert (second["filename"], second["size"], second["date"]) == ("my note.txt", 5, NOON + 2)
    assert await content(ledger, first) == large
    assert await content(ledger, second) == b"hello"
    assert await uploads.find(ledger, second["path"]) == second
    stored = await reading.find(ledger, {"last_by_subj": f"chunks.upload.{second['id']}"}, "CHUNKS")
    assert stored is not None
    assert stored.headers["Nats-TTL"] == f"{30 * 86400}s"
    assert (tmp_path / "large.bin").exists()
    assert not (tmp_path / "note").exists()


async def test_a_file_goes_to_all_who_want_it_before_it_is_deleted(
    ledger: Ledger, tmp_path: Path, files: PluginFiles
) -> None:
    (tmp_path / "note").write_text("hello")
    note = {"path": "note", "delete": True}
    clock = naming([note], [note], folder=tmp_path)
    async with asking(clock, files.bring) as asker:
        await asker.settle(2)
    given = [job.input["files"][0] for job in clock.of(f.JobRequested)]
    assert [await content(ledger, record) for record in given] == [b"hello", b"hello"]
    assert given[0]["id"] != given[1]["id"]
    assert [record["job"] for record in given] == [job.job for job in clock.of(f.JobRequested)]
    assert not (tmp_path / "note").exists()


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("missing", "does not exist"),
        ("link", "leads through a link"),
        ("linked/note", "leads through a link"),
        ("../up", "must not go up"),
        ("pipe", "no plain file"),
        (".", "no plain file"),
        ("/dev/zero", "no plain file"),
        ("service/key", "belongs to this service"),
        ("large", "limited to 10 bytes"),
        ("half \ud800", "no usable path"),
        ({"filename": "x"}, "no usable path"),
    ],
)
async def test_a_file_that_cannot_be_read_forbids_its_launch_alone(
    named: Any,
    reason: str,
    ledger: Ledger,
    tmp_path: Path,
    files: PluginFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugin_files, "LARGEST", 10)
    (tmp_path / "note").write_text("hello")
    (tmp_path / "large").write_text("eleven byte")
    (tmp_path / "link").symlink_to(tmp_path / "note")
    (tmp_path / "linked").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    clock = naming([{"path": "note", "delete": True}, named], [], folder=tmp_path)
    async with asking(clock, files.bring) as asker:
        await asker.settle(2)
    [refused] = clock.of(f.LaunchRejected)
    assert reason in refused.reason
    assert refused.fire.trigger == 0
    assert [job.fire.trigger for job in clock.of(f.JobRequested)] == [1]
    assert (tmp_path / "note").exists()
    assert await stored_messages(ledger) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root may start processes of other accounts")
async def test_a_plugin_of_another_account_brings_no_files_but_its_own(
    ledger: Ledger, tmp_path: Path, files: PluginFiles
) -> None:
    (tmp_path / "own").write_text("own")
    (tmp_path / "other").write_text("other")
    os.chown(tmp_path / "own", 65534, -1)
    clock = naming([str(tmp_path / "own")], [str(tmp_path / "other")], folder=Path("/"), uid=65534)
    async with asking(clock, files.bring) as asker:
        await asker.settle(2)
    [job] = clock.of(f.JobRequested)
    assert await content(ledger, job.input["files"][0]) == b"own"
    [refused] = clock.of(f.LaunchRejected)
    assert "does not belong to the plugin's account" in refused.reason


def test_the_job_of_a_whole_installation_finds_the_file_in_its_directory(tmp_path: Path) -> None:
    """From the plugin through the scheduler's own login into the job's working directory."""
    (tmp_path / "note").write_text("hello")
    data_dir = tmp_path / "installation" / "data"
    data_dir.parent.mkdir()
    with running_stack(data_dir) as stack:
        client = Client(stack, data_dir)
        note = {"path": "note", "filename": "note.txt", "delete": True}
        plugin = {"title": "Gate", "type": "scheduler", "command": "/bin/sh", "enabled": True}
        script = saying({"launch": True, "files": [note]})
        client.post("create_plugin", id="gate", script=script, cwd=str(tmp_path), **plugin)
        due = on("interval", start=int(time.time()) + 2, duration=3600)
        gated = [due, on("plugin", plugin_id="gate", params={})]
        client.create("e1", '[ "$(cat note.txt)" = hello ]', triggers=gated)
        [job] = eventually(lambda: client.post("search_jobs", limit=5).get("rows"))
    assert (job["event"], job["code"]) == ("e1", 0), job
    assert not (tmp_path / "note").exists()


def eventually(look: Callable[[], Any]) -> Any:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing was found within {PATIENCE} s"
        time.sleep(0.05)
    return found
