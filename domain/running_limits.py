"""Limits while a job runs: time, log, mem, cpu (execution.md 7.1). Pure.

Decides which limit fires and what stands on the job afterwards. Must not know where the figures
come from; `cpu` is in percent of one core, sizes in bytes, durations in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from domain import facts as f
from domain.acting import LIMIT
from domain.facts import Json
from domain.job import Job
from domain.wording import spoken_duration, spoken_size

ORDER = ("time", "log", "mem", "cpu")
"""At most one limit fires per look, in this order."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a running job uses now.

    `since` says, per index of a limit, since when too much is used without a break.
    """

    elapsed: float
    log_size: float
    mem: float
    cpu: float
    since: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Fired:
    """A limit that was exceeded: its place in the job's list and the message for people."""

    index: int
    limit: Json
    message: str

    @property
    def aborts(self) -> bool:
        """Whether the job ends because of it."""
        return bool(self.limit.get("abort"))


def limits_of(job: Job) -> list[Json]:
    """The job's limits with what became of them so far."""
    limits = job.value("limits")
    return [x for x in limits if isinstance(x, dict)] if isinstance(limits, list) else []


def watched(job: Job) -> bool:
    """Whether any limit of the job can still fire while it runs."""
    return any(_armed(limit) for limit in limits_of(job))


def above(limits: list[Json], mem: float, cpu: float) -> set[int]:
    """The indexes of the `mem` and `cpu` limits that are exceeded at this moment."""
    now = {"mem": mem, "cpu": cpu}
    return {
        index
        for index, limit in enumerate(limits)
        if limit.get("type") in now and now[str(limit["type"])] > _number(limit.get("amount"))
    }


def first_due(limits: list[Json], usage: Usage, now: float) -> Fired | None:
    """The limit that fires now, if any. A missing duration counts as 0 (7.1)."""
    for kind in ORDER:
        for index, limit in enumerate(limits):
            if limit.get("type") == kind and _armed(limit) and _exceeded(index, limit, usage, now):
                return Fired(index, limit, message(limit))
    return None


def message(limit: Json) -> str:
    """What people read about an exceeded limit."""
    amount, duration = _number(limit.get("amount")), _number(limit.get("duration"))
    sustained = f" for {spoken_duration(duration)}" if duration else ""
    match limit.get("type"):
        case "time":
            what = f"elapsed time has exceeded maximum limit of {spoken_duration(duration)}"
        case "log":
            what = f"output size has exceeded maximum limit of {spoken_size(amount)}"
        case "mem":
            what = f"memory usage has exceeded maximum limit of {spoken_size(amount)}{sustained}"
        case _:
            what = f"CPU usage has exceeded maximum limit of {amount:g}%{sustained}"
    return f"Job {what}."


def fire(job: Job, fired: Fired, *, now: float, actor: f.Actor) -> list[f.Fact]:
    """The facts of an exceeded limit: notices, the abort, its note on the job, and tags.

    The notices come before the abort, so that a job that ends at once still sends them. The note
    comes last: with it the limit counts as fired, and who writes these may die in between. The
    notices' stage is `limit`; the index of the limit is that of the action divided by two.
    """
    limits = limits_of(job)
    limits[fired.index] = fired.limit | {"date": now, "msg": fired.message, "code": 0}
    changes: Json = {"limits": limits}
    tags = [tag for tag in fired.limit.get("tags") or [] if isinstance(tag, str)]
    if tags:
        changes["tags"] = list(dict.fromkeys([*(job.value("tags") or []), *tags]))
    common: Json = {
        "at": now,
        "actor": actor,
        "cause": job.version,
        "event": job.event,
        "job": job.id,
    }
    facts: list[f.Fact] = []
    for place, notice in _notices(fired):
        index = fired.index * 2 + place
        content: Json = {"stage": LIMIT, "index": index, "action": notice}
        facts.append(f.ActionStarted(**common, **content))
    if fired.aborts and job.server is not None:
        order: Json = {"server": job.server, "order": job.order, "reason": fired.message}
        facts.append(f.JobAbortOrdered(**common, **order, retry_ok=True))
    return [*facts, f.JobChanged(**common, changes=changes, note=fired.message)]


def _notices(fired: Fired) -> list[tuple[int, Json]]:
    """The email and the web hook of a limit, as actions."""
    limit, found = fired.limit, []
    said = fired.message + (" (Job aborted)" if fired.aborts else "")
    text = " ".join(part for part in (said, str(limit.get("text") or "")) if part)
    if limit.get("users") or limit.get("email"):
        email = {"type": "email", "users": limit.get("users") or [], "text": text}
        found.append((0, email | {"email": limit.get("email") or ""}))
    if limit.get("web_hook"):
        found.append((1, {"type": "web_hook", "web_hook": limit["web_hook"], "text": text}))
    return [(place, notice | {"condition": LIMIT, "enabled": True}) for place, notice in found]


def _armed(limit: Json) -> bool:
    return bool(limit.get("type") in ORDER and limit.get("enabled") and not limit.get("date"))


def _exceeded(index: int, limit: Json, usage: Usage, now: float) -> bool:
    amount, duration = _number(limit.get("amount")), _number(limit.get("duration"))
    match limit.get("type"):
        case "time":
            return duration > 0 and usage.elapsed > duration
        case "log":
            return usage.log_size > amount
        case _:
            since = usage.since.get(index)
            return since is not None and (duration == 0 or now - since > duration)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
