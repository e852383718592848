"""What people may ask of live and final jobs (api.md 4.5 to 4.9)."""

from typing import Any

import pytest

from domain.assembly import NOTHING, UNMADE, assemble
from domain.errors import BadRequest, RuleBroken
from domain.facts import (
    Actor,
    Fact,
    JobAbortRequested,
    JobDelayed,
    JobRequested,
    JobSuspended,
    Recorded,
)
from domain.job import Job, begin, evolve
from domain.job_requests import (
    check_tags,
    decide_abort,
    decide_resume,
    decide_skip_delay,
    decide_tags,
    decide_update,
    decide_update_final,
)

ACTOR = Actor(type="user", id="alice")
WHEN: dict[str, Any] = {"now": 5.0, "actor": ACTOR}
HEAD: dict[str, Any] = {"at": 1.0, "actor": ACTOR, "event": "backup", "job": "j1"}


def live(*facts: Fact) -> Job:
    """A job after these facts."""
    request = JobRequested(**HEAD, made_of=UNMADE, source="user", username="alice", now=1.0)
    job = begin(Recorded(1, "", request), assemble(NOTHING, request))
    for sequence, fact in enumerate(facts, 2):
        job = evolve(job, Recorded(sequence, "", fact))
    return job


def test_a_live_job_can_be_aborted_and_no_other() -> None:
    fact = decide_abort(live(), "j1", "because", **WHEN)
    assert fact == JobAbortRequested(
        at=5.0, actor=ACTOR, event="backup", job="j1", reason="because"
    )
    with pytest.raises(RuleBroken) as refusal:
        decide_abort(None, "j1", "because", **WHEN)
    assert refusal.value.code == "job"


def test_only_a_suspended_job_can_be_resumed() -> None:
    with pytest.raises(RuleBroken):
        decide_resume(live(), "j1", {}, **WHEN)
    suspended = live(JobSuspended(**HEAD, stage="start", index=0))
    assert decide_resume(suspended, "j1", {"go": True}, **WHEN).params == {"go": True}


def test_only_a_delayed_job_can_skip_its_delay() -> None:
    with pytest.raises(RuleBroken):
        decide_skip_delay(live(), "j1", **WHEN)
    assert decide_skip_delay(live(JobDelayed(**HEAD, until=9.0)), "j1", **WHEN).job == "j1"


def test_a_jobs_id_never_changes() -> None:
    changes = {"id": "j2", "label": "x"}
    assert decide_update(live(), changes, **WHEN).changes == {"label": "x"}
    final = {"id": "j1", "event": "backup"}
    assert decide_update_final(final, changes, **WHEN).changes == {"label": "x"}


def test_tags_are_words_and_replace_all() -> None:
    assert check_tags(["a", "b_2"]) == ["a", "b_2"]
    for bad in (["a b"], [""], [5], [None]):
        with pytest.raises(BadRequest):
            check_tags(bad)
    fact = decide_tags({"id": "j1", "event": "backup"}, ["a"], **WHEN)
    assert (fact.event, fact.job, fact.tags) == ("backup", "j1", ["a"])
