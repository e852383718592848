"""What is remembered of an event between its runs, and how many of its jobs ended today."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import facts as f
from domain.facts import Counters, Fact, MadeOf, Recorded
from domain.subjects import subject_of
from projections.event_state import EventState, EventStates
from tests.projections.histories import (
    ACTOR,
    HISTORIES,
    assert_redelivery_changes_nothing,
    folded,
)

AT = 1_790_000_000.0  # in the afternoon of a day in UTC
DAY = 86_400.0


class Told:
    """States that are told facts one after another."""

    def __init__(self, zone: str = "UTC") -> None:
        self.view = EventStates(zone)
        self.now = AT

    def tell(self, fact: Fact) -> int:
        sequence = self.view.position + 1
        self.view.apply(Recorded(sequence, subject_of(fact), fact))
        return sequence

    def event(self, counters: Counters | None = None, **record: Any) -> int:
        record = {"id": "e1", "category": "c1"} | record
        made = f.EventUpdated if "e1" in self.view.states else f.EventCreated
        return self.tell(
            made(at=self.now, actor=ACTOR, event="e1", definition=record, counters=counters)
        )

    def request(self, job: str = "j1", **more: Any) -> None:
        self.tell(
            f.JobRequested(
                at=self.now, actor=ACTOR, event="e1", job=job, made_of=MadeOf(event=1),
                source="user", username="u", now=self.now, **more,
            )
        )  # fmt: skip

    def assign(self, job: str = "j1", robin: int | None = None) -> int:
        return self.tell(
            f.JobAssigned(
                at=self.now, actor=ACTOR, server="s1", boot="b1", event="e1", job=job,
                attempt=1, made_of=MadeOf(event=1), robin=robin,
            )
        )  # fmt: skip

    def start(self, order: int, started: float, job: str = "j1") -> None:
        self.tell(
            f.JobStarted(
                at=self.now, actor=ACTOR, server="s1", boot="b1", event="e1", job=job,
                order=order, pid=1, started=started,
            )
        )  # fmt: skip

    def finish(self, order: int, ended: float, job: str = "j1") -> None:
        self.tell(
            f.JobFinished(
                at=self.now, actor=ACTOR, server="s1", boot="b1", event="e1", job=job,
                order=order, code=0, description="", ended=ended,
            )
        )  # fmt: skip

    def complete(self, job: str = "j1", code: Any = 0, retry: f.Follower | None = None) -> None:
        self.tell(
            f.JobCompleted(
                at=self.now, actor=ACTOR, event="e1", job=job, code=code, description="",
                retry=retry,
            )
        )  # fmt: skip

    def ran(self, job: str, code: Any = 0) -> None:
        self.request(job)
        self.assign(job)
        self.complete(job, code)

    @property
    def state(self) -> EventState:
        return self.view.states["e1"]

    def today(self, condition: str) -> int:
        return self.view.today("e1", condition, self.now)


@pytest.fixture
def told() -> Told:
    told = Told()
    told.event()
    return told


# --- how jobs ended ----------------------------------------------------------------------------


def test_elapsed_is_the_time_of_the_process(told: Told) -> None:
    told.request()
    order = told.assign()
    told.start(order, AT + 5)
    told.finish(order, AT + 7.5)
    told.now += 60
    told.complete(code=3)

    assert told.state.wire() == {
        "last_job": "j1",
        "last_code": 3,
        "last_completed": AT + 7.5,
        "total_elapsed": 2.5,
        "total_count": 1,
    }


def test_a_job_that_never_ran_shows_its_waiting_time(told: Told) -> None:
    told.request()
    told.now += 30
    told.complete(code="abort")

    assert (told.state.total_elapsed, told.state.last_completed) == (30, AT + 30)


def test_completion_actions_do_not_count_as_elapsed(told: Told) -> None:
    told.request()
    told.now += 10
    told.tell(f.JobEnded(at=told.now, actor=ACTOR, event="e1", job="j1", code=0, description=""))
    told.now += 50
    told.complete()

    assert told.state.total_elapsed == 10


def test_reports_of_an_older_order_are_ignored(told: Told) -> None:
    told.request()
    old = told.assign()
    told.start(old, AT)
    new = told.assign()
    told.start(new, AT + 100)
    told.finish(old, AT + 50)
    told.finish(new, AT + 101)
    told.complete()

    assert told.state.total_elapsed == 1


def test_clocks_that_disagree_never_make_time_run_backwards(told: Told) -> None:
    told.request()
    order = told.assign()
    told.start(order, AT + 5)
    told.finish(order, AT + 4)
    told.complete()

    assert told.state.total_elapsed == 0


def test_a_retried_attempt_is_no_result(told: Told) -> None:
    told.request()
    told.complete(code=1, retry=f.Follower(job="j2"))
    assert (told.state.total_count, told.state.last_job) == (0, None)
    told.request("j2")
    told.complete("j2")

    assert (told.state.total_count, told.state.last_job) == (1, "j2")


def test_of_a_multiplex_run_only_the_parent_counts(told: Told) -> None:
    told.request("parent")
    told.request("child", workflow={"job": "parent"})
    told.complete("child", code=1)
    told.complete("parent")

    assert (told.state.total_count, told.state.last_job) == (1, "parent")


def test_flushed_jobs_leave_no_trace(told: Told) -> None:
    told.request()
    told.tell(f.QueueFlushed(at=AT, actor=ACTOR, event="e1", jobs=["j1"]))
    told.complete()

    assert told.state.total_count == 0


def test_an_event_that_is_made_again_begins_anew(told: Told) -> None:
    told.ran("j1")
    told.tell(f.EventDeleted(at=AT, actor=ACTOR, event="e1"))
    assert told.view.states == {}
    told.event(counters=Counters(nth=4))

    assert told.state.wire() == {"nth": 4}


# --- counters ----------------------------------------------------------------------------------


def fire(anchor: int) -> f.FireKey:
    return f.FireKey(anchor=anchor, trigger=0, due=AT)


def test_a_fire_carries_the_counters_on(told: Told) -> None:
    told.request(fire=fire(1), counters=Counters(cursor=60, nth=3))

    assert (told.state.cursor, told.state.nth) == (60, 3)


def test_a_rejected_launch_and_missed_fires_carry_them_on_as_well(told: Told) -> None:
    told.tell(
        f.LaunchRejected(
            at=AT, actor=ACTOR, event="e1", job="j1", reason="", now=AT, source="scheduler",
            fire=fire(1), counters=Counters(nth=2),
        )
    )  # fmt: skip
    told.tell(
        f.FiresMissed(
            at=AT, actor=ACTOR, event="e1", after=0, upto=60, count=1, reason="",
            counters=Counters(cursor=120),
        )
    )  # fmt: skip

    assert (told.state.cursor, told.state.nth) == (120, 2)


def test_a_late_fire_does_not_undo_what_a_client_set(told: Told) -> None:
    told.event(counters=Counters(nth=5))
    told.request(fire=fire(1), counters=Counters(cursor=60, nth=1))

    assert (told.state.cursor, told.state.nth) == (60, 5)


def test_an_update_sets_only_what_it_names(told: Told) -> None:
    told.event(counters=Counters(cursor=60, nth=5))
    told.event(counters=Counters(cursor=120))
    told.event(title="New")

    assert (told.state.cursor, told.state.nth) == (120, 5)


def test_round_robin_moves_with_every_assignment(told: Told) -> None:
    told.request()
    told.assign(robin=2)
    assert told.state.robin == 2
    told.tell(f.JobStarting(at=AT, actor=ACTOR, event="e1", job="j1", server="s1", robin=0))

    assert told.state.robin == 0


# --- counts of the day -------------------------------------------------------------------------


def test_ends_are_counted_by_condition(told: Told) -> None:
    for job, code in (("j1", 0), ("j2", 1), ("j3", "abort"), ("j4", "warning")):
        told.ran(job, code)

    counts = {name: told.today(name) for name in "complete success error user abort".split()}
    assert counts == {"complete": 4, "success": 1, "error": 3, "user": 1, "abort": 1}
    assert told.today("start") == 4


def test_a_start_is_counted_once_however_often_it_is_tried(told: Told) -> None:
    told.request()
    told.tell(f.JobStarting(at=AT, actor=ACTOR, event="e1", job="j1", server="s1"))
    told.assign()
    told.assign()

    assert told.today("start") == 1


def test_a_new_day_begins_at_zero(told: Told) -> None:
    told.ran("j1")
    told.now += DAY

    assert told.today("complete") == 0
    told.ran("j2")
    assert told.today("complete") == 1


def test_a_day_is_a_local_one() -> None:
    """Between 11:30 and 12:30 UTC midnight passes in Auckland, not in London."""
    counts = {}
    for zone in ("Europe/London", "Pacific/Auckland"):
        told = Told(zone)
        told.event()
        told.now = AT // DAY * DAY + 11.5 * 3600
        told.ran("j1")
        told.now += 3600
        counts[zone] = told.today("complete")

    assert counts == {"Europe/London": 1, "Pacific/Auckland": 0}


DAY_LIMIT = {"type": "day", "enabled": True, "condition": "complete", "amount": 5}


@pytest.mark.parametrize("where", ["event", "category", "config"])
def test_deleting_a_job_of_today_takes_its_counts_back(told: Told, where: str) -> None:
    record = {"limits": [DAY_LIMIT]}
    if where == "event":
        told.event(**record)
    else:
        id = "c1" if where == "category" else "config"
        told.tell(f.CatalogUpdated(at=AT, actor=ACTOR, type=where, id=id, record=record))  # type: ignore[arg-type]
    told.ran("j1", code=1)
    told.ran("j2")
    told.tell(f.JobDeleted(at=AT, actor=ACTOR, event="e1", job="j1"))

    assert (told.today("complete"), told.today("error"), told.today("start")) == (1, 0, 1)


def test_a_job_of_yesterday_takes_nothing_from_today(told: Told) -> None:
    told.event(limits=[DAY_LIMIT])
    told.ran("j1")
    told.now += DAY
    told.ran("j2")
    told.tell(f.JobDeleted(at=told.now, actor=ACTOR, event="e1", job="j1"))

    assert told.today("complete") == 1


# --- any history -------------------------------------------------------------------------------


@given(HISTORIES, st.integers(0, 40))
def test_any_history_is_taken_in_and_redelivery_changes_nothing(
    history: list[Recorded], cut: int
) -> None:
    assert_redelivery_changes_nothing(EventStates, history, cut, "_zone")
    view = folded(EventStates, history)
    for event, state in view.states.items():
        assert state.total_elapsed >= 0
        state.wire()
        assert view.today(event, "complete", AT) >= 0
