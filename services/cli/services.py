"""The verbs `gateway`, `scheduler` and `runner`: one service in the foreground."""

import functools
import re
from typing import Annotated

import typer

from services.cli.options import (
    DataDir,
    Host,
    LogFormat,
    LogLevel,
    MetricsPort,
    Nats,
    Port,
    TlsCert,
    TlsKey,
)
from services.errors import ConfigError

_SERVER_ID = re.compile(r"[a-z0-9_]{1,128}")


def gateway(
    data_dir: DataDir = None,
    nats: Nats = None,
    host: Host = None,
    port: Port = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    metrics_port: MetricsPort = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """The HTTP API. Run as many as you like on one ledger."""
    from services.cli import serve
    from services.settings import load_settings

    settings = load_settings(
        data_dir=data_dir, nats=nats, host=host, port=port, tls_cert=tls_cert, tls_key=tls_key,
        metrics_port=metrics_port, log_format=log_format, log_level=log_level,
    )  # fmt: skip
    raise typer.Exit(serve.serve("gateway", settings, serve.gateway))


def scheduler(
    data_dir: DataDir = None,
    nats: Nats = None,
    metrics_port: MetricsPort = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Fires triggers and assigns jobs. Of several on one ledger, one leads."""
    from services.cli import serve
    from services.settings import load_settings

    settings = load_settings(
        data_dir=data_dir,
        nats=nats,
        metrics_port=metrics_port,
        log_format=log_format,
        log_level=log_level,
    )
    raise typer.Exit(serve.serve("scheduler", settings, serve.scheduler))


def runner(
    context: typer.Context,
    data_dir: DataDir = None,
    nats: Nats = None,
    id: Annotated[
        str | None,
        typer.Option("--id", help="The server's id (a-z, 0-9, _); made once if not given."),
    ] = None,
    hostname: Annotated[
        str | None, typer.Option("--hostname", help="The name shown. (default: this machine's)")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", metavar="G", help="Join this group; repeatable.")
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="Take no new jobs and end with the last one.")
    ] = False,
    metrics_port: MetricsPort = None,
    log_format: LogFormat = None,
    log_level: LogLevel = None,
) -> None:
    """Runs jobs on this machine. Give each runner a data directory of its own."""
    if context.invoked_subcommand is not None:
        return
    from services.cli import argv, serve
    from services.settings import load_settings

    if nats is not None and "@" in nats and not nats.startswith("@"):
        argv.hide(nats)

    if id is not None and _SERVER_ID.fullmatch(id) is None:
        raise ConfigError("--id takes 1 to 128 characters of a-z, 0-9 and _.")
    settings = load_settings(
        data_dir=data_dir,
        nats=nats,
        metrics_port=metrics_port,
        log_format=log_format,
        log_level=log_level,
    )
    service = functools.partial(
        serve.runner,
        id=id,
        hostname=hostname,
        groups=tuple(group or ()),
        drain=drain,
        finish=settings.drain_timeout,
    )
    raise typer.Exit(serve.serve("runner", settings, service, patience=settings.drain_timeout))
