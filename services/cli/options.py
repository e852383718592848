"""What verbs share: how they are shown, and their common flags.

A flag that is not given leaves the setting to the environment and to jobledger.toml
(services/settings_reader.py).
"""

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


def application() -> typer.Typer:
    """The command without any verb yet."""
    return typer.Typer(
        name="jobledger",
        help="A job scheduler whose every command is an immutable fact on NATS JetStream.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
