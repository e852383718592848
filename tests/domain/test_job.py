"""The life of a job, told in facts."""

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st
from msgspec.structs import replace

from domain import facts as f
from domain.assembly import Made, assemble
from domain.completion import (
    complete,
    normalise_code,
    relaunchable,
    result_of,
    retry_request,
)
from domain.dispatch import NO_SLOT, Chosen, NoServer, Situation, decide_start, order
from domain.facts import Actor, Json, Recorded
from domain.job import HOLDS_A_SLOT, Job, JobState, begin, evolve
from domain.subjects import subject_of
from tests.domain.world import World

ACTOR = Actor(type="scheduler", id="7")
EVENT: Json = {"id": "e1", "title": "Nightly", "enabled": True, "category": "general"}
ENABLED = Situation(running=0, queued=0, event=EVENT)


def made(event: Json | None = None, **parts: Json) -> Made:
    records = {"category": {}, "plugin": {}, "config": {}} | parts
    return Made(event=EVENT | (event or {}), **records)


def requested(at: float = 100.0, **fields: object) -> f.JobRequested:
    base: dict[str, object] = {
        "at": at,
        "actor": ACTOR,
        "event": "e1",
        "job": "j1",
        "made_of": f.MadeOf(event=1),
        "source": "user",
        "username": "admin",
        "now": at,
    }
    return f.from_plain(f.JobRequested, base | fields)


def common(at: float) -> dict[str, object]:
    return {"at": at, "actor": ACTOR, "event": "e1", "job": "j1"}


def assigned(at: float = 101.0) -> f.JobAssigned:
    return f.from_plain(
        f.JobAssigned,
        common(at)
        | {"server": "s1", "boot": "b1", "attempt": 1, "made_of": {"event": 1}, "launch": None},
    )


def report(kind: type[f.FactBase], order: int, at: float = 102.0, **fields: object) -> f.Fact:
    return f.from_plain(
        kind,  # type: ignore[return-value]
        common(at) | {"server": "s1", "boot": "b1", "order": order} | fields,
    )


def started(order: int) -> f.Fact:
    return report(f.JobStarted, order, pid=77, started=102.5)


def finished(order: int, code: int | str = 0, **fields: object) -> f.Fact:
    values = {"code": code, "description": "", "ended": 105.0} | fields
    return report(f.JobFinished, order, at=105.1, **values)


def given(*facts: f.Fact, event: Json | None = None) -> Job:
    """The job after these facts; the first one is its request, sequences start at 10."""
    first = facts[0]
    assert isinstance(first, f.JobRequested)
    spec = assemble(made(event), first)
    job = begin(Recorded(10, subject_of(first), first), spec)
    for number, fact in enumerate(facts[1:], 11):
        job = evolve(job, Recorded(number, subject_of(fact), fact))
    return job


def start(job: Job, situation: Situation = ENABLED, choice: Chosen | NoServer | None = None):
    chosen = choice or Chosen("s1", "b1")
    return decide_start(job, situation, lambda: chosen, now=200.0, actor=ACTOR)


def end(job: Job) -> f.JobCompleted:
    result = result_of(job)
    assert result is not None
    return complete(job, result, known_tags={"t1": "t1"}, now=200.0, actor=ACTOR)


def test_a_job_goes_from_ready_to_complete() -> None:
    life = [requested(), assigned(), started(11), finished(11)]
    states = [given(*life[:n]).state for n in range(1, 5)]
    assert states == ["ready", "starting", "active", "complete"]
    assert given(*life).started == 102.5
    assert end(given(*life)).tags == ["_success", "_last"]


@pytest.mark.parametrize("groups", [None, (), ("west", "web")])
def test_an_order_says_the_groups_that_its_runner_does_not_know(
    groups: tuple[str, ...] | None,
) -> None:
    chosen = Chosen("s1", "b1", groups=groups)
    launch = order(given(requested()), chosen, now=200.0, actor=ACTOR).launch
    assert launch is not None
    assert launch.get("groups") == (None if groups is None else list(groups))


def test_reports_of_an_order_that_is_not_in_force_change_nothing() -> None:
    job = given(requested(), assigned())
    assert evolve(job, Recorded(12, "", finished(order=9))) is job


def test_a_returned_job_is_ready_for_the_same_attempt() -> None:
    job = given(requested(), assigned(), report(f.JobReturned, 11, reason="new boot"))
    assert (job.state, job.server, job.attempt) == (JobState.READY, None, 1)


def joined(boot: str, *held: f.Held) -> f.ServerJoined:
    return f.ServerJoined(
        at=103.0,
        actor=ACTOR,
        server="s1",
        boot=boot,
        machine_boot="m",
        hostname="h",
        inventory=list(held),
    )


def test_a_new_boot_that_holds_the_job_adopts_it() -> None:
    job = given(requested(), assigned(), started(11), joined("b2", f.Held(**HELD)))
    assert (job.state, job.boot) == (JobState.ACTIVE, "b2")


HELD = {"job": "j1", "order": 11, "state": "running"}


def test_a_new_boot_that_never_saw_the_order_gives_the_job_back() -> None:
    assert given(requested(), assigned(), joined("b2")).state is JobState.READY


def test_a_started_job_that_its_server_forgot_is_not_started_again() -> None:
    job = given(requested(), assigned(), started(11), joined("b2"))
    assert job.state is JobState.ACTIVE
    assert job.unknown_to_server


def test_an_order_that_passed_the_fence_after_an_abort_request_still_counts() -> None:
    abort = f.from_plain(f.JobAbortRequested, common(100.5) | {"reason": "stop"})
    job = given(requested(), abort, assigned())
    assert job.state is JobState.STARTING
    assert job.abort is not None


def test_a_waiting_job_ends_at_once_when_aborted() -> None:
    abort = f.from_plain(f.JobAbortRequested, common(100.5) | {"reason": "stop"})
    result = start(given(requested(), abort))
    assert result.code == "abort"
    assert result.description == "stop"


def test_a_job_over_its_limit_is_queued_while_there_is_room() -> None:
    limits = [
        {"type": "job", "enabled": True, "amount": 1},
        {"type": "queue", "enabled": True, "amount": 2},
    ]
    job = given(requested(), event={"limits": limits})
    full = replace(ENABLED, running=1)
    assert isinstance(start(job, full), f.JobQueued)
    assert start(job, replace(full, queued=2)).code == "abort"


def test_without_a_queue_a_job_over_its_limit_is_aborted_for_good() -> None:
    job = given(requested(), event={"limits": [{"type": "job", "enabled": True, "amount": 1}]})
    result = start(job, replace(ENABLED, running=1))
    assert (result.code, result.description, result.retry_ok) == ("abort", NO_SLOT, False)


def test_no_server_allows_a_retry() -> None:
    assert start(given(requested()), choice=NoServer()).retry_ok


def test_while_the_fleet_is_not_known_nothing_is_decided() -> None:
    assert start(given(requested()), choice=NoServer(unsettled=True)) is None


def test_a_deleted_event_ends_its_waiting_jobs() -> None:
    result = start(given(requested()), replace(ENABLED, event=None))
    assert result.description == "Event not found: e1"


def test_a_failed_job_with_a_retry_limit_names_its_successor() -> None:
    limits = [{"type": "retry", "enabled": True, "amount": 1, "duration": 30}]
    job = given(requested(), assigned(), started(11), finished(11, 1), event={"limits": limits})
    completed = end(job)
    assert completed.retry is not None
    assert completed.retry.until == 230.0
    assert completed.tags == ["_error", "_retried"]
    follower = retry_request(job, completed.retry, f.MadeOf(event=1), 200.0, ACTOR)
    assert (follower.retry_count, follower.retry_prev, follower.wait) == (1, "j1", "retry_delay")


def test_a_failed_job_whose_retry_could_not_be_launched_has_none() -> None:
    limits = [{"type": "retry", "enabled": True, "amount": 1}]
    job = given(requested(), assigned(), started(11), finished(11, 1), event={"limits": limits})
    result = result_of(job)
    assert result is not None
    completed = complete(job, result, known_tags={}, now=200.0, actor=ACTOR, launchable=False)
    assert (completed.retry, completed.jobs) == (None, [])
    assert completed.tags == ["_error", "_last"]


@pytest.mark.parametrize("missing", ["event", "category", "plugin"])
@pytest.mark.parametrize("deleted", [True, False])
def test_a_retry_needs_event_category_and_plugin_unless_it_is_a_test(
    missing: str, deleted: bool
) -> None:
    world = World()
    world.events["e1"] = EVENT
    job = given(requested(), event={"plugin": "shellplug"})
    test = given(requested(test=True), event={"plugin": "shellplug"})
    assert relaunchable(job, world)

    place, id = {
        "event": (world.events, "e1"),
        "category": (world.catalog["category"], "general"),
        "plugin": (world.catalog["plugin"], "shellplug"),
    }[missing]
    record = place.pop(id)
    if not deleted:
        place[id] = record | {"enabled": False}

    assert not relaunchable(job, world)
    assert relaunchable(test, world)


def test_a_retry_has_the_params_that_were_given_when_the_job_was_resumed() -> None:
    author = {"params": {"a": "1", "b": "{{ params.a }}!", "on": "{{ server.id }}"}}
    asked = requested(overrides={"algo": "random", "params": {"c": "3"}})
    held = f.from_plain(f.JobStarting, common(101.0) | {"server": "s1"})
    stage = {"stage": "start", "index": 0}
    suspended = f.from_plain(f.JobSuspended, common(101.0) | stage)
    told = {"a": "2", "c": "{{{ params.a }}", "go": True}
    resumed = f.from_plain(f.JobResumed, common(102.0) | stage | {"params": told})
    job = given(asked, held, suspended, resumed, event=author)

    retry = retry_request(job, f.Follower(job="j2"), f.MadeOf(event=1), 200.0, ACTOR)

    assert retry.overrides["algo"] == "random"
    params = assemble(made(author), retry).document["params"]
    assert params == told | {"b": "1!", "on": "{{ server.id }}"}


def test_a_retry_asks_for_what_its_first_attempt_asked_for() -> None:
    job = given(requested(overrides={"params": {"c": "{{ params.a }}"}}))

    retry = retry_request(job, f.Follower(job="j2"), f.MadeOf(event=1), 200.0, ACTOR)

    assert retry.overrides == job.request.overrides


def test_a_manual_abort_is_never_retried() -> None:
    limits = [{"type": "retry", "enabled": True, "amount": 5}]
    abort = f.from_plain(f.JobAbortRequested, common(103.0) | {"reason": "stop"})
    ended = finished(11, "abort", aborted=True)
    completed = end(
        given(requested(), assigned(), started(11), abort, ended, event={"limits": limits})
    )
    assert (completed.code, completed.description, completed.retry) == ("abort", "stop", None)


def test_a_manual_abort_is_never_retried_though_a_limit_was_sooner() -> None:
    limits = [{"type": "retry", "enabled": True, "amount": 5}]
    ordered: Json = {"server": "s1", "order": 11, "reason": "too long", "retry_ok": True}
    limit = f.from_plain(f.JobAbortOrdered, common(103.0) | ordered)
    asked = f.from_plain(f.JobAbortRequested, common(103.5) | {"reason": "stop"})
    life = [requested(), assigned(), started(11), limit]
    ended = finished(11, "abort", aborted=True)

    assert end(given(*life, ended, event={"limits": limits})).retry is not None
    assert end(given(*life, asked, ended, event={"limits": limits})).retry is None


def test_an_abort_that_a_process_tells_of_itself_is_not_retried() -> None:
    limits = [{"type": "retry", "enabled": True, "amount": 5}]
    life = [requested(), assigned(), started(11)]
    assert end(given(*life, finished(11, 3), event={"limits": limits})).retry is not None
    own = end(given(*life, finished(11, "Abort"), event={"limits": limits}))
    assert (own.code, own.retry_ok, own.retry) == ("abort", False, None)


def test_category_limits_come_after_the_events_own() -> None:
    own = {"type": "time", "enabled": True, "duration": 5}
    inherited = {"type": "time", "enabled": True, "duration": 9}
    spec = assemble(made({"limits": [own]}, category={"limits": [inherited]}), requested())
    assert [x.get("source") for x in spec.document["limits"]] == [None, "category"]


def test_params_are_filled_from_plugin_event_and_request() -> None:
    plugin = {"params": [{"id": "a", "type": "text", "value": "1"}, {"id": "b", "value": "2"}]}
    spec = assemble(
        made({"params": {"b": "event"}}, plugin=plugin),
        requested(overrides={"params": {"c": "{{ params.b }}!"}}),
    )
    assert spec.document["params"] == {"a": "1", "b": "event", "c": "event!"}


def test_the_input_comes_from_the_launch_alone() -> None:
    forged = {"files": [{"id": "f1", "blob": {"sequences": [7], "size": 1, "sha256": ""}}]}
    overrides = {"input": forged, "params": {"_xy_override_input": forged}}
    spec = assemble(made({"input": forged}), requested(overrides=overrides))
    assert "input" not in spec.document


def test_codes_are_normalised() -> None:
    values = [0, None, False, "", 3, "SIGKILL", "Disk Full!", [1]]
    assert [normalise_code(v) for v in values] == [
        *([0] * 4),
        3,
        "sigkill",
        "disk_full_",
        "unknown",
    ]


def moves() -> st.SearchStrategy[f.Fact]:
    abort = f.from_plain(f.JobAbortRequested, common(103.0) | {"reason": "stop"})
    done = f.from_plain(f.JobCompleted, common(106.0) | {"code": 0, "description": ""})
    queued = f.from_plain(f.JobQueued, common(101.0) | {"reason": "full"})
    orders = st.integers(9, 14)
    return st.one_of(
        st.sampled_from([abort, done, queued, assigned(), joined("b2"), joined("b1")]),
        orders.map(started),
        orders.map(finished),
    )


@forall(st.lists(moves(), max_size=12))
def test_any_history_is_accepted_and_only_one_result_counts(history: list[f.Fact]) -> None:
    job = given(requested(), *history)
    completions = [x for x in history if isinstance(x, f.JobCompleted)]
    assert (job.final is not None) == bool(completions)
    assert (job.state in HOLDS_A_SLOT) <= (job.final is None)


def test_what_another_server_says_of_a_job_changes_nothing() -> None:
    """Its runner may write any report of its own, and guess the order's number."""
    running = given(requested(), assigned(), started(11))

    assert given(requested(), assigned(), started(11), finished(11, server="s2")) == running
