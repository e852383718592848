"""The SQLite view of a gateway, folded anew from the ledger: to rebuild it, and to check it.

The fold is the ledger's alone, so a view that differs from it was damaged, altered or made by
another release. Works beside running services: a view is compared by a copy of itself.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from domain.facts import Recorded
from domain.subjects import standing
from projections.final_jobs import FinalJobs
from projections.final_record import FinalRecord, final_record
from projections.history import History
from projections.store import PAGE_SIZE, SCHEMA_VERSION, create_tables, open_reader, read_meta
from services.ledger.auditing import erased_in
from services.ledger.connection import Ledger
from services.ledger.raw import read_raw

Progress = Callable[[int, int], None]

# Table -> the column that says to which job or fact a row belongs.
TABLES = {
    "jobs": "id",
    "job_words": "job",
    "job_facts": "job",
    "activity": "sequence",
    "activity_words": "sequence",
}
_MOST_TOLD = 1000


@dataclass(slots=True)
class Comparison:
    """How a view compares with the ledger; `differences` are sentences, one per row.

    `stale`: it was made by another release, so nothing was compared.
    """

    path: Path
    position: int = 0
    rows: int = 0
    stale: bool = False
    difference_count: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether the view is what the ledger says."""
        return self.difference_count == 0


def views_of(data_dir: Path) -> list[Path]:
    """The view files of a data directory; one per port that a gateway listened on."""
    return sorted((data_dir / "gateway").glob("history-*.sqlite"))


async def refold(
    ledger: Ledger, path: Path, *, ledger_id: str, upto: int, progress: Progress
) -> None:
    """Write a new view file with everything up to a sequence; it must not exist yet."""
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.isolation_level = None
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")
        create_tables(connection, ledger_id)
        history, jobs = History(connection), FinalJobs()
        async for batch in read_raw(ledger, after=0, upto=upto):
            rows: list[tuple[Recorded, FinalRecord | None]] = []
            for raw in batch:
                fact = standing(raw.subject, raw.data)
                if fact is None:
                    continue
                recorded = Recorded(raw.sequence, raw.subject, fact)
                final = jobs.apply(recorded)
                rows.append((recorded, final_record(final["id"], final) if final else None))
            await asyncio.to_thread(history.apply_batch, rows)
            progress(batch[-1].sequence, upto)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'position'", (upto,))
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


async def compare(ledger: Ledger, path: Path, *, ledger_id: str, progress: Progress) -> Comparison:
    """Fold the ledger up to where the view is, and compare all rows.

    Raises LedgerUnavailable, UnreadableFact.
    """
    with TemporaryDirectory(prefix="jobledger-verify-") as folder:
        copy, fresh = Path(folder) / "copy.sqlite", Path(folder) / "fresh.sqlite"
        found = Comparison(path)
        try:
            await asyncio.to_thread(_copy, path, copy)
            comparable = _look(found, copy, ledger_id, await ledger.end())
        except sqlite3.DatabaseError as error:
            _tell(found, f"the view cannot be read: {error}")
            return found
        if not comparable:
            return found
        await refold(ledger, fresh, ledger_id=ledger_id, upto=found.position, progress=progress)
        # What was erased since then is missing from the fresh fold, rightly.
        since = await erased_in(ledger, after=found.position, upto=await ledger.end())
        excused: set[object] = {fact.job for fact in since}
        excused |= {sequence for fact in since for sequence, _ in fact.erased}
        await asyncio.to_thread(_compare_tables, found, copy, fresh, excused)
        return found


def _look(found: Comparison, copy: Path, ledger_id: str, end: int) -> bool:
    """Whether the rows can be compared; what else there is to say is told."""
    with closing(open_reader(copy)) as connection:
        made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        if not made or read_meta(connection, "schema") != SCHEMA_VERSION:
            found.stale = True
            return False
        found.position = int(read_meta(connection, "position") or 0)
        if read_meta(connection, "ledger") != ledger_id:
            _tell(found, "the view belongs to another ledger")
        elif found.position > end:
            _tell(found, f"the view is at {found.position}, but the ledger ends at {end}")
    return found.sound


def _copy(path: Path, copy: Path) -> None:
    """The view as it is at one moment; its writer goes on meanwhile."""
    with closing(open_reader(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _compare_tables(found: Comparison, copy: Path, fresh: Path, excused: set[object]) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("ATTACH ? AS fresh", (str(fresh),))
        for table, column in TABLES.items():
            count = f"SELECT COUNT(*) FROM main.{table}"  # noqa: S608
            found.rows += connection.execute(count).fetchone()[0]
            for key, sentence in _differences(connection, table, column):
                if key not in excused:
                    _tell(found, sentence)


def _differences(
    connection: sqlite3.Connection, table: str, column: str
) -> Iterator[tuple[object, str]]:
    """(key, sentence) of every row that only one of the two has."""
    sides = (("main", "fresh", "not in the ledger"), ("fresh", "main", "missing from the view"))
    for here, there, what in sides:
        rows = connection.execute(
            f"SELECT DISTINCT {column} FROM (SELECT * FROM {here}.{table} "  # noqa: S608
            f"EXCEPT SELECT * FROM {there}.{table})"
        )
        for (key,) in rows:
            yield key, f"{table}: a row of {key} is {what}"


def _tell(found: Comparison, sentence: str) -> None:
    found.difference_count += 1
    if len(found.differences) < _MOST_TOLD:
        found.differences.append(sentence)
