"""A machine's data directory: can it be used, by whom, and how is NATS reached.

Everything here is checked before `up` starts anything, and a refusal leaves the directory as it
was. Every StartupError is one sentence that says what to do.
"""

import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from services.cli.supervise import holder_of
from services.errors import StartupError
from services.settings import Settings

if TYPE_CHECKING:
    from services.ledger.embedded import NatsSetup

# What an `up` that was killed left behind ends by itself within this time, or is ended.
_LEFTOVER_WAIT = 5.0
_NATS_PORT = 4222
_CONNECT_WAIT = 3.0


def prepare_data_dir(settings: Settings) -> None:
    """Make the directory with its part `run`, and see that it can be written.

    Whose jobs may run under other accounts, root, lets these pass, as only `runner` is open to
    them.
    """
    own = 0o711 if os.geteuid() == 0 else 0o700
    try:
        for folder, mode in ((settings.data_dir, own), (settings.run_dir, 0o700)):
            folder.mkdir(parents=True, exist_ok=True, mode=mode)
            probe = folder / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
    except OSError as error:
        raise StartupError(
            f"The data directory {settings.data_dir} cannot be used: {error.strerror}. "
            "Choose another one with --data-dir."
        ) from error


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Hold DIR/run/lock: only one `up` runs on a data directory. The kernel frees it."""
    with (settings.run_dir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StartupError(
                f"Jobledger is running on {settings.data_dir} already (process {holder})."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def end_leftovers(settings: Settings) -> None:
    """Wait for the services of an `up` that was killed to end, so that this one takes over.

    They are told by the kernel; whoever is still there after some seconds is killed.
    """
    pidfiles = list(settings.run_dir.glob("*.pid"))
    deadline = time.monotonic() + _LEFTOVER_WAIT
    while pids := [pid for file in pidfiles if (pid := holder_of(file)) is not None]:
        if time.monotonic() > deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for file in pidfiles:
        file.unlink(missing_ok=True)


def check_port(host: str, port: int) -> None:
    """StartupError if the API could not listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return
    except OSError as error:
        number = error.errno or 0
        if number < 0 or number == errno.EADDRNOTAVAIL:  # below 0: no such name
            raise StartupError(
                f"{host} is no address of this machine. Choose another one with --host."
            ) from error
        if number == errno.EADDRINUSE:
            reason = "is in use by another program"
        else:
            reason = f"cannot be used ({os.strerror(number)})"
        raise StartupError(
            f"Port {port} on {host} {reason}. Choose another one with --port."
        ) from error


def prepare_nats(settings: Settings, nodes: int = 1) -> "list[NatsSetup]":
    """The configuration of this directory's own nats-servers; ports and keys never change."""
    from services.ledger import embedded, embedded_cluster
    from services.ledger.errors import StartupError as CannotPrepare

    kept = embedded_cluster.kept_size(settings.data_dir)
    if kept not in (0, nodes):
        how = f"with --cluster {kept}" if kept > 1 else "without --cluster"
        raise StartupError(
            f"{settings.data_dir} was begun {how}: go on {how}, or choose another --data-dir."
        )
    try:
        if nodes > 1:
            return embedded_cluster.prepare_cluster(settings.data_dir, nodes)
        return [embedded.prepare(settings.data_dir)]
    except CannotPrepare as error:
        raise StartupError(str(error)) from error


def check_nats_port(setup: "NatsSetup", settings: Settings) -> None:
    """StartupError if another program took the port that was chosen for NATS."""
    try:
        with socket.create_server(("127.0.0.1", setup.port)):
            return
    except OSError as error:
        raise StartupError(
            f"Port {setup.port}, which {settings.data_dir} uses for its own NATS server, is in use "
            "by another program. Stop that, or use another NATS with --nats."
        ) from error


def announce_nats(settings: Settings, setup: "NatsSetup | None") -> None:
    """Write to DIR/run (0600) what clients of this machine need to connect.

    `nats.url` lets a new runner ask for its own login; ROLE.url is for that role;
    `subscriber.creds` lets any NATS client follow the facts. With a NATS of somebody else there
    is only `nats.url`, with what was given.
    """
    from services.ledger.secrets import write_private

    def write(name: str, content: str) -> None:
        write_private(settings.run_dir / name, content.encode(), replace=True)

    roles = ("owner", "gateway", "scheduler", "subscriber")
    if setup is None:
        write("nats.url", settings.nats_url + "\n")
        for role in roles:
            (settings.run_dir / f"{role}.url").unlink(missing_ok=True)
        return
    write("nats.url", setup.url_for("enrolment") + "\n")
    write("subscriber.creds", setup.logins["subscriber"].creds())
    for role in roles:
        write(f"{role}.url", setup.url_for(role) + "\n")


def check_nats_reachable(url: str) -> None:
    """StartupError if none of these servers (URLs separated by commas) takes a connection."""
    from services.ledger.access import Access

    for one in Access.of(url).servers:
        parts = urlsplit(one)
        address = (parts.hostname or "127.0.0.1", parts.port or _NATS_PORT)
        with suppress(OSError), socket.create_connection(address, timeout=_CONNECT_WAIT):
            return
    raise StartupError(f"No NATS server answers at {_without_password(url)}.")


def _without_password(url: str) -> str:
    return ",".join(one.rpartition("@")[2].removeprefix("nats://") for one in url.split(","))
