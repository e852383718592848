"""Runs one service in this process until it is asked to stop (SIGTERM, Ctrl-C).

The verbs gateway, scheduler and runner end up here, and what `jobledger up` forks. A service is
a coroutine that is cancelled when it shall stop.
"""

import asyncio
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import uvloop
from msgspec.structs import replace

from services import logs
from services.cli.datadir import prepare_data_dir
from services.cli.supervise import CANNOT_START
from services.errors import StartupError
from services.ledger.connection import TOLD_AFTER, Ledger
from services.ledger.errors import LedgerError, LedgerUnavailable, Refused
from services.ledger.founding import found
from services.ledger.streams import check_version, ensure_streams
from services.pauses import importing
from services.settings import Settings

Service = Callable[[Settings], Coroutine[Any, Any, None]]

# A service that was asked to stop is ended after this many seconds, whatever it does.
STOP_WAIT = 3.0
# Another server, or the majority of a cluster, may still be starting.
LEDGER_WAIT = 60.0
_RETRY = 0.1
# What gateways and schedulers use is imported once, before they fork; the rest each imports for
# itself, which takes no memory of the others, and they do it at the same time.
_FOLDS = (
    "projections.active_jobs",
    "projections.event_state",
    "projections.schedule",
    "services.exposition",
    "services.ledger.chunks",
    "services.ledger.enrolment",
    "services.snapshots",
)

log = logs.logger()


def serve(name: str, settings: Settings, service: Service, *, patience: float = 0.0) -> int:
    """Run a service until it is told to stop; the exit status.

    Asked to stop, it may take `patience` seconds more than others. It is given settings whose
    `nats` is the URL itself. What keeps it from starting is told in one sentence on standard
    error; the status is CANNOT_START, or 1 if another try may help.
    """
    logs.configure(name, format=settings.log_format, level=settings.log_level)
    try:
        prepare_data_dir(settings)
        settings = replace(settings, nats=settings.nats_url_for(name))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_stopped(service(settings), STOP_WAIT + patience))
    except LedgerUnavailable as error:
        _refusal(name, error)
        return 1
    except (StartupError, LedgerError) as error:
        return _refusal(name, error)
    return 0


async def gateway(settings: Settings) -> None:
    """The HTTP API. Founds the ledger if nobody has."""
    with importing():
        from services.gateway.run import run_gateway
        from services.gateway.tls import check_certificate
    check_certificate(settings)
    await found_ledger(settings)
    await run_gateway(settings)


async def scheduler(settings: Settings) -> None:
    """Fires, dispatches and completes. Founds the ledger if nobody has."""
    with importing():
        from services.scheduler.run import run_scheduler
    await found_ledger(settings)
    await run_scheduler(settings)


async def runner(
    settings: Settings,
    *,
    id: str | None = None,
    hostname: str | None = None,
    groups: Sequence[str] = (),
    drain: bool = False,
    finish: float = 0.0,
) -> None:
    """Runs this machine's jobs (flags of `jobledger runner`)."""
    with importing():
        from services.runner.run import run_runner
    await run_runner(settings, id=id, hostname=hostname, groups=groups, drain=drain, finish=finish)


def import_folds() -> None:
    """Have what gateways and schedulers share, before they fork; runners fold nothing."""
    with importing():
        for name in _FOLDS:
            importlib.import_module(name)


SERVICES: dict[str, Service] = {"gateway": gateway, "scheduler": scheduler, "runner": runner}


async def found_ledger(settings: Settings) -> None:
    """Have the streams and the records of a fresh server; safe when several do it at once.

    Raises LedgerUnavailable if NATS cannot be used for a minute, and what founding raises when
    this is another installation's ledger.
    """
    begun = time.monotonic()
    told = False
    while True:
        try:
            async with Ledger.open(settings.nats_url, name="founding", wait=LEDGER_WAIT) as ledger:
                check_version(ledger)
                await ensure_streams(ledger, replicas=settings.replicas)
                await found(ledger, settings.data_dir, time.time())
                return
        except Refused:  # it would be refused again
            raise
        except LedgerUnavailable as error:
            waited = time.monotonic() - begun
            if waited > LEDGER_WAIT:
                raise
            if waited > TOLD_AFTER and not told:
                told = True
                log.warning(
                    f"The ledger cannot be used yet; trying for {LEDGER_WAIT:g} s",
                    action="ledger_awaited",
                    error=str(error),
                )
        await asyncio.sleep(_RETRY)


async def _until_stopped(service: Coroutine[Any, Any, None], wait: float) -> None:
    task = asyncio.ensure_future(service)
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        task.cancel()
        loop.call_later(wait, os._exit, 1)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping:
            raise


def _refusal(name: str, error: Exception) -> int:
    print(f"jobledger {name}: {error}", file=sys.stderr, flush=True)
    return CANNOT_START
