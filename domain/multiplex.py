"""One job on every eligible server: a parent and its children (execution.md 5.1, api.md 4.1).

Pure decisions of the parent's owner. A child is an ordinary job that carries `workflow`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from domain import facts as f
from domain.completion import Result, aborted
from domain.facts import Json
from domain.ids import derived_job_id
from domain.job import Job

NODE = "job"  # the one node of the implicit graph: trigger -> multiplex controller -> job
SOME_FAILED = "Workflow completed, but one or more jobs failed."
ALL_FAILED = "All workflow jobs failed."


@dataclass(frozen=True, slots=True)
class Eligible:
    """The servers that get a child each, in target order."""

    servers: list[str]


def fan_out(job: Job, servers: Sequence[str], *, now: float, actor: f.Actor) -> f.JobFannedOut:
    """The children of a parent: one per server, `stagger` seconds apart."""
    stagger = job.spec.document.get("stagger")
    wait = float(stagger) if isinstance(stagger, int | float) and stagger > 0 else 0.0
    return f.JobFannedOut(
        at=now,
        actor=actor,
        cause=job.version,
        event=job.event,
        job=job.id,
        children=[
            f.Child(
                job=derived_job_id(job.requested, "child", job.id, server),
                server=server,
                until=now + place * wait if wait and place else None,
            )
            for place, server in enumerate(servers)
        ],
    )


def child_request(parent: Job, child: f.Child, *, now: float, actor: f.Actor) -> f.JobRequested:
    """The request of one child: the parent's own, bound to one server."""
    request = parent.request
    overrides = request.overrides | {"targets": [child.server], "algo": "prefer_first_natural"}
    return replace(
        request,
        at=now,
        actor=actor,
        cause=parent.version,
        job=child.job,
        overrides=overrides,
        source="workflow",
        type=None,
        workflow={"job": parent.id, "event": parent.event, "node": NODE},
        until=child.until,
        wait="start_delay" if child.until is not None else None,
        retry_count=0,
        retry_prev=None,
        first_attempt=None,
        priority=False,
        fire=None,
        counters=None,
    )


def child_result(child: Job) -> Json:
    """What the parent keeps of a child that ended; a flushed one counts as aborted."""
    final = child.final
    ended = child.completed if child.completed is not None else child.since
    return {
        "id": child.id,
        "code": final.code if final else "abort",
        "description": final.description if final else "Flushed from the queue.",
        "server": child.server or (child.spec.document.get("targets") or [None])[0],
        "completed": ended,
        "elapsed": round(max(0.0, ended - child.started), 3),
        "tags": list(final.tags) if final else [],
        "files": (child.finished.report.get("files") or []) if child.finished else [],
    }


def result_of(parent: Job, results: Iterable[Json]) -> Result:
    """The result of a parent whose children are all over."""
    codes = [result["code"] for result in results]
    if parent.abort is not None:
        return aborted(parent.abort.reason, retry_ok=parent.abort.retry_ok)
    failed = sum(1 for code in codes if code != 0)
    if not failed:
        return Result(0, "Success")
    return Result(1, ALL_FAILED) if failed == len(codes) else Result("warning", SOME_FAILED)


def workflow_of(results: Mapping[str, Json], state: str = "complete") -> Json:
    """The parent's `workflow` property: the results of the children that ended, by node."""
    return {"state": state, "jobs": {NODE: [results[id] for id in sorted(results)]}}


def progress_of(parent: Job, results: Mapping[str, Json]) -> float:
    """The share of a parent's children that are finished, 0 to 1 (api.md 4.1)."""
    return round(len(results) / len(parent.children), 3)
