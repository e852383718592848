"""The verb `rebuild`: throw the gateways' views away and fold them anew from the ledger."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from services.cli.options import DataDir, Nats
from services.errors import StartupError

if TYPE_CHECKING:
    from services.settings import Settings


def rebuild(data_dir: DataDir = None, nats: Nats = None) -> None:
    """Throw the SQLite views of a data directory away and fold them anew.

    Only while no gateway uses them. (A gateway whose view is gone rebuilds it by itself.)
    """
    from services.cli import tools
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir, nats=nats)
    tools.check_data_dir(settings.data_dir)
    for path, position in tools.run(_rebuild(settings)):
        typer.echo(f"{path} was folded anew up to fact {position}.")


async def _rebuild(settings: "Settings") -> list[tuple[Path, int]]:
    import shutil

    from projections.store import remove_store, take_over
    from services.cli import tools
    from services.gateway.refold import refold, views_of

    home = settings.data_dir / "gateway"
    paths = views_of(settings.data_dir) or [home / f"history-{settings.port}.sqlite"]
    for path in paths:
        if not take_over(path):
            raise StartupError(f"A gateway uses {path}: stop it first.")
    async with tools.reach_ledger(settings) as ledger:
        id, end = await tools.ledger_id(ledger), await ledger.end()
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = home / "rebuilding.sqlite"
        remove_store(fresh)
        try:
            with tools.progress_of("Folding facts") as progress:
                await refold(ledger, fresh, ledger_id=id, upto=end, progress=progress)
            for path in paths:
                # Copied beside its place first: a kill leaves the old view or the new one.
                copy = path.with_name(f"{path.name}.new")
                shutil.copyfile(fresh, copy)
                remove_store(path)
                copy.replace(path)
        finally:
            remove_store(fresh)
    return [(path, end) for path in paths]
