"""The verb `backup`: the whole ledger in one file."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import DataDir, Nats

if TYPE_CHECKING:
    from services.ledger.backup import Manifest
    from services.settings import Settings


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    data_dir: DataDir = None,
    nats: Nats = None,
) -> None:
    """Write the ledger with all logs and files into one file, while services go on.

    Keep DIR/server.secret and DIR/secrets.keys as well: no backup holds them.
    """
    from services.cli import tools
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir, nats=nats)
    tools.check_data_dir(settings.data_dir)
    manifest = tools.run(_backup(settings, file))
    last = manifest.streams["LEDGER"]["state"]["last_seq"]
    size = file.stat().st_size
    typer.echo(f"{file}: ledger {manifest.ledger} up to fact {last}, {size:,} bytes.")


async def _backup(settings: "Settings", file: Path) -> "Manifest":
    from services.cli import tools
    from services.ledger import backup as backups

    async with tools.reach_ledger(settings) as ledger:
        await tools.ledger_id(ledger)
        with tools.bytes_of("Copying") as progress:
            return await backups.backup(ledger, file, now=time.time(), progress=progress)
