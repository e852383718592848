"""Services that die exactly between two of their steps: nothing is lost, nothing runs twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.runner.procfs import read_process
from tests.chaos.dying import LEADER, MACHINE, RUNNER
from tests.chaos.harness import Stack, eventually, job_event, of_kind, stack, start
from tests.chaos.invariants import check_definitions, completions, wait_for_quiet

# The moments that every test run looks at; the others belong to `make chaos`.
USUAL = (
    "order not saved",
    "asked for, not heard",
    "started, not noted",
    "log stored, report not noted",
    "between fires",
)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An installation whose own runner and scheduler stay well."""
    with stack(tmp_path_factory.mktemp("moments") / "data") as made:
        second = tmp_path_factory.mktemp("second")
        runner = start(second / "data", second / "out", *runner_words(made, "second"))
        try:
            eventually(lambda: online(made, "second"), "a second server is online")
            yield made
        finally:
            runner.kill()
            runner.wait()


@contextmanager
def dying(one: Stack, moment: str, *words: str, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A service that dies at a moment; it is killed at the end in any case."""
    command = [sys.executable, "-m", "tests.chaos.dying", moment, *words, "--data-dir", str(home)]
    with one.output.with_suffix(".dying").open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def runner_words(one: Stack, id: str) -> list[str]:
    """A runner's command line on this installation's ledger."""
    nats = "@" + str(one.home / "run" / "nats.url")
    return ["runner", "--nats", nats, "--id", id, "--hostname", id]


def online(one: Stack, id: str) -> bool:
    """Whether the server is there."""
    return any(row["id"] == id for row in one.api.call("get_active_servers")["rows"])


def usual_or_long(moments: Any) -> list[Any]:
    """The parameters: those beyond USUAL are marked `long`."""
    return [m if m in USUAL else pytest.param(m, marks=pytest.mark.long) for m in moments]


@pytest.mark.parametrize("moment", usual_or_long(RUNNER))
def test_a_runner_that_dies_at_any_moment_runs_its_job_once(
    one: Stack, tmp_path: Path, moment: str
) -> None:
    """The next boot of the runner adopts, starts or reports the job, with code and output."""
    id = "m" + str(list(RUNNER).index(moment))
    ran, home = tmp_path / "ran", tmp_path / "data"
    script = f"echo first; echo $JOB_ID >> {ran}; sleep 0.3; echo last; exit 7"
    one.api.call("create_event", **job_event(id, script, targets=[id]))
    with dying(one, moment, *runner_words(one, id), home=home) as runner:
        eventually(lambda: online(one, id), f"{id} is online")
        job = one.api.call("run_event", id=id)["id"]
        assert runner.wait(timeout=20) == -signal.SIGKILL
    again = start(home, tmp_path / "again.out", *runner_words(one, id))
    try:
        wait_for_quiet(one.api, 30)
    finally:
        again.kill()
        again.wait()
    (end,) = completions(one.facts(), id)
    assert (end.job, end.code) == (job, 7)
    assert ran.read_text().split() == [job]
    assert one.api.reply("get_job_log", id=job).text == "first\nlast\n"


def _active(one: Stack, event: str) -> list[dict[str, Any]]:
    rows = one.api.call("get_active_jobs", event=event)["rows"]
    return [row for row in rows if row["state"] == "active"]


def test_a_job_that_a_reboot_of_the_machine_ended_is_not_started_again(
    one: Stack, tmp_path: Path
) -> None:
    """Nobody knows how it ended: code `unknown`, and the retry is a job of its own."""
    ran, home, id = tmp_path / "ran", tmp_path / "data", "reboot"
    script = f"echo $JOB_ID >> {ran}; [ -e {tmp_path / 'again'} ] || exec sleep 60"
    retry = {"type": "retry", "enabled": True, "amount": 1, "duration": 0}
    one.api.call("create_event", **job_event(id, script, targets=[id], limits=[retry]))
    first = start(home, tmp_path / "first.out", *runner_words(one, id))
    eventually(lambda: online(one, id), "the server is online")
    job = one.api.call("run_event", id=id)["id"]
    eventually(lambda: ran.exists() and ran.read_text(), "the job runs")
    (row,) = eventually(lambda: _active(one, id), "its start is reported")
    first.kill()
    first.wait()
    process = read_process(row["pid"])
    assert process is not None
    os.kill(process.parent, signal.SIGKILL)  # who would tell how it ended
    os.killpg(row["pid"], signal.SIGKILL)
    (tmp_path / "again").touch()
    with dying(one, MACHINE, *runner_words(one, id), home=home):
        wait_for_quiet(one.api, 30)
    lost, retried = completions(one.facts(), id)
    assert (lost.job, lost.code) == (job, "unknown")
    assert retried.code == 0
    assert ran.read_text().split() == [job, retried.job]


@pytest.mark.parametrize("moment", usual_or_long(LEADER))
def test_a_leader_that_dies_between_two_facts_leaves_nothing_undone(
    one: Stack, tmp_path: Path, moment: str
) -> None:
    """The next leader records what is owed, and nothing twice."""
    id, ran = f"l{list(LEADER).index(moment)}", tmp_path / "ran"
    here = next(r["id"] for r in one.api.call("get_active_servers")["rows"] if r["id"] != "second")
    script = f"echo $JOB_ID >> {ran}; exit 1"
    begin = int(time.time()) + 8  # the other scheduler leads by then
    once = [{"type": "interval", "enabled": True, "start": begin, "duration": 3600}]
    more: dict[str, Any] = {"targets": [here, "second"]}
    match moment:
        case "between fires" | "between a fire and its order":
            more["triggers"] = once
        case "between end and retry":
            more["limits"] = [{"type": "retry", "enabled": True, "amount": 1, "duration": 0}]
        case _:
            more["algo"] = "multiplex"
    names = [f"{id}a", f"{id}b"] if "triggers" in more else [id]
    for name in names:
        one.api.call("create_event", **job_event(name, script, **more))
    # While the installation's own scheduler is frozen, the other one leads, and dies.
    with one.frozen("scheduler"), dying(one, moment, "scheduler", home=one.home) as leader:
        if "triggers" not in more:
            one.api.call("run_event", id=id)
        assert leader.wait(timeout=30) == -signal.SIGKILL
    eventually(lambda: ran.exists() and len(ran.read_text().split()) >= 2, "both have run")
    wait_for_quiet(one.api, 30)
    facts = one.facts()
    mine = [fact.job for fact in of_kind(facts, "JobRequested") if fact.event in names]
    assert len(mine) == len(set(mine))
    lines = ran.read_text().split()
    assert len(lines) == len(set(lines)) == 2, "two fires, two children, or a job and its retry"
    check_definitions(facts, one.api)
