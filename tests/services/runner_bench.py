"""A stand-in for the scheduler in tests of the runner: it orders jobs and answers launches."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain.facts import (
    Actor,
    JobAbortOrdered,
    JobAssigned,
    JobFinished,
    JobStarted,
    Json,
    LedgerFounded,
    MadeOf,
    Recorded,
    ServerJoined,
    to_plain,
)
from services.ledger import live
from services.ledger.chunks import read_chunks
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.reader import Follower
from services.runner.procfs import machine_boot
from services.runner.service import Identity, Runner, new_boot
from services.runner.spool import Spool

SCHEDULER = Actor(type="scheduler", id="1")
SERVER = "s1"
PATIENCE = 15.0
ROOT = Path(__file__).parents[2]

SHELL: Json = {
    "id": "shellplug",
    "enabled": True,
    "type": "event",
    "command": "[shell-plugin]",
    "kill": "all",
    "params": [],
}


@dataclass
class Bench:
    """What the runner under test reports and tells, and the means to order jobs from it."""

    ledger: Ledger
    reports: list[Recorded] = field(default_factory=list)
    heartbeats: list[Json] = field(default_factory=list)
    asked: list[Json] = field(default_factory=list)
    plugin: Json = field(default_factory=lambda: dict(SHELL))
    secrets: Json = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    hooks: list[Json] = field(default_factory=list)
    boot: str = ""
    together: int = 2
    messages: int = 0
    _launches: dict[str, Json] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _versions: int = 0

    # --- ordering ------------------------------------------------------------------------------

    def use(self, **plugin: Any) -> None:
        """From now on jobs are made of this plugin, a new version of the definitions."""
        self.plugin = {**SHELL, **plugin}
        self._versions += 1

    async def order(
        self, params: Json | None = None, *, job: str = "", boot: str = "", **launch: Any
    ) -> int:
        """Assign a job with these params; returns the order's number."""
        job = job or f"j{next(self._numbers)}"
        overrides = {"params": params or {}}
        request = {
            "at": time.time(),
            "actor": to_plain(SCHEDULER),
            "source": "key",
            "username": "tester",
            "now": 1700000000,
            "overrides": overrides,
            **launch,
        }
        self._launches[job] = request
        fact = JobAssigned(
            at=time.time(),
            actor=SCHEDULER,
            server=SERVER,
            boot=boot or self.boot,
            event="e1",
            job=job,
            attempt=1,
            made_of=MadeOf(event=1, plugin=100 + self._versions),
            launch=None if launch.get("ask") else request,
        )
        return await self.ledger.append(fact, id=f"assign-{job}-{time.monotonic_ns()}")

    async def script(self, text: str, **more: Any) -> int:
        """Assign a shell job with this script."""
        params = {"script": text, **more.pop("params", {})}
        return await self.order(params, **more)

    async def abort(self, order: int, reason: str = "Enough.") -> int:
        """Order the end of a job."""
        assigned = (await self.ledger.get(order)).fact  # type: ignore[union-attr]
        assert isinstance(assigned, JobAssigned)
        fact = JobAbortOrdered(
            at=time.time(),
            actor=SCHEDULER,
            server=SERVER,
            event="e1",
            job=assigned.job,
            order=order,
            reason=reason,
        )
        return await self.ledger.append(fact, id=f"abort-{order}")

    # --- waiting -------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], Any], why: str) -> Any:
        """Wait until the condition holds after some report or heartbeat; its value."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not (value := condition()):
                    self._news.clear()
                    await self._news.wait()
                return value
        except TimeoutError:
            kinds = [(r.fact.kind, getattr(r.fact, "job", "")) for r in self.reports]
            raise AssertionError(f"{why}; reports so far: {kinds}") from None

    def find(self, kind: type, order: int) -> Any:
        """The report of this kind for this order, or None."""
        found = (r.fact for r in self.reports if isinstance(r.fact, kind))
        return next((fact for fact in found if fact.order == order), None)

    async def joined(self, count: int) -> None:
        """Wait for the join of the runner that was started as number `count`, and order from it."""

        def boots() -> list[str]:
            return [r.fact.boot for r in self.reports if isinstance(r.fact, ServerJoined)]

        await self.until(lambda: len(boots()) >= count, f"runner {count} did not join")
        self.boot = boots()[-1]

    async def started(self, order: int) -> JobStarted:
        """The report that the order's process runs."""
        return await self.until(lambda: self.find(JobStarted, order), f"{order} did not start")

    async def finished(self, order: int) -> JobFinished:
        """The report of the order's end."""
        return await self.until(lambda: self.find(JobFinished, order), f"{order} did not finish")

    async def telemetry(self, job: str, condition: Callable[[Json], Any]) -> Json:
        """The first heartbeat entry of a job that has begun for which the condition holds."""

        def seen() -> Json | None:
            told = (beat["jobs"].get(job) for beat in self.heartbeats)
            begun = (entry for entry in told if entry and "elapsed" in entry)
            return next((entry for entry in begun if condition(entry)), None)

        return await self.until(seen, f"no such telemetry of {job}")

    async def log(self, finished: JobFinished) -> str:
        """The stored log of a finished job."""
        if finished.log is None:
            return ""
        parts = [part async for part in read_chunks(self.ledger, finished.log)]
        return b"".join(parts).decode()

    # --- what the runner talks to ----------------------------------------------------------------

    def hear(self, recorded: Recorded) -> None:
        """A report came."""
        self.reports.append(recorded)
        self._news.set()

    async def hear_heartbeat(self, message: Json) -> None:
        """A heartbeat came."""
        self.heartbeats.append(message)
        self._news.set()

    async def answer(self, request: Json) -> Json | live.RawAnswer:
        """Answer a launch request, or as many of several as `together` says."""
        self.messages += 1
        if "orders" in request and self.together:
            return {"answers": [self._one(each) for each in request["orders"][: self.together]]}
        return self._one(request)

    def _one(self, request: Json) -> Json | live.RawAnswer:
        self.asked.append(request)
        if "file" in request:
            return self._file_part(request)
        if "hook" in request:
            return self.hooks.pop(0)
        reply: Json = {"secrets": self.secrets}
        if request["need_records"]:
            event = {"id": "e1", "title": "Test", "plugin": "shellplug", "category": "general"}
            reply["records"] = {"event": event, "category": {}, "plugin": self.plugin, "config": {}}
        if request["need_launch"]:
            reply["launch"] = self._launches[request["job"]]
        return reply

    def _file_part(self, request: Json) -> live.RawAnswer:
        content = self.files.get(request["file"])
        if content is None:
            return live.RawAnswer(b"", {"File-Error": "No such file"})
        part = content[request["offset"] : request["offset"] + 65536]
        return live.RawAnswer(part, {"File-Size": str(len(content))})


@asynccontextmanager
async def bench(ledger: Ledger) -> AsyncIterator[Bench]:
    """A stand-in scheduler on this ledger."""
    made = Bench(ledger)
    follower = Follower(ledger, made.hear, after=0, subjects=(f"facts.report.{SERVER}",))
    following = asyncio.create_task(follower.run())
    heard = await live.listen(ledger, f"live.server.{SERVER}", made.hear_heartbeat)
    asked = await live.answer(ledger, f"live.launch.{SERVER}", made.answer)
    try:
        yield made
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        if ledger.connected:
            await heard.unsubscribe()
            await asked.unsubscribe()


@asynccontextmanager
async def running(
    made: Bench, directory: Path, *, kill_timeout: float = 10.0, drain: bool = False
) -> AsyncIterator[Runner]:
    """A runner in this process, joined; it is stopped at the end, its jobs are not."""
    spool = Spool(directory / "runner", machine_boot())
    identity = Identity(SERVER, "testhost", (), new_boot())
    runner = Runner(made.ledger, spool, identity, kill_timeout=kill_timeout, drain=drain)
    task = asyncio.create_task(runner.run())
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait(
                (asyncio.ensure_future(runner.joined.wait()), task),
                return_when=asyncio.FIRST_COMPLETED,
            )
        if task.done():
            task.result()
        made.boot = identity.boot
        yield runner
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        spool.close()


@asynccontextmanager
async def founded(ledger: Ledger, directory: Path) -> AsyncIterator[Bench]:
    """A stand-in scheduler on a founded ledger, for runners that are processes of their own."""
    fact = LedgerFounded(at=time.time(), actor=Actor(type="system", id="s"), ledger="l1")
    await ledger.append(fact, id="founded")
    (directory / "runner").mkdir()
    (directory / "runner" / "id").write_text(SERVER)
    async with bench(ledger) as made:
        yield made


@contextmanager
def runner_process(
    server: EmbeddedNats, directory: Path, *, files: int = 0
) -> Iterator["subprocess.Popen[bytes]"]:
    """A runner of its own, with so many open files; killed at the end, its jobs are not."""
    env = os.environ | {"JOBLEDGER_DATA_DIR": str(directory), "JOBLEDGER_NATS": server.url}
    command = [sys.executable, "-m", "tests.services.runner_process"]
    if files:
        command = ["/bin/sh", "-c", 'ulimit -n "$0"; exec "$@"', str(files), *command]
    process = subprocess.Popen(command, env=env, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
