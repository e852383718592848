"""`jobledger traces`: from facts on a real ledger to what a collector gets."""

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2

from domain import facts as f
from projections.traces import Span, trace_id
from services.ledger.connection import Ledger
from services.settings import Settings
from services.tracing import follow, run_traces
from tests.services.gateway_kit import running_gateway

WHO = f.Actor(type="key", id="ktest")
PATIENCE = 15.0


class Collector:
    """Takes what an exporter posts to /v1/traces."""

    def __init__(self) -> None:
        self.spans: list[trace_pb2.Span] = []
        self.services: set[str] = set()
        self.news = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = ExportTraceServiceRequest()
                sent.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
                for each in sent.resource_spans:
                    names = {a.key: a.value.string_value for a in each.resource.attributes}
                    outer.services.add(names["service.name"])
                    outer.spans += [s for scope in each.scope_spans for s in scope.spans]
                self.send_response(200)
                self.end_headers()
                outer.news.set()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


async def a_job(ledger: Ledger, job: str) -> None:
    """A job that is requested and ends without a server."""
    now = time.time()
    request = f.JobRequested(
        at=now, actor=WHO, event="e1", job=job, made_of=f.MadeOf(event=1), source="key",
        username="", now=now,
    )  # fmt: skip
    await ledger.append(request, id=f"{job}-request")
    over = f.JobCompleted(
        at=now + 1, actor=WHO, event="e1", job=job, code="abort", description="No server."
    )
    await ledger.append(over, id=f"{job}-over")


async def test_a_collector_gets_the_spans_of_jobs_that_end_from_now_on(
    ledger: Ledger, nats_server: object, tmp_path: Path, collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    await a_job(ledger, "jold")
    settings = Settings(data_dir=tmp_path, nats=nats_server.url)  # type: ignore[attr-defined]
    running = asyncio.create_task(run_traces(settings))
    try:
        number = 0
        end = time.monotonic() + PATIENCE
        while not collector.spans:  # it says to nobody from where on it follows
            assert time.monotonic() < end, "nothing was exported"
            number += 1
            await a_job(ledger, f"jnew{number}")
            await asyncio.to_thread(collector.news.wait, 0.2)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    [whole, *_] = [span for span in collector.spans if span.name == "job e1"]
    [job] = [a.value.string_value for a in whole.attributes if a.key == "jobledger.job"]
    assert collector.services == {"jobledger"}
    assert job.startswith("jnew")
    assert int.from_bytes(whole.trace_id, "big") == trace_id(job)
    assert (whole.status.code, whole.status.message) == (2, "No server.")
    assert whole.end_time_unix_nano - whole.start_time_unix_nano == pytest.approx(1e9, rel=0.01)
    phase = next(s for s in collector.spans if s.parent_span_id == whole.span_id)
    assert phase.name == "wait"


async def test_what_ended_before_is_not_sent_again(ledger: Ledger, tmp_path: Path) -> None:
    async with running_gateway(ledger, tmp_path):
        await a_job(ledger, "jold")
        spans: list[Span] = []
        came = asyncio.Event()

        def send(some: object) -> None:
            spans.extend(some)  # type: ignore[arg-type]
            came.set()

        following = asyncio.create_task(follow(ledger, send))
        async with asyncio.timeout(PATIENCE):
            number = 0
            while not came.is_set():
                number += 1
                await a_job(ledger, f"jnew{number}")
        following.cancel()
    assert "jold" not in {span.attributes["jobledger.job"] for span in spans}


def test_without_the_extra_it_says_in_one_sentence_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk.resources'] = None; "
        "sys.argv = ['jobledger', 'traces', '--nats', 'nats://127.0.0.1:1', '--data-dir', "
        f"{str(tmp_path)!r}]; from services.cli.entry import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode != 0
    assert done.stderr == (
        "jobledger traces: OpenTelemetry is not installed: pip install 'jobledger[otel]'.\n"
    )
