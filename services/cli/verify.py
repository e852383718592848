"""The verb `verify`: prove that nothing was altered or removed, and check the views."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import DataDir, Nats

if TYPE_CHECKING:
    from domain.audit import Findings
    from services.gateway.refold import Comparison
    from services.settings import Settings

# So many problems are printed of each part; all are counted.
_SHOWN = 20


def verify(
    data_dir: DataDir = None,
    nats: Nats = None,
    views: Annotated[
        bool, typer.Option("--views/--no-views", help="Compare the gateways' views as well.")
    ] = True,
) -> None:
    """Prove that no fact was altered, removed or inserted, and that the views agree.

    Stops nothing. Exit status 1 if anything is wrong.
    """
    from services.cli import tools
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir, nats=nats)
    tools.check_data_dir(settings.data_dir)
    findings, compared = tools.run(_verify(settings, views))
    _print_findings(findings)
    for comparison in compared:
        _print_comparison(comparison)
    sound = findings.sound and all(comparison.sound for comparison in compared)
    typer.echo("Everything is as it was recorded." if sound else "NOT everything is as recorded.")
    raise typer.Exit(0 if sound else 1)


async def _verify(settings: "Settings", views: bool) -> tuple["Findings", list["Comparison"]]:
    from services.cli import tools
    from services.gateway.refold import compare, views_of
    from services.ledger.auditing import audit
    from services.ledger.secrets import audit_key

    key = audit_key(tools.existing_secret(settings))
    async with tools.reach_ledger(settings) as ledger:
        id = await tools.ledger_id(ledger)
        with tools.progress_of("Checking facts") as progress:
            findings = await audit(ledger, key, progress)
        compared = []
        for path in views_of(settings.data_dir) if views else ():
            with tools.progress_of(f"Folding {path.name}") as progress:
                compared.append(await compare(ledger, path, ledger_id=id, progress=progress))
    return findings, compared


def _print_findings(findings: "Findings") -> None:
    typer.echo(
        f"Ledger: {findings.facts} facts up to {findings.end}, {findings.erased} erased by "
        f"recorded deletions; {findings.seals} seals cover all up to {findings.sealed}, "
        f"{findings.unsealed} facts after that are not sealed yet."
    )
    for problem in findings.problems[:_SHOWN]:
        typer.echo(f"  {problem}")
    _print_rest(findings.problem_count)


def _print_comparison(found: "Comparison") -> None:
    if found.stale:
        typer.echo(f"View {_name(found.path)}: of another release; rebuilt at the next start.")
        return
    typer.echo(
        f"View {_name(found.path)}: {found.rows} rows at {found.position}, "
        f"{found.difference_count or 'no'} differences from the ledger."
    )
    for sentence in found.differences[:_SHOWN]:
        typer.echo(f"  {sentence}")
    _print_rest(found.difference_count)


def _print_rest(count: int) -> None:
    if count > _SHOWN:
        typer.echo(f"  ... and {count - _SHOWN} more.")


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
