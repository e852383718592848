"""What the services count and measure for Prometheus: every metric, in one place.

Counters and histograms are recorded where things happen, and cost about two microseconds each;
gauges are set when somebody asks (`measure` of each service). Each process shows the metrics of
its own service and those of the ledger. No label names a job, an event, a user or a server, so
that the number of series stays small. docs/metrics.md describes them for those who read them.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from domain.facts import Fact, FiresMissed, JobCompleted, JobRequested
from services.ledger.errors import LedgerError

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# How long a scrape waits for the ledger to say where it ends, in seconds.
END_WITHIN = 1.0

# From a write to NATS on the same machine (1 ms) to one that outlives an election.
_WRITES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)
# From an answer out of memory to one that waits for the end of a job.
_REPLIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 60.0)
# A fire is due on a full second; beyond misfire_grace it is missed, or caught up.
_SKEWS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0, 3600.0)
_ROUNDS = (1, 2, 5, 10, 50, 100, 500, 1000, 2000)

disable_created_metrics()  # type: ignore[no-untyped-call]

EVERYWHERE = CollectorRegistry()
REGISTRIES = {name: CollectorRegistry() for name in ("gateway", "scheduler", "runner")}
_GATEWAY, _SCHEDULER, _RUNNER = REGISTRIES.values()

ProcessCollector(registry=EVERYWHERE)

# --- every service ---------------------------------------------------------------------------

APPEND_SECONDS = Histogram(
    "jobledger_ledger_append_seconds",
    "From a write to the ledger to its acknowledgement or its failure; retries included.",
    buckets=_WRITES,
    registry=EVERYWHERE,
)
APPEND_FAILURES = Counter(
    "jobledger_ledger_append_failures",
    "Writes to the ledger that did not succeed, by reason; WrongSequence and Deposed are races.",
    ["reason"],
    registry=EVERYWHERE,
)
LEDGER_CONNECTED = Gauge(
    "jobledger_ledger_connected",
    "Whether this service is connected to NATS (0 or 1).",
    registry=EVERYWHERE,
)

# --- services that fold the whole ledger -------------------------------------------------------

LEDGER_END, POSITION, LAG = (
    {
        service: Gauge(name, text, registry=REGISTRIES[service])
        for service in ("gateway", "scheduler")
    }
    for name, text in (
        ("jobledger_ledger_end", "The last sequence of the ledger."),
        ("jobledger_projection_position", "The sequence up to which everything is folded."),
        ("jobledger_projection_lag", "Sequences that are on the ledger and not folded yet."),
    )
)

# --- gateway -----------------------------------------------------------------------------------

REQUESTS = Counter(
    "jobledger_gateway_requests",
    "Requests that were answered, by call of the API and by the reply's `code`.",
    ["call", "code"],
    registry=_GATEWAY,
)
REQUEST_SECONDS = Histogram(
    "jobledger_gateway_request_seconds",
    "From a request's head to its reply, by call; of a stream, to its beginning.",
    ["call"],
    buckets=_REPLIES,
    registry=_GATEWAY,
)
READY = Gauge(
    "jobledger_gateway_ready",
    "Whether /health says that this gateway is ready (0 or 1).",
    registry=_GATEWAY,
)

# --- scheduler ---------------------------------------------------------------------------------

JOBS = Gauge(
    "jobledger_jobs",
    "Live jobs by state; every scheduler folds them, so all of them say the same.",
    ["state"],
    registry=_SCHEDULER,
)
QUEUE_DEPTH = Gauge(
    "jobledger_queue_depth",
    "Jobs that wait in the queues of their events, for a slot or for a server.",
    registry=_SCHEDULER,
)
QUEUE_LONGEST = Gauge(
    "jobledger_queue_longest",
    "Jobs in the longest of these queues.",
    registry=_SCHEDULER,
)
SERVERS = Gauge(
    "jobledger_servers",
    "Servers that have not signed off, by whether their heartbeats come.",
    ["online"],
    registry=_SCHEDULER,
)
SERVERS_LOST = Counter(
    "jobledger_servers_lost",
    "Times that the leader gave a server up because it was silent for server_timeout.",
    registry=_SCHEDULER,
)
LEADING = Gauge(
    "jobledger_scheduler_leading",
    "Whether this scheduler leads (0 or 1).",
    registry=_SCHEDULER,
)
TERM = Gauge(
    "jobledger_scheduler_term",
    "Sequence of the newest term, or of its end; each change of it is a change of leaders.",
    registry=_SCHEDULER,
)
TERMS_BEGUN = Counter(
    "jobledger_scheduler_terms_begun",
    "Terms that this scheduler began.",
    registry=_SCHEDULER,
)
TERMS_LOST = Counter(
    "jobledger_scheduler_terms_lost",
    "Terms of this scheduler that another one ended.",
    registry=_SCHEDULER,
)
DECISIONS = Histogram(
    "jobledger_scheduler_round_decisions",
    "Decisions that were recorded in one round of the leader.",
    buckets=_ROUNDS,
    registry=_SCHEDULER,
)
FIRE_SKEW = Histogram(
    "jobledger_fire_skew_seconds",
    "From the second in which a fire was due until its job request was on the ledger.",
    buckets=_SKEWS,
    registry=_SCHEDULER,
)
FIRES_MISSED = Counter(
    "jobledger_fires_missed",
    "Fires that were recorded as missed instead of launched.",
    registry=_SCHEDULER,
)
JOBS_ENDED = Counter(
    "jobledger_jobs_ended",
    "Jobs that this scheduler completed, by result: success, abort, or failure.",
    ["result"],
    registry=_SCHEDULER,
)

# --- runner ------------------------------------------------------------------------------------

RUNNING_JOBS = Gauge(
    "jobledger_runner_jobs",
    "Jobs that this runner holds, from their order until their report is on the ledger.",
    registry=_RUNNER,
)
START_SECONDS = Histogram(
    "jobledger_runner_start_seconds",
    "From reading the order of a job until its process runs; its count is that of all starts.",
    buckets=_WRITES,
    registry=_RUNNER,
)
OUTBOX_DEPTH = Gauge(
    "jobledger_runner_outbox_depth",
    "Reports that are not on the ledger yet.",
    registry=_RUNNER,
)
ORDER_POSITION = Gauge(
    "jobledger_runner_order_position",
    "Sequence of the last order that was read.",
    registry=_RUNNER,
)

_SUCCESS, _ABORT, _FAILURE = (
    JOBS_ENDED.labels(result) for result in ("success", "abort", "failure")
)


def page(service: str) -> bytes:
    """What a scrape of this service gets; its gauges should have been set just now."""
    return generate_latest(REGISTRIES[service]) + generate_latest(EVERYWHERE)


class Appending:
    """`with Appending():` around one write to the ledger."""

    __slots__ = ("_began",)

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        APPEND_SECONDS.observe(time.perf_counter() - self._began)
        if kind is not None and issubclass(kind, Exception):
            APPEND_FAILURES.labels(kind.__name__).inc()


class Requests:
    """The requests for one call of the API."""

    def __init__(self, call: str) -> None:
        self._call = call
        self._seconds: Histogram | None = None
        self._counts: dict[int | str, Counter] = {}

    def answered(self, code: int | str, seconds: float) -> None:
        """Count a reply with this code, which took so long."""
        if self._seconds is None:
            self._seconds = REQUEST_SECONDS.labels(self._call)
        count = self._counts.get(code)
        if count is None:
            count = self._counts[code] = REQUESTS.labels(self._call, str(code))
        count.inc()
        self._seconds.observe(seconds)


def recorded(decisions: Iterable[tuple[str, Fact]], now: float) -> None:
    """Take note of a leader's decisions that are on the ledger at `now` (Unix seconds)."""
    number = 0
    for _, fact in decisions:
        number += 1
        match fact:
            case JobRequested():
                if fact.fire is not None and not fact.retry_count:
                    FIRE_SKEW.observe(max(0.0, now - fact.fire.due))
            case JobCompleted():
                ended = _SUCCESS if fact.code == 0 else _ABORT if fact.code == "abort" else _FAILURE
                ended.inc()
            case FiresMissed():
                FIRES_MISSED.inc(fact.count)
            case _:
                pass
    DECISIONS.observe(number)


async def measure_ledger(service: str, ledger: "Ledger", position: int) -> None:
    """Set what every service knows of its ledger, and how far this one has folded it.

    One small request; while the ledger does not answer, its end stays what it was.
    """
    LEDGER_CONNECTED.set(ledger.connected)
    if service not in LAG:
        return
    POSITION[service].set(position)
    with contextlib.suppress(LedgerError, TimeoutError):
        async with asyncio.timeout(END_WITHIN):
            end = await ledger.end()
        LEDGER_END[service].set(end)
        LAG[service].set(max(0, end - position))
