"""The verb `replay`: what there was at an earlier moment, folded from the ledger."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from domain.facts import Json
from services.cli.options import DataDir, Nats
from services.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.final_jobs import FinalJobs
    from services.ledger.connection import Ledger
    from services.settings import Settings

# A number below this is a sequence, above it Unix seconds (September 2001).
_FIRST_TIME = 1_000_000_000


@dataclass(slots=True)
class Moment:
    """Where a replay stopped, and what was there. `counts` are of the facts up to there."""

    sequence: int = 0
    at: float = 0.0
    events: list[Json] = field(default_factory=list)
    jobs: list[Json] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    finished: int = 0
    job: Json | None = None


def replay(
    to: Annotated[
        str,
        typer.Option("--to", metavar="SEQ|TIME", help="A sequence, Unix seconds, or an ISO time."),
    ],
    data_dir: DataDir = None,
    nats: Nats = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="ID", help="Only this event and its jobs.")
    ] = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="ID", help="This job as it was, finished or not.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show events and active jobs as they were at a sequence or at a moment.

    Erased jobs do not appear, whenever they were.
    """
    from services.cli import tools
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir, nats=nats)
    tools.check_data_dir(settings.data_dir)
    upto, until = parse_moment(to)
    moment = tools.run(_replay(settings, upto, until, event, job))
    if as_json:
        typer.echo(json.dumps(_as_json(moment), ensure_ascii=False, indent=2))
    else:
        _print(moment, job)
    if job is not None and moment.job is None:
        raise typer.Exit(1)


def parse_moment(text: str) -> tuple[int | None, float | None]:
    """(sequence, None) or (None, Unix seconds); a time without an offset is local.

    Raises ConfigError.
    """
    try:
        number = float(text)
    except ValueError:
        try:
            return None, datetime.fromisoformat(text).timestamp()
        except ValueError:
            raise ConfigError(
                f"--to takes a sequence, Unix seconds, or a time like 2026-01-31T12:00, not {text}."
            ) from None
    if number < 0 or number != number:
        raise ConfigError("--to takes a sequence or a time, not a negative number.")
    if number < _FIRST_TIME:
        return int(number), None
    return None, number


async def _replay(
    settings: "Settings", upto: int | None, until: float | None, event: str | None, job: str | None
) -> Moment:
    from services.cli import tools

    async with tools.reach_ledger(settings) as ledger:
        await tools.ledger_id(ledger)
        with tools.progress_of("Folding facts") as progress:
            return await replay_to(ledger, upto, until, event, job, progress)


async def replay_to(
    ledger: "Ledger",
    upto: int | None,
    until: float | None,
    event: str | None,
    job: str | None,
    progress: "Callable[[int, int], None]",
) -> Moment:
    """Fold up to a sequence, or all that was stored by a moment (Unix seconds).

    Memory grows with what is live and defined, not with the ledger.
    """
    from collections import Counter
    from contextlib import aclosing

    from domain.facts import JobDeleted, Recorded
    from domain.subjects import standing
    from projections.final_jobs import FinalJobs
    from services.ledger.raw import read_raw

    end = await ledger.end()
    end = end if upto is None else min(end, upto)
    fold, moment, kinds = FinalJobs(), Moment(), Counter[str]()
    async with aclosing(read_raw(ledger, after=0, upto=end)) as batches:
        async for batch in batches:
            for raw in batch:
                if until is not None and raw.at > until:
                    break
                fact = standing(raw.subject, raw.data)
                moment.sequence, moment.at = raw.sequence, raw.at
                if fact is None:
                    continue
                kinds[fact.kind] += 1
                final = fold.apply(Recorded(raw.sequence, raw.subject, fact))
                if final is not None:
                    moment.finished += 1
                    moment.job = final if final["id"] == job else moment.job
                elif isinstance(fact, JobDeleted) and fact.job == job:
                    moment.job = None
            else:
                progress(batch[-1].sequence, end)
                continue
            break
    moment.counts = dict(sorted(kinds.items()))
    _fill(moment, fold, event, job)
    return moment


def _fill(moment: Moment, fold: "FinalJobs", event: str | None, job: str | None) -> None:
    definitions, active = fold.definitions, fold.active
    moment.events = [
        version.record for id, version in definitions.events.items() if event in (None, id)
    ]
    live = sorted(active.jobs.values(), key=lambda one: one.sequence)
    if job is not None:
        live = [one for one in live if one.id == job]
        moment.job = fold.document(live[0]) if live else moment.job
    moment.jobs = [fold.document(one) for one in live if event in (None, one.event)]


def _as_json(moment: Moment) -> Json:
    shown: Json = {
        "sequence": moment.sequence,
        "at": moment.at,
        "events": moment.events,
        "jobs": [_without_private(job) for job in moment.jobs],
        "finished": moment.finished,
        "facts": moment.counts,
    }
    if moment.job is not None:
        shown["job"] = _without_private(moment.job)
    return shown


def _without_private(job: Json) -> Json:
    """A document without the keys that only say where its bytes are."""
    return {key: value for key, value in job.items() if not key.startswith("_")}


def _print(moment: Moment, job: str | None) -> None:
    when = datetime.fromtimestamp(moment.at).astimezone().isoformat(timespec="milliseconds")
    typer.echo(f"After fact {moment.sequence} ({when}):")
    if job is not None:
        if moment.job is None:
            typer.echo(f"There was no job {job}.")
        else:
            shown = _without_private(moment.job)
            typer.echo(json.dumps(shown, ensure_ascii=False, indent=2))
        return
    typer.echo(f"{len(moment.events)} events")
    for record in moment.events:
        state = "enabled" if record.get("enabled") else "disabled"
        title, revision = record.get("title"), record.get("revision")
        typer.echo(f"  {record.get('id')}  {title}  ({state}, revision {revision})")
    typer.echo(f"{len(moment.jobs)} active jobs, {moment.finished} finished ones")
    for shown in moment.jobs:
        server = shown.get("server") or "no server"
        typer.echo(f"  {shown['id']}  {shown.get('event')}  {shown['state']}  {server}")
    typer.echo(f"{sum(moment.counts.values())} facts")
    for kind, count in moment.counts.items():
        typer.echo(f"  {kind}: {count}")
