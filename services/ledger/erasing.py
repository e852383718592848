"""Erasing what recorded deletions name: a job's facts on LEDGER and its bytes on CHUNKS.

The order makes it resumable: chunks first, as the facts say where they are; then the facts,
oldest first, so that what is left never looks like a live job. Doing it again does nothing. A
message that is not what the deletion names is left alone. Who decides that a job goes is
elsewhere (domain/deletion.py).
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING

from domain import facts as f
from domain.audit import RawFact, fact_hash
from domain.deletion import Gathering, JobFacts, chunk_subjects, job_of, readable
from domain.subjects import job_subject
from services.ledger.chunks import purge_chunks
from services.ledger.raw import raw_at, raw_on, read_raw, remove
from services.logs import logger

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

JOB_SUBJECTS = ("facts.job.*.*", "facts.order.*", "facts.report.*", "facts.queue.*")
"""Where facts of jobs stand, and what tells that one is over."""
# Single facts asked for at the same time.
_AT_ONCE = 32
# While a range is read, jobs that are over wait until this many newer ones were seen: the facts
# of one job stand close together.
_LAG = 2000

log = logger()


async def facts_of_job(ledger: "Ledger", sequences: Iterable[int], subject: str) -> list[RawFact]:
    """All facts on the job's own subject, and those at `sequences` that still exist, in order."""
    found = {raw.sequence: raw for raw in await facts_at(ledger, sequences)}
    raw = await raw_on(ledger, subject, 0)
    while raw is not None:
        found[raw.sequence] = raw
        raw = await raw_on(ledger, subject, raw.sequence)
    return [found[sequence] for sequence in sorted(found)]


async def facts_at(ledger: "Ledger", sequences: Iterable[int]) -> list[RawFact]:
    """The facts at these sequences that still exist, in that order."""
    wanted = list(sequences)
    found: list[RawFact] = []
    for start in range(0, len(wanted), _AT_ONCE):
        some = wanted[start : start + _AT_ONCE]
        answers = await asyncio.gather(*(raw_at(ledger, sequence) for sequence in some))
        found += [raw for raw in answers if raw is not None]
    return found


async def erase(ledger: "Ledger", deleted: f.JobDeleted) -> int:
    """Carry out one recorded deletion; how many facts were removed. Safe to repeat.

    What a person asked to be deleted is overwritten on disk at once.
    Raises LedgerUnavailable; what was not done is done by the next call.
    """
    named = dict(deleted.erased)
    doomed: list[int] = []
    readables: list[f.Fact] = []
    for raw in await facts_at(ledger, sorted(named)):
        fact = readable(raw)
        if fact is None or job_of(fact) != (deleted.event, deleted.job):
            _refuse(deleted, raw, "it belongs to something else")
        elif fact_hash(raw).hex() != named[raw.sequence]:
            _refuse(deleted, raw, "it has another hash")
        else:
            doomed.append(raw.sequence)
            readables.append(fact)
    for subject in sorted(chunk_subjects(readables)):
        await purge_chunks(ledger, subject)
    by_hand = deleted.actor.type in ("user", "key")
    for sequence in doomed:
        await remove(ledger, sequence, overwrite=by_hand)
    return len(doomed)


async def leftovers(ledger: "Ledger", deleted: f.JobDeleted) -> list[RawFact]:
    """What stands on the erased job's own subject and is not named by this deletion."""
    subject = job_subject(deleted.event, deleted.job)
    named = {sequence for sequence, _ in deleted.erased}
    return [raw for raw in await facts_of_job(ledger, (), subject) if raw.sequence not in named]


async def gather(
    ledger: "Ledger",
    gathering: Gathering,
    *,
    after: int,
    upto: int,
    subjects: Sequence[str],
    until: float = float("inf"),
) -> AsyncIterator[list[JobFacts]]:
    """Read a range of the ledger and hand out the finished jobs in it, some at a time.

    The range ends early at what was stored after `until` (Unix seconds). What is not over stays
    in `gathering`.
    """
    async for batch in read_raw(ledger, after=after, upto=upto, subjects=subjects):
        for raw in batch:
            if raw.at > until:
                break
            gathering.take(raw)
        else:
            if done := gathering.finished(keep=_LAG):
                yield done
            continue
        break
    yield gathering.finished()


def _refuse(deleted: f.JobDeleted, raw: RawFact, why: str) -> None:
    log.error(
        "A recorded deletion names a fact that is not erased",
        action="erasing_refused",
        job=deleted.job,
        sequence=raw.sequence,
        reason=why,
    )
