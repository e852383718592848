"""The verbs `runner enroll` and `subscriber enroll`: logins for NATS, by an administrator's key.

The private key is made here and never sent; the files are for whoever is enrolled alone (0600).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.client import KeyFile, Url, call
from services.cli.options import DataDir
from services.errors import StartupError

if TYPE_CHECKING:
    from services.ledger.credentials import Login

Name = Annotated[str, typer.Argument(help="The server's id, or the program's (a-z, 0-9, _).")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Where to write it. (default: NAME.url or .creds)"),
]


def runner(
    name: Name,
    data_dir: DataDir = None,
    url: Url = None,
    key_file: KeyFile = None,
    out: Out = None,
) -> None:
    """Make the login of a runner; it takes the file with `--nats @FILE`."""
    login, address, ca = _enrol("enroll_runner", name, data_dir, url, key_file)
    file = out or Path(f"{name}.url")
    authority = _write_ca(file, ca)
    query = f"?ca={authority.resolve()}" if authority else ""
    addresses = ",".join(f"{one}{query}" for one in address.split(","))
    _write(file, f"{login.url(addresses)}\n")
    print(f"{file} is the login of {name}. On that server:")
    print(f"  jobledger runner --nats @{file} --id {name} --data-dir DIR")
    if authority:
        print(f"It trusts {authority}: if you move that, correct its path in {file}.")


def subscriber(
    name: Name,
    data_dir: DataDir = None,
    url: Url = None,
    key_file: KeyFile = None,
    out: Out = None,
) -> None:
    """Make a read-only login with which any NATS client follows the facts."""
    login, address, ca = _enrol("enroll_subscriber", name, data_dir, url, key_file)
    file = out or Path(f"{name}.creds")
    authority = _write_ca(file, ca)
    _write(file, login.creds())
    print(f"{file} is the login of {login.name}; NATS is at {address}.")
    if authority:
        print(f"{authority} signed the servers' certificate.")


def _enrol(
    name: str, id: str, data_dir: Path | None, url: str | None, key_file: Path | None
) -> "tuple[Login, str, str | None]":
    """The new login, where NATS is, and who signed its certificate (PEM), if that is known."""
    from services.ledger.credentials import KeyPair, Login
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir)
    pair = KeyPair.new("user")
    values = {"id": id, "public_key": pair.public}
    reply = call(settings, name, values, url=url, key_file=key_file)
    return Login.from_token(reply["token"], pair.seed), reply["address"], reply.get("ca")


def _write_ca(file: Path, ca: str | None) -> Path | None:
    if ca is None:
        return None
    authority = file.with_suffix(".ca.pem")
    _write(authority, ca)
    return authority


def _write(file: Path, content: str) -> None:
    from services.ledger.secrets import write_private

    try:
        write_private(file, content.encode(), replace=True)
    except OSError as error:
        raise StartupError(f"{file} cannot be written: {error.strerror or error}.") from error
