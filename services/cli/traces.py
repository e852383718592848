"""The verb `traces`: send the traces of jobs to an OpenTelemetry collector."""

import typer
from msgspec.structs import replace

from services.cli.options import DataDir, LogFormat, LogLevel, Nats


def traces(
    data_dir: DataDir = None,
    nats: Nats = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Follow the ledger and send traces of jobs where the OTEL_* variables say."""
    from services.cli import serve
    from services.settings import load_settings
    from services.tracing import run_traces

    settings = load_settings(
        data_dir=data_dir, nats=nats, log_format=log_format, log_level=log_level
    )
    # It reads what a gateway may read; it has no login of its own.
    settings = replace(settings, nats=settings.nats_url_for("gateway"))
    raise typer.Exit(serve.serve("traces", settings, run_traces))
