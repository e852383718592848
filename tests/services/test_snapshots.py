"""A scheduler that was killed goes on from a snapshot as if it had read the whole ledger."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from domain import facts as f
from domain.facts import Json
from services.ledger import snapshots as store
from services.ledger.connection import Ledger
from services.ledger.founding import found
from services.ledger.streams import SNAPSHOTS, ensure_streams
from services.scheduler.service import Scheduler
from services.settings import Settings
from services.snapshots import DAY, FACTS, FEW, INTERVAL, Pace
from tests.services.test_scheduler import PATIENCE, WHO, Stack

ONE_AT_A_TIME: list[Json] = [
    {"type": "job", "enabled": True, "amount": 1},
    {"type": "queue", "enabled": True, "amount": 100},
]


class Bench(Stack):
    """A founded ledger, a runner that holds its jobs, and schedulers that may be killed."""

    @contextlib.asynccontextmanager
    async def killed(self) -> AsyncIterator[Scheduler]:
        """A scheduler that leads and then ends without a word."""
        scheduler = Scheduler(self.settings, self.ledger, time.time)
        scheduler._resign = _say_nothing  # type: ignore[method-assign]
        task = asyncio.create_task(scheduler.run())
        try:
            await self.leads(scheduler)
            yield scheduler
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator[Scheduler]:
        """A scheduler that has read everything and decides nothing."""
        scheduler = Scheduler(self.settings, self.ledger, time.time)
        task = asyncio.create_task(scheduler.follower.run())
        try:
            async with asyncio.timeout(PATIENCE):
                await scheduler.follower.caught_up.wait()
            yield scheduler
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def leads(self, scheduler: Scheduler) -> None:
        await self.book.until(
            "its term",
            lambda: any(
                isinstance(r.fact, f.TermStarted) and r.fact.instance == scheduler.instance
                for r in self.book.facts
            ),
        )

    async def snapshot(self) -> int:
        """A snapshot of everything that stands on the ledger now; its position."""
        async with self.reader() as reader:
            await reader.snapshots.write()
            return reader.follower.position

    async def damage(self, position: int) -> None:
        """Other bytes stand where this snapshot stood."""
        [kept] = [s for s in await store.snapshots(self.ledger) if s.position == position]
        data = bytearray(await store.read_snapshot(self.ledger, kept))
        data[len(data) // 2] ^= 0xFF
        await self.ledger.api(f"STREAM.PURGE.{SNAPSHOTS}", {"filter": kept.subject})
        assert kept.parts == 1
        await self.ledger.request(kept.subject, bytes(data))

    async def finish_all(self, *jobs: str) -> None:
        """Let the runner end these jobs, which run one after the other."""
        for job in jobs:
            await self.book.until(
                f"the start of {job}", lambda job=job: self.book.of(f.JobStarted, job)
            )
            await self.runner.finish(job)
        await self.ended(*jobs)


async def _say_nothing() -> None:
    return None


@pytest.fixture
async def bench(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Bench]:
    await found(ledger, tmp_path, time.time())
    made = Bench(ledger, Settings(data_dir=tmp_path, timezone="UTC"))
    made.runner.hold = True
    await made.runner.join()
    tasks = [
        asyncio.create_task(made.book.follower.run()),
        asyncio.create_task(made.runner.serve()),
    ]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_running_and_queued_jobs_go_on_in_order_after_a_kill(bench: Bench) -> None:
    async with bench.killed() as first:
        await bench.define(limits=ONE_AT_A_TIME)
        jobs = [await bench.run() for _ in range(4)]
        await bench.book.until("the queue", lambda: len(bench.book.of(f.JobQueued)) == 3)
        await bench.book.until("the start", lambda: bench.book.of(f.JobStarted, jobs[0]))
        await first.snapshots.write()
        position = first.follower.position
        jobs.append(await bench.run())  # after the snapshot
    async with bench.scheduler() as second:
        await bench.finish_all(*jobs)
        assert 0 < second.snapshots.restored <= position
        assert first.instance != second.instance
    assert [r.fact.job for r in bench.book.of(f.JobAssigned)] == jobs


async def test_a_retry_that_was_owed_at_the_snapshot_is_requested(bench: Bench) -> None:
    await bench.define()
    job = await bench.run()
    completed = f.JobCompleted(
        at=time.time(),
        actor=WHO,
        event="e1",
        job=job,
        code=1,
        description="failed",
        retry=f.Follower(job="j9999"),
    )
    await bench.ledger.append(completed, id="completed")
    position = await bench.snapshot()
    async with bench.scheduler() as scheduler:
        await bench.finish_all("j9999")
        assert scheduler.snapshots.restored == position
    [request] = [r.fact for r in bench.book.of(f.JobRequested, "j9999")]
    assert isinstance(request, f.JobRequested)
    assert (request.retry_prev, request.retry_count) == (job, 1)


async def test_every_due_second_has_one_fire_across_a_kill(bench: Bench) -> None:
    bench.runner.hold = False
    start = int(time.time())
    async with bench.killed() as first:
        trigger = {"type": "interval", "enabled": True, "start": start, "duration": 1}
        await bench.define(triggers=[trigger])
        await bench.book.until("two fires", lambda: len(bench.book.of(f.JobRequested)) >= 2)
        await first.snapshots.write()
        before = len(bench.book.of(f.JobRequested))
        await bench.book.until(
            "a fire after the snapshot", lambda: len(bench.book.of(f.JobRequested)) > before
        )
    fired = len(bench.book.of(f.JobRequested))
    async with bench.scheduler() as second:
        await bench.book.until(
            "fires of the next leader", lambda: len(bench.book.of(f.JobRequested)) >= fired + 3
        )
        assert second.snapshots.restored > 0
    dues = sorted(r.fact.now for r in bench.book.of(f.JobRequested))
    assert dues == [dues[0] + n for n in range(len(dues))]


async def test_a_damaged_snapshot_gives_way_to_the_older_one(bench: Bench) -> None:
    await bench.define(limits=ONE_AT_A_TIME)
    older = await bench.snapshot()
    job = await bench.run()
    newer = await bench.snapshot()
    await bench.damage(newer)
    async with bench.scheduler() as scheduler:
        await bench.finish_all(job)
        assert scheduler.snapshots.restored == older


async def test_without_a_snapshot_that_can_be_read_everything_is_folded(bench: Bench) -> None:
    await bench.define(limits=ONE_AT_A_TIME)
    older = await bench.snapshot()
    job = await bench.run()
    newer = await bench.snapshot()
    await bench.damage(older)
    await bench.damage(newer)
    async with bench.scheduler() as scheduler:
        await bench.finish_all(job)
        assert scheduler.snapshots.restored == 0


async def test_another_ledgers_snapshot_is_not_used(bench: Bench) -> None:
    await bench.define()
    position = await bench.snapshot()
    await bench.ledger.api("STREAM.DELETE.LEDGER")
    bench.ledger.highest = 0
    await ensure_streams(bench.ledger)
    await found(bench.ledger, bench.settings.data_dir, time.time())
    while await bench.ledger.end() <= position:
        switched = f.MasterSwitched(at=time.time(), actor=WHO, enabled=True)
        await bench.ledger.append(switched, id=os.urandom(4).hex())
    scheduler = Scheduler(bench.settings, bench.ledger, time.time)
    await scheduler.snapshots.restore()
    assert scheduler.snapshots.restored == 0


async def test_a_snapshot_ahead_of_the_ledger_is_not_used(bench: Bench) -> None:
    async with bench.reader() as reader:
        reader.follower.position += 1000
        await reader.snapshots.write()
    scheduler = Scheduler(bench.settings, bench.ledger, time.time)
    await scheduler.snapshots.restore()
    assert scheduler.snapshots.restored == 0


async def test_days_counted_in_another_zone_are_not_gone_on_with(bench: Bench) -> None:
    await bench.snapshot()
    settings = replace(bench.settings, timezone="Asia/Tokyo")
    scheduler = Scheduler(settings, bench.ledger, time.time)
    await scheduler.snapshots.restore()
    assert scheduler.snapshots.restored == 0


async def test_the_last_two_snapshots_are_kept(ledger: Ledger) -> None:
    for position in (10, 20, 30):
        await store.write_snapshot(ledger, position, b"x" * position)

    assert [s.position for s in await store.snapshots(ledger)] == [30, 20]


async def test_a_large_snapshot_comes_back_whole(ledger: Ledger) -> None:
    data = os.urandom(2 * store.PART + 1)
    await store.write_snapshot(ledger, 7, data)

    [kept] = await store.snapshots(ledger)
    assert (kept.parts, await store.read_snapshot(ledger, kept)) == (3, data)


async def test_a_snapshot_whose_writer_died_does_not_count(ledger: Ledger) -> None:
    await store.write_snapshot(ledger, 10, b"whole")
    await ledger.request(f"{store.PREFIX}.20.3.half", b"a third")
    assert [s.position for s in await store.snapshots(ledger)] == [10]

    await store.write_snapshot(ledger, 30, b"whole as well")

    assert [s.position for s in await store.snapshots(ledger)] == [30, 10]


async def test_what_else_is_kept_beside_the_snapshots_stays(ledger: Ledger) -> None:
    await ledger.request("snapshots.erasing", b"{}")
    for position in (1, 2, 3):
        await store.write_snapshot(ledger, position, b"x")

    info = await ledger.api(f"STREAM.INFO.{SNAPSHOTS}", {"subjects_filter": "snapshots.erasing"})
    assert info["state"]["subjects"] == {"snapshots.erasing": 1}


def test_snapshots_that_take_long_are_written_less_often() -> None:
    pace = Pace(0, 0.0)
    pace.taken(FACTS, 10.0)
    pace.took(2.0)
    assert not pace.is_due(2 * FACTS, 10.0 + 39.0)
    assert pace.is_due(2 * FACTS, 10.0 + 41.0)


@pytest.mark.parametrize(
    ("facts", "waited", "due"),
    [
        (0, DAY * 9, False),
        (1, DAY, True),
        (FEW - 1, INTERVAL, False),
        (FEW, INTERVAL, True),
        (FACTS - 1, INTERVAL - 1, False),
        (FACTS, 0.0, True),
    ],
)
def test_a_snapshot_is_due(facts: int, waited: float, due: bool) -> None:
    assert Pace(1000, 50.0).is_due(1000 + facts, 50.0 + waited) is due
