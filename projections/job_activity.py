"""The meta log of each live job: one line per fact that a person would want to know of.

Kept beside the job itself, since no decision reads it (data.md 6.1, `activity`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from domain import facts as f
from domain.assembly import JobSpec
from domain.facts import Json, Recorded
from domain.ids import base36_of_15
from domain.job import Job

KEPT = 1000  # lines per job


@dataclass(frozen=True, slots=True)
class StoredActivity:
    """What a snapshot keeps of JobActivity."""

    lines: dict[str, list[Json]]


class JobActivity:
    """Fold of facts into lines `{id, epoch, msg, server?, username?}` per live job."""

    def __init__(self) -> None:
        self._lines: dict[str, list[Json]] = {}

    def apply(self, recorded: Recorded, touched: Sequence[Job]) -> None:
        """Note what a fact means for the jobs it touched."""
        if not touched:
            return
        fact = recorded.fact
        for job in touched:
            if getattr(fact, "job", job.id) != job.id:
                continue  # a parent that must know of its child's end
            lines = self._lines.get(job.id)
            if lines is None:
                lines = self._lines[job.id] = []
            lines += lines_of(recorded, job.spec, job.server)
            if len(lines) > KEPT:
                del lines[:-KEPT]

    def of(self, job: str) -> list[Json]:
        """The lines of a job so far, oldest first."""
        return self._lines.get(job, [])

    def forget(self, job: str) -> None:
        """The job left the live set and its lines are stored."""
        self._lines.pop(job, None)

    def state(self) -> StoredActivity:
        """All that `restore` needs; not changed by what is folded later."""
        return StoredActivity({job: list(lines) for job, lines in self._lines.items()})

    def restore(self, state: StoredActivity) -> None:
        """Go on from a snapshot; only for a fold that has seen nothing yet."""
        self._lines = state.lines


def lines_of(recorded: Recorded, spec: JobSpec, server: str | None) -> list[Json]:
    """What a fact says of the job that it concerns, which now has this server."""
    fact = recorded.fact
    at, actor = fact.at, fact.actor
    lines: list[Json] = []
    number = recorded.sequence * 36
    for message in _MESSAGES[type(fact)](fact, spec):
        line: Json = {"id": "m" + base36_of_15(number), "epoch": at, "msg": message}
        if server:
            line["server"] = server
        if actor.type in _PEOPLE:
            line["username"] = actor.id
        lines.append(line)
        number += 1
    if isinstance(fact, f.JobFinished):
        lines += fact.activity
    return lines


_PEOPLE = ("user", "key")


def _requested(fact: f.JobRequested, spec: JobSpec) -> list[str]:
    lines = [f"Job requested by {fact.source} {fact.username} for event {fact.event}."]
    if fact.retry_prev:
        lines.append(f"This is attempt {fact.retry_count + 1}, after {fact.retry_prev}.")
    if fact.parent:
        lines.append(f"Launched by job {fact.parent.get('job')}.")
    if fact.until is not None:
        lines.append(f"Waits in {fact.wait} until {fact.until:.3f}.")
    return [*lines, *spec.remarks]


def _assigned(fact: f.JobAssigned, spec: JobSpec) -> list[str]:
    return [f"Server {fact.server} was chosen by {spec.document.get('algo', 'random')}."]


def _started(fact: f.JobStarted, _: JobSpec) -> list[str]:
    return [f"The process runs, pid {fact.pid}."]


def _finished(fact: f.JobFinished, _: JobSpec) -> list[str]:
    return [f"The process is over, code {fact.code}."]


def _completed(fact: f.JobCompleted, _: JobSpec) -> list[str]:
    return [f"Job completed with code {fact.code}: {fact.description}"]


def _told_seldom(fact: f.Fact, _: JobSpec) -> list[str]:
    match fact:
        case f.JobQueued(reason=reason):
            return [f"Job is queued: {reason}"]
        case f.JobDelayed(until=until):
            return [f"Job waits until {until:.3f}."]
        case f.JobReleased(reason=reason):
            return [f"Job is ready: {reason}"]
        case f.JobDelaySkipRequested():
            return ["The delay was skipped."]
        case f.JobStarting(server=server):
            return [f"Start actions run; server {server} is held."]
        case f.JobReturned(reason=reason):
            return [f"The server gave the job back: {reason}"]
        case f.JobAbortRequested(reason=reason):
            return [f"Abort requested: {reason}"]
        case f.JobAbortOrdered(reason=reason):
            return [f"The server was told to end the job: {reason}"]
        case f.JobFannedOut(children=children):
            return [f"{len(children)} children were launched."]
        case f.ActionEnded(stage=stage, code=code, description=description):
            return [f"Action at {stage} ended with code {code}: {description}"]
        case f.JobSuspended():
            return ["Job is suspended."]
        case f.JobResumed():
            return ["Job goes on."]
        case f.JobChanged(note=str(note)):
            return [note]
        case f.ServerJoined(server=server):
            return [f"Server {server} came back."]
        case _:
            return []


# What every job leaves is found at once; the rest is looked through.
_MESSAGES: dict[type[f.FactBase], Callable[[Any, JobSpec], Sequence[str]]] = {
    **dict.fromkeys(f.KINDS.values(), _told_seldom),
    f.JobRequested: _requested,
    f.JobAssigned: _assigned,
    f.JobStarted: _started,
    f.JobFinished: _finished,
    f.JobCompleted: _completed,
}
