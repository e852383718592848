"""Every fold goes on from its snapshot as if it had read the whole ledger, wherever it was cut."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from domain import facts as f
from domain.facts import Json, Recorded
from domain.subjects import subject_of
from projections import definitions, snapshot
from projections.access import Access, StoredAccess
from projections.active_jobs import ActiveJobs, StoredJobs
from projections.definitions import Definitions, StoredDefinitions
from projections.event_state import EventStates, StoredEventStates
from projections.fleet import Fleet, StoredFleet
from projections.job_activity import JobActivity, StoredActivity
from projections.schedule import Schedule, StoredSchedule
from tests.projections.histories import HISTORIES
from tests.projections.test_active_jobs import assigned, completed, fact, queued, requested
from tests.projections.test_active_jobs import histories as histories_of_jobs


@dataclass
class Stored:
    """Everything that the folds of this test keep."""

    definitions: StoredDefinitions
    access: StoredAccess
    fleet: StoredFleet
    states: StoredEventStates
    jobs: StoredJobs
    schedule: StoredSchedule
    activity: StoredActivity


class Folds:
    """All folds that a service keeps in memory."""

    def __init__(self) -> None:
        self.definitions = Definitions()
        self.access = Access()
        self.fleet = Fleet()
        self.states = EventStates("Europe/Berlin")
        self.jobs = ActiveJobs(self.definitions)
        self.schedule = Schedule(self.definitions, zone="UTC", dst_policy="literal")
        self.activity = JobActivity()

    def read(self, history: Sequence[Recorded]) -> "Folds":
        for recorded in history:
            self.definitions.apply(recorded)
            self.access.apply(recorded)
            self.fleet.apply(recorded)
            self.states.apply(recorded)
            self.schedule.apply(recorded)
            self.activity.apply(recorded, self.jobs.apply(recorded))
        return self

    def saved(self) -> bytes:
        parts = {name: fold.state() for name, fold in vars(self).items()}
        return snapshot.dump(Stored(**parts))

    @staticmethod
    def from_snapshot(data: bytes) -> "Folds":
        stored = snapshot.load(data, Stored)
        assert stored is not None
        folds = Folds()
        for name, fold in vars(folds).items():
            fold.restore(getattr(stored, name))
        return folds


def whole(fold: Any, *caches: str) -> Json:
    """All that a fold holds in plain values, but what it can compute again."""
    return {name: _plain(value) for name, value in vars(fold).items() if name not in caches}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def answers(jobs: ActiveJobs) -> Json:
    """What ActiveJobs tells; how it finds that out may differ."""
    scopes = {job.scope for job in jobs.jobs.values()}
    servers = {job.server for job in jobs.jobs.values() if job.server}
    return {
        "position": jobs.position,
        "jobs": list(jobs.jobs.items()),
        "by_event": jobs.by_event,
        "by_parent": jobs.by_parent,
        "by_server": jobs.by_server,
        "owed": list(jobs.owed.items()),
        "results": jobs.results,
        "running": {s: jobs.running(s) for s in scopes},
        "queued": {s: jobs.queued(s) for s in scopes},
        "queues": {s: [job.id for job in jobs.queue(s)] for s in scopes},
        "loads": {s: pytest.approx(jobs.load(s)) for s in servers},
    }


def orders(folds: Folds) -> list[list[str]]:
    """The orders in which things were made, which dictionaries do not compare."""
    ordered = (
        folds.definitions.events,
        *folds.definitions.catalog.values(),
        folds.fleet.servers,
        folds.fleet.groups,
        folds.access.users,
        folds.access.keys,
        folds.schedule.startups,
        folds.schedule.events,
    )
    return [list(entries) for entries in ordered]


VIEWS: dict[str, Callable[[Folds], Any]] = {
    "definitions": lambda folds: whole(folds.definitions, "_tag_names"),
    "access": lambda folds: whole(folds.access, "_principals"),
    "fleet": lambda folds: whole(folds.fleet, "_directory"),
    "states": lambda folds: whole(folds.states, "_zone"),
    "jobs": lambda folds: answers(folds.jobs),
    "schedule": lambda folds: whole(folds.schedule, "definitions"),
    "activity": lambda folds: whole(folds.activity),
    "orders": orders,
}


def truthful(history: Sequence[Recorded]) -> list[Recorded]:
    """The same history, in which EventUpdated names the keys that it changes, as gateways do."""
    records: dict[str, Json] = {}
    told = []
    for recorded in history:
        fact = recorded.fact
        if isinstance(fact, f.EventUpdated):
            old, new = records.get(fact.event, {}), fact.definition
            changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
            fact = structs.replace(fact, changed=changed)
        if isinstance(fact, f.EventCreated | f.EventUpdated):
            records[fact.event] = fact.definition
        told.append(Recorded(recorded.sequence, recorded.subject, fact))
    return told


def check(history: Sequence[Recorded], cut: int) -> None:
    at_once = Folds().read(history)
    resumed = Folds.from_snapshot(Folds().read(history[:cut]).saved()).read(history[cut:])
    for name, view in VIEWS.items():
        assert view(resumed) == view(at_once), name


@settings(deadline=None, max_examples=300)
@given(HISTORIES, st.integers(0, 60))
def test_any_history_may_be_cut_anywhere(history: list[Recorded], cut: int) -> None:
    check(truthful(history), cut)


@settings(deadline=None, max_examples=200)
@given(histories_of_jobs(), st.integers(0, 25))
def test_the_lives_of_jobs_may_be_cut_anywhere(lives: list[f.Fact], cut: int) -> None:
    limits = [{"type": "retry", "enabled": True, "amount": 1}]
    created = fact(f.EventCreated, definition={"id": "e1", "limits": limits, "title": "One"})
    history = [Recorded(n, subject_of(x), x) for n, x in enumerate([created, *lives], 1)]
    check(history, cut)


@settings(deadline=None, max_examples=100)
@given(HISTORIES, st.integers(0, 60), st.integers(0, 8))
def test_old_versions_are_let_go_at_the_same_time(
    history: list[Recorded], cut: int, kept: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(definitions, "KEPT_AFTER", kept)
        at_once = Folds().read(history)
        first = Folds.from_snapshot(Folds().read(history[:cut]).saved())
        resumed = first.read(history[cut:])

    assert VIEWS["definitions"](resumed) == VIEWS["definitions"](at_once)


def scenario() -> list[Recorded]:
    """A bit of everything: changed triggers, a fire, a queue, a retry, a multiplex job."""
    server = {"server": "s1", "boot": "b"}
    joined = {"machine_boot": "m", "hostname": "one"}
    event: Json = {"id": "e1", "enabled": True, "category": "c1", "limits": [{"type": "day"}]}
    minutely: Json = {"type": "schedule", "enabled": True}
    hourly: Json = minutely | {"minutes": [0]}
    fired = f.FireKey(anchor=2, trigger=0, due=60.0)
    facts = [
        fact(f.CatalogCreated, type="category", id="c1", record={"id": "c1"}),
        fact(f.EventCreated, definition=event | {"triggers": [minutely]}),
        fact(f.ServerJoined, **server, **joined),
        requested("j1"),
        queued("j1"),
        requested("j2", fire=fired),
        fact(
            f.EventUpdated,
            at=200.0,
            definition=event | {"triggers": [hourly]},
            changed=["triggers"],
        ),
        assigned("j2"),
        fact(f.JobFannedOut, job="j2", children=[f.Child(job=x, server="s1") for x in ("a", "b")]),
        fact(f.ServerUpdated, **server, info={"cpu": 1}),
        completed("j1", retry="j4"),
        requested("a", workflow={"job": "j2"}),
        completed("a"),
        requested("b", workflow={"job": "j2"}),
        queued("b"),
        fact(f.QueueFlushed, jobs=["b"]),
        requested("j4", retry_prev="j1"),
        fact(f.ServerLeft, **server),
        completed("j2"),
    ]
    return [Recorded(n, subject_of(x), x) for n, x in enumerate(facts, 1)]


@pytest.mark.parametrize("cut", range(len(scenario())))
def test_a_bit_of_everything_may_be_cut_anywhere(cut: int) -> None:
    check(scenario(), cut)


@pytest.mark.parametrize("cut", range(len(scenario())))
def test_a_fold_may_go_on_while_its_state_is_written(cut: int) -> None:
    """What is folded later changes nothing in a state that was taken before."""
    folds = Folds().read(scenario()[:cut])
    pieces = snapshot.pieces(Stored(**{name: fold.state() for name, fold in vars(folds).items()}))
    first = next(pieces)
    folds.read(scenario()[cut:])

    resumed = Folds.from_snapshot(b"".join([first, *pieces]))

    at_the_time = Folds().read(scenario()[:cut])
    for name, view in VIEWS.items():
        assert view(resumed) == view(at_the_time), name
