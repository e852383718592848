"""Neither a dead NATS nor a leaving runner disturbs a job (design.md 11)."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from domain.facts import JobFinished, JobReturned, JobStarted, ServerJoined, ServerLeft
from services.errors import ConfigError
from services.ledger import live
from services.ledger.authority import Authority
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.streams import ensure_streams
from services.runner.procfs import read_process
from services.runner.run import refuse_twin, server_id
from tests.services.runner_bench import PATIENCE, SERVER, bench, running


async def test_jobs_go_on_without_nats_and_are_reported_afterwards_in_order(
    own_server: EmbeddedNats, tmp_path: Path
) -> None:
    """Two jobs end while NATS is down: nothing is lost, nothing is told twice."""
    async with Ledger.open(own_server.url, name="test") as ledger:
        await ensure_streams(ledger)
        async with bench(ledger) as scheduler, running(scheduler, tmp_path) as runner:
            orders = [
                await scheduler.script(
                    f"echo begin; while [ ! -e {tmp_path}/go{n} ]; do sleep 0.05; done; exit {n}"
                )
                for n in (1, 2)
            ]
            for order in orders:
                await scheduler.started(order)
            assert own_server.pid is not None
            os.kill(own_server.pid, signal.SIGKILL)
            await own_server.exited()
            for n, job in ((1, "j1"), (2, "j2")):
                (tmp_path / f"go{n}").touch()
                async with asyncio.timeout(10):
                    await runner.runs[job].over.wait()
            await own_server.start()
            for n, order in enumerate(orders, 1):
                finished = await scheduler.finished(order)
                assert finished.code == n
                assert await scheduler.log(finished) == "begin\n"
            again = await scheduler.script("exit 7")
            assert (await scheduler.finished(again)).code == 7
        facts = [r.fact for r in scheduler.reports]
        ends = [f.order for f in facts if isinstance(f, JobFinished)]
        assert ends == [*orders, again]
        assert len([f for f in facts if isinstance(f, JobStarted)]) == 3


async def test_a_leaving_runner_says_so_and_leaves_its_jobs_running(
    ledger: Ledger, tmp_path: Path
) -> None:
    """A clean stop ends no job; the next runner adopts it."""
    async with bench(ledger) as scheduler:
        async with running(scheduler, tmp_path):
            order = await scheduler.script("sleep 1; echo done")
            pid = (await scheduler.started(order)).pid
        assert await scheduler.until(
            lambda: [r for r in scheduler.reports if isinstance(r.fact, ServerLeft)],
            "did not leave",
        )
        assert read_process(pid) is not None
        async with running(scheduler, tmp_path):
            finished = await scheduler.finished(order)
    assert finished.code == 0
    assert await scheduler.log(finished) == "done\n"


async def test_a_draining_runner_ends_with_its_last_job(ledger: Ledger, tmp_path: Path) -> None:
    """It gives back what is assigned to it and returns once everything is reported."""
    async with bench(ledger) as scheduler:
        async with running(scheduler, tmp_path):
            order = await scheduler.script(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done")
            await scheduler.started(order)
        async with running(scheduler, tmp_path, drain=True) as runner:
            refused = await scheduler.script("true")
            await scheduler.until(lambda: scheduler.find(JobReturned, refused), "not given back")
            (tmp_path / "go").touch()
            assert (await scheduler.finished(order)).code == 0
            async with asyncio.timeout(5):
                await runner.ended.wait()


async def test_a_second_runner_with_the_same_id_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    """A live heartbeat with the same id and another boot ends the start."""
    async with bench(ledger) as scheduler, running(scheduler, tmp_path):
        with pytest.raises(ConfigError, match="Another runner with the id s1 is alive"):
            await refuse_twin(ledger, SERVER, "b_other")
    await refuse_twin(ledger, SERVER, "b_other")


async def test_a_runner_whose_place_another_one_has_taken_ends(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Given one that did not hear the other start, then it says why, and the other has the jobs."""
    async with bench(ledger) as scheduler:

        async def outlived() -> None:
            async with running(scheduler, tmp_path / "older") as older:
                await scheduler.started(await scheduler.script("exec sleep 60"))
                async with running(scheduler, tmp_path / "newer"):
                    async with asyncio.timeout(PATIENCE):
                        await older.ended.wait()
                    assert (await scheduler.finished(await scheduler.script("true"))).code == 0

        with pytest.raises(ConfigError, match="in the place of this one"):
            await outlived()
        left = [r.fact for r in scheduler.reports if isinstance(r.fact, ServerLeft)]
    assert [fact.boot for fact in left] == [scheduler.boot]


NOBODY = "nats://127.0.0.1:4222"


def test_a_directory_keeps_its_server_id(tmp_path: Path) -> None:
    """Generated once, or given once; another one is refused."""
    made = server_id(tmp_path, None, NOBODY)
    assert server_id(tmp_path, None, NOBODY) == server_id(tmp_path, made, NOBODY) == made
    with pytest.raises(ConfigError, match="belongs to the server"):
        server_id(tmp_path, "other", NOBODY)
    with pytest.raises(ConfigError, match="a-z, 0-9 and _"):
        server_id(tmp_path, "Not-An-Id", NOBODY)


def test_a_directory_does_not_keep_an_id_that_its_login_is_not_for(tmp_path: Path) -> None:
    login = Authority.new().signer.login("runner", "west1").url("127.0.0.1:4222")
    for mistaken in ("west2", None):
        with pytest.raises(ConfigError, match="This login is for the server west1"):
            server_id(tmp_path, mistaken, login)

    assert server_id(tmp_path, "west1", login) == "west1"


async def test_heartbeats_come_each_second_and_at_once(ledger: Ledger, tmp_path: Path) -> None:
    """The first one follows the join immediately and tells load and memory."""
    async with bench(ledger) as scheduler, running(scheduler, tmp_path):
        before = time.monotonic()
        beats = await scheduler.until(lambda: scheduler.heartbeats, "no heartbeat")
        assert time.monotonic() - before < 0.5
        assert beats[0]["boot"] == scheduler.boot
        assert beats[0]["info"]["memory"]["total"] > beats[0]["info"]["memory"]["active"] > 0
        joined = await scheduler.until(lambda: scheduler.reports, "no join")
        assert isinstance(joined[0].fact, ServerJoined)
        assert joined[0].fact.hostname == "testhost"


async def test_a_running_jobs_log_is_read_by_request(ledger: Ledger, tmp_path: Path) -> None:
    """By offset and length, from the end with a negative offset (design.md 8)."""
    async with bench(ledger) as scheduler, running(scheduler, tmp_path):
        order = await scheduler.script("echo 0123456789; echo err >&2; sleep 30")
        await scheduler.telemetry("j1", lambda entry: entry["log_size"] == 15)

        async def ask(**request: object) -> live.RawAnswer:
            return await live.ask_raw(ledger, f"live.log.{SERVER}", request, 2)

        part = await ask(job="j1", offset=2, length=3)
        assert (part.data, part.headers["Log-Size"], part.headers["Log-Offset"]) == (
            b"234",
            "15",
            "2",
        )
        tail = await ask(job="j1", offset=-4, length=100)
        assert (tail.data, tail.headers["Log-Offset"]) == (b"err\n", "11")
        assert "Log-Error" in (await ask(job="j9", offset=0, length=1)).headers
        await scheduler.abort(order)
        await scheduler.finished(order)
