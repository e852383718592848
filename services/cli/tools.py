"""What the ledger's tools share: reaching the ledger, showing progress, telling errors.

The tools work beside running services. Where none runs on the data directory, its own
nats-server is started for as long as the tool needs it.
"""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from services.errors import StartupError
from services.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.ledger.connection import Ledger

T = TypeVar("T")

# Services that run answer at once.
_LOOK = 2.0
_WAIT = 10.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a tool; what it cannot do is a StartupError with one sentence."""
    from domain.facts import UnreadableFact
    from services.ledger.errors import LedgerError

    try:
        return asyncio.run(work)
    except (LedgerError, UnreadableFact) as error:
        raise StartupError(str(error)) from error
    except sqlite3.DatabaseError as error:
        raise StartupError(f"A view cannot be read: {error}.") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise StartupError(f"{where}{error.strerror or error}.") from error


@asynccontextmanager
async def reach_ledger(settings: Settings, *, alone: bool = False) -> AsyncIterator["Ledger"]:
    """The ledger of these settings. With `alone`, StartupError while `up` runs on the directory."""
    from services import logs
    from services.cli.datadir import locked
    from services.ledger.connection import Ledger

    logs.configure("tool", format=settings.log_format, level="warning")
    with ExitStack() as held:
        running = settings.nats is not None or (settings.run_dir / "nats.url").exists()
        if alone:
            settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(locked(settings))
        if running and await _answers(settings):
            async with Ledger.open(settings.nats_url, name="tool", wait=_WAIT) as ledger:
                yield ledger
            return
        if settings.nats is not None:
            raise StartupError("No NATS server answers there.")
        if not alone:
            settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(locked(settings))
        async with _own_server(settings) as ledger:
            yield ledger


async def _answers(settings: Settings) -> bool:
    from services.ledger.connection import Ledger, LedgerUnavailable

    try:
        async with Ledger.open(settings.nats_url, name="tool", wait=_LOOK):
            return True
    except LedgerUnavailable:
        return False


@asynccontextmanager
async def _own_server(settings: Settings) -> AsyncIterator["Ledger"]:
    """The directory's nats-server, ended with the tool."""
    from services.ledger.connection import Ledger
    from services.ledger.embedded import EmbeddedNats

    server = EmbeddedNats(settings.data_dir)
    await server.start()
    try:
        async with Ledger.open(server.url, name="tool", wait=_WAIT) as ledger:
            yield ledger
    finally:
        await server.stop()


async def ledger_id(ledger: "Ledger") -> str:
    """The id of the ledger; StartupError where nothing was founded."""
    from domain.facts import LedgerFounded

    first = await ledger.get(1) if await _has_stream(ledger) else None
    if first is None or not isinstance(first.fact, LedgerFounded):
        raise StartupError("There is no ledger yet: nothing was started on it.")
    return first.fact.ledger


async def _has_stream(ledger: "Ledger") -> bool:
    return "error" not in await ledger.api("STREAM.INFO.LEDGER")


def existing_secret(settings: Settings) -> bytes:
    """The server secret of the data directory; StartupError instead of making one."""
    import os

    from services.ledger.secrets import server_secret

    if not os.environ.get("JOBLEDGER_SERVER_SECRET_FILE"):
        file = settings.data_dir / "server.secret"
        if not file.exists():
            raise StartupError(f"{file} is missing: copy it from a machine of this installation.")
    return server_secret(settings.data_dir)


def check_data_dir(directory: Path) -> None:
    """StartupError if there is no such directory."""
    if not directory.is_dir():
        raise StartupError(f"There is no data directory {directory}; name it with --data-dir.")


@contextmanager
def progress_of(what: str, *, quiet: bool = False) -> "Iterator[Callable[[int, int], None]]":
    """A bar on standard error that is told (reached, end); nothing where nobody watches."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda at, end: progress.update(task, completed=at, total=end)


@contextmanager
def bytes_of(what: str) -> "Iterator[Callable[[str, int], None]]":
    """A line on standard error that is told (what is copied, bytes so far)."""
    from rich.console import Console
    from rich.progress import (
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TransferSpeedColumn,
    )

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn()
    )  # fmt: skip
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda name, size: progress.update(task, description=f"{what} {name}", completed=size)
