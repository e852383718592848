"""Jobs as callers see them: live ones from the views, final ones from the history.

Builds documents; who may see them is asked of the principal by the routes. Large values and
logs that a record only points to are fetched from CHUNKS here.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from domain import multiplex
from domain.facts import Blob, Json, from_plain
from domain.job import Job, JobState
from domain.macros import is_runtime
from projections.active_jobs import ActiveJobs
from projections.fleet import Fleet
from projections.job_activity import JobActivity
from projections.job_view import (
    LARGE_KEY,
    LOG_KEY,
    document,
    with_plain_metrics,
    without_places,
)
from projections.revisions import from_text, to_text
from services import logs
from services.ledger.chunks import read_chunks
from services.ledger.errors import ChunksMissing, LedgerUnavailable
from services.ledger.live import ask_raw

if TYPE_CHECKING:
    from services.gateway.gateway import Gateway

log = logs.logger("jobs")

# A log up to this size is part of its job's record as `output` (data.md 6.1).
INLINE_LOG = 1024 * 1024
# A runner that does not tell what its job uses is not waited for, in seconds.
_ANSWER_WITHIN = 1.0
# What live lists leave out (api.md 4.2).
DETAILS = frozenset("input data files activity timelines".split())
# Keys of a stored record that only say where its bytes are.
_INTERNAL = (LOG_KEY, LARGE_KEY)


@dataclass(frozen=True, slots=True)
class Seen:
    """What documents of live jobs are made of: the views of now, or of a moment in the past.

    `live` gives a job's part of its runner's last heartbeat.
    """

    active: ActiveJobs
    activity: JobActivity
    fleet: Fleet
    live: Callable[[Job], Json | None]


class Positions:
    """Places in the queues, counted once per scope; again for a job that came later."""

    def __init__(self, seen: Seen) -> None:
        self._active = seen.active
        self._places: dict[str, dict[str, int]] = {}

    def of(self, job: Job) -> int | None:
        """1-based place of a queued job, 0 for a priority job, None for others."""
        if job.state is not JobState.QUEUED:
            return None
        if job.request.priority:
            return 0
        places = self._places.get(job.scope)
        if places is None or job.id not in places:
            queue = self._active.queue(job.scope)
            places = {waiting.id: place for place, waiting in enumerate(queue, 1)}
            self._places[job.scope] = places
        return places.get(job.id)


def live_document(
    seen: Seen,
    job: Job,
    *,
    positions: Positions | None = None,
    plain: bool = False,
    details: bool = True,
) -> Json:
    """A live job's document; `plain` metrics are numbers (D7), `details` as in api.md 4.2."""
    server = seen.fleet.servers.get(job.server) if job.server else None
    shown = document(
        job,
        groups=server.groups if server is not None else (),
        position=(positions or Positions(seen)).of(job),
        live=seen.live(job),
        activity=seen.activity.of(job.id) if details else (),
    )
    # What an administrator asked for is seen at once, whenever its owner takes it (api.md 4.8).
    shown |= {key: value for key, value in job.update_asked.items() if not is_runtime(key)}
    if job.children:
        results = seen.active.results.get(job.id, {})
        shown["progress"] = multiplex.progress_of(job, results)
        shown["workflow"] = multiplex.workflow_of(results, str(job.state))
    shown = shown_record(shown)
    if shown["state"] in _BEFORE_ACTIVE:
        shown.pop("progress", None)
    if not details:
        for key in DETAILS:
            shown.pop(key, None)
    return with_plain_metrics(shown) if plain else shown


_BEFORE_ACTIVE = frozenset("start_delay retry_delay ready queued starting".split())


async def find(gateway: "Gateway", id: str, *, raw: bool = False) -> tuple[Job | None, Json | None]:
    """A job by its id: (live job, its document), or (None, final record), or (None, None).

    With `raw`, the document of a live job has its internal keys as well.
    """
    job = gateway.views.active.jobs.get(id)
    if job is not None:
        return job, document(job) if raw else live_document(gateway.seen, job)
    return None, await final_record(gateway, id)


async def timelines(gateway: "Gateway", job: Job) -> Json:
    """`timelines` of a running job, from its runner; nothing where that does not answer."""
    if job.state is not JobState.ACTIVE or job.server is None:
        return {}
    request = {"job": job.id, "timelines": True}
    try:
        answer = await ask_raw(gateway.ledger, f"live.log.{job.server}", request, _ANSWER_WITHIN)
        found = json.loads(answer.data or b"{}")
    except (LedgerUnavailable, ValueError):
        return {}
    return {"timelines": found} if found else {}


async def final_record(gateway: "Gateway", id: str) -> Json | None:
    """The stored record of a final job, with its internal keys; None if there is none."""
    at_hand = gateway.views.final_at_hand(id)
    if at_hand is not None:
        return at_hand
    return await gateway.views.history(lambda history: history.job(id))


async def completed(gateway: "Gateway", record: Json) -> Json:
    """A final record as clients see it: large values and a small log filled in.

    What is gone from CHUNKS (a deletion under way, a lost disk) is left out.
    """
    shown = shown_record(await filled(gateway, record))
    output = log_of(record)
    if output is not None and 0 < output.size <= INLINE_LOG:
        if (text := await _kept_bytes(gateway, record, output)) is not None:
            shown["output"] = text.decode("utf-8", "replace")
    elif output is None and shown.get("code") and shown.get("type") != "workflow":
        shown["output"] = f"{shown.get('description') or ''}\n"
    return shown


async def filled(gateway: "Gateway", record: Json) -> Json:
    """A stored record with its large values filled in, and with its internal keys."""
    values: Json = {}
    for key, blob in large_of(record).items():
        if (value := await _kept_bytes(gateway, record, blob)) is not None:
            values[key] = json.loads(value)
    return record | values


def shown_record(record: Json) -> Json:
    """A stored record without its internal keys, and without the places of its files' bytes."""
    shown = without_places(record)
    for key in _INTERNAL:
        shown.pop(key, None)
    return shown


def shown_rows(rows: Iterable[str]) -> list[bytes]:
    """Stored rows as JSON texts without their internal keys."""
    shown = []
    for row in rows:
        if any(f'"{key}"' in row for key in (*_INTERNAL, "blob")):
            row = to_text(shown_record(from_text(row)))
        shown.append(row.encode())
    return shown


async def completed_rows(
    gateway: "Gateway", rows: Iterable[str], select: Sequence[str] | None
) -> list[bytes]:
    """Whole stored rows as `completed` shows them; only the keys in `select` (api.md 8.5)."""
    shown = []
    for row in rows:
        record = from_text(row)
        if select is None or "output" in select or LARGE_KEY in record:
            record = await completed(gateway, record)
        record = shown_record(record)
        if select is not None:
            record = {key: value for key, value in record.items() if key in select}
        shown.append(to_text(record).encode())
    return shown


def log_of(record: Json) -> Blob | None:
    """Where a final job's log is kept; None if it has none."""
    return blob_of(record.get(LOG_KEY))


def large_of(record: Json) -> dict[str, Blob]:
    """Where a final job's large values are kept, by their keys."""
    large = record.get(LARGE_KEY)
    found = {key: blob_of(blob) for key, blob in large.items()} if isinstance(large, dict) else {}
    return {key: blob for key, blob in found.items() if blob is not None}


def blob_of(value: Any) -> Blob | None:
    """The place of stored bytes in a record; None for what is none, whoever wrote it there."""
    try:
        return from_plain(Blob, value) if value else None
    except ValueError:
        return None


async def files_of(gateway: "Gateway", record: Json) -> list[Json]:
    """What a final job left as files; an admin may have written anything there (api.md 4.8)."""
    files = (await filled(gateway, record)).get("files")
    return [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []


async def _kept_bytes(gateway: "Gateway", record: Json, blob: Blob) -> bytes | None:
    """The bytes of a small blob; None if they are gone, which is logged."""
    try:
        return b"".join([part async for part in read_chunks(gateway.ledger, blob)])
    except ChunksMissing as error:
        log.warning(
            "Part of a job's record is gone",
            action="chunks_missing",
            job=record.get("id"),
            reason=str(error),
        )
        return None


def category_and_targets(job: Job) -> tuple[Any, Any]:
    """What decides whether a caller may see a live job."""
    document = job.spec.document | job.changes | job.update_asked
    return document.get("category"), document.get("targets")
