"""What people may ask of a job: abort, resume, skip a delay, change, tag, delete.

Pure deciders of the gateway: a request on a live job is only recorded, its owner answers; a
final job is changed at once (design.md 3.3). Each raises RuleBroken("job") when the rule of
api.md 4.5 to 4.9 or 8.6 is broken.
"""

import re
from typing import Any

from domain import facts as f
from domain.access import Principal
from domain.checks import bounded
from domain.errors import BadRequest, job_rule
from domain.facts import Actor, Json
from domain.job import Job
from domain.known import Known
from domain.plugins import check_param_keys, locked_ids
from domain.reach import require_reach

_WORD = re.compile(r"\w+", re.ASCII)


def unknown_job(id: str) -> Exception:
    """The refusal of a command on a job that is not there."""
    return job_rule(f"Job not found: {id}")


def decide_abort(
    job: Job | None, id: str, reason: str, *, now: float, actor: Actor
) -> f.JobAbortRequested:
    """A live job is to end as `abort` (api.md 4.5)."""
    if job is None:
        raise job_rule(f"Job is not active: {id}")
    return f.JobAbortRequested(at=now, actor=actor, event=job.event, job=job.id, reason=reason)


def decide_resume(
    job: Job | None, id: str, params: Json, by: Principal, known: Known, *, now: float, actor: Actor
) -> f.JobResumeRequested:
    """A suspended job is to go on (api.md 4.6), with params that `by` might have run it with."""
    if job is None:
        raise job_rule(f"Job is not active: {id}")
    if job.suspended is None:
        raise job_rule(f"Job is not suspended: {id}")
    check_param_keys(params)
    require_reach(by, {"category": job.value("category"), "params": params}, known)
    if not by.admin:
        plugin = known.record("plugin", str(job.value("plugin"))) or {}
        locked = {*locked_ids(plugin.get("params")), *locked_ids(job.value("fields"))}
        params = {key: value for key, value in params.items() if key not in locked}
    return bounded(
        f.JobResumeRequested(at=now, actor=actor, event=job.event, job=job.id, params=params)
    )


def decide_skip_delay(
    job: Job | None, id: str, *, now: float, actor: Actor
) -> f.JobDelaySkipRequested:
    """A waiting job's delay is to end now (api.md 8.6)."""
    if job is None:
        raise job_rule(f"Job is not active: {id}")
    if job.until is None:
        raise job_rule(f"Job is not delayed: {id}")
    return f.JobDelaySkipRequested(at=now, actor=actor, event=job.event, job=job.id)


def decide_update(job: Job, changes: Json, *, now: float, actor: Actor) -> f.JobUpdateRequested:
    """An administrator changes properties of a live job (api.md 4.8)."""
    return bounded(
        f.JobUpdateRequested(
            at=now,
            actor=actor,
            event=job.event,
            job=job.id,
            changes=without_id(changes),
        )
    )


def decide_update_final(document: Json, changes: Json, *, now: float, actor: Actor) -> f.JobUpdated:
    """An administrator changes properties of a final job (api.md 4.8)."""
    return bounded(
        f.JobUpdated(
            at=now,
            actor=actor,
            event=event_of(document),
            job=document["id"],
            changes=without_id(changes),
        )
    )


def decide_tags(document: Json, tags: list[str], *, now: float, actor: Actor) -> f.JobTagged:
    """A final job's tags are replaced by exactly these (api.md 4.9, D14)."""
    return bounded(
        f.JobTagged(
            at=now,
            actor=actor,
            event=event_of(document),
            job=document["id"],
            tags=tags,
        )
    )


def check_tags(tags: list[Any]) -> list[str]:
    """The tags themselves, if each is a word; BadRequest otherwise (D14)."""
    for tag in tags:
        if not isinstance(tag, str) or _WORD.fullmatch(tag) is None:
            raise BadRequest("Every tag must consist of word characters.")
    return list(tags)


def abort_reason(name: str, *, by_key: bool) -> str:
    """The description of a job that somebody aborted; `name` is a user's or a key's title."""
    return f"Manually aborted by {'API Key' if by_key else 'user'}: {name}"


def without_id(changes: Json) -> Json:
    """The changes without what never changes, and without internal keys (`_...`).

    That is `id` and `event`: by them a job's facts are found.
    """
    kept = ("id", "event")
    return {key: v for key, v in changes.items() if key not in kept and not key.startswith("_")}


def event_of(document: Json) -> str:
    """The event under which a final job's facts stand."""
    return str(document["event"])
