"""What happens when ...: the rows of design.md 11, each on a whole installation.

The disk's rows are in test_disk.py, those of a cluster in test_cluster.py, the clock's in
tests/services/test_firing.py.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.harness import (
    Api,
    Stack,
    bound,
    eventually,
    exists,
    free_port,
    job_event,
    limits,
    of_kind,
    stack,
    start,
)
from tests.chaos.invariants import check_definitions, check_views, completions, wait_for_quiet


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An installation that several rows share; each makes its own events."""
    with stack(tmp_path_factory.mktemp("table") / "data", server_timeout=5) as one:
        yield one


@pytest.fixture
def shared(installation: Stack) -> Stack:
    """The same, recovered from what the row before did to it."""
    eventually(lambda: ready(installation), "it has recovered")
    return installation


def ready(one: Stack) -> bool:
    """Whether the API answers, and a server can take jobs."""
    return one.health() == 200 and bool(one.api.persist("get_active_servers")["rows"])


@contextmanager
def another(one: Stack, *words: str, home: Path | None = None, **settings: object) -> Iterator[int]:
    """One more service on the same ledger; its process, which is killed at the end."""
    output = one.output.with_suffix(f".{words[0]}")
    process = start(home or one.home, output, *words, **(one.settings | settings))
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def admin(one: Stack, port: int) -> Api:
    """A client of another gateway, with the same key."""
    return Api(port, (one.home / "admin.key").read_text().strip())


def clock(id: str, **more: Any) -> dict[str, Any]:
    """An event that is due every second."""
    trigger = {"type": "interval", "enabled": True, "start": int(time.time()), "duration": 1}
    return job_event(id, "true", triggers=[trigger], **more)


def check_each_second_fired_once(one: Stack, event: str) -> None:
    """From the first fire to the last, no second is missing and none came twice."""
    requests = of_kind(one.facts(), "JobRequested")
    dues = [int(fact.now) for fact in requests if fact.event == event]
    assert sorted(dues) == list(range(min(dues), max(dues) + 1))
    assert not [fact for fact in of_kind(one.facts(), "FiresMissed") if fact.event == event]


# --- services that are killed ------------------------------------------------------------------


def test_gateway_killed(shared: Stack) -> None:
    """Acknowledged commands stand, another gateway goes on, it is ready again in two seconds."""
    shared.api.call("create_event", **job_event("g", "true"))
    port = free_port()
    with another(shared, "gateway", "--port", str(port)):
        other = admin(shared, port)
        eventually(lambda: _status(port) == 200, "the other gateway is ready")
        job = shared.api.call("run_event", id="g")["id"]
        began = time.monotonic()
        killed = shared.kill("gateway")
        assert other.call("run_event", id="g")["id"] != job
        eventually(lambda: shared.pid("gateway") not in (0, killed), "it is started again")
        eventually(lambda: shared.health() == 200, "it is ready")
        assert time.monotonic() - began < bound(2.0)
        wait_for_quiet(shared.api)
        assert shared.api.call("get_jobs", ids=[job])["jobs"][0]["code"] == 0


def _status(port: int) -> int:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code
    return 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.long)])
def test_an_acknowledged_command_survives_a_kill_right_after_its_reply(
    shared: Stack, rounds: int
) -> None:
    """Each mutating call, then SIGKILL of gateway and NATS at once: the effect is there."""
    for number in range(rounds):
        event = f"k{rounds}_{number}"
        calls: list[tuple[str, dict[str, Any]]] = [
            ("create_event", job_event(event, "exit 0")),
            ("update_event", {"id": event, "notes": "kept"}),
            ("create_tag", {"id": f"t{event}", "title": "Kept"}),
            ("run_event", {"id": event}),
            ("create_api_key", {"title": event, "privileges": {}}),
            ("delete_event", {"id": event}),
        ]
        for name, values in calls:
            reply = shared.api.reply(name, **values)
            killed = [shared.kill(victim) for victim in ("gateway", "nats")]
            assert reply.json()["code"] == 0, reply.text
            eventually(
                lambda k=killed: shared.pid("gateway") not in (0, k[0]) and ready(shared),  # type: ignore[misc]
                "it has recovered",
            )
            facts = {recorded.sequence: recorded.fact.kind for recorded in shared.facts()}
            acknowledged = int(reply.headers["X-Ledger-Seq"])
            assert acknowledged in facts, f"{name} was acknowledged and is gone"
    wait_for_quiet(shared.api)
    tags = {tag["id"] for tag in shared.api.call("get_tags")["rows"]}
    assert {f"tk{rounds}_{number}" for number in range(rounds)} <= tags
    events = {event["id"] for event in shared.api.call("get_events")["rows"]}
    assert not events & {f"k{rounds}_{number}" for number in range(rounds)}


def test_leading_scheduler_killed(shared: Stack) -> None:
    """The only scheduler is killed thrice: the next fire is at most three seconds late."""
    shared.api.call("create_event", **clock("s"))
    for _ in range(3):
        eventually(lambda: completions(shared.facts(), "s"), "it fires", look=0.2)
        shared.kill("scheduler")
        killed = time.time()
        next_term = eventually(lambda: _term_after(shared, killed), "it leads again", look=0.1)  # noqa: B023
        assert next_term.at - killed < bound(3.0)
    shared.api.persist("update_event", id="s", enabled=False)
    wait_for_quiet(shared.api)
    check_each_second_fired_once(shared, "s")


def test_two_schedulers_believe_they_lead(shared: Stack) -> None:
    """The leader is frozen, a standby takes over, and what the frozen one says next is refused."""
    shared.api.call("create_event", **clock("t"))
    with another(shared, "scheduler"):
        output = shared.output.with_suffix(".scheduler")
        eventually(lambda: "scheduler_up" in output.read_text(), "the standby is up")
        before = of_kind(shared.facts(), "TermStarted")[-1]
        with shared.frozen("scheduler"):
            eventually(lambda: _term_after(shared, before.at), "the standby leads", look=0.2)
        eventually(lambda: "term_deposed" in shared.log("scheduler"), "the old one has noticed")
        second = int(time.time()) + 2
        eventually(lambda: _fired_since(shared, "t", second), "it fires on", look=0.2)
    shared.api.persist("update_event", id="t", enabled=False)
    wait_for_quiet(shared.api)
    check_each_second_fired_once(shared, "t")


def _term_after(one: Stack, at: float) -> Any:
    return next((f for f in of_kind(one.facts(), "TermStarted") if f.at > at), None)


def _fired_since(one: Stack, event: str, second: int) -> bool:
    requests = of_kind(one.facts(), "JobRequested")
    return any(fact.event == event and fact.now >= second for fact in requests)


def test_runner_killed(shared: Stack, tmp_path: Path) -> None:
    """Its jobs run on; the next one takes them up, with whole output and right results."""
    go, script = tmp_path / "go", "echo one; until [ -e {0} ]; do sleep 0.1; done; echo two; exit 3"
    shared.api.call("create_event", **job_event("r", script.format(go)))
    job = shared.api.call("run_event", id="r")["id"]
    active = eventually(lambda: _active(shared, job), "the job runs")
    for _ in range(3):
        killed = shared.kill("runner")
        eventually(lambda k=killed: shared.pid("runner") not in (0, k), "it is started again")  # type: ignore[misc]
        assert exists(active["pid"])
    go.touch()
    wait_for_quiet(shared.api)
    found = shared.api.call("get_jobs", ids=[job])["jobs"][0]
    assert found["code"] == 3
    assert shared.api.call("get_job", id=job)["job"]["pid"] == active["pid"]
    assert _log(shared, job) == "one\ntwo\n"


def _active(one: Stack, job: str) -> dict[str, Any] | None:
    rows = one.api.persist("get_active_jobs")["rows"]
    return next((row for row in rows if row["id"] == job and row["state"] == "active"), None)


def _log(one: Stack, job: str) -> str:
    return one.api.reply("get_job_log", id=job).text


def test_server_gone_for_good(shared: Stack, tmp_path: Path) -> None:
    """After server_timeout its job ends as abort, and the retry runs on another server."""
    (here,) = (row["id"] for row in shared.api.call("get_active_servers")["rows"])
    nats = "@" + str(shared.home / "run" / "nats.url")
    identity = ("--nats", nats, "--id", "doomed", "--hostname", "doomed")
    with another(shared, "runner", *identity, home=tmp_path / "doomed") as runner:
        eventually(
            lambda: "doomed" in str(shared.api.call("get_active_servers")), "the server is there"
        )
        script = "case $PWD in *doomed*) exec sleep 300;; esac"
        retry = {"type": "retry", "enabled": True, "amount": 1, "duration": 0}
        where = {"targets": ["doomed", here], "algo": "prefer_first", "limits": [retry]}
        shared.api.call("create_event", **(job_event("d", script) | where))
        job = shared.api.call("run_event", id="d")["id"]
        active = eventually(lambda: _active(shared, job), "the job runs")
        assert active["server"] == "doomed"
        os.kill(runner, signal.SIGKILL)
        os.killpg(active["pid"], signal.SIGKILL)
        lost = eventually(lambda: completions(shared.facts(), "d"), "the job ends", look=0.3)[0]
        assert (lost.job, lost.code) == (job, "abort")
        assert "server lost" in lost.description.lower()
        wait_for_quiet(shared.api)
        retried = completions(shared.facts(), "d")[1]
        assert (retried.job, retried.code) == (lost.retry and lost.retry.job, 0)


# --- NATS --------------------------------------------------------------------------------------


def test_nats_stopped(shared: Stack, tmp_path: Path) -> None:
    """A running job does not notice; writes get 503 in the API's own form, reads get answers."""
    shared.api.call("create_event", **job_event("n", f"sleep 2; date +%s > {tmp_path / 'end'}"))
    shared.api.call("create_event", **clock("nc"))
    job = shared.api.call("run_event", id="n")["id"]
    eventually(lambda: _active(shared, job), "the job runs")
    with shared.frozen("nats"):
        reply = shared.api.reply("run_event", id="n")
        assert (reply.status_code, reply.json()["code"]) == (503, "db")
        assert shared.api.call("get_event", id="n")["event"]["id"] == "n"
        eventually((tmp_path / "end").exists, "the job ended meanwhile")
    wait_for_quiet(shared.api, 20)
    found = shared.api.call("get_jobs", ids=[job])["jobs"][0]
    assert found["code"] == 0
    assert found["elapsed"] < bound(3.0)
    shared.api.persist("update_event", id="nc", enabled=False)
    wait_for_quiet(shared.api)
    check_each_second_fired_once(shared, "nc")


def test_command_repeated(shared: Stack) -> None:
    """The same Idempotency-Key, across kills of gateway and NATS: one job."""
    shared.api.call("create_event", **job_event("i", "true"))
    first = shared.api.ask("run_event", headers={"Idempotency-Key": "same"}, id="i")
    jobs = {first["id"]}
    for victim in ("gateway", "nats"):
        shared.kill(victim)
        answer: list[Any] = []

        def repeated(into: list[Any] = answer) -> bool:
            with suppress(httpx.HTTPError, ValueError):
                into[:] = [shared.api.ask("run_event", headers={"Idempotency-Key": "same"}, id="i")]
            return bool(into) and into[0]["code"] == 0

        eventually(repeated, "the command is answered")
        jobs.add(answer[0]["id"])
    wait_for_quiet(shared.api)
    assert len(jobs) == 1
    assert len(completions(shared.facts(), "i")) == 1


# --- all at once -------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_everything_killed_at_once(tmp_path: Path) -> None:
    """Definitions, history, queue, delays and running jobs are there after the restart."""
    with stack(tmp_path / "data") as one:
        go, ran = tmp_path / "go", tmp_path / "ran"
        wait = f"echo $JOB_ID >> {ran}; until [ -e {go} ]; do sleep 0.1; done"
        api = one.api
        api.call("create_event", **job_event("done", "echo history"))
        api.call("create_event", **job_event("busy", wait, limits=limits(2, 10)))
        retry = {"type": "retry", "enabled": True, "amount": 1, "duration": 3600}
        api.call("create_event", **job_event("later", "exit 1", limits=[retry]))
        api.call("run_event", id="later")
        finished = api.call("run_event", id="done")["id"]
        later = eventually(lambda: _only_retry(one), "only the retry is left")
        busy = [api.call("run_event", id="busy")["id"] for _ in range(5)]
        eventually(lambda: ran.exists() and len(ran.read_text().split()) == 2, "two run")
        expected = ["active"] * 2 + ["queued"] * 3 + ["retry_delay"]
        eventually(lambda: sorted(_states(one).values()) == expected, "three queue")
        before = _states(one)

        one.kill_all()
        began = time.monotonic()
        one.begin()
        first = _accepted(one)
        assert first - began < bound(5.0), "the first command was accepted too late"
        eventually(lambda: one.said("Jobledger is up"), "it is up again")
        assert {id: state for id, state in _states(one).items() if id in before} == before

        go.touch()
        one.api.persist("abort_job", id=later)
        wait_for_quiet(one.api)
        assert one.api.call("get_jobs", ids=[finished])["jobs"][0]["code"] == 0
        rows = one.api.call("get_jobs", ids=busy)["jobs"]
        assert [row["code"] for row in rows] == [0] * 5
        assert sorted(ran.read_text().split()) == sorted(busy)
        check_definitions(one.facts(), one.api)
        check_views(one)


def _only_retry(one: Stack) -> str | None:
    match list(_states(one).items()):
        case [(id, "retry_delay")]:
            return id
    return None


def _states(one: Stack) -> dict[str, str]:
    rows = one.api.persist("get_active_jobs", limit=100)["rows"]
    return {row["id"]: row["state"] for row in rows}


def _accepted(one: Stack) -> float:
    """When the first job was accepted (monotonic)."""
    one.api.persist("run_event", id="done")
    return time.monotonic()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_each_service_frozen_for_half_a_minute(tmp_path: Path) -> None:
    """Thirty seconds of silence are not death: jobs go on, nothing is lost or doubled."""
    with stack(tmp_path / "data") as one:
        ran = tmp_path / "ran"
        # Without a queue, a job that finds no server ends at once (execution.md 6).
        queue = limits(100, 1000)
        event = job_event("f", f"echo $JOB_ID >> {ran}; sleep 1", limits=queue)
        one.api.call("create_event", **event)
        one.api.call("create_event", **clock("fc"))
        jobs: list[str] = []
        for name in ("runner", "scheduler", "gateway", "nats"):
            over = threading.Event()
            with one.frozen(name):
                threading.Timer(30, over.set).start()
                while not over.wait(1):
                    with suppress(httpx.HTTPError, ValueError):
                        answer = one.api.ask("run_event", id="f")
                        jobs += [answer["id"]] if answer["code"] == 0 else []
            one.api.persist("get_events")
            wait_for_quiet_but(one, "fc")
        one.api.persist("update_event", id="fc", enabled=False)
        wait_for_quiet(one.api)
        lines = ran.read_text().split()
        assert len(lines) == len(set(lines)), "a job ran twice"
        assert set(jobs) <= set(lines), "an acknowledged job never ran"
        check_each_second_fired_once(one, "fc")
        check_views(one)


def wait_for_quiet_but(one: Stack, event: str) -> None:
    """Until only jobs of this event are left."""

    def quiet() -> bool:
        rows = one.api.persist("get_active_jobs", limit=1000)["rows"]
        return all(row["event"] == event for row in rows)

    eventually(quiet, "all other jobs have ended", 60, look=0.3)
