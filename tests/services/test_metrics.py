"""What Prometheus reads: from whom, about what, and whether the documentation names it all."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from domain import facts as f
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.fleet import Fleet
from services import metrics
from services.errors import StartupError
from services.exposition import scraped
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.errors import LedgerUnavailable, WrongSequence
from services.scheduler.choosing import Chooser
from services.scheduler.measures import page as scheduler_page
from services.scheduler.service import Scheduler
from services.settings import Settings
from tests.services.gateway_kit import EVENT, Api, running_gateway
from tests.services.runner_bench import bench, running
from tests.services.test_up import free_port

DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
WHO = f.Actor(type="key", id="ktest")
PATIENCE = 15.0


def sample(page: bytes | str, name: str, **labels: str) -> float:
    """The value of one series on a page; 0 where it is not there yet."""
    text = page if isinstance(page, str) else page.decode()
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return found.value
    return 0.0


def names(page: bytes | str) -> set[str]:
    """The metrics of ours on a page, as docs/metrics.md names them."""
    text = page if isinstance(page, str) else page.decode()
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
        if family.name.startswith("jobledger_")
    }


def documented(*parts: str) -> set[str]:
    """The metrics that stand in the tables of these parts of the documentation."""
    found: set[str] = set()
    for part in parts:
        section = DOCS.partition(f"\n## {part}\n")[2].partition("\n## ")[0]
        found |= set(re.findall(r"^\| `(\w+)` \|", section, re.M))
    return found


def switched() -> f.Fact:
    return f.MasterSwitched(at=time.time(), actor=WHO, enabled=True)


@pytest.fixture
async def api(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Api]:
    async with running_gateway(ledger, tmp_path / "gateway") as made:
        yield made


@contextlib.asynccontextmanager
async def scheduling(ledger: Ledger, data_dir: Path) -> AsyncIterator[Scheduler]:
    """A scheduler of this ledger that has begun its term."""
    settings = Settings(data_dir=data_dir, timezone="UTC", disk_reserve=0)
    scheduler = Scheduler(settings, ledger, time.time)
    task = asyncio.create_task(scheduler.run())
    try:
        await until(lambda: scheduler.leadership.term, "nobody leads", scheduler)
        yield scheduler
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(found: Callable[[], object], why: str, scheduler: Scheduler) -> None:
    """Wait until the scheduler's fold says so."""
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end, f"{why} after {PATIENCE:g} s"
        await scheduler.follower.reached(scheduler.follower.position + 1, 0.1)


# --- docs/metrics.md -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "parts"),
    [
        ("gateway", ("Every service", "Gateway", "Gateway and scheduler")),
        ("scheduler", ("Every service", "Scheduler", "Gateway and scheduler")),
        ("runner", ("Every service", "Runner")),
    ],
)
def test_the_documentation_names_every_metric_of_a_service_and_no_other(
    service: str, parts: tuple[str, ...]
) -> None:
    assert names(metrics.page(service)) == documented(*parts)


def test_alerts_and_prose_name_only_metrics_that_exist() -> None:
    known = documented("Every service", "Gateway", "Gateway and scheduler", "Scheduler", "Runner")
    told = {name.removesuffix("_bucket") for name in re.findall(r"jobledger_\w+", DOCS)}
    assert told == known


# --- who may read them -------------------------------------------------------------------------


async def test_the_gateway_shows_its_metrics_to_administrators_alone(api: Api) -> None:
    made = await api.ok("create_api_key", {"title": "Other", "privileges": {"run_jobs": True}})

    reply = await api.client.get("/metrics")
    assert (reply.status_code, reply.headers["content-type"]) == (200, metrics.CONTENT_TYPE)
    assert reply.headers["cache-control"] == "private, no-store"
    assert names(reply.text) == names(metrics.page("gateway"))
    for key in ("", "wrong", made["plain_key"]):
        refused = await api.client.get("/metrics", headers={"X-API-Key": key})
        assert refused.status_code == 403
        assert "jobledger_" not in refused.text


async def test_a_port_for_metrics_answers_on_loopback_with_one_page() -> None:
    async def page() -> bytes:
        return b"jobledger_something 1\n"

    port = free_port()
    async with scraped(port, page), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as one:
        reply = await one.get("/metrics")
        assert (reply.status_code, reply.text) == (200, "jobledger_something 1\n")
        assert (await one.head("/metrics")).text == ""
        assert (await one.get("/admin.key")).status_code == 404
        assert (await one.post("/metrics")).status_code == 405
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"no HTTP at all\n" * 2000)
        writer.close()
        assert (await one.get("/metrics")).status_code == 200

        with pytest.raises(StartupError, match=f"Port {port} for metrics cannot be used"):
            async with scraped(port, page):
                pass
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


# --- what they say -----------------------------------------------------------------------------


async def test_requests_are_counted_by_call_and_code(api: Api) -> None:
    async def counted(call: str, code: str) -> float:
        page = (await api.client.get("/metrics")).text
        return sample(page, "jobledger_gateway_requests_total", call=call, code=code)

    refused, taken = await counted("get_event", "notfound"), await counted("create_event", "0")
    await api.ok("create_event", EVENT)
    await api.call("get_event/v1", {"id": "nobody"})
    await api.call("get_event/v1", {"id": "nobody"})

    assert await counted("get_event", "notfound") == refused + 2
    assert await counted("create_event", "0") == taken + 1


async def test_the_lag_is_what_is_written_and_not_folded(api: Api) -> None:
    page = (await api.client.get("/metrics")).text
    end = await api.gateway.ledger.end()

    assert sample(page, "jobledger_ledger_end") == end
    assert sample(page, "jobledger_projection_position") == end
    assert sample(page, "jobledger_projection_lag") == 0
    assert sample(page, "jobledger_gateway_ready") == 1


async def test_writes_are_measured_and_their_failures_counted(ledger: Ledger) -> None:
    def failures() -> float:
        page = metrics.page("runner")
        return sample(page, "jobledger_ledger_append_failures_total", reason="WrongSequence")

    def writes() -> float:
        return sample(metrics.page("runner"), "jobledger_ledger_append_seconds_count")

    failed, wrote = failures(), writes()
    await ledger.append(switched(), id="one")
    with pytest.raises(WrongSequence):
        await ledger.append(switched(), id="two", expect=0)

    assert failures() == failed + 1
    assert writes() == wrote + 2


async def test_without_nats_the_page_is_there_and_says_so(
    own_server: EmbeddedNats, tmp_path: Path
) -> None:
    from services.ledger.streams import ensure_streams

    async with Ledger.open(own_server.url, name="test") as ledger:
        await ensure_streams(ledger)
        async with running_gateway(ledger, tmp_path) as api:
            await own_server.stop()
            with pytest.raises(LedgerUnavailable):
                await ledger.end()
            page = (await api.client.get("/metrics")).text
            assert sample(page, "jobledger_ledger_connected") == 0
            assert sample(page, "jobledger_gateway_ready") == 0
            health = (await api.client.get("/health")).json()
            assert "The ledger cannot be reached." in health["reasons"]


async def test_below_the_disk_reserve_the_gateway_is_ready_and_says_why_it_takes_no_writes(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.gateway._disk, "_reserve", 1 << 62)
    monkeypatch.setattr("services.disk._SHARE", 1.0)
    monkeypatch.setattr(api.gateway._disk, "_looked", float("-inf"))

    reply = await api.client.get("/health")

    assert reply.status_code == 200
    assert reply.json()["reasons"] == ["The disk is nearly full: nothing more is recorded."]
    assert await api.code("create_event", EVENT) == "db"


async def test_a_scheduler_shows_the_jobs_that_wait_and_that_it_leads(
    ledger: Ledger, tmp_path: Path
) -> None:
    async with running_gateway(ledger, tmp_path / "one") as api:
        limits = [
            {"type": "job", "enabled": True, "amount": 1},
            {"type": "queue", "enabled": True, "amount": 5},
        ]
        await api.ok("create_event", EVENT | {"limits": limits})
        begun = sample(metrics.page("scheduler"), "jobledger_scheduler_terms_begun_total")
        async with scheduling(ledger, tmp_path / "one") as scheduler:
            await api.ok("run_event", {"id": "backup"})
            await until(
                lambda: any(j.state == "queued" for j in scheduler.jobs.jobs.values()),
                "nothing is queued",
                scheduler,
            )
            page = await scheduler_page(scheduler)
            term = scheduler.leadership.term
        assert sample(page, "jobledger_jobs", state="queued") == 1
        assert sample(page, "jobledger_jobs", state="active") == 0
        assert sample(page, "jobledger_queue_depth") == 1
        assert sample(page, "jobledger_queue_longest") == 1
        assert sample(page, "jobledger_scheduler_leading") == 1
        assert sample(page, "jobledger_scheduler_term") == term
        assert sample(page, "jobledger_scheduler_terms_begun_total") == begun + 1
        assert sample(page, "jobledger_scheduler_round_decisions_count") > 0


def test_decisions_tell_how_late_fires_were_and_how_jobs_ended() -> None:
    def shown(name: str, **labels: str) -> float:
        return sample(metrics.page("scheduler"), name, **labels)

    late = shown("jobledger_fire_skew_seconds_sum")
    fires = shown("jobledger_fire_skew_seconds_count")
    aborts = shown("jobledger_jobs_ended_total", result="abort")
    missed = shown("jobledger_fires_missed_total")
    request = f.JobRequested(
        at=100, actor=WHO, event="e1", job="j1", made_of=f.MadeOf(event=1), source="scheduler",
        username="", now=100, fire=f.FireKey(anchor=1, trigger=0, due=100),
    )  # fmt: skip
    ended = f.JobCompleted(
        at=101, actor=WHO, event="e1", job="j0", code="abort", description="Enough."
    )
    given_up = f.FiresMissed(
        at=101, actor=WHO, cause=1, event="e1", after=0, upto=60, count=3, reason="Late."
    )

    metrics.recorded([("a", request), ("b", ended), ("c", given_up)], now=100.25)

    assert shown("jobledger_fire_skew_seconds_sum") == pytest.approx(late + 0.25)
    assert shown("jobledger_fire_skew_seconds_count") == fires + 1
    assert shown("jobledger_jobs_ended_total", result="abort") == aborts + 1
    assert shown("jobledger_fires_missed_total") == missed + 3


async def test_a_runner_shows_what_it_runs_and_what_it_could_not_report_yet(
    ledger: Ledger, tmp_path: Path
) -> None:
    started = sample(metrics.page("runner"), "jobledger_runner_start_seconds_count")
    async with bench(ledger) as made, running(made, tmp_path) as runner:
        order = await made.script("read line < go; exit 0", job="jlong")
        await made.started(order)
        page = await runner.metrics()
        assert sample(page, "jobledger_runner_jobs") == 1
        assert sample(page, "jobledger_runner_order_position") == order
        assert sample(page, "jobledger_runner_start_seconds_count") == started + 1
        await made.abort(order)
        await made.finished(order)
        assert await runner._outbox.emptied(PATIENCE)
        page = await runner.metrics()
        assert sample(page, "jobledger_runner_outbox_depth") == 0
        assert sample(page, "jobledger_runner_jobs") == 0


def test_a_server_that_falls_silent_is_counted_once_as_lost() -> None:
    definitions, fleet = Definitions(), Fleet()
    time_is = 100.0
    chooser = Chooser(
        definitions, ActiveJobs(definitions), fleet, EventStates("UTC"), lambda: time_is
    )
    for number, server in enumerate(("lost", "gone", "there"), 1):
        joined = f.ServerJoined(
            at=1, actor=WHO, server=server, boot="b", machine_boot="m", hostname="h"
        )
        fleet.apply(f.Recorded(number, f"facts.report.{server}", joined))
        chooser.heard({"server": server, "boot": "b"})
    left = f.ServerLeft(at=2, actor=WHO, server="gone", boot="b", reason="stopped")
    fleet.apply(f.Recorded(4, "facts.report.gone", left))
    chooser.begin()

    time_is = 215.0
    chooser.heard({"server": "there", "boot": "b"})
    assert chooser.newly_lost(120) == set()
    time_is = 225.0
    assert chooser.newly_lost(120) == {"lost"}
    assert chooser.newly_lost(120) == set()
