"""The verb `restore`: a ledger from a backup."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import DataDir, Nats
from services.errors import StartupError

if TYPE_CHECKING:
    from services.ledger.backup import Manifest
    from services.settings import Settings


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that backup wrote.")],
    data_dir: DataDir = None,
    nats: Nats = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a ledger that is not empty.")
    ] = False,
) -> None:
    """Put a backup in the place of an empty ledger, sequences and all. Stop all services first."""
    from services.cli import tools
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir, nats=nats)
    tools.check_data_dir(settings.data_dir)
    manifest = tools.run(_restore(settings, file, force))
    last = manifest.streams["LEDGER"]["state"]["last_seq"]
    typer.echo(f"Ledger {manifest.ledger} is restored up to fact {last}.")


async def _restore(settings: "Settings", file: Path, force: bool) -> "Manifest":
    import asyncio

    from projections.store import remove_store
    from services.cli import tools
    from services.gateway.refold import views_of
    from services.ledger import backup as backups
    from services.ledger.secrets import fingerprint

    manifest = await asyncio.to_thread(backups.check_backup, file)
    if fingerprint(tools.existing_secret(settings)) != manifest.fingerprint:
        raise StartupError(
            "The server secret of this data directory is not the one of the backup: put the "
            f"server.secret that belongs to it into {settings.data_dir} first."
        )
    async with tools.reach_ledger(settings, alone=True) as ledger:
        with tools.bytes_of("Restoring") as progress:
            manifest = await backups.restore(
                ledger, file, force=force, replicas=settings.replicas, progress=progress
            )
    for path in views_of(settings.data_dir):
        remove_store(path)
    return manifest
