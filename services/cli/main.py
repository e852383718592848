"""The command `jobledger`: one small module per verb.

Verbs import what they need when they run, so that help and errors come at once.
"""

from importlib.metadata import version
from typing import Annotated, Any

import typer

from services.cli import (
    access,
    apply,
    asyncapi,
    backup,
    demo,
    enroll,
    export,
    import_crontab,
    keys,
    nats,
    rebuild,
    replay,
    restore,
    retention,
    secrets,
    services,
    status,
    traces,
    up,
    verify,
)
from services.cli.entry import run as run  # what an earlier installation's script calls
from services.cli.options import application

app = application()


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
app.command()(status.status)
app.command()(demo.demo)
app.command(rich_help_panel="Definitions as files")(apply.apply)
app.command(rich_help_panel="Definitions as files")(export.export)
app.add_typer(import_crontab.app, rich_help_panel="Definitions as files")
app.command(rich_help_panel="One service")(services.gateway)
app.command(rich_help_panel="One service")(services.scheduler)
app.command(rich_help_panel="One service")(nats.nats)
app.command(rich_help_panel="One service")(traces.traces)
app.command(rich_help_panel="The ledger")(verify.verify)
app.command(rich_help_panel="The ledger")(replay.replay)
app.command(rich_help_panel="The ledger")(rebuild.rebuild)
app.command(rich_help_panel="The ledger")(retention.retention)
app.command(rich_help_panel="The ledger")(backup.backup)
app.command(rich_help_panel="The ledger")(restore.restore)
app.command(rich_help_panel="Access")(keys.keys)
app.command(rich_help_panel="Access")(asyncapi.asyncapi)


def _group(name: str, panel: str, **how: Any) -> typer.Typer:
    """Verbs that share their first word."""
    group = typer.Typer(**how)
    app.add_typer(group, name=name, rich_help_panel=panel)
    return group


_runner = _group("runner", "One service", invoke_without_command=True)
_runner.callback()(services.runner)
_runner.command("enroll")(enroll.runner)
_subscriber = _group("subscriber", "Access", help="Programs that follow the facts.")
_subscriber.command("enroll")(enroll.subscriber)
_key = _group("key", "Access", help="API keys.")
_key.command("create")(access.create_key)
_key.command("list")(access.list_keys)
_key.command("revoke")(access.revoke_key)
_user = _group("user", "Access", help="Users.")
_user.command("password")(access.set_password)
_secrets = _group("secrets", "Access", help="The keys with which secrets are encrypted.")
_secrets.command("new-key")(secrets.new_key)
_secrets.command("rotate")(secrets.rotate)
