"""The verb `apply`: make a server hold the definitions in a directory."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.client import Api, KeyFile, Refused, Url, reach_api
from services.cli.options import DataDir
from services.errors import StartupError

if TYPE_CHECKING:
    from rich.console import Console

    from services.cli.plan import Change, Definitions, Plan

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, change nothing.")]

_SIGNS = {"create": ("+", "green"), "update": ("~", "yellow"), "delete": ("-", "red")}
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def apply(
    directory: Annotated[
        Path, typer.Option("-f", "--file", metavar="DIR", help="Where the definitions are.")
    ],
    dry_run: DryRun = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Delete what DIR does not have, of the kinds that have a folder there."
        ),
    ] = False,
    data_dir: DataDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Make the server hold the definitions in a directory, as `export` writes them.

    Applying twice changes nothing. Exit status 1 if the server refused anything.
    """
    from services.cli.definitions import read_definitions

    wanted = read_definitions(directory)
    with reach_api(data_dir, url, key_file) as api:
        carry_out(api, wanted, prune=prune, dry_run=dry_run)


def carry_out(api: Api, wanted: "Definitions", *, prune: bool, dry_run: bool) -> None:
    """Show and make the changes that lead to these definitions. Raises StartupError, typer.Exit."""
    from rich.console import Console

    from services.cli.plan import plan

    way = plan(present(api), wanted, prune=prune, now=time.time())
    if way.problems:
        found = "\n".join(f"  {p.kind.plural}/{p.id}: {p.reason}" for p in way.problems)
        raise StartupError(f"Nothing was changed, since this would be refused:\n{found}")
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    refused = 0
    for change in way.changes:
        _show(console, change)
        if not dry_run:
            refused += not _make(api, console, change)
    console.print(_summary(way, refused, dry_run))
    if refused:
        raise typer.Exit(1)


def present(api: Api) -> "Definitions":
    """All definitions on the server. Raises StartupError."""
    from services.cli.definitions import KINDS

    try:
        return {
            kind: {str(row["id"]): row for row in api.rows(f"get_{kind.plural}")} for kind in KINDS
        }
    except Refused as refusal:
        raise StartupError(f"The server refused to list its definitions: {refusal}") from refusal


def _make(api: Api, console: "Console", change: "Change") -> bool:
    try:
        api.call(f"{change.verb}_{change.kind.type}", **change.sent)
    except Refused as refusal:
        console.print(f"  refused: {refusal}", style="bold red")
        return False
    return True


def _show(console: "Console", change: "Change") -> None:
    from services.cli.definitions import differences

    sign, colour = _SIGNS[change.verb]
    title = (change.after or change.before or {}).get("title")
    console.print(f"{sign} {change.kind.plural}/{change.id}  {title}", style=f"bold {colour}")
    for line in differences(change.before, change.after) if change.verb == "update" else ():
        console.print(f"    {line}", style=_COLOURS.get(line[:1], ""))


def _summary(way: "Plan", refused: int, dry_run: bool) -> str:
    verbs = [change.verb for change in way.changes]
    would = "would be " if dry_run else ""
    parts = [
        f"{verbs.count(verb)} {would}{done}"
        for verb, done in (("create", "created"), ("update", "changed"), ("delete", "deleted"))
    ]
    parts += [f"{way.unchanged} unchanged"] + ([f"{refused} refused"] if refused else [])
    return ", ".join(parts) + "."
