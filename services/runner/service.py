"""The runner: takes orders for one server, runs their jobs and reports (design.md 7).

It owns a job from assignment to report. Whatever happens to the ledger, to the schedulers or to
this process, jobs go on; reports are delivered when they can be. Knows nothing of scheduling.
"""

import asyncio
import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from domain.facts import (
    Actor,
    Held,
    JobAbortOrdered,
    JobAssigned,
    JobReturned,
    Json,
    Recorded,
    ServerJoined,
    ServerLeft,
    from_plain,
)
from domain.subjects import order_subject
from services import metrics
from services.errors import ConfigError
from services.ledger import live
from services.ledger.connection import LedgerUnavailable
from services.ledger.reader import Follower
from services.logs import logger
from services.runner import children, machine, procfs
from services.runner.adoption import adopt
from services.runner.commands import Host, mode_of
from services.runner.environment import Base, inherited
from services.runner.errors import CannotStart
from services.runner.keeping import Keeping
from services.runner.launches import Launch, Launches
from services.runner.leftovers import Leftovers
from services.runner.outbox import Outbox
from services.runner.reporting import Store
from services.runner.running import Desk, Run
from services.runner.sockets import Connection, connections
from services.runner.spool import Phase, Spool
from services.runner.starting import Starting
from services.runner.usage import Look

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

log = logger("runner")

# Telemetry and limits work by the second (execution.md); a change is told within a tenth of it.
HEARTBEAT = 1.0
HEARTBEAT_GAP = 0.1
# Gateways and schedulers that start together with the runner do not hear its first words.
EARLY_HEARTBEAT, EARLY = 0.2, 3.0
# How often running jobs' files are looked at; the end of a job does not wait for it.
POLL = 0.125
CLEAN_UP = 0.25
# For how long it waits for jobs that are being started.
CLEAN_WAIT = 1.0
LOOK = 1.0
# A look at the process table shall cost no more than a fifth of one core.
LOOK_SHARE = 5.0
RETRY_WAIT = 0.2
RETURN_WAIT = 1.0
LEAVE_WAIT = 1.5
MAX_LOG_ANSWER = 1024 * 1024


_Order = tuple[int, JobAssigned, Launch | None]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this runner is. `boot` is made at each start of the process."""

    server: str
    hostname: str
    groups: tuple[str, ...]
    boot: str


def new_boot() -> str:
    """An id for this start of a runner."""
    return "b" + secrets.token_hex(8)


class Runner:
    """One server's runner. `run()` it until it is cancelled, which leaves its jobs running."""

    def __init__(
        self,
        ledger: "Ledger",
        spool: Spool,
        identity: Identity,
        *,
        job_env: dict[str, str] | None = None,
        base_url: str = "",
        kill_timeout: float = 10.0,
        drain: bool = False,
    ) -> None:
        self.identity = identity
        self.joined = asyncio.Event()
        """Set once the ledger knows this boot."""
        self.ended = asyncio.Event()
        """Set once the runner has left."""
        self.runs: dict[str, Run] = {}
        self._sought: set[Run] = set()
        self._ledger = ledger
        self._spool = spool
        self._draining = asyncio.Event()
        if drain:
            self._draining.set()
        self._joined_at = 0
        self._superseded = False
        self._news: list[Recorded] = []
        self._fetched: list[tuple[Run, Launch]] = []
        self._changed = asyncio.Event()
        self._busy = asyncio.Event()
        self._idle = asyncio.Event()
        self._outbox = Outbox(ledger)
        self._leftovers = Leftovers()
        holding: set[Run] = set()
        self._starting = Starting(self._outbox, holding)
        self._keeping = Keeping(spool.directory, self._starting.owed)
        self._desk = Desk(
            spool=spool,
            keeping=self._keeping,
            launches=Launches(
                ledger,
                identity.server,
                identity.boot,
                hostname=identity.hostname,
                groups=identity.groups,
            ),
            outbox=self._outbox,
            store=Store(ledger, identity.server),
            leftovers=self._leftovers,
            host=Host(
                identity.server,
                identity.hostname,
                base_url,
                Base.of(inherited(os.environ) | (job_env or {})),
            ),
            boot=identity.boot,
            kill_timeout=kill_timeout,
            changed=self._changed.set,
            ready=self._on_fetched,
            lost=self._find,
            holding=holding,
        )

    async def run(self) -> None:
        """Join, work, and leave when cancelled; when draining, leave after the last job.

        Raises ConfigError if another runner has taken this one's place.
        """
        children.prepare_process()
        self._spool.files.take_over({e.folder.name for e in self._spool.entries.values()})
        self._adopt_all()
        await self._join()
        server = self.identity.server
        answering = await live.answer(self._ledger, f"live.log.{server}", self._answer_log)
        hearing = await live.listen(self._ledger, f"live.server.{server}", self._hear)
        try:
            async with asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(each)
                    for each in (
                        self._outbox.run(),
                        self._follower().run(),
                        self._tell(),
                        self._read_outputs(),
                        self._look_at_processes(),
                        self._clean_up(),
                    )
                ]
                await self._draining.wait()
                await self._drained()
                for task in work:
                    task.cancel()
        finally:
            for run in self.runs.values():
                run.cancel()
            self._keeping.close()
            self._spool.files.clean()
            if self._ledger.connected:
                await answering.unsubscribe()
                await hearing.unsubscribe()
            if not self._superseded:  # this boot has no say any more
                await self._leave("drained" if self.draining else "stopped")
            self.ended.set()
        if self._superseded:
            raise ConfigError(
                f"Another runner joined as {server}, in the place of this one: "
                "give one of them another --id."
            )

    def reap(self) -> None:
        """Let go of processes that jobs left to us and that have ended."""
        self._sought = {run for run in self._sought if run.undecided}
        if not self._sought:  # one of them may be its
            children.reap({self._keeping.pid, *(run.pid for run in self.runs.values())})

    @property
    def draining(self) -> bool:
        """Whether no more jobs are taken."""
        return self._draining.is_set()

    async def drain(self) -> None:
        """Take no more jobs; `run` returns after the last one is reported."""
        self._draining.set()
        if self.joined.is_set():
            await self._leave("draining")

    # --- joining and leaving -------------------------------------------------------------------

    def _adopt_all(self) -> None:
        entries = list(self._spool.entries.values())
        if not entries:
            return
        phases = Counter(str(entry.phase) for entry in entries)
        log.info("Orders are left from before", action="orders_found", **phases)
        exits = self._spool.read_exits()
        for entry in entries:
            run = self._new_run(entry.order)
            adopt(run, self._spool, self._keeping, exits)

    def _find(self, run: Run) -> None:
        """The keeper died before it told whether it has started this: as after a death of ours."""
        self._sought.add(run)
        adopt(run, self._spool, self._keeping, self._spool.read_exits())

    async def _join(self) -> None:
        me = self.identity
        states = {Phase.STARTED: "running", Phase.ENDED: "ended"}
        fact = ServerJoined(
            at=round(time.time(), 3),
            actor=self._actor,
            server=me.server,
            boot=me.boot,
            machine_boot=self._spool.machine,
            hostname=me.hostname,
            ip=machine.address(),
            groups=list(me.groups),
            info=machine.described(),
            inventory=[
                from_plain(
                    Held, {"job": e.job, "order": e.order, "state": states.get(e.phase, "ordered")}
                )
                for e in self._spool.entries.values()
            ],
        )
        while True:
            try:
                self._joined_at = await self._ledger.append(fact, id=f"{me.boot}-joined")
                break
            except LedgerUnavailable as error:
                log.info("Cannot join yet", action="join_waits", reason=str(error))
                await asyncio.sleep(RETRY_WAIT)
        if self.draining:
            await self._leave("draining")
        self.joined.set()
        log.info("Joined", action="server_joined", server=me.server, boot=me.boot)

    async def _leave(self, reason: str) -> None:
        """Say goodbye if the ledger can be reached; without it the silence tells."""
        me = self.identity
        fact = ServerLeft(
            at=round(time.time(), 3),
            actor=self._actor,
            server=me.server,
            boot=me.boot,
            reason=reason,
        )
        try:
            async with asyncio.timeout(LEAVE_WAIT):
                await self._ledger.append(fact, id=f"{me.boot}-left")
        except (LedgerUnavailable, TimeoutError) as error:
            log.warning("Left without a word", action="leave_failed", reason=str(error))

    async def _drained(self) -> None:
        """Wait until every job is reported, or nobody would hear it."""
        while self.runs and not self._superseded:
            self._idle.clear()
            await self._idle.wait()

    @property
    def _actor(self) -> Actor:
        return Actor(type="runner", id=self.identity.boot)

    # --- orders --------------------------------------------------------------------------------

    def _follower(self) -> Follower:
        server = self.identity.server
        return Follower(
            self._ledger,
            self._news.append,
            after=self._spool.position,
            subjects=(order_subject(server),),
            after_batch=self._take_orders,
            consumer=f"runner-{server}",
        )

    def _take_orders(self) -> None:
        """Write a group of orders to the disk, then start their jobs in order."""
        news = list(self._news)
        self._news.clear()
        if not news:
            return
        aborts = {r.fact.order: r.fact for r in news if isinstance(r.fact, JobAbortOrdered)}
        orders: dict[str, _Order] = {}
        for recorded in news:
            order, fact = recorded.sequence, recorded.fact
            if isinstance(fact, JobAssigned) and self._is_for_us(order, fact, orders):
                orders[fact.job] = order, fact, None if order in aborts else self._at_hand(fact)
        starts: list[tuple[Run, Launch]] = []
        if self._keep(list(orders.values()), news[-1].sequence):
            for order, _, launch in orders.values():
                run = self._new_run(order)
                if launch is not None:
                    starts.append((run, launch))
                elif order not in aborts:
                    run.later(run.fetch_and_start())
        for order, abort in aborts.items():
            entry = self._spool.entries.get(order)
            if entry is not None:
                self.runs[entry.job].abort(abort.reason)
        self._starting.add(starts)

    def _keep(self, orders: list[_Order], position: int) -> bool:
        """Whether the orders are on the disk; without room there they are given back."""
        modes = [
            (order, fact, mode_of(launch) if launch else None) for order, fact, launch in orders
        ]
        try:
            self._spool.take(modes, position)
        except OSError as error:
            log.error("Orders cannot be kept", action="spool_broken", reason=str(error))
            later = asyncio.get_running_loop().call_later
            for order, fact, _ in orders:
                reason = f"The runner cannot write its spool: {error}"
                later(RETURN_WAIT, self._give_back, order, fact, reason)
            return False
        return True

    def _is_for_us(self, order: int, fact: JobAssigned, taken: Container[str]) -> bool:
        """Whether to run this order; what is not for us is given back or left to the folds.

        `taken` are the jobs that are to be run already.
        """
        if order in self._spool.entries:
            return False
        if fact.boot != self.identity.boot:
            # What came before our own ServerJoined was settled by its inventory.
            if order > self._joined_at:
                self._give_back(order, fact, "The runner was started anew.")
            return False
        if self.draining:
            self._give_back(order, fact, "The runner is draining.")
            return False
        if fact.job in self.runs or fact.job in taken:
            self._give_back(order, fact, "The runner still holds this job.")
            return False
        return True

    def _at_hand(self, assigned: JobAssigned) -> Launch | None:
        try:
            return self._desk.launches.at_hand(assigned)
        except CannotStart:
            return None  # asking for it again tells the job why

    def _give_back(self, order: int, assigned: JobAssigned, reason: str) -> None:
        fact = JobReturned(
            at=round(time.time(), 3),
            actor=self._actor,
            cause=order,
            server=self.identity.server,
            boot=self.identity.boot,
            event=assigned.event,
            job=assigned.job,
            order=order,
            reason=reason,
        )
        self._outbox.put(order, f"{order}-returned", fact, lambda: None)

    def _on_fetched(self, run: Run, launch: Launch) -> None:
        """A launch that was asked for: those of one turn of the loop go to the disk together."""
        if not self._fetched:
            asyncio.get_running_loop().call_soon(self._start_fetched)
        self._fetched.append((run, launch))

    def _start_fetched(self) -> None:
        fetched = [(run, launch) for run, launch in self._fetched if run.entry.abort is None]
        self._fetched.clear()
        ordered = [each for each in fetched if each[0].entry.phase is Phase.ORDERED]
        try:
            self._spool.starting([(run.entry.order, mode_of(launch)) for run, launch in ordered])
        except OSError as error:
            log.error("Starts cannot be kept", action="spool_broken", reason=str(error))
            for run, _ in ordered:
                run.fail(f"The runner cannot write its spool: {error}")
            fetched = [each for each in fetched if each not in ordered]
        self._starting.add(fetched)

    def _new_run(self, order: int) -> Run:
        run = Run(self._spool.entries[order], self._desk, self._done)
        self.runs[run.entry.job] = run
        self._busy.set()
        return run

    def _done(self, run: Run) -> None:
        del self.runs[run.entry.job]
        self._spool.files.leave(run.entry.folder)
        self._starting.go_on()
        self._idle.set()

    # --- while jobs run ------------------------------------------------------------------------

    async def _read_outputs(self) -> None:
        """Read the files of running jobs as they grow; asleep while there are none."""
        while True:
            await self._busy.wait()
            more = False
            for run in list(self.runs.values()):
                more = run.poll(time.time()) or more
            self._spool.flush()
            if self._spool.files.is_clean and not (self.runs or self._leftovers.sessions):
                self._busy.clear()
            await asyncio.sleep(0 if more else POLL)

    async def _look_at_processes(self) -> None:
        """Sample what jobs use and end what ended jobs left, with one look for all."""
        while True:
            await self._busy.wait()
            began, epoch = time.monotonic(), time.time()
            sessions = {run.session: run for run in self.runs.values() if run.session}
            wanted = set(sessions) | self._leftovers.sessions
            if wanted:
                found = await asyncio.to_thread(procfs.by_session, wanted)
                running = [p for session in sessions for p in found[session]]
                io, sockets = await asyncio.to_thread(_transfers, [p.pid for p in running])
                booted = epoch - time.clock_gettime(time.CLOCK_BOOTTIME)
                for session, run in sessions.items():
                    if run.session == session:
                        run.look(Look(epoch, began, booted, found[session], io, sockets))
                self._leftovers.look(found, time.monotonic())
            took = time.monotonic() - began
            await asyncio.sleep(max(LOOK, LOOK_SHARE * took))

    async def _clean_up(self) -> None:
        """Put the folders of reported jobs aside, many at once and off the loop.

        While there are no jobs, files for the next ones are made.
        """
        files, has_room = self._spool.files, True
        while True:
            if files.is_clean and (files.is_stocked or not has_room):
                await self._busy.wait()
            await asyncio.sleep(CLEAN_UP)
            if not files.is_clean:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLEAN_WAIT):
                        await self._starting.calm.wait()
                await asyncio.to_thread(files.clean)
            elif not self.runs and not files.is_stocked:
                has_room = await asyncio.to_thread(files.stock)

    async def _tell(self) -> None:
        """Heartbeats: each second, more often at first, and soon after a job has news."""
        loop = asyncio.get_running_loop()
        subject = f"live.server.{self.identity.server}"
        began = loop.time()
        while True:
            self._changed.clear()
            self._beat(subject)
            told = loop.time()
            try:
                every = EARLY_HEARTBEAT if told - began < EARLY else HEARTBEAT
                async with asyncio.timeout_at(told + every):
                    await self._changed.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(told + HEARTBEAT_GAP - loop.time())

    def _beat(self, subject: str) -> None:
        """A heartbeat; a brief one if it is too large for NATS."""
        for brief in (False, True):
            try:
                live.publish(self._ledger, subject, self.heartbeat(brief=brief))
                return
            except LedgerUnavailable as error:
                reason = str(error)
                log.warning("A heartbeat is too large", action="beat_large", reason=reason)

    async def _hear(self, message: Json) -> None:
        """A runner with our id announces itself: show it that we are here (run.py).

        One that joined nevertheless, and after us, has our place: we did not answer in time.
        """
        if message.get("boot") == self.identity.boot:
            return
        self._changed.set()
        if _number(message.get("joined"), 0) > self._joined_at:
            self._superseded = True
            self._draining.set()
            self._idle.set()

    def heartbeat(self, *, brief: bool = False) -> Json:
        """What `live.server.<id>` carries; `brief` on what jobs told."""
        me = self.identity
        return {
            "server": me.server,
            "boot": me.boot,
            "joined": self._joined_at,
            "at": round(time.time(), 3),
            "hostname": me.hostname,
            "order_position": self._spool.position,
            "info": machine.load(),
            "jobs": {job: run.telemetry(brief=brief) for job, run in self.runs.items()},
        }

    async def metrics(self) -> bytes:
        """What Prometheus reads."""
        metrics.RUNNING_JOBS.set(len(self.runs))
        metrics.OUTBOX_DEPTH.set(self._outbox.depth)
        metrics.ORDER_POSITION.set(self._spool.position)
        await metrics.measure_ledger("runner", self._ledger, self._spool.position)
        return metrics.page("runner")

    async def _answer_log(self, request: Json) -> live.RawAnswer:
        """A part of a running job's log, from `offset` (from the end, if negative).

        With `timelines`, what the job used so far instead, as JSON.
        """
        run = self.runs.get(str(request.get("job")))
        if run is None or run.output is None:
            return live.RawAnswer(b"", {"Log-Error": "This server does not run that job."})
        if request.get("timelines"):
            return live.RawAnswer(json.dumps(run.timelines(), separators=(",", ":")).encode())
        run.poll(time.time())
        job_log = run.output.log
        offset = _number(request.get("offset"), 0)
        length = min(_number(request.get("length"), MAX_LOG_ANSWER), MAX_LOG_ANSWER)
        start = max(0, job_log.size + offset) if offset < 0 else offset
        headers = {"Log-Size": str(job_log.size), "Log-Offset": str(start)}
        return live.RawAnswer(job_log.read(start, length), headers)


def _transfers(pids: list[int]) -> tuple[dict[int, int], dict[int, list[Connection]]]:
    """What these processes have read and written so far, and their connections."""
    return {pid: procfs.io_bytes(pid) for pid in pids}, connections(pids)


def _number(value: object, otherwise: int) -> int:
    return int(value) if isinstance(value, int | float) else otherwise
