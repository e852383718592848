"""The scheduler against a real ledger; a stand-in runner speaks the runner's facts."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from msgspec.structs import replace

from domain import facts as f
from domain.defaults import default_facts
from domain.facts import Actor, Json, Recorded
from services.ledger import live
from services.ledger.connection import Ledger
from services.ledger.reader import Follower
from services.scheduler.service import SWEEP, Scheduler
from services.settings import Settings

WHO = Actor(type="key", id="ktest")
BEATING = 0.2  # seconds between the stand-in's heartbeats
PATIENCE = 20.0
LONG = 300  # requests make a burst in which a crowd waits


@dataclass
class Ledgerbook:
    """Everything that stands on the ledger, read as it comes."""

    ledger: Ledger
    facts: list[Recorded] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.follower = Follower(self.ledger, self._take, after=0)

    def _take(self, recorded: Recorded) -> None:
        self.facts.append(recorded)

    def of(self, kind: type[f.FactBase], job: str | None = None) -> list[Recorded]:
        return [
            r
            for r in self.facts
            if isinstance(r.fact, kind) and (job is None or getattr(r.fact, "job", "") == job)
        ]

    async def until(self, what: str, found: Callable[[], object]) -> None:
        """Wait until the ledger says so."""
        end = time.monotonic() + PATIENCE
        while not found():
            left = end - time.monotonic()
            assert left > 0, (
                f"waited {PATIENCE} s for {what}; kinds: {[r.fact.kind for r in self.facts][-20:]}"
            )
            await self.follower.reached(self.follower.position + 1, min(left, 0.5))


@dataclass
class Runner:
    """Answers orders at once, or holds the jobs until told."""

    ledger: Ledger
    id: str = "s1"
    boot: str = "boot1"
    hold: bool = False
    mute: bool = False
    held: dict[str, tuple[int, f.JobAssigned]] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    running: int = 0
    most: int = 0
    telemetry: Json = field(default_factory=dict)

    async def join(self) -> None:
        fact = f.ServerJoined(
            at=time.time(),
            actor=Actor(type="runner", id=self.boot),
            server=self.id,
            boot=self.boot,
            machine_boot="m1",
            hostname="host.one",
        )
        await self.ledger.append(fact, id=f"join-{self.id}-{self.boot}")

    async def serve(self) -> None:
        orders: asyncio.Queue[Recorded] = asyncio.Queue()
        follower = Follower(
            self.ledger, orders.put_nowait, after=0, subjects=[f"facts.order.{self.id}"]
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follower.run())
            tasks.create_task(self._beat(follower))
            while True:
                recorded = await orders.get()
                match recorded.fact:
                    case f.JobAssigned() as order:
                        self.held[order.job] = (recorded.sequence, order)
                        await self._start(recorded.sequence, order)
                        if not self.hold:
                            tasks.create_task(self.finish(order.job))
                    case f.JobAbortOrdered(job=job):
                        tasks.create_task(self.finish(job, code="abort", aborted=True))

    async def _beat(self, follower: Follower) -> None:
        while True:
            now = time.monotonic()
            jobs = {
                job: {"order": order, "elapsed": now - self.began[job]} | self.telemetry
                for job, (order, _) in self.held.items()
                if job in self.began
            }
            beat = {
                "server": self.id,
                "boot": self.boot,
                "at": time.time(),
                "order_position": follower.position,
                "jobs": jobs,
                "info": {},
            }
            if not self.mute:
                live.publish(self.ledger, f"live.server.{self.id}", beat)
            await asyncio.sleep(BEATING)

    def _report(self, order: int, assigned: f.JobAssigned, **fields: object) -> Json:
        return {
            "at": time.time(),
            "actor": {"type": "runner", "id": self.boot},
            "server": self.id,
            "boot": self.boot,
            "event": assigned.event,
            "job": assigned.job,
            "order": order,
        } | fields

    async def _start(self, order: int, assigned: f.JobAssigned) -> None:
        self.began[assigned.job] = time.monotonic()
        self.running += 1
        self.most = max(self.most, self.running)
        fields = self._report(order, assigned, pid=1, started=time.time())
        await self.ledger.append(f.from_plain(f.JobStarted, fields), id=f"{order}-started")

    async def finish(
        self, job: str, code: int | str = 0, aborted: bool = False, **more: object
    ) -> None:
        order, assigned = self.held[job]
        self.running -= 1
        end: Json = {"code": code, "description": "", "ended": time.time(), "aborted": aborted}
        fields = self._report(order, assigned, **(end | more))
        await self.ledger.append(f.from_plain(f.JobFinished, fields), id=f"{order}-finished")
        del self.held[job]


class Stack:
    """A ledger with default records, its book, a runner, and schedulers."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.ledger = ledger
        self.settings = settings
        self.book = Ledgerbook(ledger)
        self.runner = Runner(ledger)
        self._jobs = 0

    async def define(self, event: str = "e1", **fields: object) -> None:
        definition: Json = {
            "id": event,
            "title": event,
            "enabled": True,
            "category": "general",
            "plugin": "shellplug",
            "targets": ["main"],
            "algo": "random",
            "params": {"script": "true"},
            "triggers": [{"type": "manual", "enabled": True}],
        } | fields
        self.content = definition
        fact = f.EventCreated(at=time.time(), actor=WHO, event=event, definition=definition)
        self.definition = await self.ledger.append(fact, id=f"create-{event}")

    async def run(self, event: str = "e1", **fields: object) -> str:
        self._jobs += 1
        job = f"j{self._jobs:04}"
        fact = f.from_plain(
            f.JobRequested,
            {
                "at": time.time(),
                "actor": WHO,
                "event": event,
                "job": job,
                "made_of": {"event": self.definition},
                "source": "key",
                "username": "ktest",
                "now": time.time(),
            }
            | fields,
        )
        await self.ledger.append(fact, id=job)
        return job

    async def ended(self, *jobs: str) -> list[f.JobCompleted]:
        for job in jobs:
            end = partial(self.book.of, f.JobCompleted, job)
            await self.book.until(f"the end of {job}", end)
        found = [self.book.of(f.JobCompleted, job) for job in jobs]
        assert all(len(x) == 1 for x in found)
        return [x[0].fact for x in found]  # type: ignore[misc]

    @contextlib.asynccontextmanager
    async def scheduler(self) -> AsyncIterator[Scheduler]:
        scheduler = Scheduler(self.settings, self.ledger, time.time)
        task = asyncio.create_task(scheduler.run())
        try:
            yield scheduler
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def stack(ledger: Ledger, tmp_path) -> AsyncIterator[Stack]:
    for number, fact in enumerate(default_facts(time.time(), WHO)):
        await ledger.append(fact, id=f"default-{number}")
    made = Stack(ledger, Settings(data_dir=tmp_path, timezone="UTC"))
    await made.runner.join()
    tasks = [
        asyncio.create_task(made.book.follower.run()),
        asyncio.create_task(made.runner.serve()),
    ]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_requested_job_is_assigned_and_completed(stack: Stack) -> None:
    async with stack.scheduler():
        await stack.define()
        [end] = await stack.ended(await stack.run())
    assert (end.code, end.tags) == (0, ["_success", "_last"])
    assert len(stack.book.of(f.JobAssigned)) == 1


async def test_a_clean_stop_ends_the_term_and_the_next_takes_over_at_once(stack: Stack) -> None:
    await stack.define()
    async with stack.scheduler():
        await stack.ended(await stack.run())
    await stack.book.until("the end of the term", lambda: stack.book.of(f.TermEnded))
    async with stack.scheduler():
        await stack.ended(await stack.run())
    assert len(stack.book.of(f.TermStarted)) == 2


async def test_jobs_wait_in_order_and_never_more_run_than_allowed(stack: Stack) -> None:
    limits = [
        {"type": "job", "enabled": True, "amount": 4},
        {"type": "queue", "enabled": True, "amount": 1000},
    ]
    async with stack.scheduler():
        await stack.define(limits=limits)
        jobs = [await stack.run() for _ in range(100)]
        await stack.ended(*jobs)
    assert stack.runner.most <= 4
    assert [r.fact.job for r in stack.book.of(f.JobAssigned)] == jobs


async def test_an_abort_reaches_a_running_job_through_its_runner(stack: Stack) -> None:
    stack.runner.hold = True
    async with stack.scheduler():
        await stack.define()
        job = await stack.run()
        await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, job))
        abort = f.JobAbortRequested(at=time.time(), actor=WHO, event="e1", job=job, reason="enough")
        await stack.ledger.append(abort, id="abort")
        [end] = await stack.ended(job)
    assert (end.code, end.description) == ("abort", "enough")


async def test_a_flush_removes_the_queued_jobs_and_only_those(stack: Stack) -> None:
    stack.runner.hold = True
    limits = [
        {"type": "job", "enabled": True, "amount": 1},
        {"type": "queue", "enabled": True, "amount": 9},
    ]
    async with stack.scheduler():
        await stack.define(limits=limits)
        jobs = [await stack.run() for _ in range(3)]
        await stack.book.until("the queue", lambda: len(stack.book.of(f.JobQueued)) == 2)
        flush = f.QueueFlushRequested(at=time.time(), actor=WHO, event="e1")
        await stack.ledger.append(flush, id="flush")
        await stack.book.until("the answer", lambda: stack.book.of(f.QueueFlushed))
    [answer] = stack.book.of(f.QueueFlushed)
    assert isinstance(answer.fact, f.QueueFlushed)
    assert answer.fact.jobs == jobs[1:]


async def test_what_was_asked_for_just_before_a_flush_is_flushed(stack: Stack) -> None:
    async with stack.scheduler():
        await _one_runs(stack, queue=1000)
        jobs = [await stack.run() for _ in range(LONG + 9)]
        flush = f.QueueFlushRequested(at=time.time(), actor=WHO, event="e1")
        await stack.ledger.append(flush, id="flush")
        await stack.book.until("the answer", lambda: stack.book.of(f.QueueFlushed))
    [answer] = stack.book.of(f.QueueFlushed)
    assert isinstance(answer.fact, f.QueueFlushed)
    assert answer.fact.jobs == jobs


async def test_many_jobs_that_must_queue_are_queued_together_in_their_order(stack: Stack) -> None:
    async with stack.scheduler():
        await _one_runs(stack, queue=1000)
        jobs = [await stack.run() for _ in range(600)]
        queued = partial(stack.book.of, f.JobQueued)
        await stack.book.until("the queue", lambda: len(queued()) == 600)
    assert [r.fact.job for r in queued()] == jobs
    assert len({r.fact.at for r in queued()}) < 200


async def test_a_job_that_must_queue_after_a_burst_does_not_wait_for_the_next_sweep(
    stack: Stack,
) -> None:
    async with stack.scheduler():
        await _one_runs(stack, queue=1000)
        waits = []
        for _ in range(3):
            burst = [await stack.run() for _ in range(LONG)]
            await stack.book.until("the queue", partial(stack.book.of, f.JobQueued, burst[-1]))
            last = await stack.run()
            queued = partial(stack.book.of, f.JobQueued, last)
            await stack.book.until("its place in the queue", queued)
            [requested] = stack.book.of(f.JobRequested, last)
            waits.append(queued()[0].fact.at - requested.fact.at)
    assert sorted(waits)[1] < SWEEP / 3


async def test_a_queue_takes_no_more_than_it_has_room_for_at_once(stack: Stack) -> None:
    async with stack.scheduler():
        await _one_runs(stack, queue=5)
        jobs = [await stack.run() for _ in range(9)]
        ends = await stack.ended(*jobs[5:])
        queued = partial(stack.book.of, f.JobQueued)
        await stack.book.until("the queue", lambda: len(queued()) == 5)
    assert [r.fact.job for r in queued()] == jobs[:5]
    assert {end.code for end in ends} == {"abort"}


async def _one_runs(stack: Stack, queue: int) -> None:
    """The event's only slot is taken."""
    stack.runner.hold = True
    limits = [
        {"type": "job", "enabled": True, "amount": 1},
        {"type": "queue", "enabled": True, "amount": queue},
    ]
    await stack.define(limits=limits)
    first = await stack.run()
    await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, first))


async def test_a_failed_job_is_retried_as_often_as_allowed(stack: Stack) -> None:
    stack.runner.hold = True
    async with stack.scheduler():
        await stack.define(limits=[{"type": "retry", "enabled": True, "amount": 1}])
        job = await stack.run()
        await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, job))
        await stack.runner.finish(job, code=3)
        [end] = await stack.ended(job)
        assert end.retry is not None
        second = end.retry.job
        await stack.book.until("the retry", lambda: stack.book.of(f.JobStarted, second))
        await stack.runner.finish(second, code=3)
        [last] = await stack.ended(second)
    assert (last.retry, last.tags) == (None, ["_error", "_last"])


async def test_a_job_whose_event_was_disabled_meanwhile_is_not_retried_and_has_its_actions(
    stack: Stack,
) -> None:
    stack.runner.hold = True
    error = {"type": "tag", "condition": "error", "enabled": True, "tags": ["bad"]}
    async with stack.scheduler():
        await stack.define(
            limits=[{"type": "retry", "enabled": True, "amount": 1}], actions=[error]
        )
        job = await stack.run()
        await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, job))
        disabled = f.EventUpdated(
            at=time.time(),
            actor=WHO,
            event="e1",
            definition=stack.content | {"enabled": False},
            changed=["enabled"],
        )
        await stack.ledger.append(disabled, id="disable-e1")
        await stack.runner.finish(job, code=1)
        [end] = await stack.ended(job)
    assert (end.retry, end.tags) == (None, ["_error", "_last"])
    assert len(stack.book.of(f.ActionEnded, job)) == 1
    assert len(stack.book.of(f.JobRequested)) == 1


async def test_no_job_ends_because_its_server_was_just_started_anew(stack: Stack) -> None:
    """Between the ServerJoined of a new boot and its first heartbeat the server is there, too."""
    async with stack.scheduler():
        await stack.define()
        await stack.ended(await stack.run())
        stack.runner.mute, stack.runner.boot = True, "boot2"
        await stack.runner.join()
        job = await stack.run()
        [end] = await stack.ended(job)
    assert end.code == 0
    assert [r.fact.boot for r in stack.book.of(f.JobAssigned, job)] == ["boot2"]


async def test_a_multiplex_job_runs_on_every_server(stack: Stack) -> None:
    other = Runner(stack.ledger, id="s2", boot="boot2")
    await other.join()
    serving = asyncio.create_task(other.serve())
    try:
        async with stack.scheduler() as scheduler:
            await stack.book.until("two servers", lambda: _present(scheduler) == 2)
            await stack.define(algo="multiplex")
            parent = await stack.run()
            [end] = await stack.ended(parent)
    finally:
        serving.cancel()
    assert end.code == 0
    assert end.workflow is not None
    assert {r["server"] for r in end.workflow["jobs"]["job"]} == {"s1", "s2"}


def _present(scheduler: Scheduler) -> int:
    chooser = scheduler.dispatching.chooser
    return sum(chooser.present(server) for server in ("s1", "s2"))


async def test_a_fire_comes_on_time_once(stack: Stack) -> None:
    async with stack.scheduler():
        start = int(time.time())
        trigger = {"type": "interval", "enabled": True, "start": start, "duration": 1}
        await stack.define(triggers=[trigger])
        await stack.book.until("three fires", lambda: len(stack.book.of(f.JobRequested)) >= 3)
    fires = [r.fact for r in stack.book.of(f.JobRequested)]
    dues = [x.now for x in fires]
    assert dues == sorted(set(dues))
    assert all(x.at - x.now < 0.5 for x in fires)


async def test_a_fire_and_the_order_for_its_job_are_decided_together(stack: Stack) -> None:
    async with stack.scheduler():
        await stack.define(triggers=[_each_second()])
        await stack.book.until("two orders", lambda: len(stack.book.of(f.JobAssigned)) >= 2)
    requests, orders = stack.book.of(f.JobRequested), stack.book.of(f.JobAssigned)
    for request, order in list(zip(requests, orders, strict=False))[:2]:
        assert order.sequence == request.sequence + 1
        assert (order.fact.at, order.fact.cause) == (request.fact.at, request.fact.cause)


_ONE: Json = {"type": "job", "enabled": True, "amount": 1}
_QUEUE: Json = {"type": "queue", "enabled": True, "amount": 1}
_STARTS: Json = {"type": "run_event", "condition": "start", "enabled": True, "event_id": "e2"}


@pytest.mark.parametrize(
    ("number", "more", "expected"),
    [
        pytest.param(0, {"targets": ["nowhere"]}, "JobCompleted", id="no server"),
        pytest.param(0, {"actions": [_STARTS]}, "JobStarting", id="start actions"),
        pytest.param(0, {"algo": "multiplex"}, "JobFannedOut", id="many servers"),
        pytest.param(1, {"limits": [_ONE]}, "JobCompleted", id="no slot"),
        pytest.param(1, {"limits": [_ONE, _QUEUE]}, "JobQueued", id="a queue"),
    ],
)
async def test_a_fire_whose_job_needs_more_than_a_server_is_decided_as_a_request(
    stack: Stack, number: int, more: Json, expected: str
) -> None:
    stack.runner.hold = True
    async with stack.scheduler():
        await stack.define(triggers=[_each_second()], **more)
        fires = partial(_facts_of_fires, stack.book)
        await stack.book.until(expected, lambda: [*fires(), [], []][number][1:])
    kinds = [recorded.fact.kind for recorded in fires()[number]]
    assert kinds[:2] == ["JobRequested", expected]


def _each_second() -> Json:
    return {"type": "interval", "enabled": True, "start": int(time.time()), "duration": 1}


def _facts_of_fires(book: Ledgerbook) -> list[list[Recorded]]:
    """What stands on the ledger of each fire's job."""
    jobs = [r.fact.job for r in book.facts if isinstance(r.fact, f.JobRequested) and r.fact.fire]
    return [[r for r in book.facts if getattr(r.fact, "job", None) == job] for job in jobs]


async def test_two_schedulers_never_both_decide(stack: Stack) -> None:
    async with stack.scheduler(), stack.scheduler():
        await stack.define()
        jobs = [await stack.run() for _ in range(20)]
        await stack.ended(*jobs)
    assert len(stack.book.of(f.JobAssigned)) == 20


async def test_a_lost_server_ends_its_jobs_and_must_stop_them_when_it_returns(stack: Stack) -> None:
    stack.runner.hold = True
    stack.settings = replace(stack.settings, server_timeout=5.0)
    async with stack.scheduler():
        await stack.define(limits=[{"type": "retry", "enabled": True, "amount": 1}])
        job = await stack.run()
        await stack.book.until("the start", lambda: stack.book.of(f.JobStarted, job))
        stack.runner.mute = True
        [end] = await stack.ended(job)
        assert (end.code, end.retry_ok) == ("abort", True)
        stack.runner.mute = False
        await stack.book.until("the order to stop", lambda: stack.book.of(f.JobAbortOrdered, job))
