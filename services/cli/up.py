"""The verb `up`: an installation on this machine (installation.py)."""

from typing import Annotated

import typer

from services.cli.options import DataDir, Host, Nats, Port, TlsCert, TlsKey
from services.cli.wanted import Wanted
from services.errors import StartupError


def up(
    context: typer.Context,
    data_dir: DataDir = None,
    port: Port = None,
    nats: Nats = None,
    host: Host = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the services' logs instead of writing them.")
    ] = False,
    cluster: Annotated[
        int,
        typer.Option(
            "--cluster",
            metavar="3",
            help="Try a cluster on this machine: so many NATS nodes (3 or 5) and as many runners, "
            "two schedulers, two gateways (on --port and the next one).",
        ),
    ] = 0,
) -> None:
    """Everything on one machine. Ctrl-C stops it; running jobs go on."""
    from services.settings import load_settings

    settings = load_settings(
        data_dir=data_dir, port=port, nats=nats, host=host, tls_cert=tls_cert, tls_key=tls_key
    )
    if cluster not in (0, 3, 5) or (cluster and nats):
        raise StartupError("--cluster takes 3 or 5, and brings its own NATS.")
    wanted = Wanted(settings, cluster, verbose)
    if context.obj is not None:  # another process shall do it (entry.py)
        context.obj(wanted)
        return
    from services.cli.installation import keep_up

    keep_up(wanted)
