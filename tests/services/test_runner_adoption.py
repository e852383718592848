"""A dead runner stops no job and loses no output (design.md 7 and 11)."""

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from domain.facts import JobFinished, ServerJoined
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.runner.procfs import read_process
from tests.services.runner_bench import Bench, founded, runner_process


@pytest.fixture
async def scheduler(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Bench]:
    """A stand-in scheduler on a founded ledger; runners are processes of their own."""
    async with founded(ledger, tmp_path) as made:
        yield made


async def test_25_jobs_survive_a_killed_runner_with_right_codes_and_output(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """Some end while no runner is there, some after it is back."""
    orders = {}
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(1)
        for number in range(25):
            late = f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done\n" if number % 2 else ""
            script = f"echo begin {number}\nsleep 0.7\n{late}echo end {number}; exit {number}"
            orders[number] = await scheduler.script(script)
        for order in orders.values():
            await scheduler.started(order)
    assert not any(isinstance(r.fact, JobFinished) for r in scheduler.reports)
    await asyncio.to_thread(_wait_for_exits, tmp_path, 13)
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(2)
        (tmp_path / "go").touch()
        for number, order in orders.items():
            finished = await scheduler.finished(order)
            assert finished.code == number
            assert await scheduler.log(finished) == f"begin {number}\nend {number}\n"
    join = [r.fact for r in scheduler.reports if isinstance(r.fact, ServerJoined)][-1]
    assert {held.order for held in join.inventory} == set(orders.values())


def _wait_for_exits(directory: Path, count: int) -> None:
    """Until it is written of so many commands how they ended."""
    deadline = time.monotonic() + 15
    exits = directory / "runner" / "exits"
    while len(re.findall("^end ", exits.read_text(), re.MULTILINE)) < count:
        assert time.monotonic() < deadline, "the jobs did not end"
        time.sleep(0.02)


async def test_a_job_is_started_at_most_once_however_often_the_runner_dies(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """Kill the runner again and again while orders arrive: each command runs exactly once."""
    ran = tmp_path / "ran"
    orders: list[int] = []
    for round_number in range(1, 5):
        with runner_process(nats_server, tmp_path) as process:
            await scheduler.joined(round_number)
            script = f"echo $JOB_ID >> {ran}; echo ok"
            orders += [await scheduler.script(script) for _ in range(10)]
            # Killed in the middle of its work, wherever that is.
            process.send_signal(signal.SIGKILL)
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(5)
        held = {
            h.order
            for r in scheduler.reports
            if isinstance(r.fact, ServerJoined)
            for h in r.fact.inventory
        }
        finished = {r.fact.order for r in scheduler.reports if isinstance(r.fact, JobFinished)}
        for order in (set(orders) & held) | finished:
            report = await scheduler.finished(order)
            assert report.code == 0
            assert await scheduler.log(report) == "ok\n"
    lines = ran.read_text().split()
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize(("with_its_keeper", "code"), [(False, "sigkill"), (True, "unknown")])
async def test_a_job_killed_unseen_by_a_runner(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path, with_its_keeper: bool, code: str
) -> None:
    """Its keeper knows how it ended; without process and exit line: code unknown."""
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(1)
        said = '{"xy":1,"data":{"rows":[1]}}'
        order = await scheduler.script(f"echo '{said}'; echo here; sleep 60")
        pid = (await scheduler.started(order)).pid
        await scheduler.telemetry("j1", lambda entry: entry["log_size"])
    if with_its_keeper:
        process = read_process(pid)
        assert process is not None
        os.kill(process.parent, signal.SIGKILL)
    os.killpg(pid, signal.SIGKILL)
    with runner_process(nats_server, tmp_path):
        finished = await scheduler.finished(order)
    assert finished.code == code
    assert await scheduler.log(finished) == "here\n"
    assert finished.report["data"] == {"rows": [1]}
    assert finished.report.get("unknown") == (1 if with_its_keeper else None)


async def test_an_adopted_job_can_be_aborted(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """Adoption is whole: telemetry goes on and an abort ends the process."""
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(1)
        order = await scheduler.script("echo 10%; sleep 60")
        await scheduler.telemetry("j1", lambda entry: entry["progress"] == 0.1)
    scheduler.heartbeats.clear()
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(2)
        await scheduler.telemetry("j1", lambda entry: entry["progress"] == 0.1)
        await scheduler.abort(order, "Enough.")
        finished = await scheduler.finished(order)
    assert (finished.code, finished.description) == ("abort", "Enough.")


async def test_stderr_is_kept_while_there_is_no_runner(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """It is a pipe: what comes through it is saved by the keeper, and read by the next runner."""
    go = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    stay = f"while [ ! -e {tmp_path}/stay ]; do sleep 0.05; done"
    said = "echo 1 > /dev/stderr; echo 2 > /dev/stderr"
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(1)
        ending = await scheduler.script(f"{go}; {said}")
        staying = await scheduler.script(f"{go}; {said}; seq 300000 >&2; {stay}; echo 3 >&2")
        for order in (ending, staying):
            await scheduler.started(order)
    (tmp_path / "go").touch()
    await asyncio.to_thread(_wait_for_exits, tmp_path, 1)
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(2)
        (tmp_path / "stay").touch()
        assert await scheduler.log(await scheduler.finished(ending)) == "1\n2\n"
        log = await scheduler.log(await scheduler.finished(staying))
    assert log.split() == ["1", "2", *(str(n) for n in range(1, 300001)), "3"]


async def test_stderr_is_kept_after_a_runner_that_adopted_its_job_has_died_too(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """The keeper of the first one goes on to save it."""
    go = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(1)
        order = await scheduler.script(f"{go}; echo 1 >&2; echo 2 >&2")
        await scheduler.started(order)
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(2)
        boot = scheduler.boot
        await scheduler.until(
            lambda: any(b["boot"] == boot and "j1" in b["jobs"] for b in scheduler.heartbeats),
            "the job was not adopted",
        )
    (tmp_path / "go").touch()
    await asyncio.to_thread(_wait_for_exits, tmp_path, 1)
    with runner_process(nats_server, tmp_path):
        assert await scheduler.log(await scheduler.finished(order)) == "1\n2\n"
