"""Starts the runner of this data directory: who it is, whether it may run, and on which ledger."""

import asyncio
import contextlib
import re
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from domain.facts import Json
from domain.ids import make_id
from services.errors import ConfigError
from services.exposition import scraped
from services.ledger import live
from services.ledger.connection import Ledger
from services.ledger.founding import ledger_id
from services.runner.children import inherit_jobs
from services.runner.enrolment import check_identity, connected
from services.runner.procfs import machine_boot
from services.runner.service import Identity, Runner, new_boot
from services.runner.spool import Spool
from services.settings import Settings

SERVER_ID = re.compile(r"[a-z0-9_]{1,128}")
# NATS, or whoever founds the ledger, may still be starting.
LEDGER_WAIT = 60.0
# How often processes are let go of that were left by a job and came to us.
REAP = 1.0
# A twin answers within milliseconds; every start waits this long for nobody.
TWIN_WAIT = 0.25


async def run_runner(
    settings: Settings,
    *,
    id: str | None = None,
    hostname: str | None = None,
    groups: Sequence[str] = (),
    drain: bool = False,
    finish: float = 0.0,
) -> None:
    """Run this machine's jobs until cancelled; jobs go on when the runner leaves.

    With `drain` it takes no new jobs and returns after the last one it holds. Cancelled, it
    finishes its jobs for `finish` seconds before it leaves; cancelled again, it leaves.

    Raises ConfigError with one sentence if the id or the directory is in use or belongs to
    another ledger.
    """
    spool = Spool(settings.data_dir.resolve() / "runner", machine_boot())
    try:
        server = server_id(spool.directory, id, settings.nats_url)
        name = f"runner-{server}"
        async with connected(settings.nats_url, server, spool.directory, LEDGER_WAIT) as ledger:
            ledger.groups.in_memory = settings.batches_in_memory
            spool.belongs_to(await ledger_id(ledger, within=LEDGER_WAIT, consumer=name))
            boot = new_boot()
            await refuse_twin(ledger, server, boot)
            runner = Runner(
                ledger,
                spool,
                Identity(server, hostname or socket.gethostname(), tuple(groups), boot),
                job_env=settings.job_env,
                base_url=settings.links_url,
                kill_timeout=settings.kill_timeout,
                drain=drain,
            )
            async with scraped(settings.metrics_port, runner.metrics):
                await _run(runner, finish)
    finally:
        spool.close()


async def _run(runner: Runner, finish: float) -> None:
    inherit_jobs()
    reaping = asyncio.create_task(_reap(runner))
    running = asyncio.create_task(runner.run())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        try:
            if finish and not runner.draining:
                await runner.drain()
                await asyncio.wait({running}, timeout=finish)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        raise
    finally:
        reaping.cancel()


async def _reap(runner: Runner) -> None:
    while True:
        await asyncio.sleep(REAP)
        runner.reap()


def server_id(directory: Path, wanted: str | None, url: str) -> str:
    """The id in DIR/runner/id, made or set at the first start with a login at `url` that fits.

    Raises ConfigError for a malformed id, or one other than this directory's or the login's.
    """
    if wanted is not None and SERVER_ID.fullmatch(wanted) is None:
        raise ConfigError("A server id has 1 to 128 characters of a-z, 0-9 and _.")
    path = directory / "id"
    known = path.read_text(encoding="ascii").strip() if path.exists() else ""
    if known and wanted is not None and known != wanted:
        raise ConfigError(
            f"{directory} belongs to the server {known}: give {wanted} a --data-dir of its own."
        )
    chosen = known or wanted or make_id("s", time.time(), 0, secrets.token_bytes(8))
    check_identity(url, chosen)
    if not known:
        path.write_text(chosen + "\n", encoding="ascii")
    return chosen


async def refuse_twin(ledger: Ledger, server: str, boot: str) -> None:
    """Raise ConfigError if a runner with this id lives.

    We announce ourselves; a twin answers with a heartbeat at once (service.py).
    """
    heard = asyncio.Event()

    async def listen(message: Json) -> None:
        if message.get("boot") != boot:
            heard.set()

    subject = f"live.server.{server}"
    listening = await live.listen(ledger, subject, listen)
    try:
        await ledger.nc.flush()
        live.publish(ledger, subject, {"server": server, "boot": boot, "jobs": {}})
        async with asyncio.timeout(TWIN_WAIT):
            await heard.wait()
    except TimeoutError:
        return
    finally:
        if ledger.connected:
            await listening.unsubscribe()
    raise ConfigError(f"Another runner with the id {server} is alive: give this one another --id.")
