"""One order on this machine, from its arrival to its report (execution.md 1, 11, 15 to 17).

`Run` owns the job's process, its output and its news, and writes each step to the spool before
it is reported. The service tells it about aborts and hands it its processes once a second; the
outbox delivers what it reports.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from domain.facts import Actor, Blob, JobFinished, JobFinishing, JobStarted, Json
from domain.macros import expand_text, param_context
from domain.masking import Mask, Masking, Withheld
from services.logs import logger
from services.metrics import START_SECONDS
from services.runner import procfs
from services.runner.children import Child, Streams
from services.runner.commands import Host, Prepared, prepare
from services.runner.errors import CannotStart
from services.runner.inputs import fetch_inputs, input_files
from services.runner.keeping import Keeping
from services.runner.launches import HOOK_PLUGIN, Launch, Launches
from services.runner.leftovers import Leftovers
from services.runner.news import (
    REPORTS,
    JobNews,
    Outcome,
    fold_message,
    live_fields,
    posted,
    within,
)
from services.runner.outbox import Outbox
from services.runner.output import JobOutput, make_pipe
from services.runner.reporting import NEVER_REPORTED, Store
from services.runner.reports import shown_report
from services.runner.results import END_UNSEEN, first_message, reader_for, result
from services.runner.spool import Entry, Phase, Spool
from services.runner.usage import Look, Usage
from services.runner.wire import Message, Output, Remark

log = logger("jobs")

LARGE_LOG = 1024 * 1024
"""Bytes of log whose storing takes long enough to be shown as `finishing`."""
SHOWN_ALWAYS = 8 * 1024
"""Bytes of table and html that every heartbeat may carry; larger ones come with the report."""
BRIEF = 1024
"""Characters that each job may have where all jobs' together would be too many for a heartbeat."""
MAX_ACTIVITY = 1000
SMALL_REPORT = 4096
"""Characters of a report that is far from being large, whatever they are in JSON."""
_TAKES_TIME = frozenset({"files", *REPORTS, *NEVER_REPORTED})


@dataclass(frozen=True, slots=True)
class Desk:
    """What all runs of a runner share.

    `changed` asks for a heartbeat soon. `ready` takes a run and what was asked for it: it is to be
    started once the spool says so. `lost` takes a run of which nobody knows if it was started.
    `holding` are the runs that have files open.
    """

    spool: Spool
    keeping: Keeping
    launches: Launches
    outbox: Outbox
    store: Store
    leftovers: Leftovers
    host: Host
    boot: str
    kill_timeout: float
    changed: Callable[[], None]
    ready: Callable[["Run", Launch], None]
    lost: Callable[["Run"], None]
    holding: set["Run"]


class Run:
    """One order. `done` is called once, when its end is on the ledger."""

    def __init__(self, entry: Entry, desk: Desk, done: Callable[["Run"], None]) -> None:
        self.entry = entry
        self.output: JobOutput | None = None
        self.over = asyncio.Event()
        """Set once the main process is over."""
        self.undecided = False
        """Whether it is not known yet if the process was started."""
        self._desk = desk
        self._done = done
        self._launch: Launch | None = None
        self._child: Child | None = None
        self._news = JobNews()
        self._usage = Usage()
        self._activity: list[Json] = []
        self._taken = self._began = time.monotonic()
        self._updated = time.time()
        self._task: asyncio.Task[None] | None = None
        self._kill_timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The main process, while it runs here."""
        return self._child.pid if self._child else None

    @property
    def session(self) -> int | None:
        """The session of the job's processes, while it runs here and is to be looked at."""
        return self.pid if self.entry.mode.sampled else None

    @property
    def running(self) -> bool:
        """Whether the job's main process runs."""
        return self._child is not None

    # --- beginning -------------------------------------------------------------------------------

    def start(self, launch: Launch) -> None:
        """Have the process started; that it starts is in the spool already. Never raises."""
        entry, desk = self.entry, self._desk
        self._launch = launch
        try:
            desk.spool.files.make(entry.folder)
            prepared = prepare(launch, entry.folder, desk.host)
            streams = self._streams(self._open(prepared), prepared)
            job = entry.order, entry.job
            desk.keeping.start(self, job, prepared.command, prepared.stdin, streams)
        except CannotStart as error:
            self._conclude_without_process(1, str(error))
        except (OSError, ValueError) as error:
            self.on_refusal(error)
        else:
            self.undecided = True

    def on_start(self, child: Child, at: float, began: float) -> None:
        """The process runs, since these Unix and monotonic seconds."""
        self.undecided = False
        self._began = began
        START_SECONDS.observe(time.monotonic() - self._taken)
        self._note_start(child, at)
        if self.entry.abort is not None:
            self._end_process()

    def on_refusal(self, error: OSError | ValueError) -> None:
        """The process cannot be started."""
        self.undecided = False
        if self.entry.abort is not None:
            self._conclude_without_process("abort", self.entry.abort)
        else:
            self._conclude_without_process(1, f"Child spawn error: {error}")

    def on_silence(self) -> None:
        """Whoever should start the process died, before or after it did so."""
        self._desk.lost(self)

    def _streams(self, output: JobOutput, prepared: Prepared) -> Streams:
        """What the process writes to. Where it may outlive its job, stderr must be a file."""
        out, kept, exits = output.out.descriptor, self.entry.folder.err, self._desk.spool.exits
        if self.entry.mode.kill == "none":
            return Streams(out, output.err().descriptor, None, kept, exits)
        account = prepared.command.account
        source, writing = make_pipe(account.owner if account else None)
        output.pour_from(source)
        return Streams(out, writing, source, kept, exits)

    async def fetch_and_start(self) -> None:
        """Ask for what the order does not say; then it can start."""
        entry, desk = self.entry, self._desk
        try:
            launch = await desk.launches.fetch(entry.order, entry.assigned)
            if input_files(launch.document.get("input")):
                desk.spool.files.make(entry.folder)
                await fetch_inputs(desk.launches, entry.order, entry.assigned, launch, entry.folder)
            if launch.document.get("command") == HOOK_PLUGIN:
                fired = await desk.launches.fired_hook(entry.order, entry.assigned)
                launch = structs.replace(launch, document=launch.document | {"hook": fired})
        except CannotStart as error:
            self._conclude_without_process(1, str(error))
        except OSError as error:
            self._conclude_without_process(1, f"Setup Error: {error}")
        else:
            desk.ready(self, launch)

    def fail(self, reason: str) -> None:
        """The process cannot be started, for a reason that is the runner's own."""
        self._conclude_without_process("unknown", f"Runner error: {reason}")

    def decide_to_start(self) -> None:
        """No earlier runner has started the process: start it, or end it if it is aborted."""
        self.undecided = False
        if self.entry.abort is not None:
            self._conclude_without_process("abort", self.entry.abort)
        else:
            self.later(self.fetch_and_start())

    async def adopt(self, pid: int, start_ticks: int) -> bool:
        """Go on with a process that an earlier runner started; False if it is over."""
        child = Child.adopted(pid, start_ticks)
        if child is None:
            return False
        await self._reopen()
        self.undecided = False
        self._began = time.monotonic() - procfs.age(start_ticks)
        self._note_start(child, self.entry.started or time.time())
        child.watch(self.on_end)
        if self.entry.abort is not None:
            self._end_process()
        return True

    async def conclude_unseen(self, status: int | None) -> None:
        """Report a process that ended while no runner looked; None if nobody knows how."""
        self.undecided = False
        await self._reopen()
        self._desk.spool.ended(self.entry.order, status, time.time())
        await self._finish()

    async def conclude_again(self) -> None:
        """Go on with an end that an earlier runner saw but did not report."""
        if self.entry.report is not None:
            self._deliver(structs.replace(self.entry.report, boot=self._desk.boot))
            return
        await self._reopen()
        await self._finish()

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do one of the above while the service goes on; a defect ends this job only."""
        self._task = asyncio.create_task(self._worked(work), name=f"job {self.entry.job}")

    def cancel(self) -> None:
        """Stop caring for the job, which goes on; the next runner adopts it."""
        for handle in (self._task, self._kill_timer):
            if handle is not None:
                handle.cancel()
        if self._child is not None:
            self._child.forget()

    async def _worked(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except Exception as error:
            self._on_defect(error)

    def _on_defect(self, error: Exception) -> None:
        log.exception("The runner failed a job", action="job_broke", job=self.entry.job)
        self._report(Outcome("unknown", f"Runner error: {error}", {}), None, {})

    def _open(self, prepared: Prepared | None) -> JobOutput:
        entry, spool = self.entry, self._desk.spool
        account = prepared.command.account if prepared else None
        self._news.may_update_event = entry.mode.may_update
        if self.output is not None:
            self.output.close()
        self._desk.holding.add(self)
        self.output = JobOutput(
            entry.folder,
            reader_for(entry.mode),
            news=self._hear,
            noted=lambda stream, upto, at: spool.read(entry.order, stream, upto, at),
            owner=account.owner if account else None,
            known=prepared is None,
            masking=self._masking(),
        )
        for remark in prepared.remarks if prepared else ():
            self.note(remark)
        first = first_message(entry.mode, self._launch.document if self._launch else {})
        if first:
            fold_message(self._news, first)
        return self.output

    def _masking(self) -> Masking | None:
        """How secrets are kept out of what is stored and shown."""
        if not self.entry.mode.secret:
            return None
        if self._launch is not None and self._launch.secrets:
            return Mask(self._launch.secrets)
        self.note("WARNING: The output is withheld: the secrets to be masked are not known now.")
        return Withheld()

    async def _reopen(self) -> None:
        """The output as an earlier runner had read it, if it is not open here."""
        if self.output is not None:
            return
        if self.entry.mode.passes or self.entry.mode.secret:
            self._launch = await self._fetched()
        self._desk.spool.files.make(self.entry.folder)
        self._open(None).replay(self.entry.reads)

    async def _fetched(self) -> Launch | None:
        try:
            return await self._desk.launches.fetch(self.entry.order, self.entry.assigned)
        except CannotStart:
            return None

    def _note_start(self, child: Child, at: float) -> None:
        entry, desk = self.entry, self._desk
        self._child = child
        if entry.phase is not Phase.STARTED:
            desk.spool.started(entry.order, child.pid, child.start, at)
        if not entry.told:
            self._tell_start()

    def _tell_start(self) -> None:
        entry = self.entry
        fact = JobStarted(
            **self._head(entry.started),
            pid=entry.pid,
            started=entry.started,
            cwd=entry.folder.work,
        )
        self._desk.outbox.put(entry.order, f"{entry.order}-started", fact, self._told)

    def _told(self) -> None:
        if self.entry.order in self._desk.spool.entries:
            self._desk.spool.told(self.entry.order)

    # --- while it runs ---------------------------------------------------------------------------

    def poll(self, now: float) -> bool:
        """Read what the job has written, in bounded steps; whether more is waiting."""
        return self.running and self.output is not None and self.output.poll(now)

    def look(self, seen: Look) -> None:
        """Take in the job's processes as they were seen."""
        self._usage.look(seen)

    def timelines(self) -> Json:
        """What the job used, second by second and minute by minute."""
        return self._usage.timelines()

    def abort(self, reason: str) -> None:
        """End the job: at once if it has not started, by signals if it runs."""
        entry = self.entry
        if entry.abort is not None or entry.phase is Phase.ENDED or entry.report is not None:
            return
        self._desk.spool.abort(entry.order, reason)
        self._news.close()
        if self._child is not None:
            self._end_process()
        elif not self.undecided:
            if self._task is not None:
                self._task.cancel()
            self._conclude_without_process("abort", reason)

    def _end_process(self) -> None:
        assert self._child is not None
        kill = self.entry.mode.kill
        if kill == "none":
            self._child.forget()
            self.on_end(None, time.monotonic())
            return
        self._child.signal(signal.SIGTERM, kill)
        loop = asyncio.get_running_loop()
        self._kill_timer = loop.call_later(self._desk.kill_timeout, self._kill_now)

    def _kill_now(self) -> None:
        if self._child is not None:
            self._child.signal(signal.SIGKILL, self.entry.mode.kill)

    def note(self, text: str) -> None:
        """A line for the job's activity."""
        if len(self._activity) < MAX_ACTIVITY:
            server = self._desk.host.server
            self._activity.append({"epoch": time.time(), "msg": text, "server": server})

    def _hear(self, item: Output) -> None:
        match item:
            case Message(fields):
                for warning in fold_message(self._news, fields):
                    self.note(warning)
                self._updated = time.time()
                self._desk.changed()
            case Remark(text):
                self.note(text)
            case _:
                return

    def telemetry(self, *, brief: bool = False) -> Json:
        """What a heartbeat says about the job (execution.md 15): that it is here, if it waits.

        If it is to be `brief`, only as much of what the job told as fits into BRIEF.
        """
        entry = self.entry
        if self.output is None:
            return {"order": entry.order}
        return {
            "progress": 0.0,
            **(self._shown(brief) if self._news.fields else {}),
            "order": entry.order,
            "pid": entry.pid,
            "elapsed": round(time.monotonic() - self._began, 3),
            "updated": self._updated,
            "log_size": self.output.log.size,
            "cpu": self._usage.cpu.as_json(),
            "mem": self._usage.mem.as_json(),
            "procs": self._usage.procs(),
            "conns": self._usage.conns(),
        }

    def _shown(self, brief: bool) -> Json:
        """What the job has told so far; its reports only if they are small."""
        shown = live_fields(self._news)
        if brief:
            return within(BRIEF, shown)
        size = sum(len(str(shown.get(key, ""))) for key in ("table", *REPORTS))
        if size > SHOWN_ALWAYS:
            shown = {k: v for k, v in shown.items() if k not in ("table", *REPORTS)}
        return shown_report(shown, self._expand)

    def _expand(self, text: str) -> str:
        document = self._launch.document if self._launch else {"id": self.entry.job}
        return expand_text(text, param_context(document))

    # --- the end ---------------------------------------------------------------------------------

    def on_end(self, status: int | None, now: float) -> None:
        """The main process is over, or not waited for any longer: its output is read to here."""
        entry, desk = self.entry, self._desk
        if self._child is None:
            return
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if status is None and entry.abort is None:
            seen = desk.spool.read_exits().get(entry.order)
            status = seen.status if seen else None
        if entry.mode.kill != "none":
            desk.leftovers.add(self._child.pid, time.monotonic())
        self._child = None
        elapsed = now - self._began
        desk.spool.ended(entry.order, status, max(entry.started + elapsed, entry.started))
        self.over.set()
        try:
            self._finish_soon()
        except Exception as error:
            self._on_defect(error)

    def _conclude_without_process(self, code: int | str, description: str) -> None:
        """The job ends before it had a process."""
        self._desk.spool.ended(self.entry.order, None, time.time())
        self._report(Outcome(code, description, {}), None, {})

    def _finish_soon(self) -> None:
        """As `_finish`, but at once if nothing has to be waited for: most jobs need no task."""
        output = self.output
        assert output is not None
        work = None
        if output.poll(time.time()):
            work = self._finish()
        else:
            output.finish()
            outcome = self._outcome(output)
            if not self._report_at_once(outcome, output):
                work = self._store(outcome, output)
        if work is not None:
            self._desk.spool.flush()
            self.later(work)

    def _report_at_once(self, outcome: Outcome, output: JobOutput) -> bool:
        """Report an end without log, files or large values; whether it is one."""
        report = outcome.report | self._usage.report()
        if output.log.size or report.keys() & _TAKES_TIME or len(str(report)) > SMALL_REPORT:
            return False
        self._report(Outcome(outcome.code, outcome.description, report), None, {})
        return True

    async def _finish(self) -> None:
        """Read the rest, store log, files and large values, report."""
        output = self.output
        assert output is not None
        upto = output.ends()
        while output.poll(time.time(), upto):  # noqa: ASYNC110
            await asyncio.sleep(0)  # others get a turn between two chunks
        output.finish()
        await self._store(self._outcome(output), output)

    async def _store(self, outcome: Outcome, output: JobOutput) -> None:
        """Store log, files and large values, report."""
        entry = self.entry
        if "{{" in str(outcome.report.get("html", "")) and self._launch is None:
            self._launch = await self._fetched()
        report = shown_report(outcome.report, self._expand) | self._usage.report()
        named = report.pop("files", None)
        if named or output.log.size > LARGE_LOG:
            self._tell_finishing(outcome)
        store, code, description = self._desk.store, outcome.code, outcome.description
        blob = await store.write(entry.job, output.log.chunks) if output.log.size else None
        if named:
            try:
                work = Path(entry.folder.work)
                report["files"], remarks = await store.store_files(entry.job, work, named)
            except OSError as error:
                code, description = "upload", f"Failed to store an output file: {error}"
                remarks = []
            for remark in remarks:
                self.note(remark)
        small, large = await store.split(entry.job, report)
        self._report(Outcome(code, description, small), blob, large)

    def _outcome(self, output: JobOutput) -> Outcome:
        entry = self.entry
        if entry.abort is not None:
            return Outcome("abort", entry.abort, posted(self._news))
        if entry.status is None and not self._news.final:
            return Outcome("unknown", END_UNSEEN, posted(self._news) | {"unknown": 1})
        return result(entry.mode, self._news, entry.status, entry.pid, output.error_head())

    def _tell_finishing(self, outcome: Outcome) -> None:
        fact = JobFinishing(
            **self._head(time.time()), code=outcome.code, description=outcome.description
        )
        self._desk.outbox.put(self.entry.order, f"{self.entry.order}-finishing", fact, lambda: None)

    def _report(self, outcome: Outcome, log_blob: Blob | None, large: dict[str, Blob]) -> None:
        entry = self.entry
        fact = JobFinished(
            **self._head(time.time()),
            code=outcome.code,
            description=outcome.description,
            ended=entry.ended or time.time(),
            aborted=entry.abort is not None,
            log=log_blob,
            report=outcome.report,
            large=large,
            activity=self._activity,
        )
        self._desk.spool.finished(entry.order, fact)
        self._deliver(fact)

    def _deliver(self, fact: JobFinished) -> None:
        self._desk.outbox.put(fact.order, f"{fact.order}-finished", fact, self._reported)

    def _reported(self) -> None:
        entry, spool = self.entry, self._desk.spool
        if self.output is not None:
            self.output.close()
            self.output = None  # it leads back here: all is freed now, no search for garbage needed
        self._desk.holding.discard(self)
        spool.reported(entry.order)
        self._done(self)

    def _head(self, at: float) -> Json:
        """What all reports of this order begin with."""
        assigned, boot = self.entry.assigned, self._desk.boot
        return {
            "at": round(at, 3),
            "actor": Actor(type="runner", id=boot),
            "cause": self.entry.order,
            "server": assigned.server,
            "boot": boot,
            "event": assigned.event,
            "job": assigned.job,
            "order": self.entry.order,
        }
