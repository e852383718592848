"""The preview shows what the evaluator will launch, in the words of the API."""

from datetime import UTC, datetime
from typing import Any

from domain.upcoming import upcoming

NOON = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp())
HOUR, DAY = 3600, 86_400


def on(type_: str, **fields: Any) -> dict[str, Any]:
    return {"type": type_, "enabled": True, **fields}


def whens(*triggers: dict[str, Any], hours: int = 4, **more: Any) -> list[int]:
    return [row["when"] - NOON for row in upcoming(triggers, NOON, NOON + hours * HOUR, **more)]


HOURLY = on("schedule", minutes=[0])


def test_the_present_second_is_past_and_the_last_one_included() -> None:
    assert whens(HOURLY) == [HOUR, 2 * HOUR, 3 * HOUR, 4 * HOUR]


def test_windows_are_honoured() -> None:
    closed = on("blackout", start=NOON + 2 * HOUR, end=NOON + 2 * HOUR)
    assert whens(HOURLY, closed) == [HOUR, 3 * HOUR, 4 * HOUR]
    assert whens(HOURLY, on("range", end=NOON + HOUR)) == [HOUR]


def test_nth_is_simulated_from_the_counter() -> None:
    assert whens(HOURLY, on("nth", every=2), nth=2) == [2 * HOUR, 4 * HOUR]
    assert whens(HOURLY, on("nth", every=2)) == [HOUR, 3 * HOUR]


def test_a_delay_moves_the_row() -> None:
    assert whens(HOURLY, on("delay", duration=90), hours=1) == [HOUR + 90]


def test_a_schedule_row_has_no_seconds() -> None:
    assert list(upcoming([HOURLY], NOON, NOON + HOUR)) == [
        {"when": NOON + HOUR, "trigger": {"type": "schedule"}}
    ]


def test_precision_and_interval_rows_list_their_seconds() -> None:
    precise = [HOURLY, on("precision", seconds=[40, 20])]
    assert list(upcoming(precise, NOON + 59, NOON + HOUR + 59)) == [
        {"when": NOON + HOUR + 20, "trigger": {"type": "schedule"}, "seconds": [20, 40]}
    ]
    interval = [on("interval", start=NOON + 10, duration=45)]
    assert list(upcoming(interval, NOON, NOON + 119)) == [
        {"when": NOON + 10, "trigger": {"type": "interval"}, "seconds": [10, 55]},
        {"when": NOON + 100, "trigger": {"type": "interval"}, "seconds": [40]},
    ]


def test_of_the_minute_in_progress_only_the_rest_is_shown() -> None:
    interval = [on("interval", start=NOON, duration=20)]
    assert [row["seconds"] for row in upcoming(interval, NOON + 20, NOON + 59)] == [[40]]


def test_what_a_plugin_decides_is_marked() -> None:
    (row,) = upcoming([HOURLY, on("plugin", plugin_id="p")], NOON, NOON + HOUR)
    assert row["maybe"] is True


def test_two_triggers_give_two_rows_sorted_by_time() -> None:
    interval = on("interval", start=NOON + HOUR + 30, duration=DAY)
    rows = list(upcoming([interval, HOURLY], NOON, NOON + HOUR + 59))
    assert [row["trigger"]["type"] for row in rows] == ["schedule", "interval"]


def test_the_limit_ends_an_endless_schedule() -> None:
    assert len(list(upcoming([on("schedule")], NOON, NOON + 1000 * DAY, limit=7))) == 7


def test_an_event_without_a_scheduled_launcher_has_no_preview() -> None:
    assert whens(on("manual"), on("startup"), on("plugin", plugin_id="p")) == []
