"""Snapshots of schedulers on the stream SNAPSHOTS: the last two are kept (design.md 8).

A snapshot is some messages on a subject of its own, which names its position and how many they
are: so one whose writer died is told from a whole one without reading it. Knows nothing of what
the bytes mean.
"""

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.ledger import reading
from services.ledger.errors import LedgerUnavailable
from services.ledger.streams import SNAPSHOTS

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

PREFIX = "snapshots.scheduler"
KEPT = 2
PART = 512 * 1024
_ANSWER_WAIT = 10.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot on the stream: its subject, the sequence it was taken at, its messages."""

    subject: str
    position: int
    parts: int


async def write_snapshot(ledger: "Ledger", position: int, data: bytes) -> None:
    """Store a snapshot and drop all but the last two. Raises LedgerUnavailable."""
    parts = [data[start : start + PART] for start in range(0, len(data), PART)]
    subject = f"{PREFIX}.{position}.{len(parts)}.{secrets.token_hex(4)}"
    for part in parts:
        reply = await ledger.request(subject, part, within=_ANSWER_WAIT)
        error = json.loads(reply.data).get("error")
        if error is not None:
            raise LedgerUnavailable(f"NATS refused the snapshot: {error.get('description')}.")
    kept = {snapshot.subject for snapshot in (await snapshots(ledger))[:KEPT]}
    for old in (await _counts(ledger)).keys() - kept:
        purge = {"filter": old}
        reading.checked(await ledger.api(f"STREAM.PURGE.{SNAPSHOTS}", purge))


async def snapshots(ledger: "Ledger") -> list[Snapshot]:
    """The whole snapshots, newest first. Raises LedgerUnavailable."""
    found = []
    for subject, count in (await _counts(ledger)).items():
        position, parts, _ = subject.removeprefix(PREFIX + ".").split(".")
        if count == int(parts):
            found.append(Snapshot(subject, int(position), count))
    return sorted(found, key=lambda snapshot: snapshot.position, reverse=True)


async def read_snapshot(ledger: "Ledger", snapshot: Snapshot) -> bytes:
    """Its bytes, or what is left of them. Raises LedgerUnavailable."""
    parts = []
    after = 0
    for _ in range(snapshot.parts):
        query = {"seq": after + 1, "next_by_subj": snapshot.subject}
        stored = await reading.find(ledger, query, SNAPSHOTS)
        if stored is None:
            break
        parts.append(stored.data)
        after = stored.sequence
    return b"".join(parts)


async def _counts(ledger: "Ledger") -> dict[str, int]:
    """How many messages stand on each snapshot's subject."""
    body = {"subjects_filter": f"{PREFIX}.*.*.*"}
    info = reading.checked(await ledger.api(f"STREAM.INFO.{SNAPSHOTS}", body))
    return dict(info["state"].get("subjects") or {})
