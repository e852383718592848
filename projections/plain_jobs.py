"""Jobs that begin and end within the facts at hand, and of which nothing else is told there.

A long history is read a thousand facts at a time, and most of its jobs are requested, assigned,
started, finished and completed within those. Nobody can have asked what they were in between: they
need no place among the live jobs, and their record is made at once. It is the very record that
active_jobs.py, job_activity.py, job_view.py and final_record.py arrive at, to which all jobs are
left that are not so plain. Knows nothing of where facts come from or records go.
"""

from collections.abc import Container, Mapping, Sequence
from functools import lru_cache
from typing import cast

from msgspec import Struct

from domain import facts as f
from domain.assembly import JobSpec, Template, identity
from domain.facts import Json, Recorded
from domain.job import JobState
from projections.final_record import PRUNED, FinalRecord, record_in_parts
from projections.job_activity import KEPT, lines_of
from projections.job_view import LOG_KEY, PASSING, REPORTED

_ORDER: tuple[type[f.FactBase], ...] = (
    f.JobRequested,
    f.JobAssigned,
    f.JobStarted,
    f.JobFinished,
    f.JobCompleted,
)
_STEPS: Mapping[type[f.FactBase], int] = {kind: step for step, kind in enumerate(_ORDER)}
_LAST = len(_ORDER) - 1
# What the process of a plain job may report: it stands in the record as it is.
_PLAIN_REPORT = REPORTED - {*PRUNED, *PASSING}
# With these in its definitions, a job's record would take more than putting parts together.
_NOT_SHARED = ({*PRUNED, *PASSING} - {"actions", "limits"}) | {"ephemeral"}


class Parts(Struct, frozen=True, gc=False):
    """What the records of a template's jobs have in common; `head` comes before their names."""

    head: Json
    rest: Json
    actions: list[Json]
    limits: list[Json]
    spec: JobSpec


class Outline:
    """The parts that many jobs share; equal to itself alone.

    No Struct, so that who writes jobs down says how: once is enough for all of them.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Parts) -> None:
        self.parts = parts


class PlainJob(Struct, gc=False):
    """All facts of a job, of which its record can be made.

    `outline` is there once it is known what the job is made of; `groups` are those of its server
    at its end.
    """

    requested: Recorded
    assigned: Recorded
    started: Recorded
    finished: Recorded
    completed: Recorded
    outline: Outline | None = None
    groups: Sequence[str] = ()


def plain_jobs(
    facts: Sequence[Recorded], live: Container[str], owed: Container[str]
) -> list[PlainJob | None]:
    """For each of the facts the plain job that it belongs to.

    `live` are the jobs from before, `owed` those that were named and are not requested yet.
    """
    found: list[PlainJob | None] = [None] * len(facts)
    places: dict[str, list[int]] = {}  # of the facts of each job; empty: it is not plain
    for place, recorded in enumerate(facts):
        fact = recorded.fact
        step = _STEPS.get(type(fact))
        id: str = getattr(fact, "job", "")
        if step is None:
            _mark_odd(places, fact, id)
        elif step == 0:
            is_new = id not in places and id not in live and id not in owed
            places[id] = [place] if is_new else []
        else:
            mine = places.get(id)
            if mine and len(mine) == step:
                mine.append(place)
            elif mine is not None:
                places[id] = []
            if step == _LAST:
                if mine and len(mine) == len(_ORDER):
                    _find(found, facts, mine)
                _mark_odd(places, fact, id)
    return found


def _mark_odd(places: dict[str, list[int]], fact: f.Fact, id: str) -> None:
    """The jobs that this fact concerns are not plain, or will not be."""
    match fact:
        case f.ServerJoined():  # tells of all jobs on that server
            for job in places:
                places[job] = []
        case f.JobCompleted(retry=f.Follower(job=follower)):  # owed unless it is live
            places[follower] = []
        case f.JobFannedOut(children=children):
            places |= {child.job: [] for child in children}
        case _:
            pass
    if id in places:
        places[id] = []


def _find(found: list[PlainJob | None], facts: Sequence[Recorded], places: Sequence[int]) -> None:
    """Note the job whose facts stand at these places, if it is plain."""
    job = _job_of([facts[place] for place in places])
    if _is_plain(job):
        for place in places:
            found[place] = job


def _job_of(facts: Sequence[Recorded]) -> PlainJob:
    requested, assigned, started, finished, completed = facts
    return PlainJob(requested, assigned, started, finished, completed)


def _is_plain(job: PlainJob) -> bool:
    """Whether these facts fit each other, and nothing follows from them."""
    request, _, started, finished, completed = _facts_of(job)
    return (
        started.order == finished.order == job.assigned.sequence
        and started.cwd is not None
        and finished.report.keys() <= _PLAIN_REPORT
        and not (request.overrides or request.input or request.test or request.workflow)
        and not (request.ephemeral or finished.large)
        and not (completed.retry or completed.retry_ok or completed.jobs or completed.workflow)
    )


@lru_cache(maxsize=2000)
def outline_of(template: Template) -> Outline | None:
    """What the records of this template's jobs have in common, if they can be plain."""
    head, rest = template.head, template.spec.document
    if not _NOT_SHARED.isdisjoint(head.keys() | rest.keys()):
        return None
    parts = Parts(
        {key: value for key, value in head.items() if key not in PRUNED},
        {key: value for key, value in rest.items() if key not in PRUNED},
        rest["actions"],
        rest["limits"],
        template.spec,
    )
    return Outline(parts)


def plain_record(job: PlainJob) -> FinalRecord:
    """The record of a plain job whose outline is known."""
    assert job.outline is not None
    outline = job.outline.parts
    request, assigned, started, finished, completed = _facts_of(job)
    log = finished.log
    brief: Json = {
        **outline.head,
        **identity(request),
        **outline.rest,
        "tags": completed.tags,
        "state": JobState.COMPLETE.value,
        "started": started.started,
        "updated": completed.at,
        "log_file_size": log.size if log is not None else 0,
        "server": assigned.server,
        "groups": job.groups,
        "pid": started.pid,
        "cwd": started.cwd,
        **finished.report,
    }
    if log is not None:
        brief[LOG_KEY] = log  # is written as the object that it is in all other records
    brief |= {
        "completed": finished.ended,
        "elapsed": round(max(0.0, finished.ended - started.started), 3),
        "complete": True,
        "progress": 1,
        "code": completed.code,
        "description": completed.description,
        "final": True,
        "event_title": outline.spec.title or request.event,
        "event_revision": outline.spec.revision,
    }
    activity = lines_of(job.requested, outline.spec, None)
    for recorded in (job.assigned, job.started, job.finished, job.completed):
        activity += lines_of(recorded, outline.spec, assigned.server)
    details: Json = {
        "actions": outline.actions,
        "activity": activity[-KEPT:],
        "limits": outline.limits,
    }
    orders = (job.assigned.sequence, job.started.sequence, job.finished.sequence)
    return record_in_parts(request.job, brief, details, orders)


def _facts_of(
    job: PlainJob,
) -> tuple[f.JobRequested, f.JobAssigned, f.JobStarted, f.JobFinished, f.JobCompleted]:
    return cast(
        "tuple[f.JobRequested, f.JobAssigned, f.JobStarted, f.JobFinished, f.JobCompleted]",
        (
            job.requested.fact,
            job.assigned.fact,
            job.started.fact,
            job.finished.fact,
            job.completed.fact,
        ),
    )
