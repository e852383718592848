"""The phases of a job's life, as spans."""

from typing import Any

import pytest

from domain import facts as f
from domain.facts import Recorded
from projections.traces import Span, Traces, span_id, trace_id

WHO = f.Actor(type="scheduler", id="1")
MADE = f.MadeOf(event=1)


class History:
    """Facts about jobs, in order, and the spans that came of them."""

    def __init__(self) -> None:
        self.traces = Traces()
        self.spans: list[Span] = []
        self.sequence = 0
        self.order = 0

    def happens(self, kind: type[f.FactBase], at: float, job: str = "j1", **more: Any) -> int:
        known = {"at": at, "actor": WHO, "event": "e1", "job": job, **more}
        if kind is f.JobRequested:
            known = {"made_of": MADE, "source": "key", "username": "", "now": at} | known
        if kind in (f.JobStarted, f.JobFinished, f.JobReturned, f.JobFinishing):
            known = {"server": "s1", "boot": "b1", "order": self.order} | known
        if kind is f.JobAssigned:
            known = {"server": "s1", "boot": "b1", "attempt": 1, "made_of": MADE} | known
        self.sequence += 1
        if kind is f.JobAssigned:
            self.order = self.sequence
        fact = f.from_plain(kind, {k: v for k, v in known.items() if k in kind.__struct_fields__})
        self.spans += self.traces.apply(Recorded(self.sequence, "", fact))  # type: ignore[arg-type]
        return self.sequence

    def runs(self, job: str = "j1", code: int | str = 0, **request: Any) -> None:
        """A whole life, one second per step."""
        self.happens(f.JobRequested, 100, job, **request)
        self.happens(f.JobAssigned, 101, job)
        self.happens(f.JobStarted, 102.5, job, pid=1, started=102)
        self.happens(f.JobFinished, 103, job, code=code, description="", ended=103)
        self.happens(f.JobCompleted, 104, job, code=code, description="Oh" if code else "")


@pytest.fixture
def history() -> History:
    return History()


def phases(history: History) -> list[tuple[str, float, float]]:
    return [(s.name, s.start, s.end) for s in history.spans]


def test_a_job_is_a_span_with_one_for_each_phase(history: History) -> None:
    history.runs()

    assert phases(history) == [
        ("wait", 100, 101),
        ("start", 101, 102),
        ("run", 102, 103),
        ("complete", 103, 104),
        ("job e1", 100, 104),
    ]
    *parts, whole = history.spans
    assert {s.trace for s in history.spans} == {trace_id("j1")}
    assert (whole.id, whole.parent, whole.failure) == (span_id("j1"), None, None)
    assert {s.parent for s in parts} == {whole.id}
    assert len({s.id for s in history.spans}) == 5
    assert whole.attributes == {
        "jobledger.event": "e1", "jobledger.job": "j1", "jobledger.source": "key",
        "jobledger.server": "s1", "jobledger.code": 0,
    }  # fmt: skip


def test_a_failure_is_told_by_the_jobs_span(history: History) -> None:
    history.runs(code=7)
    assert (history.spans[-1].failure, history.spans[-1].attributes["jobledger.code"]) == ("Oh", 7)


def test_a_queued_job_shows_how_long_it_stood_there(history: History) -> None:
    history.happens(f.JobRequested, 10)
    history.happens(f.JobQueued, 11, reason="full")
    history.happens(f.JobAssigned, 15)
    assert phases(history) == [("wait", 10, 11), ("queue", 11, 15)]


def test_reports_about_an_order_that_was_taken_back_are_not_heard(history: History) -> None:
    history.happens(f.JobRequested, 10)
    old = history.happens(f.JobAssigned, 11)
    history.happens(f.JobReturned, 12, reason="anew")
    history.happens(f.JobAssigned, 13)
    history.happens(f.JobStarted, 14, pid=1, started=14, order=old)
    assert [name for name, *_ in phases(history)] == ["wait", "start", "wait"]


def test_retries_and_children_are_in_the_trace_of_what_they_come_from(history: History) -> None:
    history.runs("j1", code=1)
    history.runs("j2", first_attempt="j1", retry_count=1)
    history.runs("j3", first_attempt="j1", retry_count=2)
    history.happens(f.JobRequested, 100, "jparent")
    history.runs("jchild", workflow={"job": "jparent"})

    whole = {s.attributes["jobledger.job"]: s for s in history.spans if s.name == "job e1"}
    assert {whole[j].trace for j in ("j1", "j2", "j3")} == {trace_id("j1")}
    assert whole["j3"].parent == whole["j1"].id
    assert (whole["jchild"].trace, whole["jchild"].parent) == (
        trace_id("jparent"), span_id("jparent"),
    )  # fmt: skip


def test_flushed_jobs_end_and_deleted_ones_are_forgotten(history: History) -> None:
    history.happens(f.JobRequested, 10, "j1")
    history.happens(f.JobRequested, 10, "j2")
    history.happens(f.QueueFlushed, 12, jobs=["j1", "unheard"])
    assert [(s.name, s.failure) for s in history.spans] == [("wait", None), ("job e1", "Flushed.")]


def test_clocks_that_disagree_make_no_span_end_before_it_begins(history: History) -> None:
    history.happens(f.JobRequested, 10)
    history.happens(f.JobAssigned, 9)
    assert phases(history) == [("wait", 10, 10)]


def test_a_fact_that_comes_twice_and_jobs_that_are_not_known_change_nothing(
    history: History,
) -> None:
    history.happens(f.JobAssigned, 9, "unheard")
    history.runs()
    told = len(history.spans)
    history.sequence -= 1
    history.happens(f.JobCompleted, 104, code=0, description="")
    assert len(history.spans) == told == 5
