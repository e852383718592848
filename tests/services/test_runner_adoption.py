"""A dead runner stops no job and loses no output (design.md 7 and 11)."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from domain.facts import Actor, JobFinished, LedgerFounded, ServerJoined
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from tests.services.runner_bench import SERVER, Bench, bench

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def scheduler(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Bench]:
    """A stand-in scheduler on a founded ledger; runners are processes of their own."""
    founded = LedgerFounded(at=time.time(), actor=Actor(type="system", id="s"), ledger="l1")
    await ledger.append(founded, id="founded")
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / "id").write_text(SERVER)
    async with bench(ledger) as made:
        yield made


@contextmanager
def runner_process(server: EmbeddedNats, directory: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A runner of its own; killed at the end, its jobs are not."""
    env = os.environ | {"JOBLEDGER_DATA_DIR": str(directory), "JOBLEDGER_NATS": server.url}
    command = [sys.executable, "-m", "tests.services.runner_process"]
    process = subprocess.Popen(command, env=env, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def joined(scheduler: Bench, count: int) -> None:
    """Wait for the join of the runner that was started as number `count`."""

    def boots() -> list[str]:
        return [r.fact.boot for r in scheduler.reports if isinstance(r.fact, ServerJoined)]

    await scheduler.until(lambda: len(boots()) >= count, f"runner {count} did not join")
    scheduler.boot = boots()[-1]


async def test_25_jobs_survive_a_killed_runner_with_right_codes_and_output(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """Some end while no runner is there, some after it is back."""
    orders = {}
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 1)
        for number in range(25):
            late = f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done\n" if number % 2 else ""
            script = f"echo begin {number}\nsleep 0.7\n{late}echo end {number}; exit {number}"
            orders[number] = await scheduler.script(script)
        for order in orders.values():
            await scheduler.started(order)
    assert not any(isinstance(r.fact, JobFinished) for r in scheduler.reports)
    await asyncio.to_thread(_wait_for_exits, tmp_path, 13)
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 2)
        (tmp_path / "go").touch()
        for number, order in orders.items():
            finished = await scheduler.finished(order)
            assert finished.code == number
            assert await scheduler.log(finished) == f"begin {number}\nend {number}\n"
    join = [r.fact for r in scheduler.reports if isinstance(r.fact, ServerJoined)][-1]
    assert {held.order for held in join.inventory} == set(orders.values())


def _wait_for_exits(directory: Path, count: int) -> None:
    """Until so many wrappers have written how their command ended."""
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
            await joined(scheduler, round_number)
            script = f"echo $JOB_ID >> {ran}; echo ok"
            orders += [await scheduler.script(script) for _ in range(10)]
            # Killed in the middle of its work, wherever that is.
            process.send_signal(signal.SIGKILL)
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 5)
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


async def test_a_job_killed_with_its_wrapper_unseen_ends_as_unknown(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """No process and no exit line: code unknown, the output is complete."""
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 1)
        order = await scheduler.script("echo here; sleep 60")
        pid = (await scheduler.started(order)).pid
        await scheduler.telemetry("j1", lambda entry: entry["log_size"])
    os.killpg(pid, signal.SIGKILL)
    with runner_process(nats_server, tmp_path):
        finished = await scheduler.finished(order)
    assert finished.code == "unknown"
    assert await scheduler.log(finished) == "here\n"


async def test_an_adopted_job_can_be_aborted(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """Adoption is whole: telemetry goes on and an abort ends the process."""
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 1)
        order = await scheduler.script("echo 10%; sleep 60")
        await scheduler.telemetry("j1", lambda entry: entry["progress"] == 0.1)
    scheduler.heartbeats.clear()
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 2)
        await scheduler.telemetry("j1", lambda entry: entry["progress"] == 0.1)
        await scheduler.abort(order, "Enough.")
        finished = await scheduler.finished(order)
    assert (finished.code, finished.description) == ("abort", "Enough.")


async def test_stderr_is_kept_while_there_is_no_runner(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """It is a pipe: what is in it is saved by the wrapper, or read by the next runner."""
    go = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    stay = f"while [ ! -e {tmp_path}/stay ]; do sleep 0.05; done"
    said = "echo 1 > /dev/stderr; echo 2 > /dev/stderr"
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 1)
        ending = await scheduler.script(f"{go}; {said}")
        staying = await scheduler.script(f"{go}; {said}; seq 300000 >&2; {stay}; echo 3 >&2")
        for order in (ending, staying):
            await scheduler.started(order)
    (tmp_path / "go").touch()
    await asyncio.to_thread(_wait_for_exits, tmp_path, 1)
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 2)
        (tmp_path / "stay").touch()
        assert await scheduler.log(await scheduler.finished(ending)) == "1\n2\n"
        log = await scheduler.log(await scheduler.finished(staying))
    assert log.split() == ["1", "2", *(str(n) for n in range(1, 300001)), "3"]


async def test_stderr_is_kept_after_a_runner_that_adopted_its_job_has_died_too(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """A wrapper leaves the pipe to whoever adopts it, for as long as that runner lives."""
    go = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 1)
        order = await scheduler.script(f"{go}; echo 1 >&2; echo 2 >&2")
        await scheduler.started(order)
    with runner_process(nats_server, tmp_path):
        await joined(scheduler, 2)
        boot = scheduler.boot
        await scheduler.until(
            lambda: any(b["boot"] == boot and "j1" in b["jobs"] for b in scheduler.heartbeats),
            "the job was not adopted",
        )
    (tmp_path / "go").touch()
    await asyncio.to_thread(_wait_for_exits, tmp_path, 1)
    with runner_process(nats_server, tmp_path):
        assert await scheduler.log(await scheduler.finished(order)) == "1\n2\n"
