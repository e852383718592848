"""How a job ends: code, description, tags, retry (execution.md 8 and 17). Pure decisions."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from domain import facts as f
from domain.facts import Json
from domain.ids import derived_job_id
from domain.job import Job
from domain.known import Known
from domain.limits import first_enabled

Code = int | float | str
_NON_WORD = re.compile(r"\W+", re.ASCII)


class Result(Struct, frozen=True, gc=False):
    """What a job ended with, before retry and tags are settled."""

    code: Code
    description: str
    retry_ok: bool = False


def normalise_code(code: Any) -> Code:
    """The result code as it is stored (execution.md 17 step 3).

    Falsy is 0; text becomes lower case with `_` for non-word characters; other types are
    `unknown`.
    """
    if code is True:
        return 1
    if not code:
        return 0
    if isinstance(code, int | float):
        return code
    if isinstance(code, str):
        return _NON_WORD.sub("_", code).lower()
    return "unknown"


def aborted(reason: str, *, retry_ok: bool = False) -> Result:
    """The result of a job that somebody or a rule ended."""
    return Result("abort", reason, retry_ok)


def result_of(job: Job) -> Result | None:
    """The result of a job whose process is over or whose end was decided; None if neither."""
    if job.ended is not None:
        if job.abort is not None and job.abort.sequence > job.ended_at:
            return aborted(job.abort.reason)
        return Result(job.ended.code, job.ended.description, job.ended.retry_ok)
    if job.finished is None:
        return None
    if job.finished.aborted:
        reason = job.abort.reason if job.abort else job.finished.description
        return Result("abort", reason, job.abort.retry_ok if job.abort else False)
    code = normalise_code(job.finished.code)
    text = job.finished.description or ("Success" if code == 0 else "")
    # Of an abort only who ordered it can say that a retry may follow; a process cannot (8).
    return Result(code, text, job.abort.retry_ok if job.abort else code != "abort")


def complete(
    job: Job,
    result: Result,
    *,
    known_tags: Mapping[str, str],
    now: float,
    actor: f.Actor,
    launchable: bool = True,
) -> f.JobCompleted:
    """The fact that makes a job final. `known_tags` maps tag ids and titles to ids.

    `launchable` says whether its successor could be launched now.
    """
    retry = retry_of(job, result, now, launchable=launchable)
    return f.JobCompleted(
        at=now,
        actor=actor,
        cause=job.version,
        event=job.event,
        job=job.id,
        code=result.code,
        description=result.description,
        tags=_final_tags(job, result, retried=retry is not None, known=known_tags),
        retry_ok=result.retry_ok and result.code == "abort",
        retry=retry,
        jobs=[*_jobs(job), *([{"id": retry.job, "reason": "retry"}] if retry else [])],
    )


def retry_request(
    job: Job, retry: f.Follower, made_of: f.MadeOf, now: float, actor: f.Actor
) -> f.JobRequested:
    """The request of the successor of an ended job (execution.md 8).

    `made_of` names the category and configuration now in force beside the event and plugin of
    the first attempt. Params given when the job was resumed are copied like those of its launch.
    """
    request = job.request
    given = _params_to_copy(job)
    before = request.overrides.get("params")
    params = (before if isinstance(before, dict) else {}) | given
    return replace(
        request,
        at=now,
        actor=actor,
        cause=job.version,
        job=retry.job,
        made_of=made_of,
        overrides=request.overrides | {"params": params} if given else request.overrides,
        until=retry.until,
        wait="retry_delay" if retry.until is not None else None,
        retry_count=request.retry_count + 1,
        retry_prev=job.id,
        first_attempt=request.first_attempt or job.id,
        fire=None,
        counters=None,
    )


def _params_to_copy(job: Job) -> Json:
    """The params as they were changed after the launch; {} if nobody changed any.

    They are as they were for the process: no macro in them is expanded (again) by the retry
    (execution.md 4, 10). What waits for a server still is as its author wrote it, and stays so.
    """
    changed = job.changes.get("params")
    if not isinstance(changed, dict):
        return {}
    made = job.spec.document.get("params") or {}
    waits = job.spec.deferred
    return {
        name: _verbatim(value)
        for name, value in changed.items()
        if name not in waits or value != made.get(name)
    }


def _verbatim(value: Any) -> Any:
    """A param that expansion turns into this value."""
    return value.replace("{{", "{{ '{' }}" * 2) if isinstance(value, str) else value


def relaunchable(job: Job, known: Known) -> bool:
    """Whether a successor of the job could be launched now (execution.md 8).

    Its event, category and plugin are there and enabled; a test asks for none of this.
    """
    if job.request.test:
        return True
    document = job.spec.document
    records = (
        known.event(job.event),
        known.record("category", str(document.get("category"))),
        known.record("plugin", str(document.get("plugin"))),
    )
    return all(record is not None and record.get("enabled", True) for record in records)


def retry_of(job: Job, result: Result, now: float, *, launchable: bool = True) -> f.Follower | None:
    """The retry that a job with this result owes (execution.md 8).

    None if there is none, if its successor could not be launched, and once completion actions
    have run: then the end is settled.
    """
    limit = job.spec.retry
    if not launchable:
        return None
    if job.ended is not None or job.children:
        return None  # the children of a multiplex job were retried, each for itself
    if result.code == 0 or (result.code == "abort" and not result.retry_ok) or limit is None:
        return None
    if job.abort is not None and not job.abort.retry_ok:
        return None
    if job.request.retry_count >= _number(limit.get("amount")):
        return None
    wait = _backoff(limit, job)
    id = derived_job_id(now, "retry", job.id)
    return f.Follower(job=id, until=now + wait if wait else None)


def _backoff(limit: Json, job: Job) -> float:
    """Seconds before the next attempt: fixed, or doubled each time up to `max_duration`.

    The jitter is drawn from the job's id, so that it is the same however often it is decided.
    """
    wait = _number(limit.get("duration"))
    if limit.get("backoff") == "exponential":
        wait = min(wait * 2.0**job.request.retry_count, _number(limit.get("max_duration")) or 3600)
        spread = sum(job.id.encode()) % 100 / 100
        wait *= 1 + _number(limit.get("jitter")) * (spread - 0.5)
    return wait


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _jobs(job: Job) -> list[Json]:
    jobs = job.changes.get("jobs")
    return list(jobs) if isinstance(jobs, list) else []


def user_tags(job: Job) -> list[str]:
    """The job's own tags so far: launched with, changed to, pushed by its process."""
    base = job.changes.get("tags", job.spec.document.get("tags")) or []
    pushed = (job.finished.report.get("push") or {}) if job.finished else {}
    return [t for t in [*base, *(pushed.get("tags") or [])] if isinstance(t, str)]


def _final_tags(job: Job, result: Result, *, retried: bool, known: Mapping[str, str]) -> list[str]:
    """Known user tags, cut to the `tag` limit, then the system's (execution.md 17 step 6)."""
    tags = _unique(known[t] for t in user_tags(job) if t in known)
    limit = first_enabled(job.spec.document.get("limits", ()), "tag")
    if limit is not None:
        tags = tags[: int(_number(limit.get("amount")))]
    system = ["_success" if result.code == 0 else "_error", "_retried" if retried else "_last"]
    if job.request.test:
        system.append("_test")
    if job.finished is not None and job.finished.report.get("files"):
        system.append("_files")
    return _unique([*tags, *system])


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))
