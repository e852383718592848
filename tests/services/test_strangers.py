"""Jobs that a server goes on with although they are over, by the clock that is passed in."""

import pytest

from domain import facts as f
from domain.assembly import NOTHING, assemble
from domain.facts import Recorded
from domain.job import Job, begin, evolve
from services.scheduler.strangers import AFTER, AGAIN, Strangers

WHO = f.Actor(type="scheduler", id="")
T = 1000.0


def running(id: str, order: int) -> Job:
    """A live job that was given to a server by this order."""
    request = f.JobRequested(
        at=T, actor=WHO, event="e", job=id, made_of=f.MadeOf(event=1),
        source="key", username="anna", now=T,
    )  # fmt: skip
    assigned = f.JobAssigned(
        at=T, actor=WHO, server="s1", boot="b1", event="e", job=id, attempt=1,
        made_of=request.made_of,
    )  # fmt: skip
    job = begin(Recorded(order - 1, "", request), assemble(NOTHING, request))
    return evolve(job, Recorded(order, "", assigned))


@pytest.fixture
def strangers() -> Strangers:
    """Of the live jobs `a` and `b`, with the orders 11 and 21."""
    return Strangers({"a": running("a", 11), "b": running("b", 21)})


def test_a_job_that_runs_as_it_was_ordered_is_no_stranger(strangers: Strangers) -> None:
    for now in (T, T + AFTER, T + 2 * AFTER):
        strangers.hear("s1", {"a": {"order": 11}, "b": {"order": 21}}, now)
    assert not strangers


@pytest.mark.parametrize("told", [{"x": {"order": 5}}, {"a": {"order": 10}}, {"a": {}}])
def test_a_server_that_insists_is_told_once_in_a_while(
    strangers: Strangers, told: dict[str, dict[str, int]]
) -> None:
    [(job, telemetry)] = told.items()
    strangers.hear("s1", told, T)
    strangers.hear("s1", told, T + AFTER - 0.1)
    assert not strangers

    strangers.hear("s1", told, T + AFTER)
    assert strangers
    assert list(strangers.take()) == [("s1", job, telemetry.get("order", 0))]

    strangers.hear("s1", told, T + AFTER + AGAIN)
    assert not strangers
    strangers.hear("s1", told, T + 2 * AFTER + AGAIN)
    assert strangers


def test_a_report_that_comes_meanwhile_settles_it(strangers: Strangers) -> None:
    strangers.hear("s1", {"x": {"order": 5}}, T)
    strangers.hear("s1", {}, T + 1)
    strangers.hear("s1", {"x": {"order": 5}}, T + AFTER)
    assert not strangers


def test_what_another_server_tells_changes_nothing(strangers: Strangers) -> None:
    strangers.hear("s1", {"x": {"order": 5}}, T)
    strangers.hear("s2", {}, T + 1)
    strangers.hear("s2", {"x": {"order": 5}}, T + AFTER)
    assert not strangers
    strangers.hear("s1", {"x": {"order": 5}}, T + AFTER)
    assert list(strangers.take()) == [("s1", "x", 5)]


def test_a_new_term_begins_without_what_was_heard(strangers: Strangers) -> None:
    strangers.hear("s1", {"x": {"order": 5}}, T)
    strangers.hear("s1", {"x": {"order": 5}}, T + AFTER)
    strangers.clear()
    assert not strangers
    strangers.hear("s1", {"x": {"order": 5}}, T + AFTER)
    assert not strangers
