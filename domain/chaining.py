"""A job that launches another one: the action run_event (execution.md 9.3).

Pure: whether the target may be run, and the request of the new job. Its id derives from the
action's key, so that launching it twice is seen (design.md 3.3).
"""

from collections.abc import Callable
from dataclasses import dataclass

from domain import facts as f
from domain.assembly import Made, assemble
from domain.checks import bounded
from domain.errors import event_rule
from domain.facts import Json
from domain.firing import check_day
from domain.ids import derived_job_id
from domain.job import ActionRun, Job
from domain.known import Known
from domain.plugins import owned_keys
from domain.run import check_gate, check_plugin_enabled

DEEPEST = 100
"""A chain of jobs that launch each other ends here: an endless one would fill the ledger."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """The job that launches: its action, and its result so far (0 at the start)."""

    job: Job
    run: ActionRun
    code: int | float | str
    description: str


def child_id(job: Job, run: ActionRun) -> str:
    """The id of the job that this action launches, the same however often it is tried."""
    return derived_job_id(run.started, "action", job.id, run.stage, run.index)


def launched(
    launcher: Launcher,
    known: Known,
    made: Made,
    made_of: f.MadeOf,
    data: Json,
    *,
    now: float,
    actor: f.Actor,
    count: Callable[[str], int],
) -> f.JobRequested:
    """The request of the job that an action launches.

    `made` are the records of the target that `made_of` names, `data` is the output of the
    launching job, `count` says how often the target met a condition today. Raises RuleBroken when
    the target may not be run or the chain is too long, BadRequest when the data is too large.
    """
    job, action = launcher.job, launcher.run.action
    target = str(action.get("event_id"))
    event = known.event(target)
    if event is None:
        raise event_rule(f"Event not found: {target}")
    check_gate(event, known, test=False)
    check_plugin_enabled(made.plugin or None, event.get("plugin"), test=False)
    depth = _depth(job) + 1
    if depth > DEEPEST:
        raise event_rule(f"The chain of jobs is longer than {DEEPEST}: {target} is not run.")
    request = _request(launcher, event, made_of, data, depth, now=now, actor=actor)
    spec = assemble(made, request)
    if spec.queue_limit and not spec.job_limit:
        raise event_rule("An enabled queue limit needs an enabled job limit.")
    check_day(target, made, count)
    return bounded(request)


def _request(
    launcher: Launcher,
    event: Json,
    made_of: f.MadeOf,
    data: Json,
    depth: int,
    *,
    now: float,
    actor: f.Actor,
) -> f.JobRequested:
    job, run = launcher.job, launcher.run
    params = _params(run.action, event)
    until = _until(run, now)
    return f.JobRequested(
        at=now,
        actor=actor,
        cause=job.version,
        event=str(event["id"]),
        job=child_id(job, run),
        made_of=made_of,
        source="action",
        username=job.request.username,
        now=now,
        overrides={"params": params} if params else {},
        input={"data": data, "files": files_of(job)},
        until=until,
        wait="start_delay" if until is not None else None,
        parent={
            "job": job.id,
            "event": job.event,
            "code": launcher.code,
            "description": launcher.description,
            "chain_depth": depth,
        },
    )


def files_of(job: Job) -> list[Json]:
    """The files that the job left."""
    files = job.finished.report.get("files") if job.finished else None
    return [x for x in files if isinstance(x, dict)] if isinstance(files, list) else []


def _depth(job: Job) -> int:
    depth = (job.request.parent or {}).get("chain_depth")
    return depth if isinstance(depth, int) else 0


def _params(action: Json, event: Json) -> Json:
    """Of the action's params only those that are fields of the target (9.3)."""
    params = action.get("params")
    fields = {key for field in event.get("fields") or [] for key in owned_keys(field)}
    given = params if isinstance(params, dict) else {}
    return {key: value for key, value in given.items() if key in fields}


def _until(run: ActionRun, now: float) -> float | None:
    delay = run.action.get("start_delay")
    return now + delay if isinstance(delay, int | float) and delay > 0 else None
