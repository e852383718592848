"""Sends the traces of jobs to an OpenTelemetry collector, as a reader of the ledger like others.

Nothing in gateway, scheduler or runner knows of it, and nothing waits for it. Where to send is
said by the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT and so on). Needs the extra `otel`.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from domain.facts import Recorded
from projections.traces import Span, Traces
from services import logs
from services.errors import StartupError
from services.ledger.connection import Ledger
from services.ledger.reader import Follower
from services.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

# At the start so many facts are read again, to know the beginnings of what is live now.
LOOK_BACK = 50_000
_NANOSECONDS = 1_000_000_000

Send = Callable[[Sequence[Span]], None]

log = logs.logger("traces")


async def run_traces(settings: Settings) -> None:
    """Follow the ledger and send the spans of jobs that end from now on, until cancelled.

    Raises StartupError with one sentence if OpenTelemetry is not installed.
    """
    processor, resource = _exporter()
    try:
        async with Ledger.open(settings.nats_url, name="traces") as ledger:
            await follow(ledger, lambda spans: _send(processor, resource, spans))
    finally:
        await asyncio.to_thread(processor.shutdown)


async def follow(ledger: Ledger, send: Send) -> None:
    """Hand the spans of each fact to `send`, from the ledger's present end on."""
    traces = Traces()
    end = await ledger.end()

    def apply(recorded: Recorded) -> None:
        spans = traces.apply(recorded)
        if spans and recorded.sequence > end:
            send(spans)

    log.info("Traces are sent", action="traces_sent", sequence=end)
    await Follower(ledger, apply, after=max(0, end - LOOK_BACK)).run()


def _exporter() -> "tuple[SpanProcessor, Resource]":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise StartupError(
            "OpenTelemetry is not installed: pip install 'jobledger[otel]'."
        ) from error
    resource = Resource.create()  # with what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say
    if str(resource.attributes.get("service.name")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "jobledger"}))
    return BatchSpanProcessor(OTLPSpanExporter()), resource


def _send(processor: "SpanProcessor", resource: "Resource", spans: Sequence[Span]) -> None:
    """Queue them; a thread sends them in batches, and drops what is too much."""
    for span in spans:
        processor.on_end(_readable(span, resource))


def _readable(span: Span, resource: "Resource") -> "ReadableSpan":
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(id: int) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(span.trace, id, is_remote=False, trace_flags=flags)

    failed = span.failure is not None
    return ReadableSpan(
        name=span.name,
        context=context(span.id),
        parent=context(span.parent) if span.parent is not None else None,
        resource=resource,
        attributes=span.attributes,
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.failure) if failed else Status(StatusCode.OK),
        start_time=int(span.start * _NANOSECONDS),
        end_time=int(span.end * _NANOSECONDS),
    )
