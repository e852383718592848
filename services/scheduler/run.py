"""Entry point of the scheduler service."""

import asyncio
import time

import structlog

from services.exposition import scraped
from services.ledger.connection import Ledger
from services.pauses import avoid_pauses
from services.scheduler.measures import page
from services.scheduler.plugin_files import PluginFiles
from services.scheduler.service import Scheduler
from services.settings import Settings

log = structlog.get_logger()


async def run_scheduler(settings: Settings) -> None:
    """Run a scheduler on the ledger that `settings` name, until cancelled."""
    async with Ledger.open(settings.nats_url, name="scheduler") as ledger:
        ledger.groups.in_memory = settings.batches_in_memory
        scheduler = Scheduler(settings, ledger, time.time)
        scheduler.asking.files = PluginFiles(ledger, settings, time.time).bring
        log.info("scheduler is up", action="scheduler_up", instance=scheduler.instance)
        async with scraped(settings.metrics_port, lambda: page(scheduler)):
            calming = asyncio.create_task(_avoid_pauses(scheduler))
            try:
                await scheduler.run()
            finally:
                calming.cancel()


async def _avoid_pauses(scheduler: Scheduler) -> None:
    await scheduler.follower.caught_up.wait()
    avoid_pauses()
