"""The command `jobledger`: one small module per verb.

Verbs import what they need when they run, so that help and errors come at once.
"""

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from services.cli import (
    backup,
    demo,
    nats,
    rebuild,
    replay,
    restore,
    retention,
    services,
    up,
    verify,
)
from services.errors import StartupError

app = typer.Typer(
    name="jobledger",
    help="A job scheduler whose every command is an immutable fact on NATS JetStream.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jobledger {version('jobledger')}")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Each verb has its own --help."""


app.command()(up.up)
app.command()(demo.demo)
app.command(rich_help_panel="One service")(services.gateway)
app.command(rich_help_panel="One service")(services.scheduler)
app.command(rich_help_panel="One service")(services.runner)
app.command(rich_help_panel="One service")(nats.nats)
app.command(rich_help_panel="The ledger")(verify.verify)
app.command(rich_help_panel="The ledger")(replay.replay)
app.command(rich_help_panel="The ledger")(rebuild.rebuild)
app.command(rich_help_panel="The ledger")(retention.retention)
app.command(rich_help_panel="The ledger")(backup.backup)
app.command(rich_help_panel="The ledger")(restore.restore)


def run() -> None:
    """The entry point: a reason not to start is one sentence, never a traceback."""
    try:
        app()
    except StartupError as error:
        print(f"jobledger: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
