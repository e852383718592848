"""The evaluator against the shared vectors, against a slow minute loop, and against itself."""

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.civil import known_zones
from domain.triggers import (
    Fire,
    Minute,
    catch_up,
    dargs,
    evaluate,
    fires_between,
    minutes_between,
    next_due,
    next_minute,
    plan_of,
    unknown_zones,
)

Json = dict[str, Any]

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "schedule_vectors.json").read_text())[
    "vectors"
]


def at(text: str) -> int:
    """Unix seconds of an ISO time."""
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())


def iso(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def on(type_: str, **fields: Any) -> Json:
    """An enabled trigger."""
    return {"type": type_, "enabled": True, **fields}


def dues(minutes: Any) -> list[str]:
    return [iso(fire.due) for minute in minutes for fire in minute.fires]


# --- The shared vectors --------------------------------------------------------------------------


def play(vector: Json, dst_policy: str = "literal") -> tuple[list[Minute], Json]:
    """Tick as the vector says: each tick takes its whole minute, or all since the cursor."""
    state = dict(vector.get("state", {}))
    launched: list[Minute] = []
    plan = plan_of(
        vector["triggers"], default_zone=vector["default_timezone"], dst_policy=dst_policy
    )
    start, end = at(vector["from"]), at(vector["to"])
    if "ticks" not in vector and plan.catchup is None:
        launched = list(evaluate(plan, start - 60, end, nth=state.get("nth")))
        for minute in launched:
            state |= {} if minute.nth is None else {"nth": minute.nth}
        return launched, state
    for tick in [at(t) for t in vector.get("ticks", [])] or range(start, end + 60, 60):
        if plan.catchup is None:
            launched += evaluate(plan, tick - 60, tick)
            continue
        result = catch_up(plan, state.get("cursor", tick - 60) + 59, tick + 59)
        assert result.done
        launched += result.minutes
        state["cursor"] = int(result.position) - 59
    return launched, state


@pytest.mark.parametrize("vector", VECTORS, ids=[v["id"] for v in VECTORS])
def test_a_vector_fires_when_it_says(vector: Json) -> None:
    launched, state = play(vector)
    assert sorted(dues(launched)) == vector["expect"]
    assert state == {**vector.get("state", {}), **vector.get("expect_state", {})}
    if "expect_until" in vector:
        until = [fire.until for minute in launched for fire in minute.fires]
        assert until == [at(text) for text in vector["expect_until"]]


@pytest.mark.parametrize(
    "vector",
    [v for v in VECTORS if "expect_once" in v],
    ids=[v["id"] for v in VECTORS if "expect_once" in v],
)
def test_a_vector_fires_once_per_civil_time_under_that_policy(vector: Json) -> None:
    assert sorted(dues(play(vector, dst_policy="once")[0])) == vector["expect_once"]


def test_all_vectors_are_here() -> None:
    assert len(VECTORS) == 64


# --- Against a slow loop over every minute -------------------------------------------------------


def offset(second: int, zone: ZoneInfo) -> timedelta:
    found = datetime.fromtimestamp(second, zone).utcoffset()
    assert found is not None
    return found


def civil_times(minute: int, zone: ZoneInfo, once: bool) -> list[datetime]:
    """The wall clock of a minute, and under `once` also the skipped wall time it stands for."""
    shown = datetime.fromtimestamp(minute, zone)
    if not once:
        return [shown]
    times = [] if shown.fold else [shown]
    for earlier in {offset(minute - back, zone) for back in (600, 1800, 3600, 86_400)}:
        wall = (datetime.fromtimestamp(minute, UTC) + earlier).replace(tzinfo=zone, fold=0)
        exists = datetime.fromtimestamp(wall.timestamp(), zone).replace(fold=0) == wall
        if wall.timestamp() == minute and not exists:
            times.append(wall)
    return times


def names(trigger: Json, wall: datetime) -> bool:
    month_end = (wall.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    shown = {
        "years": {wall.year},
        "months": {wall.month},
        "days": {wall.day, wall.day - month_end.day - 1},
        "weekdays": {wall.isoweekday() % 7},
        "hours": {wall.hour},
        "minutes": {wall.minute},
    }
    return all(not trigger.get(key) or shown[key] & set(trigger[key]) for key in shown)


def hit_offsets(trigger: Json, minute: int, dst_policy: str) -> list[int]:
    match trigger["type"]:
        case "single":
            return [0] if trigger["epoch"] // 60 * 60 == minute else []
        case "interval":
            grid = [minute + s - trigger["start"] for s in range(60)]
            return [s for s, age in enumerate(grid) if age >= 0 and age % trigger["duration"] == 0]
        case "schedule":
            hours = trigger.get("hours", [])
            once = dst_policy == "once" and 0 < len(hours) < 24
            zone = ZoneInfo(trigger["timezone"])
            walls = civil_times(minute, zone, once)
            return [0] if any(names(trigger, wall) for wall in walls) else []
    return []


def slow(
    triggers: list[Json], after: int, upto: int, nth: int | None, dst_policy: str
) -> list[tuple[int, int]]:
    """(due, trigger) of every fire in the minutes after < m <= upto, one minute at a time."""
    fires = []
    of = {kind: [t for t in triggers if t["type"] == kind] for kind in ("range", "blackout")}
    every = next((t["every"] for t in triggers if t["type"] == "nth"), None)
    precision = next((t["seconds"] for t in triggers if t["type"] == "precision"), None)
    for minute in range(after + 60, upto + 60, 60):
        hits = [(i, hit_offsets(t, minute, dst_policy)) for i, t in enumerate(triggers)]
        hits = [(i, offsets) for i, offsets in hits if offsets]
        if not hits:
            continue
        ranges = [r.get("start", 0) <= minute <= r.get("end", 2**40) for r in of["range"]]
        if ranges and not any(ranges):
            continue
        if any(b["start"] <= minute <= b["end"] for b in of["blackout"]):
            continue
        if every is not None:
            nth = (nth or 0) - 1
            if nth > 0:
                continue
            nth = every
        for i, offsets in hits:
            moments = offsets if triggers[i]["type"] == "interval" else precision or offsets
            fires += [(minute + s, i) for s in moments]
    return sorted(fires)


STARTS = [
    at("2026-03-07T20:00:00Z"),  # New York leaves winter time
    at("2026-03-28T18:00:00Z"),  # Berlin leaves winter time
    at("2026-10-24T18:00:00Z"),  # Berlin leaves summer time
    at("2026-11-01T00:00:00Z"),  # New York leaves summer time
    at("2026-04-04T08:00:00Z"),  # Lord Howe leaves summer time, half an hour
    at("2024-02-28T12:00:00Z"),
    at("2025-12-31T12:00:00Z"),
]
ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Json], int, int, int | None]:
    """Triggers, the minutes a and b, and a counter."""
    start = draw(st.sampled_from(STARTS)) + 60 * draw(st.integers(0, 600))
    end = start + 60 * draw(st.integers(1, 900))
    moment = st.integers(start - 3600, end + 3600)

    def some(lowest: int, highest: int, most: int) -> st.SearchStrategy[list[int]]:
        values = st.integers(lowest, highest).filter(lambda v: v != 0 or lowest == 0)
        return st.one_of(st.just([]), st.lists(values, unique=True, max_size=most))

    schedule = st.builds(
        lambda zone, **lists: on("schedule", timezone=zone, **lists),
        st.sampled_from(ZONES),
        months=some(1, 12, 6),
        days=some(-7, 31, 12),
        weekdays=some(0, 6, 4),
        hours=some(0, 23, 8),
        minutes=some(0, 59, 8),
    )
    interval = st.builds(
        lambda begin, step: on("interval", start=begin, duration=step),
        moment,
        st.sampled_from([1, 7, 25, 60, 90, 100, 3600, 5400]),
    )
    single = st.builds(lambda epoch: on("single", epoch=epoch), moment)
    minute = moment.map(lambda s: s // 60 * 60)
    window = st.builds(
        lambda kind, a, b: on(kind, start=min(a, b), end=max(a, b)),
        st.sampled_from(["range", "blackout"]),
        minute,
        minute,
    )
    triggers = draw(st.lists(st.one_of(schedule, interval, single), min_size=1, max_size=3))
    triggers += draw(st.lists(window, max_size=2))
    if draw(st.booleans()):
        triggers.append(on("nth", every=draw(st.integers(2, 4))))
    if draw(st.booleans()) and not any(t["type"] == "interval" for t in triggers):
        seconds = st.lists(st.integers(0, 59), min_size=1, max_size=3, unique=True)
        triggers.append(on("precision", seconds=draw(seconds)))
    triggers = draw(st.permutations(triggers))
    return triggers, start, end, draw(st.one_of(st.none(), st.integers(0, 4)))


def keys(fires: Any) -> list[tuple[int, int]]:
    return [(fire.due, fire.trigger) for fire in fires]


@settings(max_examples=150, deadline=None)
@given(situations(), st.sampled_from(["literal", "once"]))
def test_it_agrees_with_a_loop_over_every_minute(situation: Any, dst_policy: str) -> None:
    triggers, a, b, nth = situation
    minutes = evaluate(triggers, a, b, nth=nth, dst_policy=dst_policy)
    fires = [fire for minute in minutes for fire in minute.fires]
    assert keys(fires) == slow(triggers, a, b, nth, dst_policy)


@settings(max_examples=200, deadline=None)
@given(situations(), st.lists(st.floats(0, 1), max_size=6))
def test_any_split_gives_the_same_fires_and_counter(situation: Any, cuts: list[float]) -> None:
    triggers, a, b, nth = situation
    plan = plan_of(triggers)
    whole = list(minutes_between(plan, a, b, nth=nth))
    marks = sorted({a, b, *(a + int(cut * (b - a)) for cut in cuts)})
    pieces: list[Fire] = []
    counter = nth
    for after, upto in pairwise(marks):
        for minute in minutes_between(plan, after, upto, nth=counter):
            pieces += minute.fires
            counter = counter if minute.nth is None else minute.nth
    assert pieces == [fire for minute in whole for fire in minute.fires]
    assert counter == next((m.nth for m in reversed(whole) if m.nth is not None), nth)


@settings(max_examples=100, deadline=None)
@given(situations())
def test_no_trigger_fires_twice_at_one_second(situation: Any) -> None:
    triggers, a, b, nth = situation
    found = keys(fires_between(triggers, a, b, nth=nth))
    assert len(found) == len(set(found))
    assert found == sorted(found)


@settings(max_examples=150, deadline=None)
@given(situations())
def test_the_next_due_second_is_the_first_one_found(situation: Any) -> None:
    triggers, a, b, _ = situation
    plan = plan_of([t for t in triggers if t["type"] != "nth"])
    first = next(iter(fires_between(plan, a, b)), None)
    found = next_due(plan, a, horizon=b)
    if first:
        assert found == first.due
    else:
        assert found is None or found > b
    minutes = [m.minute for m in evaluate(plan, a, b)]
    assert next_minute(plan, a, horizon=b) == (minutes[0] if minutes else None)


# --- Single rules --------------------------------------------------------------------------------

NOON = at("2025-01-01T12:00:00Z")


def test_an_interval_is_due_at_its_second_not_at_the_minute() -> None:
    five = [on("interval", start=NOON, duration=5)]
    assert next_due(five, NOON) == NOON + 5
    assert next_due(five, NOON + 4.9) == NOON + 5
    assert next_due(five, NOON - 1) == NOON


def test_the_counter_moves_with_the_last_second_of_its_minute() -> None:
    triggers = [on("interval", start=NOON, duration=20), on("nth", every=2)]
    first, last = [
        list(minutes_between(triggers, *span, nth=1))[-1]
        for span in [(NOON - 1, NOON + 39), (NOON + 39, NOON + 40)]
    ]
    assert (first.nth, first.complete, len(first.fires)) == (None, False, 2)
    assert (last.nth, last.complete, len(last.fires)) == (2, True, 1)


def test_a_skipped_minute_counts_at_its_last_second() -> None:
    triggers = [on("interval", start=NOON, duration=20), on("nth", every=2)]
    assert list(minutes_between(triggers, NOON - 1, NOON + 39, nth=2)) == []
    assert list(minutes_between(triggers, NOON + 39, NOON + 40, nth=2)) == [
        Minute(NOON, (), nth=1, complete=True)
    ]


def test_precision_fires_of_two_triggers_come_by_second_then_by_trigger() -> None:
    triggers = [
        on("schedule", minutes=[0]),
        on("single", epoch=NOON),
        on("precision", seconds=[9, 3]),
    ]
    fires = list(fires_between(triggers, NOON - 1, NOON + 59))
    assert keys(fires) == [(NOON + 3, 0), (NOON + 3, 1), (NOON + 9, 0), (NOON + 9, 1)]


def test_a_fire_carries_what_its_own_trigger_says() -> None:
    triggers = [
        on("schedule", minutes=[0], params={"a": 1}, tags=["t"], data=[1]),
        on("quiet", invisible=True),
        on("delay", duration=90),
    ]
    assert list(fires_between(triggers, NOON - 1, NOON)) == [
        Fire(
            due=NOON,
            minute=NOON,
            trigger=0,
            type="schedule",
            until=NOON + 90,
            params={"a": 1},
            tags=("t",),
            data=[1],
            invisible=True,
            ephemeral=False,
            plugin=None,
        )
    ]


def test_a_plugin_trigger_gates_every_offset_of_an_interval_and_ignores_precision() -> None:
    gate = on("plugin", plugin_id="p1", params={"x": 1})
    by_interval = fires_between(
        [on("interval", start=NOON, duration=30), gate], NOON - 1, NOON + 59
    )
    assert [f.due - NOON for f in by_interval] == [0, 30]
    triggers = [on("schedule", timezone="Asia/Tokyo"), on("precision", seconds=[7]), gate]
    (fire,) = fires_between(triggers, NOON - 1, NOON + 59)
    assert (fire.due, fire.plugin) == (NOON, {**gate, "timezone": "Asia/Tokyo"})


def test_the_plugin_triggers_own_zone_comes_first() -> None:
    gate = on("plugin", plugin_id="p1", timezone="Europe/Berlin")
    (fire,) = fires_between([on("schedule", timezone="Asia/Tokyo"), gate], NOON - 1, NOON)
    assert fire.plugin is not None
    assert fire.plugin["timezone"] == "Europe/Berlin"


def test_dargs_are_civil_time_with_the_reverse_day() -> None:
    assert dargs(at("2024-02-29T23:30:00Z"), "Asia/Tokyo") == {
        "year": 2024, "month": 3, "day": 1, "rday": -31, "weekday": 5, "hour": 8, "minute": 30,
    }  # fmt: skip


@pytest.mark.parametrize(
    "nonsense",
    [
        on("schedule", timezone="Atlantis/Capital"),
        on("schedule", timezone="../zones"),
        on("schedule", timezone=7),
        on("schedule", hours="12"),
        on("schedule", hours=[1.5]),
        on("schedule", minutes=[None]),
        on("schedule", minutes=[60]),
        on("interval", start=NOON, duration=-5),
        on("interval", start=NOON, duration=0),
        on("interval", start="now", duration=5),
        on("interval"),
        on("single", epoch="soon"),
        on("single", epoch=True),
        on(None),
        on(["schedule"]),
        "schedule",
        None,
        {"type": "schedule"},
        {"type": "schedule", "enabled": False},
    ],
)
def test_stored_nonsense_never_matches_and_harms_no_other_trigger(nonsense: Any) -> None:
    assert list(evaluate([nonsense], NOON - 600, NOON)) == []
    assert next_due([nonsense], NOON) is None
    good = on("single", epoch=NOON)
    assert dues(evaluate([nonsense, good], NOON - 600, NOON)) == [iso(NOON)]


def test_a_list_of_which_one_value_never_matches_keeps_the_others() -> None:
    assert dues(evaluate([on("schedule", minutes=[0, 1.5])], NOON - 600, NOON)) == [iso(NOON)]


@pytest.mark.parametrize(
    "modifier",
    [
        on("nth", every="x"),
        on("delay", duration="x"),
        on("precision", seconds="x"),
        on("blackout", start=None, end=5),
        on("blackout", start=NOON + 600, end=NOON - 600),
        on("quiet", invisible="yes"),
        on("catchup", mode=5),
    ],
)
def test_a_modifier_of_nonsense_modifies_nothing(modifier: Json) -> None:
    assert dues(evaluate([on("single", epoch=NOON), modifier], NOON - 60, NOON)) == [iso(NOON)]


@pytest.mark.parametrize("fields", [{}, {"start": 0, "end": 0}, {"start": "x"}])
def test_an_old_range_without_usable_bounds_admits_nothing(fields: Json) -> None:
    assert list(evaluate([on("single", epoch=NOON), on("range", **fields)], NOON - 60, NOON)) == []


def test_unknown_zones_are_named_for_a_warning() -> None:
    triggers = [on("schedule", timezone="Atlantis/Capital"), on("schedule"), on("single", epoch=1)]
    assert unknown_zones(triggers, "UTC") == ("Atlantis/Capital",)
    assert unknown_zones(triggers, "Mars/Base") == ("Atlantis/Capital", "Mars/Base")


def test_a_date_that_never_comes_is_never_due() -> None:
    assert next_due([on("schedule", months=[2], days=[30])], NOON) is None
    assert next_due([on("schedule", years=[2020])], NOON) is None


def test_the_next_leap_day_is_found_across_a_century() -> None:
    leap = [on("schedule", months=[2], days=[29], hours=[0], minutes=[0])]
    assert next_due(leap, at("2096-03-01T00:00:00Z")) == at("2104-02-29T00:00:00Z")


def test_a_window_that_opens_in_years_is_found_at_once() -> None:
    opening = at("2031-05-05T10:07:00Z")
    triggers = [on("interval", start=1, duration=1), on("range", start=opening)]
    assert next_due(triggers, NOON) == opening


@pytest.mark.parametrize("zone", sorted(known_zones())[::40])
def test_every_minute_of_any_zone_matches_exactly_once(zone: str) -> None:
    """No change of offset makes an unrestricted schedule skip or repeat an absolute minute."""
    start = at("2026-03-01T00:00:00Z")
    minutes = [m.minute for m in evaluate([on("schedule", timezone=zone)], start, start + 86_400)]
    assert minutes == list(range(start + 60, start + 86_460, 60))


# --- Catch-up ------------------------------------------------------------------------------------

MINUTELY = on("schedule")
HOUR_AGO = NOON - 3600


def test_without_a_catchup_trigger_only_the_grace_is_launched_and_the_rest_reported() -> None:
    result = catch_up([MINUTELY], HOUR_AGO, NOON, grace=60)
    assert dues(result.minutes) == [iso(NOON)]
    assert result.missed is not None
    assert (result.missed.first, result.missed.last, result.missed.count) == (
        HOUR_AGO + 60,
        NOON - 60,
        59,
    )
    assert (result.position, result.done) == (NOON, True)


def test_a_fire_exactly_as_old_as_the_grace_is_missed_and_a_younger_one_is_not() -> None:
    single = [on("single", epoch=NOON)]
    assert catch_up(single, HOUR_AGO, NOON + 60).minutes == ()
    assert dues(catch_up(single, HOUR_AGO, NOON + 59.9).minutes) == [iso(NOON)]


def test_missed_minutes_move_the_counter_with_and_without_catch_up() -> None:
    triggers = [MINUTELY, on("nth", every=5)]
    result = catch_up(triggers, HOUR_AGO, NOON, nth=3)
    punctual = list(minutes_between(triggers, HOUR_AGO, NOON, nth=3))
    assert (result.minutes, result.nth) == ((punctual[-1],), punctual[-1].nth)
    assert result.missed is not None
    assert result.missed.count == sum(len(minute.fires) for minute in punctual[:-1])


def test_all_replays_everything_in_passes() -> None:
    triggers = [MINUTELY, on("catchup"), on("nth", every=7)]
    whole = catch_up(triggers, HOUR_AGO, NOON)
    assert len(dues(whole.minutes)) == 9
    launched: list[Minute] = []
    position, counter, passes = float(HOUR_AGO), None, 0
    while position < NOON:
        part = catch_up(triggers, position, NOON, nth=counter, max_minutes=13)
        launched += part.minutes
        position, counter, passes = part.position, part.nth, passes + 1
        assert part.done == (position == NOON)
    assert (tuple(launched), counter, passes) == (whole.minutes, whole.nth, 5)


def test_latest_launches_the_newest_missed_minute_alone() -> None:
    triggers = [on("schedule", minutes=[10, 20]), on("single", epoch=HOUR_AGO + 1200),
                on("catchup", mode="latest")]  # fmt: skip
    result = catch_up(triggers, HOUR_AGO, NOON)
    assert dues(result.minutes) == [iso(HOUR_AGO + 1200)] * 2
    assert result.missed is not None
    assert result.missed.count == 1


def test_latest_launches_nothing_old_when_a_younger_fire_is_due() -> None:
    result = catch_up(
        [on("schedule", minutes=[0, 30]), on("catchup", mode="latest")], HOUR_AGO, NOON
    )
    assert dues(result.minutes) == [iso(NOON)]


def test_max_backlog_keeps_the_newest_missed_minutes_and_all_young_ones() -> None:
    result = catch_up([MINUTELY, on("catchup", max_backlog=2)], HOUR_AGO, NOON)
    assert dues(result.minutes) == [iso(NOON - 120), iso(NOON - 60), iso(NOON)]
    assert result.missed is not None
    assert (result.missed.first, result.missed.count) == (HOUR_AGO + 60, 57)


def test_a_position_in_the_future_is_left_alone() -> None:
    result = catch_up([MINUTELY, on("catchup")], NOON + 300, NOON, nth=2)
    assert (result.minutes, result.position, result.nth, result.done) == ((), NOON + 300, 2, True)


def test_the_count_of_missed_fires_is_capped() -> None:
    every_second = [on("interval", start=1, duration=1)]
    result = catch_up(every_second, NOON - 30 * 86_400, NOON)
    assert result.missed is not None
    assert result.missed.count == 100_000
