"""What people may ask of live and final jobs (api.md 4.5 to 4.9)."""

from collections.abc import Iterable
from typing import Any

import pytest

from domain.access import Principal
from domain.assembly import NOTHING, UNMADE, assemble
from domain.errors import AccessDenied, BadRequest, RuleBroken
from domain.facts import (
    Actor,
    CatalogType,
    Fact,
    JobAbortRequested,
    JobDelayed,
    JobRequested,
    JobSuspended,
    Json,
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
SUSPENDED = JobSuspended(**HEAD, stage="start", index=0)
ADMIN = Principal("admin", "user", "admin", privileges=frozenset({"admin"}))


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


class Plugins:
    """A plugin whose script is locked, and no other definition."""

    def event(self, id: str) -> Json | None:
        return None

    def record(self, type: CatalogType, id: str) -> Json | None:
        return {"params": [{"id": "script", "type": "code", "locked": True}]}

    def records(self, type: CatalogType) -> Iterable[Json]:
        return []

    def category_in_use(self, id: str) -> bool:
        return False


def resumed(job: Job, params: Json, by: Principal = ADMIN) -> Json:
    return decide_resume(job, "j1", params, by, Plugins(), **WHEN).params


def test_only_a_suspended_job_can_be_resumed() -> None:
    with pytest.raises(RuleBroken):
        resumed(live(), {})
    assert resumed(live(SUSPENDED), {"go": True}) == {"go": True}


def test_a_resumption_takes_what_its_author_might_have_run_the_job_with() -> None:
    limited = Principal("k2", "key", "ops", groups=frozenset({"g2"}))
    script = {"go": True, "script": "rm"}
    assert resumed(live(SUSPENDED), script) == script
    assert resumed(live(SUSPENDED), script, limited) == {"go": True}
    with pytest.raises(BadRequest):
        resumed(live(SUSPENDED), {"_xy_override_command": "rm"})
    with pytest.raises(AccessDenied):
        resumed(live(SUSPENDED), {"_xy_override_targets": ["main"]}, limited)


def test_a_job_keeps_its_event_whoever_changes_it() -> None:
    document: Json = {"id": "j1", "event": "backup"}
    change: Json = {"event": "a b", "_log": {}, "label": "x"}
    assert decide_update_final(document, change, **WHEN).changes == {"label": "x"}
    assert decide_update(live(), change, **WHEN).changes == {"label": "x"}


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
