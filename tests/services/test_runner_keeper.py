"""What starts the jobs of a runner is a process that may die as any other (design.md 7 and 11)."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from domain.facts import JobReturned, JobStarted
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.runner.procfs import processes, read_process
from services.runner.starting import FEW
from tests.services.runner_bench import PATIENCE, Bench, founded, runner_process


@pytest.fixture
async def scheduler(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Bench]:
    """A stand-in scheduler on a founded ledger; runners are processes of their own."""
    async with founded(ledger, tmp_path) as made:
        yield made


async def eventually(condition: Callable[[], bool], why: str) -> None:
    """Look at processes and files until it is so."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(why) from None


def children(pid: int) -> list[int]:
    """The children of a process, ended ones that it did not wait for included."""
    return [process.pid for process in processes() if process.parent == pid]


def until(path: Path) -> str:
    """A line of shell that waits for a file."""
    return f"while [ ! -e {path} ]; do sleep 0.05; done"


async def test_jobs_of_a_killed_keeper_end_with_right_codes_and_output(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """The runner inherits them; the next job has a keeper again."""
    ends = {"exit 0": 0, "exit 7": 7, "kill -SEGV $$": "sigsegv"}
    go = tmp_path / "go"
    with runner_process(nats_server, tmp_path) as runner:
        await scheduler.joined(1)
        orders = {
            end: await scheduler.script(f"echo begin >&2; {until(go)}; echo end >&2; {end}")
            for end in ends
        }
        for order in orders.values():
            await scheduler.started(order)
        (keeper,) = children(runner.pid)
        os.kill(keeper, signal.SIGKILL)
        await eventually(lambda: len(children(runner.pid)) == len(ends), "they were not inherited")
        go.touch()
        for end, order in orders.items():
            finished = await scheduler.finished(order)
            assert finished.code == ends[end]
            assert await scheduler.log(finished) == "begin\nend\n"
        after = await scheduler.finished(await scheduler.script("echo again; exit 3"))
        assert (after.code, await scheduler.log(after)) == (3, "again\n")


async def test_a_job_is_started_at_most_once_however_often_the_keeper_dies(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """Each order ends as its command did, or as unknown where nobody saw that."""
    ran = tmp_path / "ran"
    with runner_process(nats_server, tmp_path) as runner:
        await scheduler.joined(1)
        orders: list[int] = []
        for _ in range(8):
            script = f"echo $JOB_ID >> {ran}; echo ok"
            orders += [await scheduler.script(script) for _ in range(10)]
            await scheduler.started(orders[-9])
            for keeper in children(runner.pid):
                os.kill(keeper, signal.SIGKILL)
        codes = [(await scheduler.finished(order)).code for order in orders]
    lines = ran.read_text().split()
    assert len(lines) == len(set(lines))
    assert set(codes) <= {0, "unknown"}
    # A keeper starts one command at a time: no more than that is in doubt when it dies.
    assert codes.count("unknown") <= 8


async def test_a_stopped_keeper_of_a_dead_runner_starts_nothing_afterwards(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """The next runner waits until it knows; then it starts the job, once."""
    ran = tmp_path / "ran"
    with runner_process(nats_server, tmp_path) as runner:
        await scheduler.joined(1)
        await scheduler.started(await scheduler.script("sleep 60"))
        (keeper,) = children(runner.pid)
        os.kill(keeper, signal.SIGSTOP)
        order = await scheduler.script(f"echo ran >> {ran}", job="late")

        def taken() -> bool:
            folders = (tmp_path / "runner" / "jobs").glob("*/*/late")
            return any((work.parent / "script").stat().st_size for work in folders)

        await eventually(taken, "the runner did not take the order")
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(2)
        other = await scheduler.finished(await scheduler.script("true"))
        assert other.code == 0, "others are not held up"
        assert not ran.exists()
        os.kill(keeper, signal.SIGCONT)
        finished = await scheduler.finished(order)
    assert finished.code == 0
    assert ran.read_text() == "ran\n"


async def test_what_a_job_leaves_behind_does_not_stay_as_a_zombie(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """A process that made itself independent comes to the runner, which lets go of it."""
    with runner_process(nats_server, tmp_path) as runner:
        await scheduler.joined(1)
        left = f"setsid sh -c 'echo $$ > {tmp_path}/pid; {until(tmp_path / 'go')}' &"
        order = await scheduler.script(f"{left} {until(tmp_path / 'pid')}")
        assert (await scheduler.finished(order)).code == 0
        await eventually(lambda: len(children(runner.pid)) == 2, "it is not the runner's")
        pid = int((tmp_path / "pid").read_text())
        (tmp_path / "go").touch()
        await eventually(lambda: read_process(pid) is None, "it is still there")
        assert len(children(runner.pid)) == 1


async def test_a_large_environment_reaches_the_command(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """More than fits in one message to the keeper."""
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(1)
        params = {"first": "a" * 100_000, "second": "b" * 100_000}
        script = 'echo "${#first} ${#second}"'
        finished = await scheduler.finished(await scheduler.script(script, params=params))
        assert await scheduler.log(finished) == "100000 100000\n"


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ('echo \'{"xy": 1, "code": 0}\'', 0, ""),
        ("#!/tmp\ntrue", 1, "Child spawn error: [Errno 13] Permission denied: '{path}'"),
    ],
)
async def test_a_command_without_or_with_a_wrong_interpreter(
    scheduler: Bench,
    nats_server: EmbeddedNats,
    tmp_path: Path,
    content: str,
    code: int,
    said: str,
) -> None:
    """A script that names none is run by the shell; what cannot be started says why."""
    path = tmp_path / "program"
    path.write_text(content)
    path.chmod(0o755)
    scheduler.use(command=str(path))
    with runner_process(nats_server, tmp_path):
        await scheduler.joined(1)
        finished = await scheduler.finished(await scheduler.order())
    assert (finished.code, finished.description) == (code, said.format(path=path))


async def test_a_command_that_no_system_could_run_is_refused_and_the_keeper_goes_on(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """Given a zero byte in it, which another job's data can bring into a macro."""
    scheduler.use(command="/bin/echo a\0b")
    with runner_process(nats_server, tmp_path) as runner:
        await scheduler.joined(1)
        finished = await scheduler.finished(await scheduler.order())
        (keeper,) = children(runner.pid)
        again = await scheduler.finished(await scheduler.order())
        assert children(runner.pid) == [keeper]
    for each in (finished, again):
        said = "Child spawn error: [Errno 22] Invalid argument: '/bin/echo'"
        assert (each.code, each.description) == (1, said)


async def test_reports_do_not_wait_for_a_keeper_that_was_stopped(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """They wait for many starts, but not for long; and nothing of what was asked for is lost."""
    with runner_process(nats_server, tmp_path) as runner:
        await scheduler.joined(1)
        await scheduler.finished(await scheduler.script("true"))
        (keeper,) = children(runner.pid)
        os.kill(keeper, signal.SIGSTOP)
        orders = [await scheduler.script("true") for _ in range(2 * FEW)]
        refused = await scheduler.script("true", boot="b0")
        await scheduler.until(lambda: scheduler.find(JobReturned, refused), "the report waits")
        assert not any(scheduler.find(JobStarted, order) for order in orders)
        os.kill(keeper, signal.SIGCONT)
        for order in orders:
            assert (await scheduler.finished(order)).code == 0


async def test_more_jobs_than_there_are_files_for_wait_for_others_to_end(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """None fails for that, and those that wait start once there is room."""
    go = tmp_path / "go"
    script = f"for i in $(seq 300); do [ -e {go} ] && exit 0; sleep 0.2; done; exit 9"

    def count(kind: type) -> int:
        return sum(isinstance(report.fact, kind) for report in scheduler.reports)

    with runner_process(nats_server, tmp_path, files=128):
        await scheduler.joined(1)
        orders = [await scheduler.script(script) for _ in range(120)]
        await scheduler.until(lambda: count(JobStarted) >= 4, "none runs")
        go.touch()
        assert {(await scheduler.finished(order)).code for order in orders} == {0}
