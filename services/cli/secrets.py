"""The verbs `secrets new-key` and `secrets rotate`: the keys with which secrets are encrypted.

On several machines: `new-key` on one, the file copied to all gateways and schedulers, then
`rotate`. On one machine `rotate` does it all.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.client import KeyFile, Url, call
from services.cli.options import DataDir
from services.errors import StartupError

if TYPE_CHECKING:
    from services.settings import Settings


def new_key(data_dir: DataDir = None) -> None:
    """Put a fresh key into the keys file. Nothing uses it before `rotate`."""
    from services.ledger.vault import add_key
    from services.settings import load_settings

    file = _keys_file(load_settings(data_dir=data_dir))
    try:
        key = add_key(file)
    except OSError as error:
        raise StartupError(f"{file} cannot be written: {error.strerror or error}.") from error
    print(f"The key {key} is in {file}. Copy the file to all gateways and schedulers.")


def rotate(
    data_dir: DataDir = None,
    url: Url = None,
    key_file: KeyFile = None,
    keep_key: Annotated[
        bool,
        typer.Option("--no-new-key", help="Use the newest key that is there (after `new-key`)."),
    ] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Then remove the older keys from this machine's file."),
    ] = False,
) -> None:
    """Encrypt all secrets anew, with a fresh key."""
    from services.ledger.vault import add_key, forget_other_keys
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir)
    file = _keys_file(settings)
    try:
        if not keep_key:
            add_key(file)
        reply = call(settings, "rotate_secrets", {}, url=url, key_file=key_file)
        print(f"{reply['secrets']} secrets are encrypted with the key {reply['key']}.")
        if forget:
            print(f"{forget_other_keys(file, reply['key'])} older keys are gone from {file}.")
    except OSError as error:
        raise StartupError(f"{file} cannot be written: {error.strerror or error}.") from error


def _keys_file(settings: "Settings") -> Path:
    """Where the keys are; StartupError rather than make some in a mistyped directory."""
    import os

    from services.cli.tools import check_data_dir
    from services.ledger.vault import KEYS_VARIABLE, Vault

    if not os.environ.get(KEYS_VARIABLE):
        check_data_dir(settings.data_dir)
    return Vault.of(settings.data_dir).file
