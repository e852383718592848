"""The SQLite file of a gateway's views: its tables, its position, and when it is to be rebuilt.

The file is a view: it can always be thrown away and folded again from the ledger. Beside the
rows it holds snapshots of what is folded in memory, never ahead of the rows. It remembers
which ledger it was folded from and how far; a file of another ledger, or one that is ahead of
the ledger, or one that is damaged, is replaced by an empty one (design.md 8 and 11).
Knows nothing of what the rows mean (history.py, revisions.py) and runs no thread.
"""

import sqlite3
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

# Raise it when the tables change, or what is written to them: older files are then rebuilt.
SCHEMA_VERSION = 5
# Of the snapshots the last two are kept: the older one serves if the newer cannot be read.
_KEPT_STATES = 2
# Files up to this size (bytes) are checked page by page at every start: about 0.1 s.
_CHECKED_SIZE = 64 * 1024 * 1024
# Bytes per page: of rows of 2 KiB one would fit into the usual 4 KiB, and half of it were empty.
PAGE_SIZE = 16 * 1024
# The journal is carried over into the file when it has so many pages: those that change with every
# job are then written there once for hundreds of jobs.
_JOURNAL_PAGES = 1000
# Rows per statement where there are many: SQLite takes 32,766 values at most.
_AT_ONCE = (1000, 100, 10)
# Codes of errors after which the same call may succeed later.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
    }
)

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE jobs (
    id TEXT NOT NULL UNIQUE, event TEXT NOT NULL, category TEXT NOT NULL, plugin TEXT NOT NULL,
    server TEXT NOT NULL, source TEXT NOT NULL, code TEXT NOT NULL,
    started REAL NOT NULL, completed REAL NOT NULL, elapsed REAL NOT NULL,
    success INTEGER NOT NULL, retried INTEGER NOT NULL, test INTEGER NOT NULL,
    files INTEGER NOT NULL, targets INTEGER NOT NULL,
    brief TEXT NOT NULL, details TEXT NOT NULL
);
CREATE INDEX jobs_started ON jobs (started, id);
CREATE INDEX jobs_event ON jobs (event, started, id);
CREATE INDEX jobs_category ON jobs (category, started, id);
CREATE INDEX jobs_failed ON jobs (started, id) WHERE success = 0;
CREATE INDEX jobs_completed ON jobs (completed, id);
CREATE INDEX jobs_elapsed ON jobs (elapsed, id);
CREATE TABLE job_words (
    field TEXT NOT NULL, word TEXT NOT NULL, job TEXT NOT NULL, PRIMARY KEY (field, word, job)
) WITHOUT ROWID;
CREATE INDEX job_words_job ON job_words (job);
CREATE TABLE job_facts (
    job TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (job, sequence)
) WITHOUT ROWID;
CREATE TABLE activity (
    sequence INTEGER PRIMARY KEY, at REAL NOT NULL, action TEXT NOT NULL, event TEXT,
    revision INTEGER, address TEXT, record TEXT NOT NULL
);
CREATE INDEX activity_event ON activity (event, sequence) WHERE event IS NOT NULL;
CREATE INDEX activity_action ON activity (action, sequence);
CREATE INDEX activity_at ON activity (at);
CREATE TABLE activity_words (
    word TEXT NOT NULL, sequence INTEGER NOT NULL, PRIMARY KEY (word, sequence)
) WITHOUT ROWID;
CREATE INDEX activity_words_sequence ON activity_words (sequence);
CREATE TABLE snapshots (position INTEGER PRIMARY KEY, state BLOB NOT NULL);
"""


def open_store(path: Path, ledger: str, end: int) -> sqlite3.Connection:
    """A connection for the one writer of the views of `ledger`, whose last sequence is `end`.

    A file that is damaged or condemned is moved aside (`.damaged`), one of another ledger, of
    another schema or beyond `end` is removed; then an empty one takes its place. It may be
    used from any one thread at a time. Raises DatabaseError where the disk does not let it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if _condemned(path).exists():
        _move_aside(path)
    try:
        connection = _connect(path)
        if _is_sound(connection, path) and _belongs(connection, ledger, end):
            return connection
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        _move_aside(path)
    else:
        connection.close()
        _remove(path)
    connection = _connect(path)
    create_tables(connection, ledger)
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A read-only connection; each reading thread needs its own. The file must exist."""
    connection = sqlite3.connect(
        f"file:{path}?mode=ro", uri=True, timeout=10, check_same_thread=False
    )
    connection.isolation_level = None
    return connection


def create_tables(connection: sqlite3.Connection, ledger: str) -> None:
    """Empty tables at position 0 for this ledger, in an empty database."""
    connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [("schema", SCHEMA_VERSION), ("ledger", ledger), ("position", 0)],
    )


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error means that the file is spoilt; a full disk or a lock passes by itself."""
    # The low byte is the primary code, the rest says more about it.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _PASSING


def condemn(path: Path) -> None:
    """Have the file rebuilt at the next start, because using it raised an `is_damage` error."""
    _condemned(path).touch()


def take_over(path: Path) -> bool:
    """Whether nobody else has this file open; a missing or damaged one is free as well."""
    if not path.exists():
        return True
    connection = sqlite3.connect(path, timeout=0.2)
    try:
        # Leaving the WAL needs the file for oneself.
        mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        return str(mode) == "delete"
    except sqlite3.DatabaseError as error:
        return is_damage(error)
    finally:
        connection.close()


def remove_store(path: Path) -> None:
    """Remove the file with all that belongs to it; fine if it is not there."""
    _remove(path)
    _condemned(path).unlink(missing_ok=True)


def read_meta(connection: sqlite3.Connection, name: str) -> str | int | None:
    """One of `schema`, `ledger` and `position`; None in an empty file."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def insert_all(connection: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows, as many per statement as pays: each statement costs more than a small row."""
    if not rows:
        return
    marks = f"({', '.join('?' * len(rows[0]))})"
    # What cannot be inserted ends the transaction, so that SQLite keeps no copy of each page that
    # a statement changes.
    into = f"INSERT OR ROLLBACK INTO {table} VALUES "  # noqa: S608 - our own names
    start = 0
    for many in _AT_ONCE:
        while len(rows) - start >= many:
            values = list(chain.from_iterable(rows[start : start + many]))
            connection.execute(into + ", ".join([marks] * many), values)
            start += many
    connection.executemany(into + marks, rows[start:])


def keep_state(connection: sqlite3.Connection, position: int, state: bytes) -> None:
    """Keep a snapshot of what is folded in memory, and the one before it.

    The rows must be stored up to `position`. Raises sqlite3.DatabaseError.
    """
    connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", (position, state))
    connection.execute(
        "DELETE FROM snapshots WHERE position NOT IN"
        " (SELECT position FROM snapshots ORDER BY position DESC LIMIT ?)",
        (_KEPT_STATES,),
    )


def kept_states(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
    """The snapshots and their positions, newest first."""
    rows = connection.execute("SELECT position, state FROM snapshots ORDER BY position DESC")
    return rows.fetchall()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
    connection.isolation_level = None  # transactions are begun and committed explicitly
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")  # of a new file
    connection.execute("PRAGMA journal_mode = WAL")
    # After a power failure the file may be behind, never inconsistent: the fold goes on there.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_JOURNAL_PAGES}")
    return connection


def _is_sound(connection: sqlite3.Connection, path: Path) -> bool:
    if path.stat().st_size > _CHECKED_SIZE:
        return True
    if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("quick_check found damage")  # without a code: damage
    return True


def _belongs(connection: sqlite3.Connection, ledger: str, end: int) -> bool:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
        return False
    position = read_meta(connection, "position")
    return (
        read_meta(connection, "schema") == SCHEMA_VERSION
        and read_meta(connection, "ledger") == ledger
        and isinstance(position, int)
        and position <= end
    )


def _files(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def _condemned(path: Path) -> Path:
    return path.with_name(path.name + ".condemned")


def _move_aside(path: Path) -> None:
    for file in _files(path):
        if file.exists():
            file.replace(file.with_name(file.name + ".damaged"))
    _condemned(path).unlink(missing_ok=True)


def _remove(path: Path) -> None:
    for file in _files(path):
        file.unlink(missing_ok=True)
