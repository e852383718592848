"""The preview of launches, over events that were really defined and fired."""

from typing import Any

from domain import facts as f
from domain.facts import Json
from projections.upcoming_jobs import Preview
from tests.services.test_firing import MINUTELY, NOON, Clockwork, created, on


def preview(clock: Clockwork, **options: Any) -> list[Json]:
    assert clock.leader is not None
    return Preview(clock.leader.schedule).rows(clock.now, **options)


def test_rows_of_all_events_come_soonest_first() -> None:
    clock = Clockwork()
    clock.event(on("schedule", minutes=[10]), id="a", title="Ay")
    clock.event(on("schedule", minutes=[5]), id="b")
    rows = preview(clock, hours=2)
    assert [(row["event"], row["when"] - NOON) for row in rows] == [
        ("b", 300), ("a", 600), ("b", 3900), ("a", 4200),
    ]  # fmt: skip
    assert rows[1] == {
        "event": "a", "title": "Ay", "category": "general", "when": NOON + 600,
        "trigger": {"type": "schedule"},
    }  # fmt: skip


def test_limit_horizon_event_and_the_callers_limits_are_kept() -> None:
    clock = Clockwork()
    clock.event(MINUTELY, id="a")
    clock.event(MINUTELY, id="b")
    assert len(preview(clock)) == 100
    assert len(preview(clock, hours=1, limit=1000)) == 120
    assert {row["event"] for row in preview(clock, event="b")} == {"b"}
    assert {row["event"] for row in preview(clock, shown=lambda e: e["id"] == "a")} == {"a"}
    assert preview(clock, event="unknown") == []


def test_what_is_off_or_quiet_is_left_out() -> None:
    clock = Clockwork()
    clock.given(created("category", "other"))
    clock.event(MINUTELY, id="off", enabled=False)
    clock.event(MINUTELY, on("quiet", invisible=True), id="quiet")
    clock.event(MINUTELY, id="closed", category="other")
    clock.switch("category", "other", enabled=False)
    assert preview(clock) == []
    clock.switch("category", "other", enabled=True)
    assert {row["event"] for row in preview(clock)} == {"closed"}
    clock.master(enabled=False)
    assert preview(clock) == []


def test_nth_goes_on_from_the_counter_as_it_is() -> None:
    clock = Clockwork()
    clock.event(MINUTELY, on("nth", every=3), counters=f.Counters(nth=2))
    clock.at(NOON + 1)
    assert [row["when"] - NOON for row in preview(clock, limit=2)] == [60, 240]
    clock.at(NOON + 130)
    assert [row["when"] - NOON for row in preview(clock, limit=2)] == [240, 420]


def test_a_future_cursor_delays_the_preview() -> None:
    clock = Clockwork()
    clock.event(MINUTELY, on("catchup"), counters=f.Counters(cursor=NOON + 300))
    assert preview(clock, limit=1)[0]["when"] == NOON + 360
