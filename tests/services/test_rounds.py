"""A round of decisions that is full: what belongs together is not torn apart."""

from pathlib import Path
from typing import Any

import pytest

from domain import facts as f
from domain.facts import Json, Recorded
from domain.job import JobState
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.fleet import Fleet
from services.scheduler.dispatching import Dispatching
from services.scheduler.service import FINEST, SWEEP
from services.settings import Settings

WHO = f.Actor(type="scheduler", id="1")
ROUND = 10


class Nobody:
    """Performs no action."""

    def begin(self, actor: f.Actor) -> None: ...

    def note(self, recorded: Recorded, job: object) -> None: ...

    def outcome(self, job: str, key: object) -> None: ...

    def perform(self, job: object, run: object) -> None: ...


class Term:
    """A leader whose decisions are read back as soon as they are made. `ticks` are seconds."""

    def __init__(self, folder: Path) -> None:
        self.ticks = 1000.0
        definitions, fleet, states = Definitions(), Fleet(), EventStates("UTC")
        self.jobs = ActiveJobs(definitions)
        self.folds = (definitions, fleet, states)
        settings, nobody = Settings(data_dir=folder), Nobody()
        self.dispatching = Dispatching(
            settings, definitions, self.jobs, fleet, states,
            nobody,  # type: ignore[arg-type]
        )  # fmt: skip
        self.dispatching.chooser.ticks = lambda: self.ticks
        self.dispatching.begin(WHO, 0)
        self.sequence = 0

    def read(self, kind: type[f.FactBase], **fields: Any) -> int:
        self.fold(f.from_plain(kind, {"at": 0, "actor": WHO} | fields))  # type: ignore[arg-type]
        return self.sequence

    def fold(self, fact: f.Fact) -> None:
        self.sequence += 1
        recorded = Recorded(self.sequence, "", fact)
        for view in self.folds:
            view.apply(recorded)
        self.dispatching.note(recorded, self.jobs.apply(recorded))

    def second(self, jobs: Json, length: float = 1.1) -> None:
        """A second passes: a heartbeat about these jobs, and rounds until nothing is decided."""
        self.ticks += length
        heartbeat = {"server": "s1", "boot": "b", "order_position": self.sequence, "jobs": jobs}
        self.dispatching.heard(heartbeat | {"info": {}})
        while decisions := self.dispatching.decide(self.ticks, ROUND):
            for _, fact in decisions:
                self.fold(fact)


@pytest.mark.parametrize("many", [1, 4, 33])
def test_every_job_whose_limit_fires_in_a_full_round_is_aborted(tmp_path: Path, many: int) -> None:
    """Given jobs with three facts each for one limit, due at once, and rounds of ten decisions."""
    term = Term(tmp_path)
    limit = {"type": "time", "enabled": True, "duration": 5, "abort": True, "email": "a@b.example"}
    where: Json = {"server": "s1", "boot": "b"}
    term.read(f.ServerJoined, machine_boot="m", hostname="h", **where)
    told: Json = {}
    for number in range(many):
        job: Json = {"event": "e", "job": f"j{number}"}
        overrides = {"limits": [limit], "targets": ["s1"]}
        term.read(
            f.JobRequested, made_of={"event": 1}, source="key", username="u", now=0,
            overrides=overrides, **job,
        )  # fmt: skip
        order = term.read(f.JobAssigned, attempt=1, made_of={"event": 1}, **job, **where)
        term.read(f.JobStarted, order=order, started=0.0, pid=1, cwd="", **job, **where)
        told[job["job"]] = {"elapsed": 10, "order": order}

    term.second(told)

    assert {job.id for job in term.jobs.jobs.values() if job.abort_ordered} == told.keys()


def test_limits_are_looked_at_each_second_by_a_service_that_wakes_a_moment_before(
    tmp_path: Path,
) -> None:
    """Given a job that exceeds its limit between two of these moments, and nothing else to do."""
    term = Term(tmp_path)
    limit = {"type": "time", "enabled": True, "duration": 5, "abort": True}
    job: Json = {"event": "e", "job": "j1"}
    where: Json = {"server": "s1", "boot": "b"}
    term.read(f.ServerJoined, machine_boot="m", hostname="h", **where)
    term.read(
        f.JobRequested, made_of={"event": 1}, source="key", username="u", now=0,
        overrides={"limits": [limit], "targets": ["s1"]}, **job,
    )  # fmt: skip
    order = term.read(f.JobAssigned, attempt=1, made_of={"event": 1}, **job, **where)
    term.read(f.JobStarted, order=order, started=0.0, pid=1, cwd="", **job, **where)
    term.second({"j1": {"elapsed": 4.5, "order": order}}, length=5.0)
    assert term.jobs.jobs["j1"].abort_ordered is None

    term.second({"j1": {"elapsed": 5.5, "order": order}}, length=SWEEP - FINEST)

    assert term.jobs.jobs["j1"].abort_ordered is not None


def test_a_job_that_waits_for_another_server_does_not_have_others_refused(tmp_path: Path) -> None:
    """Given two slots, one place in the queue, and in it a job whose target nobody has."""
    term = Term(tmp_path)
    limits = [{"type": t, "enabled": True, "amount": n} for t, n in (("job", 2), ("queue", 1))]
    definition = {"id": "e", "enabled": True, "limits": limits, "targets": ["s1"], "algo": "random"}
    event = term.read(f.EventCreated, event="e", definition=definition)
    term.read(f.ServerJoined, server="s1", boot="b", machine_boot="m", hostname="h")
    launch: Json = {"event": "e", "made_of": {"event": event}, "source": "key", "username": "u"}

    def request(job: str, **more: Any) -> JobState | None:
        term.read(f.JobRequested, job=job, now=0, **launch, **more)
        term.second({})
        found = term.jobs.jobs.get(job)
        return found.state if found is not None else None

    for _ in range(8):  # until silence says something
        term.second({})
    assert request("stuck", overrides={"targets": ["nosuch"]}) is JobState.QUEUED
    assert request("first") is JobState.STARTING
    assert request("second") is JobState.STARTING
    assert request("third") is None
