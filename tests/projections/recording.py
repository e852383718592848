"""Short names for facts on a small ledger, for the tests of the SQLite views."""

import sqlite3
from typing import Any

from domain import facts as f
from domain.facts import Json, Recorded
from domain.subjects import subject_of
from projections.final_record import FinalRecord, final_record
from projections.store import create_tables

ANNA = f.Actor(type="user", id="anna", address="192.0.2.7")
START = 1_700_000_000.0


class Book:
    """A ledger in a list: `add` gives each fact the next sequence."""

    def __init__(self) -> None:
        self.facts: list[tuple[Recorded, FinalRecord | None]] = []

    def add(self, fact: f.Fact, job: Json | None = None) -> int:
        sequence = len(self.facts) + 1
        record = None if job is None else final_record(job["id"], job)
        self.facts.append((Recorded(sequence, subject_of(fact), fact), record))
        return sequence

    def document(self, sequence: int) -> Json:
        """The final document that came with a JobCompleted."""
        record = self.facts[sequence - 1][1]
        assert record is not None
        return record.document()

    @property
    def now(self) -> float:
        return START + 60.0 * len(self.facts)

    def created(self, event: str, **keys: Any) -> int:
        definition = {"id": event, "title": event.title(), "revision": 1, **keys}
        return self.add(f.EventCreated(at=self.now, actor=ANNA, event=event, definition=definition))

    def updated(self, event: str, changed: list[str], **keys: Any) -> int:
        definition = {"id": event, **keys}
        return self.add(
            f.EventUpdated(
                at=self.now, actor=ANNA, event=event, definition=definition, changed=changed
            )
        )

    def deleted(self, event: str, delete_jobs: bool = False) -> int:
        return self.add(
            f.EventDeleted(at=self.now, actor=ANNA, event=event, delete_jobs=delete_jobs)
        )

    def completed(self, job: str, event: str = "backup", **keys: Any) -> int:
        """A job's end; its final document has the usual keys, and `keys` over them."""
        document: Json = {
            "id": job, "event": event, "category": "general", "plugin": "shellplug",
            "server": "s1", "groups": ["main"], "targets": ["main"], "source": "user",
            "tags": [], "code": 0, "started": self.now - 2, "completed": self.now,
            "elapsed": 2.0, "state": "complete", "final": True,
            "params": {"a": 1}, "activity": [], "output": "done\n", **keys,
        }  # fmt: skip
        return self.add(
            f.JobCompleted(
                at=self.now, actor=ANNA, event=event, job=job, code=document["code"], description=""
            ),
            document,
        )

    def finished(self, job: str, order: int = 1, event: str = "backup") -> int:
        """A runner's report of a process that left five bytes of log."""
        return self.add(
            f.JobFinished(
                at=self.now,
                actor=ANNA,
                event=event,
                job=job,
                server="s1",
                boot="b1",
                order=order,
                code=0,
                description="",
                ended=self.now,
                log=f.Blob(sequences=[1], size=5, sha256=""),
            )
        )

    def tagged(self, job: str, *tags: str) -> int:
        return self.add(
            f.JobTagged(at=self.now, actor=ANNA, event="backup", job=job, tags=list(tags))
        )

    def changed(self, job: str, **changes: Any) -> int:
        return self.add(
            f.JobUpdated(at=self.now, actor=ANNA, event="backup", job=job, changes=changes)
        )

    def erased(self, job: str) -> int:
        return self.add(f.JobDeleted(at=self.now, actor=ANNA, event="backup", job=job))


def empty_store() -> sqlite3.Connection:
    """Tables in memory, at position 0."""
    connection = sqlite3.connect(":memory:")
    connection.isolation_level = None
    create_tables(connection, "ledger-1")
    return connection


def all_rows(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that the tables hold, in an order that does not depend on how it came in."""
    tables = ("meta", "jobs", "job_words", "job_facts", "activity", "activity_words")
    return {name: sorted(connection.execute(f"SELECT * FROM {name}")) for name in tables}
