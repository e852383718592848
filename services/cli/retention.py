"""The verb `retention`: which finished jobs old age would erase."""

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import DataDir, Nats
from services.errors import ConfigError

if TYPE_CHECKING:
    from services.settings import Settings

_DAY = 86400.0


def retention(
    data_dir: DataDir = None,
    nats: Nats = None,
    days: Annotated[
        float | None,
        typer.Option("--days", min=0, help="Age in days. (default: the setting retention_days)"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be erased; erase nothing.")
    ] = False,
) -> None:
    """Say which finished jobs are older than retention_days. The leading scheduler erases them."""
    from services.cli import tools
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir, nats=nats)
    tools.check_data_dir(settings.data_dir)
    if not dry_run:
        raise ConfigError(
            "The leading scheduler erases old jobs by itself, once an hour, where retention_days "
            "is set; --dry-run says which they are."
        )
    limit = settings.retention_days if days is None else days
    if not limit:
        typer.echo("retention_days is 0: no job is erased for its age.")
        return
    jobs, facts = tools.run(_old_jobs(settings, time.time() - limit * _DAY))
    typer.echo(f"{jobs.total()} finished jobs with {facts} facts are older than {limit:g} days.")
    for event, count in jobs.most_common():
        typer.echo(f"  {event}: {count}")


async def _old_jobs(settings: "Settings", before: float) -> tuple[Counter[str], int]:
    """How many jobs of each event ended before a moment (Unix seconds), and their facts."""
    from domain.deletion import Gathering
    from services.cli import tools
    from services.ledger.erasing import JOB_SUBJECTS, gather

    jobs: Counter[str] = Counter()
    facts = 0
    async with tools.reach_ledger(settings) as ledger:
        await tools.ledger_id(ledger)
        end = await ledger.end()
        async for found in gather(
            ledger, Gathering(), after=0, upto=end, subjects=JOB_SUBJECTS, until=before
        ):
            jobs.update(job.event for job in found if job.requested)
            facts += sum(len(job.hashes) for job in found)
    return jobs, facts
