"""Traces of jobs, folded from the facts: which phase of its life took how long.

The ids of traces and spans are derived from those of jobs. So no fact carries a context, whoever
folds the same facts finds the same spans, and sending one twice does no harm. A retry and a
multiplex child are in the trace of their first attempt or parent. Knows nothing of how spans are
sent.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from domain import facts as f
from domain.facts import Recorded

# What a job does from the fact on that stands here until the next such fact.
_PHASES: Mapping[type[f.FactBase], str] = {
    f.JobDelayed: "delay",
    f.JobReleased: "wait",
    f.JobQueued: "queue",
    f.JobStarting: "start actions",
    f.JobFannedOut: "children",
    f.JobAssigned: "start",
    f.JobReturned: "wait",
    f.JobStarted: "run",
    f.JobFinishing: "store",
    f.JobFinished: "complete",
    f.JobEnded: "complete",
}
_REPORTS = (f.JobStarted, f.JobFinishing, f.JobFinished, f.JobReturned)

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span; times are Unix seconds. `failure` says why the job did not succeed."""

    trace: int
    id: int
    parent: int | None
    name: str
    start: float
    end: float
    attributes: Mapping[str, Value]
    failure: str | None = None


@dataclass(slots=True)
class _Open:
    """A live job: its phase, and since when it is in it (Unix seconds)."""

    request: f.JobRequested
    root: str
    parent: str | None
    phase: str
    began: int
    since: float
    order: int | None = None
    attributes: dict[str, Value] = field(default_factory=dict)


class Traces:
    """Fold of all facts about live jobs; jobs that were requested before are ignored."""

    def __init__(self) -> None:
        self.position = 0
        self._open: dict[str, _Open] = {}

    def apply(self, recorded: Recorded) -> list[Span]:
        """Take in one fact; the spans that it ends. Never raises."""
        if recorded.sequence <= self.position:
            return []
        self.position = recorded.sequence
        fact = recorded.fact
        match fact:
            case f.JobRequested():
                return self._begin(fact, recorded.sequence)
            case f.JobCompleted():
                failure = None if fact.code == 0 else fact.description or str(fact.code)
                return self._end(fact.job, fact.at, fact.code, failure)
            case f.QueueFlushed():
                flushed = (self._end(job, fact.at, "flushed", "Flushed.") for job in fact.jobs)
                return [span for spans in flushed for span in spans]
            case f.JobDeleted():
                self._open.pop(fact.job, None)
                return []
            case _:
                return self._move(recorded)

    def _begin(self, request: f.JobRequested, sequence: int) -> list[Span]:
        if request.job in self._open:
            return []
        above = (request.workflow or {}).get("job") or request.first_attempt
        parent = str(above) if above else None
        known = self._open.get(parent or "")
        attributes: dict[str, Value] = {
            "jobledger.event": request.event,
            "jobledger.job": request.job,
            "jobledger.source": request.source,
        }
        if request.retry_count:
            attributes["jobledger.retry"] = request.retry_count
        self._open[request.job] = _Open(
            request=request,
            root=known.root if known else parent or request.job,
            parent=parent,
            phase="delay" if request.wait else "wait",
            began=sequence,
            since=request.at,
            attributes=attributes,
        )
        return []

    def _move(self, recorded: Recorded) -> list[Span]:
        fact = recorded.fact
        job = self._open.get(getattr(fact, "job", ""))
        phase = _PHASES.get(type(fact))
        if job is None or phase is None:
            return []
        if isinstance(fact, _REPORTS) and fact.order != job.order:
            return []  # of an order that was given to somebody else since
        if isinstance(fact, f.JobAssigned):
            job.order = recorded.sequence
            job.attributes["jobledger.server"] = fact.server
        at = fact.started if isinstance(fact, f.JobStarted) else fact.at
        ended = _phase(job, at)
        job.phase, job.began, job.since = phase, recorded.sequence, at
        return [ended]

    def _end(self, id: str, at: float, code: Value, failure: str | None) -> list[Span]:
        job = self._open.pop(id, None)
        if job is None:
            return []
        whole = Span(
            trace=trace_id(job.root),
            id=span_id(id),
            parent=span_id(job.parent) if job.parent else None,
            name=f"job {job.request.event}",
            start=job.request.at,
            end=max(job.request.at, at),
            attributes={**job.attributes, "jobledger.code": code},
            failure=failure,
        )
        return [_phase(job, at), whole]


def trace_id(root: str) -> int:
    """The trace of the job that was there first."""
    return _number(f"trace {root}", 16)


def span_id(job: str, began: int | None = None) -> int:
    """The span of a job, or of its phase that began with the fact at this sequence."""
    return _number(f"span {job} {began or ''}", 8)


def _phase(job: _Open, at: float) -> Span:
    """The span of the phase that is over at `at`; clocks of several machines may disagree."""
    id = job.request.job
    return Span(
        trace=trace_id(job.root),
        id=span_id(id, job.began),
        parent=span_id(id),
        name=job.phase,
        start=job.since,
        end=max(job.since, at),
        attributes={"jobledger.job": id, "jobledger.sequence": job.began},
    )


def _number(text: str, size: int) -> int:
    """A number of so many bytes that is never zero, which OpenTelemetry forbids."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1
