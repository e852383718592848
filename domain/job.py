"""The life of one job: its states and how each fact moves it (execution.md 1, data.md 6.2).

`evolve` is total: it accepts any history and never raises; what does not fit changes nothing.
Who decides what is elsewhere: `domain/job_requests.py` (gateway), `domain/dispatch.py` and
`domain/completion.py` (scheduler). What people look at lives in `projections/job_view.py`.
"""

from dataclasses import dataclass
from dataclasses import replace as replaced
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from domain import facts as f
from domain.assembly import JobSpec, sound
from domain.facts import Json, Recorded
from domain.macros import overrides_of


class JobState(StrEnum):
    """Where a job is (data.md 6.2)."""

    START_DELAY = "start_delay"
    RETRY_DELAY = "retry_delay"
    READY = "ready"
    QUEUED = "queued"
    STARTING = "starting"
    ACTIVE = "active"
    FINISHING = "finishing"
    COMPLETE = "complete"


WAITING = frozenset({JobState.START_DELAY, JobState.RETRY_DELAY, JobState.READY, JobState.QUEUED})
HOLDS_A_SLOT = frozenset({JobState.STARTING, JobState.ACTIVE, JobState.FINISHING})


@dataclass(frozen=True, slots=True)
class Abort:
    """Why a job shall end, and whether a retry may follow."""

    reason: str
    at: float
    sequence: int
    retry_ok: bool = False


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    """Somebody wants a suspended job to go on; `params` are to be merged into its own."""

    params: Json
    actor: f.Actor
    at: float


@dataclass(frozen=True, slots=True)
class ActionRun:
    """One action of a stage, begun (at `started`, in the term `by`) and perhaps ended."""

    stage: str
    index: int
    action: Json
    started: float
    by: str = ""
    ended: f.ActionEnded | None = None


class Job(Struct, frozen=True, omit_defaults=True, gc=False):
    """A live job. Times are Unix seconds; `sequence` is that of its JobRequested.

    `order` is the sequence of the JobAssigned in force, 0 when no runner owns the job.
    `started` is the launch time until the process runs, then the process's start.
    Each fact makes a new one, and a Struct is copied fifty times as fast as a dataclass.
    """

    id: str
    event: str
    sequence: int
    version: int
    requested: float
    request: f.JobRequested
    spec: JobSpec
    state: JobState
    since: float
    started: float
    updated: float
    until: float | None = None
    queued_reason: str | None = None
    server: str | None = None
    order: int = 0
    boot: str = ""
    attempt: int = 1
    pid: int | None = None
    cwd: str | None = None
    abort: Abort | None = None
    abort_ordered: float | None = None
    unknown_to_server: bool = False
    resume_asked: ResumeAsked | None = None
    suspended: tuple[str, int] | None = None
    actions: tuple[ActionRun, ...] = ()
    changes: Json = {}
    update_asked: Json = {}
    children: tuple[f.Child, ...] = ()
    finished: f.JobFinished | None = None
    ended: f.JobEnded | None = None
    ended_at: int = 0
    completed: float | None = None
    final: f.JobCompleted | None = None

    @property
    def scope(self) -> str:
        """The jobs among which limits are counted: an event's, or one parent's (6.1)."""
        parent = (self.request.workflow or {}).get("job") if self.request.workflow else None
        return f"{self.event}/{parent}" if parent else self.event

    @property
    def assigned(self) -> bool:
        """Whether a runner owns the job now."""
        return self.order != 0 and self.finished is None and self.ended is None

    @property
    def held(self) -> bool:
        """Whether the job keeps a slot while its start actions run, before any runner has it."""
        return self.state is JobState.STARTING and self.order == 0

    def value(self, key: str) -> Any:
        """A property of the job as it is now: what it was launched with, or what changed it."""
        return self.changes[key] if key in self.changes else self.spec.document.get(key)


def begin(recorded: Recorded, spec: JobSpec) -> Job:
    """The job that a JobRequested starts."""
    request = recorded.fact
    assert isinstance(request, f.JobRequested)
    state = JobState(request.wait) if request.wait else JobState.READY
    return Job(
        id=request.job,
        event=request.event,
        sequence=recorded.sequence,
        version=recorded.sequence,
        requested=request.at,
        request=request,
        spec=spec,
        state=state,
        since=request.at,
        started=request.at,
        updated=request.at,
        until=request.until,
        attempt=request.retry_count + 1,
    )


def evolve(job: Job, recorded: Recorded) -> Job:
    """The job after one more fact; the same job if the fact does not concern its state."""
    if job.final is not None:
        return job
    moved = _move(job, recorded.fact, recorded.sequence)
    if moved is job:
        return job
    since = recorded.fact.at if moved.state is not job.state else job.since
    return replace(moved, version=recorded.sequence, since=since, updated=recorded.fact.at)


def _move(job: Job, fact: f.Fact, sequence: int) -> Job:
    match fact:
        case f.JobAssigned():
            return replace(
                job,
                state=JobState.STARTING,
                server=fact.server,
                order=sequence,
                boot=fact.boot,
                attempt=fact.attempt,
                until=None,
                queued_reason=None,
                abort_ordered=None,
                unknown_to_server=False,
            )
        case f.JobStarted() | f.JobFinishing() | f.JobFinished() | f.JobReturned():
            ours = fact.order == job.order and fact.server == job.server and job.assigned
            return _reported(job, fact) if ours else job
        case f.JobCompleted():
            return replace(
                job,
                state=JobState.COMPLETE,
                final=fact,
                completed=fact.at if job.completed is None else job.completed,
                suspended=None,
            )
        case f.ServerJoined():
            return _server_joined(job, fact, sequence)
        case f.JobAbortOrdered():
            return _abort_ordered(job, fact, sequence) if fact.order == job.order else job
        case f.JobAbortRequested():
            abort = Abort(fact.reason, fact.at, sequence)
            if job.abort is None or job.abort.sequence <= job.ended_at:
                return replace(job, abort=abort, suspended=None)
            if not job.abort.retry_ok:
                return job
            # A limit was sooner, but no retry follows what somebody wanted to end (api.md 4.5).
            return replace(job, abort=replaced(job.abort, retry_ok=False))
        case f.JobQueued() if job.state in WAITING or job.held:
            return replace(
                job,
                state=JobState.QUEUED,
                queued_reason=fact.reason,
                until=None,
                server=None,
            )
        case f.JobDelayed() if job.state in WAITING:
            return replace(job, state=JobState(fact.wait), until=fact.until)
        case f.JobReleased() if job.state in WAITING:
            return replace(job, state=JobState.READY, until=None, queued_reason=None)
        case f.JobDelaySkipRequested() if job.until is not None:
            return replace(job, until=fact.at)
        case f.JobStarting() if job.state in WAITING:
            return replace(job, state=JobState.STARTING, server=fact.server, until=None)
        case f.JobFannedOut():
            return replace(
                job, state=JobState.ACTIVE, children=tuple(fact.children), started=fact.at
            )
        case f.JobEnded():
            return replace(
                job,
                state=JobState.COMPLETE,
                ended=fact,
                ended_at=sequence,
                completed=fact.at if job.completed is None else job.completed,
            )
        case _:
            return _acted(job, fact)


def _reported(job: Job, fact: f.Fact) -> Job:
    """What the job's runner says of it."""
    match fact:
        case f.JobStarted():
            return replace(
                job, state=JobState.ACTIVE, started=fact.started, pid=fact.pid, cwd=fact.cwd
            )
        case f.JobFinishing():
            return replace(job, state=JobState.FINISHING)
        case f.JobFinished():
            return replace(job, state=JobState.COMPLETE, finished=fact, completed=fact.ended)
        case f.JobReturned():
            return _given_back(job)
        case _:
            return job


def _abort_ordered(job: Job, fact: f.JobAbortOrdered, sequence: int) -> Job:
    """An order that nobody requested comes from a limit, and says whether a retry may follow."""
    abort = job.abort or Abort(fact.reason, fact.at, sequence, fact.retry_ok)
    return replace(job, abort=abort, abort_ordered=fact.at)


def _given_back(job: Job) -> Job:
    return replace(job, state=JobState.READY, server=None, order=0, boot="", abort_ordered=None)


def _server_joined(job: Job, fact: f.ServerJoined, sequence: int) -> Job:
    """A new boot's inventory decides at once what became of its jobs (design.md 6)."""
    if not job.assigned or job.server != fact.server or job.boot == fact.boot:
        return job
    if any(held.job == job.id and held.order == job.order for held in fact.inventory):
        return replace(job, boot=fact.boot)
    if job.state is JobState.STARTING:
        return _given_back(job)
    return replace(job, unknown_to_server=True)


def _acted(job: Job, fact: f.Fact) -> Job:
    """Actions, suspension and changes of a live job's properties."""
    match fact:
        case f.ActionStarted():
            if _run_of(job, fact.stage, fact.index) is not None:
                return job
            run = ActionRun(fact.stage, fact.index, fact.action, fact.at, fact.actor.id)
            return replace(job, actions=(*job.actions, run))
        case f.ActionEnded():
            return _action_ended(job, fact)
        case f.JobSuspended():
            return replace(job, suspended=(fact.stage, fact.index))
        case f.JobResumeRequested() if job.suspended is not None and job.resume_asked is None:
            return replace(job, resume_asked=ResumeAsked(fact.params, fact.actor, fact.at))
        case f.JobResumed() if job.suspended is not None:
            return _resumed(job, fact)
        case f.JobUpdateRequested():
            return replace(job, update_asked=job.update_asked | sound(fact.changes))
        case f.JobChanged():
            done = fact.changes.items()
            asked = {k: v for k, v in job.update_asked.items() if (k, v) not in done}
            return replace(job, changes=job.changes | sound(fact.changes), update_asked=asked)
        case _:
            return job


def _resumed(job: Job, fact: f.JobResumed) -> Job:
    """Before its process ran, a resumed job takes new params and another server (api.md 4.6)."""
    moved = replace(job, suspended=None, resume_asked=None)
    if not job.held:
        return moved
    changes = job.changes
    if fact.params:
        params = (job.value("params") or {}) | fact.params
        changes = changes | {"params": params} | sound(overrides_of(fact.params))
    return replace(moved, server=None, changes=changes)


def _run_of(job: Job, stage: str, index: int) -> ActionRun | None:
    return next((r for r in job.actions if r.stage == stage and r.index == index), None)


def _action_ended(job: Job, fact: f.ActionEnded) -> Job:
    if _run_of(job, fact.stage, fact.index) is None:
        return job
    runs = tuple(
        replaced(r, ended=fact) if r.stage == fact.stage and r.index == fact.index else r
        for r in job.actions
    )
    return replace(job, actions=runs, changes=job.changes | fact.changes)
