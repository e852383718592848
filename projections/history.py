"""Finished jobs: every final record, found by id or by search (api.md 4.3, 4.4, 8.5).

`History` is the gateway's view in SQLite. It is fed every fact in order, many per transaction,
and writes rows and position together, so a crash leaves it at an earlier position and never
half-way. It does not compute a job's final record: the caller hands that in with JobCompleted.
Revisions and activity live in the same file and transaction (revisions.py). It runs no thread
and reads no clock.

    connection = open_store(path, ledger_id, end_of_ledger)
    history = History(connection)             # the one writer
    history.apply_batch(facts)                # facts after history.position
    History(open_reader(path)).job("j1")      # one reader per thread
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from domain import facts as f
from domain.facts import Json, Recorded
from projections.final_record import FinalRecord, changed, final_record, whole
from projections.job_view import with_late_report
from projections.revisions import PASSED_OVER, Page, Revisions, from_text
from projections.search import Calendar, all_of, jobs_where, within_limits
from projections.store import insert_all, read_meta

_ORDER = {
    "_id": "started {0}, id {0}",
    "started": "started {0}, id {0}",
    "completed": "completed {0}, id {0}",
    "elapsed": "elapsed {0}, id {0}",
}
_MOST_MARKS = 500
_ENDS = frozenset({f.JobFinished, f.JobCompleted})
# Orders and reports, which do not stand on their job's own subject.
_OF_RUNNERS = frozenset(
    {
        f.JobAssigned,
        f.JobAbortOrdered,
        f.JobStarted,
        f.JobFinishing,
        f.JobFinished,
        f.JobReturned,
    }
)


Entry = tuple[Recorded, FinalRecord | None]
"""A fact, and with a JobCompleted the record of its job."""


class History:
    """The tables of finished jobs, and of revisions as `revisions`. Synchronous throughout.

    A DatabaseError that `is_damage` (store.py) means that the file is spoilt: condemn it and
    open it anew. Any other leaves it as it was; the same call may succeed later.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.revisions = Revisions(connection)
        self.position = int(read_meta(connection, "position") or 0)
        self._rows = _Rows()
        self._known: set[str] = set()

    def apply_batch(self, facts: Sequence[Entry], upto: int = 0) -> None:
        """Fold these facts, in order, in one transaction; those already folded are skipped.

        With a JobCompleted comes the final record of its job, or None where the job is not
        known; with every other fact None. Ephemeral jobs leave no record. `upto` is the last
        sequence that is folded then, if that is not the last fact's: jobs' orders and reports
        may be left out where the record names them.
        """
        end = max(upto, facts[-1][0].sequence if facts else 0)
        if end <= self.position:
            return
        with _transaction(self._connection):
            # Another process may have stored something as well, the scribe of a gateway above all.
            self.position = int(read_meta(self._connection, "position") or 0)
            if end <= self.position:
                return
            fresh = [entry for entry in facts if entry[0].sequence > self.position]
            self._rows, self._known = _Rows(), self._known_of(fresh)
            for recorded, record in fresh:
                self._apply(recorded, record)
            self._write_rows()
            self._connection.execute("UPDATE meta SET value = ? WHERE name = 'position'", (end,))
        self.position = end

    def job(self, id: str) -> Json | None:
        """The whole final record of a job."""
        return self.jobs([id]).get(id)

    def jobs(self, ids: Iterable[str], *, verbose: bool = True) -> dict[str, Json]:
        """The final records of those of these jobs that have one; pruned unless `verbose`."""
        wanted = list(dict.fromkeys(ids))
        found: dict[str, Json] = {}
        for start in range(0, len(wanted), _MOST_MARKS):
            some = wanted[start : start + _MOST_MARKS]
            rows = self._connection.execute(
                f"SELECT id, brief, details FROM jobs WHERE id IN ({', '.join('?' * len(some))})",  # noqa: S608
                some,
            )
            for id, brief, details in rows:
                found[id] = from_text(whole(brief, details) if verbose else brief)
        return found

    def has(self, id: str) -> bool:
        """Whether this job has a final record."""
        found = self._connection.execute("SELECT 1 FROM jobs WHERE id = ?", (id,)).fetchone()
        return found is not None

    def facts_of(self, id: str) -> list[int]:
        """The sequences of a job's orders and reports, which do not stand on its own subject."""
        rows = self._connection.execute(
            "SELECT sequence FROM job_facts WHERE job = ? ORDER BY sequence", (id,)
        )
        return [row[0] for row in rows]

    def search(
        self,
        query: str,
        calendar: Calendar,
        *,
        offset: int = 0,
        limit: int = 1,
        sort_by: str = "_id",
        sort_dir: int = -1,
        verbose: bool = False,
        categories: Collection[str] | None = None,
        groups: Collection[str] | None = None,
    ) -> Page:
        """search_jobs (api.md 8.5): rows as JSON text, and the number of all hits.

        `categories` and `groups` are the caller's limits; none or empty = no limit. An unknown
        `sort_by` counts as `_id` (= started, then id). Raises RuleBroken("db") for a bad query.
        """
        where = all_of([jobs_where(query, calendar), within_limits(categories, groups)])
        length = self._connection.execute(
            f"SELECT COUNT(*) FROM jobs WHERE {where.sql}",  # noqa: S608
            where.params,
        ).fetchone()[0]
        order = _ORDER.get(sort_by, _ORDER["_id"]).format("ASC" if sort_dir == 1 else "DESC")
        rows = self._connection.execute(
            f"SELECT brief, details FROM jobs WHERE {where.sql} ORDER BY {order} LIMIT ? OFFSET ?",  # noqa: S608
            (*where.params, limit, offset),
        )
        return Page([whole(*row) if verbose else row[0] for row in rows], length)

    # --- folding ---------------------------------------------------------------------------

    def _known_of(self, facts: Sequence[Entry]) -> set[str]:
        """Those of the jobs that end in these facts that have a record already: very few."""
        ids = {getattr(r.fact, "job", "") for r, _ in facts if type(r.fact) in _ENDS}
        rows = self._connection.execute(
            "SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(ids)),),
        )
        return {row[0] for row in rows}

    def _apply(self, recorded: Recorded, record: FinalRecord | None) -> None:
        fact = recorded.fact
        kind = type(fact)
        if kind in _OF_RUNNERS:
            id: str = getattr(fact, "job", "")
            self._rows.job_facts.append((id, recorded.sequence))
            if id in self._known and isinstance(fact, f.JobFinished):
                self._take_late(fact)
        elif isinstance(fact, f.JobCompleted):
            if record is not None:
                self._rows.job_facts += [
                    (fact.job, sequence) for sequence in record.orders if sequence > self.position
                ]
                if not record.ephemeral:
                    self._store(record)
        elif kind not in PASSED_OVER:
            self.revisions.add(recorded)
            self._revise(recorded)

    def _revise(self, recorded: Recorded) -> None:
        """What changes records that may be there, and so needs them written."""
        match fact := recorded.fact:
            case f.JobTagged() | f.JobUpdated():
                self._change(fact.job, recorded)
            case f.JobDeleted():
                self._forget(fact)
            case f.EventDeleted() if fact.delete_jobs:
                self._write_rows()
                rows = self._connection.execute(
                    "SELECT id FROM jobs WHERE event = ?", (fact.event,)
                )
                self._erase([row[0] for row in rows.fetchall()])
            case _:
                pass

    def _write_rows(self) -> None:
        """Insert what is gathered: many rows per statement, in the order of their keys."""
        rows, self._rows = self._rows, _Rows()
        insert_all(self._connection, "jobs", rows.jobs)
        words = [(*found, job) for found in sorted(rows.words) for job in sorted(rows.words[found])]
        insert_all(self._connection, "job_words", words)
        insert_all(self._connection, "job_facts", sorted(rows.job_facts))

    def _take_late(self, fact: f.JobFinished) -> None:
        self._write_rows()
        record = self.job(fact.job)
        if record is not None:
            self._store(final_record(fact.job, with_late_report(record, fact)))

    def _change(self, id: str, recorded: Recorded) -> None:
        self._write_rows()
        job = self.job(id)
        if job is not None:
            self._known.add(id)
            self._store(final_record(id, changed(job, recorded)))

    def _store(self, record: FinalRecord) -> None:
        """Have a record written, in place of one that is known."""
        id = record.row[0]
        if id in self._known:
            self._write_rows()
            self._erase([id])
        self._known.add(id)
        self._rows.jobs.append(record.row)
        for named, word, job in record.words:
            self._rows.words.setdefault((named, word), []).append(job)

    def _forget(self, fact: f.JobDeleted) -> None:
        """Drop all that an erased job's facts left: a fold without them must be the same."""
        self._write_rows()
        self._erase([fact.job])
        self._connection.execute("DELETE FROM job_facts WHERE job = ?", (fact.job,))
        self.revisions.forget(sequence for sequence, _ in fact.erased)

    def _erase(self, ids: Sequence[str]) -> None:
        marks = [(id,) for id in ids]
        self._connection.executemany("DELETE FROM job_words WHERE job = ?", marks)
        self._connection.executemany("DELETE FROM jobs WHERE id = ?", marks)


@dataclass(slots=True)
class _Rows:
    """Rows of a transaction that are still to be inserted."""

    jobs: list[tuple[Any, ...]] = field(default_factory=list)
    words: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    job_facts: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # some errors end it by themselves
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
