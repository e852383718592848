"""Checking the audit chain of a whole ledger, as it stands, without stopping anything.

Twice through: first the recorded deletions, then every fact. What was erased meanwhile, by a
deletion recorded after the beginning, would look like a removal: then all begins anew.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from domain.audit import Auditor, Erased, Findings
from domain.deletion import readable
from domain.facts import JobDeleted
from services.ledger.raw import read_raw

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

TOMBSTONES = "facts.tombstone"
_TRIES = 5

Progress = Callable[[int, int], None]
"""Called with (sequence reached, last sequence)."""


async def audit(
    ledger: "Ledger", key: bytes, progress: Progress = lambda _at, _end: None
) -> Findings:
    """Look at every fact up to the end as it is now. Raises LedgerUnavailable."""
    for _ in range(_TRIES):
        end = await ledger.end()
        findings = await _audit_once(ledger, key, end, progress)
        if findings.sound or await _last_deletion(ledger) <= end:
            break
    return findings


async def erased_in(ledger: "Ledger", *, after: int, upto: int) -> list[JobDeleted]:
    """The deletions recorded in this range."""
    found = []
    async for batch in read_raw(ledger, after=after, upto=upto, subjects=(TOMBSTONES,)):
        for raw in batch:
            fact = readable(raw)
            if isinstance(fact, JobDeleted):
                found.append(fact)
    return found


async def _audit_once(ledger: "Ledger", key: bytes, end: int, progress: Progress) -> Findings:
    erased = Erased()
    async for batch in read_raw(ledger, after=0, upto=end, subjects=(TOMBSTONES,)):
        for raw in batch:
            fact = readable(raw)
            if isinstance(fact, JobDeleted):
                erased.add(fact)
    erased.sort()
    auditor = Auditor(key, erased)
    async for batch in read_raw(ledger, after=0, upto=end):
        for raw in batch:
            auditor.take(raw)
        progress(batch[-1].sequence, end)
    return auditor.finish(end)


async def _last_deletion(ledger: "Ledger") -> int:
    return await ledger.last_sequence(TOMBSTONES)
