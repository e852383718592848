"""The verb `export`: write a server's definitions into a directory, as `apply` reads them."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.client import KeyFile, Url, reach_api
from services.cli.options import DataDir
from services.errors import StartupError


def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write them.")],
    data_dir: DataDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Write events, categories, tags, groups and plugins as YAML files, one each."""
    from services.cli.apply import present
    from services.cli.definitions import files_of_nothing, write_definition
    from services.cli.plan import STOCK

    with reach_api(data_dir, url, key_file) as api:
        found = present(api)
    counts = []
    for kind, records in found.items():
        chosen = {
            id: record
            for id, record in records.items()
            if not (kind.type == "plugin" and id in STOCK and record.get("revision") == 1)
        }
        try:
            (directory / kind.plural).mkdir(parents=True, exist_ok=True)
            for record in chosen.values():
                write_definition(directory, kind, record)
        except OSError as error:
            raise StartupError(f"{error.filename} cannot be written: {error.strerror}.") from error
        counts.append(f"{len(chosen)} {kind.plural}")
        for path in files_of_nothing(directory, kind, set(chosen)):
            typer.echo(f"{path} is of no {kind.type} on this server and was left as it is.")
    typer.echo(f"{directory}: {', '.join(counts)}.")
