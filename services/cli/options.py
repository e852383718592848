"""The flags that several verbs share. A flag that is not given leaves the setting to the
environment and to jobledger.toml (services/settings.py)."""

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where everything is kept. (default: data)"),
]
Port = Annotated[int | None, typer.Option("--port", help="Port of the HTTP API. (default: 5522)")]
Host = Annotated[
    str | None, typer.Option("--host", help="Address of the HTTP API. (default: 127.0.0.1)")
]
TlsCert = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", help="Serve HTTPS with this certificate (PEM)."),
]
TlsKey = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help="The certificate's private key.")
]
Nats = Annotated[
    str | None,
    typer.Option(
        "--nats",
        metavar="URL|@FILE",
        help="A NATS server to use, or a file that holds its URL (so that its password is in no "
        "process list).",
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        help="Serve metrics for Prometheus at this port of 127.0.0.1. (default: not at all)",
    ),
]
LogFormat = Annotated[
    str | None, typer.Option("--log-format", help="console or json. (default: console)")
]
LogLevel = Annotated[
    str | None,
    typer.Option("--log-level", help="debug, info, warning or error. (default: info)"),
]
