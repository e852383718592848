"""The verb `keys`: everything secret that the nodes and services of a cluster need, made once.

One folder per role, with nothing in it that the role does not need. A folder that holds keys
already is left as it is, so the verb may run at every start.
"""

import datetime
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.errors import StartupError

if TYPE_CHECKING:
    from services.ledger.authority import Signer

_PORT = 4222
_DONE = "done"


def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put them.")],
    host: Annotated[
        list[str],
        typer.Option("--host", metavar="NAME", help="Where a NATS node is reached; repeatable."),
    ],
) -> None:
    """Make the keys, certificates and logins of a cluster, one folder per role."""
    done = folder / "nats" / _DONE
    try:
        if done.exists():
            _check_hosts(folder, done.read_text(encoding="utf-8").split(), host)
            return
        make_keys(folder, host)
    except OSError as error:
        raise StartupError(f"{folder} cannot be written: {error.strerror or error}.") from error


def _check_hosts(folder: Path, made_for: list[str], hosts: list[str]) -> None:
    """StartupError if the certificate there is of other nodes; an older release noted none."""
    if made_for and set(made_for) != set(hosts):
        raise StartupError(
            f"The keys in {folder} are for {', '.join(made_for)}, and were left as they are: name "
            "another directory for keys of other nodes."
        )


def make_keys(folder: Path, hosts: list[str]) -> None:
    """Write the folders; `hosts` are names or addresses, with a port where it is not 4222."""
    from services.ledger.authority import Authority
    from services.ledger.certificates import make_certificates
    from services.ledger.embedded import configuration_dir
    from services.ledger.vault import new_keys_file

    os.umask(0o077)
    for role in ("nats", "gateway", "scheduler", "runners", "subscriber", "owner"):
        (folder / role).mkdir(parents=True, exist_ok=True)
    authority = Authority.new()
    names = [host.partition(":")[0] for host in hosts]
    made = make_certificates(names, datetime.datetime.now(datetime.UTC))
    nats = folder / "nats"
    (nats / "server.pem").write_bytes(made.certificate)
    (nats / "server.key").write_bytes(made.key)
    (nats / "cluster.password").write_text(f"p{secrets.token_hex(32)}\n")
    for name, value in authority.server_settings(configuration_dir() / "permissions").items():
        (nats / name).write_text(value + "\n")
    address = ",".join(f"tls://{host if ':' in host else f'{host}:{_PORT}'}" for host in hosts)
    _write_logins(folder, authority.signer, address, made.ca)
    server_secret, vault_keys = secrets.token_hex(32) + "\n", new_keys_file()
    for role in ("gateway", "scheduler"):
        (folder / role / "server.secret").write_text(server_secret)
        (folder / role / "secrets.keys").write_bytes(vault_keys)
        signer = authority.signer.stored() | {"address": address}
        (folder / role / "enrolment.key").write_text(json.dumps(signer))
    (folder / "owner" / "authority.json").write_text(json.dumps(authority.stored()))
    (nats / _DONE).write_text("".join(f"{host}\n" for host in hosts))


def _write_logins(folder: Path, signer: "Signer", address: str, ca: bytes) -> None:
    logins = {"gateway": "gateway", "scheduler": "scheduler", "runners": "enrolment"}
    for role, kind in (logins | {"subscriber": "subscriber", "owner": "owner"}).items():
        login = signer.login(kind)
        (folder / role / "nats.url").write_text(login.url(address) + "\n")
        (folder / role / "ca.pem").write_bytes(ca)
        if role == "subscriber":
            (folder / role / "subscriber.creds").write_text(login.creds())
    shutil.copyfile(folder / "gateway" / "ca.pem", folder / "nats" / "ca.pem")
