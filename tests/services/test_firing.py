"""The leader's clockwork on its own: facts in, decisions out, and the decisions fed back.

Nothing runs here: a `Clockwork` folds facts as a scheduler does, and time is what the test says.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import facts as f
from domain.facts import Json, Recorded
from domain.subjects import subject_of
from projections import snapshot
from projections.active_jobs import ActiveJobs, StoredJobs
from projections.definitions import Definitions, StoredDefinitions
from projections.event_state import EventStates, StoredEventStates
from projections.schedule import Schedule, StoredSchedule
from services.scheduler.firing import MANY, MOST, Decision, Firing
from services.settings import Settings

ANNA = f.Actor(type="user", id="anna")
NOON = 1_800_014_400  # a Friday
MINUTELY: Json = {"type": "schedule", "enabled": True}


def on(type_: str, **fields: Any) -> Json:
    """An enabled trigger."""
    return {"type": type_, "enabled": True, **fields}


@dataclass
class Leader:
    """One scheduler's folds and its clockwork, in a term of its own."""

    definitions: Definitions
    schedule: Schedule
    states: EventStates
    jobs: ActiveJobs
    firing: Firing

    def apply(self, recorded: Recorded) -> None:
        for fold in (self.definitions, self.schedule, self.states, self.jobs):
            fold.apply(recorded)

    def restore(self, other: "Leader") -> None:
        """Go on from a snapshot of another leader's folds."""
        stored = Stored(
            other.definitions.state(),
            other.schedule.state(),
            other.states.state(),
            other.jobs.state(),
        )
        found = snapshot.load(snapshot.dump(stored), Stored)
        assert found is not None
        self.definitions.restore(found.definitions)
        self.schedule.restore(found.schedule)
        self.states.restore(found.states)
        self.jobs.restore(found.jobs)


@dataclass
class Stored:
    """A snapshot of a leader's folds."""

    definitions: StoredDefinitions
    schedule: StoredSchedule
    states: StoredEventStates
    jobs: StoredJobs


@dataclass
class Clockwork:
    """A ledger in a list, the clock, and whoever leads."""

    settings: Settings = field(default_factory=lambda: Settings(timezone="UTC"))
    now: float = NOON - 30.0
    facts: list[Recorded] = field(default_factory=list)
    leader: Leader | None = None

    def __post_init__(self) -> None:
        self.given(created("category", "general"), created("plugin", "shellplug"))
        self.take_over()

    # --- given ---------------------------------------------------------------------------------

    def given(self, *facts: f.Fact) -> None:
        """These facts come onto the ledger and are read at once."""
        for fact in facts:
            recorded = Recorded(len(self.facts) + 1, subject_of(fact), fact)
            self.facts.append(recorded)
            if self.leader is not None:
                self.leader.apply(recorded)
                self._rearm(self.leader, fact)

    def _rearm(self, leader: Leader, fact: f.Fact) -> None:
        match fact:
            case f.EventCreated() | f.EventUpdated() | f.EventDeleted():
                leader.firing.arm(fact.event)
            case f.MasterSwitched() | f.CatalogCreated() | f.CatalogUpdated():
                leader.firing.arm_all()

    def event(self, *triggers: Json, id: str = "e1", **keys: Any) -> None:
        counters = keys.pop("counters", None)
        self.given(
            f.EventCreated(
                at=self.now,
                actor=ANNA,
                event=id,
                definition=definition(id, list(triggers), **keys),
                counters=counters,
            )
        )

    def update(self, *changed: str, id: str = "e1", **keys: Any) -> None:
        assert self.leader is not None
        counters = keys.pop("counters", None)
        old = self.leader.definitions.events[id].record
        self.given(
            f.EventUpdated(
                at=self.now,
                actor=ANNA,
                event=id,
                definition=old | keys,
                changed=[*changed, *keys],
                counters=counters,
            )
        )

    def delete_jobs(self) -> None:
        """All jobs that e1 has had so far are erased."""
        for job in self.of(f.JobRequested):
            self.given(
                f.JobDeleted(
                    at=self.now,
                    actor=ANNA,
                    event="e1",
                    job=job.job,
                    source=job.source,
                    fire=job.fire,
                    counters=job.counters,
                )
            )

    def switch(self, type: f.CatalogType, id: str, enabled: bool) -> None:
        record = {"id": id, "enabled": enabled}
        fact = f.CatalogUpdated(
            at=self.now, actor=ANNA, type=type, id=id, record=record, changed=["enabled"]
        )
        self.given(fact)

    def master(self, enabled: bool) -> None:
        self.given(f.MasterSwitched(at=self.now, actor=ANNA, enabled=enabled))

    # --- when ----------------------------------------------------------------------------------

    def take_over(self, *, startup: bool = False) -> None:
        """The leader is gone; another goes on from an old snapshot and begins its term."""
        self.leader = None
        self.given(
            f.TermStarted(
                at=self.now,
                actor=ANNA,
                instance=f"s{len(self.facts)}",
                startup=startup,
            )
        )
        cut = len(self.facts) * 7919 % (len(self.facts) + 1)  # anywhere
        earlier = self._new_leader()
        for recorded in self.facts[:cut]:
            earlier.apply(recorded)
        self.leader = self._new_leader()
        self.leader.restore(earlier)
        for recorded in self.facts[cut:]:
            self.leader.apply(recorded)
        self.firing.begin(f.Actor(type="scheduler", id=str(len(self.facts))), self.now)

    def _new_leader(self) -> Leader:
        definitions = Definitions()
        states, jobs = EventStates("UTC"), ActiveJobs(definitions)
        schedule = Schedule(definitions, zone="UTC", dst_policy="literal")
        firing = Firing(schedule, self.settings, states, jobs)
        return Leader(definitions, schedule, states, jobs, firing)

    @property
    def firing(self) -> Firing:
        assert self.leader is not None
        return self.leader.firing

    def decide(self) -> list[Decision]:
        return self.firing.decide(self.now)

    def run(self, *, dies_after: int | None = None) -> None:
        """Rounds until nothing is due; the leader dies after recording so many decisions."""
        for _ in range(10_000):
            decisions = self.decide()
            for _, fact in decisions:
                if dies_after == 0:
                    self.leader = None
                    return
                self.given(fact)
                dies_after = None if dies_after is None else dies_after - 1
            if not decisions and not self.busy():
                return
        raise AssertionError("the clockwork never comes to rest")

    def busy(self) -> bool:
        due = self.firing.next_due()
        return due is not None and due <= self.now

    def at(self, now: float) -> None:
        self.now = now
        self.run()

    # --- then ----------------------------------------------------------------------------------

    def of(self, kind: type[Any], event: str = "e1") -> list[Any]:
        return [r.fact for r in self.facts if isinstance(r.fact, kind) and r.fact.event == event]

    def fired(self, event: str = "e1") -> list[float]:
        """The nominal times of all launches and rejections, relative to noon."""
        return [
            r.fact.now - NOON
            for r in self.facts
            if isinstance(r.fact, f.JobRequested | f.LaunchRejected) and r.fact.event == event
        ]

    def missed(self, event: str = "e1") -> int:
        return sum(fact.count for fact in self.of(f.FiresMissed, event))


def definition(id: str, triggers: list[Json], **keys: Any) -> Json:
    return {
        "id": id,
        "title": id,
        "enabled": True,
        "category": "general",
        "plugin": "shellplug",
        "username": "anna",
        "triggers": triggers,
    } | keys


def created(type: f.CatalogType, id: str, **keys: Any) -> f.CatalogCreated:
    record = {"id": id, "title": id.title(), "enabled": True, **keys}
    return f.CatalogCreated(at=NOON - 1000.0, actor=ANNA, type=type, id=id, record=record)


@pytest.fixture
def clock() -> Clockwork:
    return Clockwork()


# --- One leader ----------------------------------------------------------------------------------


def test_a_due_minute_becomes_one_job(clock: Clockwork) -> None:
    clock.event(MINUTELY | {"params": {"a": 1}, "tags": ["t"], "data": [5]})
    clock.at(NOON - 1)
    assert clock.fired() == []
    clock.at(NOON + 0.01)
    clock.at(NOON + 0.02)
    [job] = clock.of(f.JobRequested)
    assert (job.now, job.source, job.username) == (NOON, "scheduler", "anna")
    assert (job.overrides, job.add_tags) == ({"params": {"a": 1}}, ["t"])
    assert job.input == {"data": {"items": [5]}, "files": []}


def test_the_next_due_time_is_known(clock: Clockwork) -> None:
    clock.event(on("schedule", minutes=[5]))
    assert clock.firing.next_due() == NOON + 300


def test_a_late_fire_within_the_grace_still_runs(clock: Clockwork) -> None:
    clock.event(MINUTELY)
    clock.at(NOON + 59)
    assert (clock.fired(), clock.missed()) == ([0], 0)


def test_a_gap_leaves_one_fact_and_the_youngest_fire(clock: Clockwork) -> None:
    clock.event(MINUTELY)
    clock.at(NOON + 630)
    clock.take_over()
    clock.at(NOON + 640)
    assert clock.fired() == [600]
    [missed] = clock.of(f.FiresMissed)
    assert (missed.count, missed.upto) == (10, NOON + 570)


def test_a_clock_that_jumps_back_fires_nothing_twice(clock: Clockwork) -> None:
    clock.event(MINUTELY)
    clock.at(NOON + 1)
    clock.at(NOON - 3600)
    clock.take_over()
    clock.at(NOON + 2)
    clock.at(NOON + 60)
    assert clock.fired() == [0, 60]


def test_catch_up_replays_a_long_gap_in_rounds(clock: Clockwork) -> None:
    clock.event(MINUTELY, on("catchup"))
    clock.now = NOON + 60 * 4999
    assert len(clock.decide()) == MANY
    clock.take_over()
    clock.run()
    assert clock.fired() == [60 * n for n in range(5000)]


def test_many_due_at_once_come_in_a_small_round_and_then_in_large_ones(clock: Clockwork) -> None:
    events = MANY + 2 * MOST + 1
    for number in range(events):
        clock.event(MINUTELY, id=f"e{number}")
    clock.now = NOON + 0.01
    rounds = [clock.decide() for _ in range(4)]
    assert [len(decisions) for decisions in rounds] == [MANY, MOST, MOST, 1]
    assert {fact.event for decisions in rounds for _, fact in decisions} == {
        f"e{n}" for n in range(events)
    }
    assert clock.firing.next_due() == NOON + 60


def test_a_backlog_does_not_hold_up_others(clock: Clockwork) -> None:
    clock.event(MINUTELY, on("catchup"), id="old")
    clock.now = NOON + 60 * 4999
    clock.decide()
    clock.event(MINUTELY, id="live")
    clock.now += 61
    assert "live" in {fact.event for _ in range(2) for _, fact in clock.decide()}


def test_every_second_of_a_backlog_fits_into_bounded_rounds(clock: Clockwork) -> None:
    clock.event(on("interval", start=NOON, duration=1), on("catchup"))
    clock.now = NOON + 3599.5
    assert len(clock.decide()) <= 1060
    clock.take_over()
    clock.run()
    assert clock.fired() == list(range(3600))


def test_latest_gives_up_all_but_the_newest(clock: Clockwork) -> None:
    clock.event(on("schedule", minutes=[1, 2, 3]), on("catchup", mode="latest"))
    clock.at(NOON + 600)
    clock.at(NOON + 900)
    assert (clock.fired(), clock.missed()) == ([180], 2)


def test_a_future_cursor_waits_for_the_clock(clock: Clockwork) -> None:
    clock.event(MINUTELY, on("catchup"), counters=f.Counters(cursor=NOON + 300))
    clock.at(NOON + 330)
    clock.update(enabled=False)
    clock.update(enabled=True)
    clock.at(NOON + 361)
    assert clock.fired() == [360]


def test_a_future_cursor_outlives_other_changes(clock: Clockwork) -> None:
    clock.event(MINUTELY, on("catchup"), counters=f.Counters(cursor=NOON + 300))
    clock.at(NOON + 10)
    clock.update(triggers=[on("interval", start=NOON, duration=60), on("catchup")])
    clock.master(False)
    clock.at(NOON + 20)
    clock.master(True)
    clock.at(NOON + 361)
    assert clock.fired() == [360]


def test_a_future_cursor_ends_with_catch_up(clock: Clockwork) -> None:
    clock.event(MINUTELY, on("catchup"), counters=f.Counters(cursor=NOON))
    clock.now = NOON - 10
    clock.update(triggers=[MINUTELY])
    clock.at(NOON + 1)
    assert clock.fired() == [0]


def test_a_cursor_in_the_past_replays_and_one_in_the_present_skips_a_backlog(
    clock: Clockwork,
) -> None:
    clock.event(MINUTELY, on("catchup"))
    clock.at(NOON + 121)
    clock.update(counters=f.Counters(cursor=NOON))
    clock.run()
    assert clock.fired() == [0, 60, 120, 60, 120]
    clock.now = NOON + 1000
    clock.update(counters=f.Counters(cursor=NOON + 960))
    clock.at(NOON + 1020)
    assert clock.fired()[5:] == [1020]


def test_what_is_replayed_does_not_depend_on_old_jobs_being_deleted(clock: Clockwork) -> None:
    """The cursor is set back, the failed runs are deleted, and the event is turned on again."""
    clock.event(MINUTELY, on("catchup"))
    clock.at(NOON + 121)
    clock.update("enabled", enabled=False)
    clock.update(counters=f.Counters(cursor=NOON))
    clock.delete_jobs()
    clock.take_over()
    clock.update("enabled", enabled=True)
    clock.run()
    assert clock.fired() == [0, 60, 120, 60, 120]


def test_an_event_made_anew_replays_what_jobs_of_its_namesake_were_deleted_for(
    clock: Clockwork,
) -> None:
    """It is deleted with its jobs, which are erased when it has come again with its cursor."""
    clock.event(MINUTELY, on("catchup"))
    clock.at(NOON + 61)
    clock.given(f.EventDeleted(at=clock.now, actor=ANNA, event="e1", delete_jobs=True))
    clock.event(MINUTELY, on("catchup"), counters=f.Counters(cursor=NOON - 60))
    clock.delete_jobs()
    clock.run()
    assert clock.fired() == [0, 60, 0, 60]
    assert clock.leader is not None
    assert clock.leader.states.states["e1"].cursor == NOON + 60


def test_a_start_fires_though_the_job_of_an_earlier_start_is_deleted(clock: Clockwork) -> None:
    clock.event(on("startup"))
    clock.take_over(startup=True)
    clock.run()
    clock.now += 600
    clock.take_over(startup=True)
    clock.delete_jobs()
    clock.run()
    assert len(clock.of(f.JobRequested)) == 2


def test_turning_catch_up_on_loses_nothing_that_is_due(clock: Clockwork) -> None:
    """Neither what is owed when nobody leads, nor the later seconds of the minute."""
    every_20_seconds = on("interval", start=NOON - 1200, duration=20)
    clock.event(every_20_seconds)
    clock.now = NOON + 5  # nobody was there at noon
    cursor = f.Counters(cursor=NOON)  # what the API records if none was given
    clock.update(triggers=[every_20_seconds, on("catchup")], counters=cursor)
    clock.take_over()
    clock.run()
    clock.at(NOON + 60)
    assert clock.fired() == [-20, 0, 20, 40, 60]


@pytest.mark.parametrize("switch", ["event", "category", "plugin", "master"])
@pytest.mark.parametrize("catches_up", [True, False])
def test_what_was_due_while_switched_off_waits_for_catch_up_or_is_not_due(
    clock: Clockwork, switch: str, catches_up: bool
) -> None:
    clock.event(MINUTELY, *([on("catchup")] if catches_up else []))

    def turn(enabled: bool) -> None:
        match switch:
            case "event":
                clock.update(enabled=enabled)
            case "category":
                clock.switch("category", "general", enabled)
            case "plugin":
                clock.switch("plugin", "shellplug", enabled)
            case _:
                clock.master(enabled)

    clock.at(NOON + 1)
    turn(False)
    clock.at(NOON + 190)
    clock.take_over()
    clock.at(NOON + 200)
    turn(True)
    clock.at(NOON + 241)
    assert clock.fired() == ([0, 60, 120, 180, 240] if catches_up else [0, 240])
    assert clock.missed() == 0


def test_what_is_due_before_a_change_is_owed_after_it(clock: Clockwork) -> None:
    clock.event(MINUTELY | {"params": {"old": 1}})
    clock.now = NOON + 10
    clock.update(triggers=[on("interval", start=NOON, duration=15)])
    clock.update(enabled=False)
    clock.take_over()
    clock.at(NOON + 50)
    [job] = clock.of(f.JobRequested)
    assert (job.now, job.overrides) == (NOON, {"params": {"old": 1}})


def test_what_is_owed_for_too_long_is_missed(clock: Clockwork) -> None:
    clock.event(MINUTELY)
    clock.now = NOON + 10
    clock.update(enabled=False)
    clock.at(NOON + 3600)
    assert (clock.fired(), clock.missed()) == ([], 1)


def test_a_change_by_a_slow_clock_repeats_nothing(clock: Clockwork) -> None:
    clock.event(MINUTELY)
    clock.at(NOON + 0.1)
    clock.now = NOON - 0.4
    clock.update(triggers=[MINUTELY, on("nth", every=2)])
    clock.at(NOON + 61)
    assert clock.fired() == [0, 60]


def test_a_fire_recorded_just_after_a_change_is_not_repeated(clock: Clockwork) -> None:
    clock.event(MINUTELY)
    clock.now = NOON + 0.01
    decisions = clock.decide()
    clock.now = NOON - 0.01
    clock.update(triggers=[on("interval", start=NOON, duration=30)])
    clock.given(*(fact for _, fact in decisions))
    clock.at(NOON + 31)
    clock.take_over()
    clock.at(NOON + 32)
    assert clock.fired() == [0, 30]


def test_a_tick_says_nothing_of_an_event_it_did_not_know(clock: Clockwork) -> None:
    [(_, tick)] = Clockwork(now=NOON + 0.5).decide()
    assert isinstance(tick, f.TickFired)
    clock.event(MINUTELY)
    clock.given(tick)
    clock.take_over()
    clock.at(NOON + 1)
    assert clock.fired() == [0]


def test_a_tick_spares_a_successor_what_was_looked_at(clock: Clockwork) -> None:
    clock.event(on("schedule", minutes=[1], hours=[0]))
    clock.at(NOON + 100)
    assert any(isinstance(r.fact, f.TickFired) for r in clock.facts)
    clock.take_over()
    assert clock.leader is not None
    assert clock.leader.schedule.begin("e1")[1] == NOON + 100


def test_another_default_zone_moves_what_is_due(clock: Clockwork) -> None:
    clock.event(on("schedule", hours=[14], minutes=[0]))
    clock.given(created("config", "config", timezone="Europe/Berlin"))
    clock.firing.arm_all()
    clock.at(NOON + 2 * 3600)
    assert clock.fired() == []
    clock.at(NOON + 25 * 3600 + 1)
    assert [second % 86_400 for second in clock.fired()] == [3600]


def test_a_deleted_event_owes_nothing(clock: Clockwork) -> None:
    clock.event(MINUTELY)
    clock.now = NOON + 1
    clock.given(f.EventDeleted(at=clock.now, actor=ANNA, event="e1"))
    clock.at(NOON + 100)
    assert clock.fired() == []


# --- The counter of nth --------------------------------------------------------------------------


def test_nth_counts_on_through_failovers_and_gaps(clock: Clockwork) -> None:
    clock.event(MINUTELY, on("nth", every=5), counters=f.Counters(nth=3))
    for minute in range(30):
        clock.take_over()
        if not 10 <= minute < 14:
            clock.at(NOON + minute * 60 + 1)
    assert clock.fired() == [60 * n for n in (2, 7, 17, 22, 27)]
    assert clock.missed() == 1


def test_a_client_sets_the_counter(clock: Clockwork) -> None:
    clock.event(MINUTELY, on("nth", every=3))
    clock.at(NOON + 1)
    clock.at(NOON + 61)
    clock.update(counters=f.Counters(nth=4))
    for minute in range(2, 12):
        clock.at(NOON + minute * 60)
    assert clock.fired() == [0, 300, 480, 660]


# --- Startup triggers ----------------------------------------------------------------------------


def test_a_start_of_the_service_fires_once_and_a_takeover_does_not(clock: Clockwork) -> None:
    clock.event(
        on("startup", params={"a": 1}), on("delay", duration=60), on("quiet", invisible=True)
    )
    clock.event(on("startup"), id="off", enabled=False)
    clock.run()
    assert clock.fired() == []
    clock.take_over(startup=True)
    clock.run()
    clock.take_over()
    clock.run()
    [job] = clock.of(f.JobRequested)
    assert (job.source, job.now, job.until, job.invisible) == ("startup", clock.now, None, False)
    assert clock.fired("off") == []


def test_a_crash_loop_fires_startup_triggers_once_a_minute(clock: Clockwork) -> None:
    clock.event(on("startup"))
    for second in (0, 20, 40, 70):
        clock.now = NOON + second
        clock.take_over(startup=True)
        clock.run()
    assert clock.fired() == [0, 70]


def test_a_takeover_finishes_what_the_start_began(clock: Clockwork) -> None:
    for number in range(10):
        clock.event(on("startup"), id=f"e{number}")
    clock.take_over(startup=True)
    clock.run(dies_after=4)
    clock.now += 65
    clock.take_over()
    clock.run()
    assert [len(clock.fired(f"e{number}")) for number in range(10)] == [1] * 10


def test_startup_triggers_wait_for_nobody_while_scheduling_is_off(clock: Clockwork) -> None:
    clock.event(on("startup"))
    clock.master(False)
    clock.take_over(startup=True)
    clock.run()
    clock.master(True)
    clock.run()
    assert clock.fired() == []


# --- Launch checks -------------------------------------------------------------------------------


def reasons(clock: Clockwork) -> list[str]:
    return [fact.reason for fact in clock.of(f.LaunchRejected)]


def test_a_missing_plugin_leaves_a_record_of_every_fire(clock: Clockwork) -> None:
    clock.event(MINUTELY, plugin="gone")
    clock.at(NOON + 1)
    clock.at(NOON + 61)
    assert reasons(clock) == ["Plugin not found: gone"] * 2


def test_a_queue_needs_a_job_limit(clock: Clockwork) -> None:
    clock.event(MINUTELY, limits=[{"type": "queue", "enabled": True, "amount": 5}])
    clock.at(NOON + 1)
    assert reasons(clock) == ["An enabled queue limit needs an enabled job limit."]


def test_a_daily_limit_counts_live_jobs(clock: Clockwork) -> None:
    limit = {"type": "day", "enabled": True, "condition": "complete", "amount": 2}
    clock.event(MINUTELY, MINUTELY, limits=[limit])
    clock.at(NOON + 1)
    clock.at(NOON + 61)
    assert len(clock.of(f.JobRequested)) == 2
    text = "Maximum daily 'complete' count of 2 has been reached for event: e1"
    assert reasons(clock) == [text] * 2


def test_the_brake_defers_to_later_minutes() -> None:
    clock = Clockwork(Settings(timezone="UTC", max_jobs_per_min=2))
    clock.event(*[MINUTELY] * 5)
    clock.at(NOON + 1)
    untils = [job.until and job.until - NOON for job in clock.of(f.JobRequested)]
    assert untils == [None, None, 60, 60, 120]
    clock.take_over()
    clock.at(NOON + 61)
    untils = [job.until - NOON for job in clock.of(f.JobRequested)[5:]]
    assert untils == [120, 180, 180, 240, 240]


def test_the_brake_can_drop() -> None:
    clock = Clockwork(Settings(timezone="UTC", max_jobs_per_min=2, max_jobs_per_min_policy="drop"))
    clock.event(*[MINUTELY] * 3)
    clock.at(NOON + 1)
    assert len(clock.of(f.JobRequested)) == 2
    assert reasons(clock) == ["Global jobs per minute limit has been reached (2/min)"]


# --- Any history, any failover -------------------------------------------------------------------


@dataclass
class Model:
    """What ought to fire, told second by second and without any ledger."""

    position: int
    counter: int | None = None
    triggers: list[Json] = field(default_factory=list)
    on: dict[str, bool] = field(
        default_factory=lambda: dict.fromkeys(("event", "category", "plugin", "master"), True)
    )
    expected: Counter[tuple[int, float]] = field(default_factory=Counter)

    def modifier(self, type: str) -> Json | None:
        return next((t for t in self.triggers if t["type"] == type), None)

    def advance(self, now: float) -> None:
        """Live, second by second, up to `now`."""
        if all(self.on.values()):
            for second in range(self.position + 1, int(now) + 1):
                self._pass(second)
        elif self.modifier("catchup"):
            return
        self.position = max(self.position, int(now)) if self.modifier("catchup") else int(now)

    def _pass(self, second: int) -> None:
        hits = [i for i, t in enumerate(self.triggers) if self._hits(t, second)]
        nth = self.modifier("nth")
        launches = nth is None or (self.counter or 0) <= 1
        if launches:
            self.expected.update((index, float(second)) for index in hits)
        minute = range(second - second % 60, second - second % 60 + 60)
        last = max((s for s in minute for t in self.triggers if self._hits(t, s)), default=None)
        if nth is not None and second == last:
            self.counter = nth["every"] if launches else (self.counter or 0) - 1

    def _hits(self, trigger: Json, second: int) -> bool:
        if trigger["type"] == "interval":
            past = second - int(trigger["start"])
            return past >= 0 and past % int(trigger["duration"]) == 0
        precision = self.modifier("precision")
        seconds = precision["seconds"] if precision else [0]
        minutes = trigger.get("minutes") or range(60)
        return (
            trigger["type"] == "schedule"
            and second % 60 in seconds
            and second // 60 % 60 in minutes
        )


LAUNCHERS = st.one_of(
    st.just([MINUTELY]),
    st.just([MINUTELY, on("schedule", minutes=list(range(0, 60, 2)))]),
    st.just([MINUTELY, on("precision", seconds=[0, 17, 40])]),
    st.integers(20, 130).map(lambda n: [on("interval", start=NOON - 77, duration=n)]),
)
MODIFIERS = st.lists(
    st.one_of(st.just(on("catchup")), st.integers(2, 4).map(lambda n: on("nth", every=n))),
    max_size=2,
    unique_by=lambda trigger: str(trigger["type"]),
)
TRIGGERS = st.tuples(LAUNCHERS, MODIFIERS).map(lambda parts: [*parts[0], *parts[1]])
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 300)),
    st.tuples(st.just("wait"), st.integers(1, 300)),
    st.tuples(st.just("lag"), st.integers(1, 40)),
    st.tuples(st.just("die"), st.lists(st.integers(0, 4), max_size=3)),
    st.tuples(st.just("triggers"), TRIGGERS),
    st.tuples(st.sampled_from(["event", "category", "plugin", "master"]), st.booleans()),
    st.tuples(st.just("nth"), st.integers(0, 5)),
    st.tuples(st.just("cursor"), st.integers(-5, 5)),
    st.tuples(st.just("rename"), st.none()),
)


class History:
    """Plays random steps on the clockwork and on the model alike."""

    def __init__(self, triggers: list[Json]) -> None:
        self.clock = Clockwork(now=NOON - 29.5)
        self.clock.event(*triggers)
        self.model = Model(NOON - 30, triggers=triggers)
        self.unwatched = 0  # seconds since the leader last ran

    def play(self, step: tuple[str, Any]) -> None:
        name, value = step
        match name:
            case "wait":
                self._wait(value)
            case "lag" if self.unwatched + value < 55:
                self.unwatched += value
                self.clock.now += value
            case "die":
                self._die(value)
            case "event" | "category" | "plugin" | "master":
                self._turn(name, value)
            case "triggers":
                self._triggers(value)
            case "nth":
                self.model.advance(self.clock.now)
                self.model.counter = value
                self.clock.update(counters=f.Counters(nth=value))
                self._rest_without_catch_up()
            case "cursor" if self.model.modifier("catchup"):
                self._cursor(value)
            case "rename":
                self.clock.update(title="Another")

    def _watch(self) -> None:
        self.clock.run()
        self.unwatched = 0

    def _wait(self, seconds: int) -> None:
        self._watch()
        for _ in range(seconds // 30):
            self.clock.now += 30
            self._watch()
        self.clock.now += seconds % 30
        self._watch()

    def _die(self, lives: list[int]) -> None:
        for decisions in lives:
            self.clock.run(dies_after=decisions)
            self.clock.take_over()
        self._watch()

    def _turn(self, name: str, enabled: bool) -> None:
        self.model.advance(self.clock.now)
        self.model.on[name] = enabled
        self._rest_without_catch_up()
        match name:
            case "event":
                self.clock.update("enabled", enabled=enabled)
            case "category":
                self.clock.switch("category", "general", enabled)
            case "plugin":
                self.clock.switch("plugin", "shellplug", enabled)
            case _:
                self.clock.master(enabled)

    def _triggers(self, triggers: list[Json]) -> None:
        self.model.advance(self.clock.now)
        caught_up = bool(self.model.modifier("catchup"))
        self.model.triggers = triggers
        if not (caught_up and self.model.modifier("catchup")):
            self.model.position = int(self.clock.now)
        self.clock.update(triggers=triggers)

    def _cursor(self, minutes: int) -> None:
        self._watch()
        self.model.advance(self.clock.now)
        cursor = int(self.clock.now // 60 + minutes) * 60
        self.model.position = cursor + 59
        self.clock.update(counters=f.Counters(cursor=cursor))

    def _rest_without_catch_up(self) -> None:
        if not self.model.modifier("catchup"):
            self.model.position = int(self.clock.now)

    def fired(self) -> Counter[tuple[int, float]]:
        return Counter(
            (job.fire.trigger, job.fire.due)
            for job in self.clock.of(f.JobRequested)
            if job.fire is not None
        )

    def keys(self) -> Iterator[tuple[int, int, float]]:
        for job in self.clock.of(f.JobRequested):
            assert job.fire is not None
            yield job.fire.anchor, job.fire.trigger, job.fire.due


@settings(max_examples=100, deadline=None)
@given(TRIGGERS, st.lists(STEPS, max_size=14))
def test_every_due_time_has_one_job_whatever_happens_to_leaders(
    triggers: list[Json], steps: list[tuple[str, Any]]
) -> None:
    history = History(triggers)
    for step in steps:
        history.play(step)
    history._wait(130)
    history.model.advance(history.clock.now)
    assert history.fired() == history.model.expected
    assert max(Counter(history.keys()).values(), default=1) == 1
    assert history.clock.missed() == 0


GAPS = st.one_of(
    st.tuples(st.just("gap"), st.integers(30, 1500)),
    st.tuples(st.just("wait"), st.integers(1, 200)),
    st.tuples(st.just("die"), st.lists(st.integers(0, 4), max_size=3)),
    st.tuples(st.just("triggers"), TRIGGERS),
    st.tuples(st.sampled_from(["event", "master"]), st.booleans()),
)


@settings(max_examples=100, deadline=None)
@given(TRIGGERS, st.lists(GAPS, max_size=10))
def test_every_due_time_is_launched_or_counted_as_missed_once(
    triggers: list[Json], steps: list[tuple[str, Any]]
) -> None:
    history = History(triggers)
    for name, value in steps:
        if name == "gap":
            history.clock.now += value
        else:
            history.play((name, value))
    history._wait(130)
    history.model.advance(history.clock.now)
    fired, expected = history.fired(), history.model.expected
    assert fired <= expected
    assert fired.total() + history.clock.missed() == expected.total()
