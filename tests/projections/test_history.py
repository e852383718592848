"""Finished jobs in SQLite: what each fact leaves there, and what becomes of the file."""

import json
import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.facts import Json
from projections.history import History
from projections.search import Calendar
from projections.store import condemn, is_damage, open_reader, open_store, read_meta
from tests.projections.recording import START, Book, all_rows, empty_store

NOW = Calendar(now=START)


def told(book: Book) -> History:
    """A history that has seen the whole book."""
    history = History(empty_store())
    history.apply_batch(book.facts)
    return history


def test_a_completed_job_is_found_whole_and_pruned() -> None:
    book = Book()
    book.completed("j1", own_key={"kept": True})
    history = told(book)

    job = history.job("j1")
    assert job == book.document(1)
    pruned = history.jobs(["j1"], verbose=False)["j1"]
    assert pruned["own_key"] == {"kept": True}
    assert {"activity", "output"}.isdisjoint(pruned)
    assert pruned["params"] == {"a": 1}


def test_jobs_leaves_out_what_it_does_not_know() -> None:
    book = Book()
    for number in range(3):
        book.completed(f"j{number}")

    assert list(told(book).jobs(["j2", "nobody", "j0", "j2"])) == ["j0", "j2"]


def test_an_ephemeral_or_unknown_job_leaves_no_record() -> None:
    book = Book()
    book.completed("j1", ephemeral=True)
    book.completed("j2")
    book.facts[1] = (book.facts[1][0], None)
    history = told(book)

    assert not history.has("j1")
    assert not history.has("j2")
    assert history.position == 2


def test_new_tags_replace_the_old_ones_and_leave_a_line_in_the_job() -> None:
    book = Book()
    book.completed("j1", tags=["old", "_success", "_last"])
    book.tagged("j1", "new", "newer")
    history = told(book)

    job = history.job("j1")
    assert job is not None
    assert job["tags"] == ["new", "newer"]
    assert job["activity"][-1]["msg"].endswith("new, newer")
    assert job["activity"][-1]["username"] == "anna"
    assert history.search("tags:old", NOW).length == 0
    assert history.search("tags:new newer _success", NOW).length == 1


def test_a_change_merges_counts_and_never_renames() -> None:
    book = Book()
    book.completed("j1", perf={"a": 1}, hits=3)
    book.changed("j1", hits="+2", label="-1", id="j9", code=7, perf={"b": 2})
    history = told(book)

    job = history.job("j1")
    assert job is not None
    assert (job["id"], job["hits"], job["label"], job["perf"]) == ("j1", 5, "-1", {"b": 2})
    assert not history.has("j9")
    assert history.search("code:7 tags:_error", NOW).length == 1


@pytest.mark.parametrize("value", [10**400, float("nan"), float("-inf"), None, "x", [1]])
def test_no_value_of_an_admin_stops_the_fold(value: object) -> None:
    book = Book()
    book.completed("j1")
    book.changed("j1", started=value, completed=value, elapsed=value, code=value, tags=value)

    assert told(book).search("*", NOW).length == 1


def test_a_deleted_job_is_gone_without_a_trace_in_the_tables() -> None:
    book = Book()
    book.completed("j1", tags=["x"])
    book.erased("j1")
    history = told(book)

    assert history.job("j1") is None
    assert history.search("tags:x", NOW).length == 0
    assert history._connection.execute("SELECT COUNT(*) FROM job_words").fetchone() == (0,)


def test_an_event_deleted_with_its_jobs_takes_only_its_own_earlier_jobs() -> None:
    book = Book()
    book.completed("j1", event="backup")
    book.completed("j2", event="other")
    book.deleted("backup", delete_jobs=True)
    book.completed("j3", event="backup")
    history = told(book)

    assert list(history.jobs(["j1", "j2", "j3"])) == ["j2", "j3"]


def test_what_was_folded_already_changes_nothing() -> None:
    book = Book()
    book.completed("j1", hits=1)
    book.changed("j1", hits="+1")
    history = told(book)
    before = all_rows(history._connection)

    history.apply_batch(book.facts)

    assert all_rows(history._connection) == before


def test_a_batch_that_fails_leaves_neither_rows_nor_position() -> None:
    book = Book()
    book.completed("j1")
    book.completed("j2")
    connection = empty_store()
    history = History(connection)

    connection.execute(
        "CREATE TEMP TRIGGER full BEFORE INSERT ON main.jobs WHEN NEW.id = 'j2' "
        "BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
    )
    with pytest.raises(sqlite3.DatabaseError, match="disk is full"):
        history.apply_batch(book.facts)

    assert history.position == 0
    assert not history.has("j1")
    connection.execute("DROP TRIGGER full")
    history.apply_batch(book.facts)
    assert history.has("j2")


JOBS = st.sampled_from(["j1", "j2", "j3"])
EVENTS = st.sampled_from(["backup", "report"])
CODES = st.sampled_from([0, 1, "abort"])
STEPS = st.one_of(
    st.builds(lambda j, e, c: ("completed", j, e, c), JOBS, EVENTS, CODES),
    st.builds(lambda j, t: ("tagged", j, t), JOBS, st.sampled_from(["a", "b"])),
    st.builds(lambda j: ("changed", j), JOBS),
    st.builds(lambda j: ("reported", j), JOBS),
    st.builds(lambda j: ("erased", j), JOBS),
    st.builds(lambda e: ("created", e), EVENTS),
    st.builds(lambda e, d: ("deleted", e, d), EVENTS, st.booleans()),
)  # fmt: skip


def written(steps: list[tuple[object, ...]]) -> Book:
    """A book of these steps, possible or not."""
    book = Book()
    for step in steps:
        match step:
            case ("completed", str(job), str(event), code):
                book.completed(job, event, code=code, tags=["a"], hits=1)
            case ("tagged", str(job), str(tag)):
                book.tagged(job, tag)
            case ("changed", str(job)):
                book.changed(job, hits="+1")
            case ("reported", str(job)):
                book.finished(job)
            case ("erased", str(job)):
                book.erased(job)
            case ("created", str(event)):
                book.created(event)
            case ("deleted", str(event), bool(jobs)):
                book.deleted(event, jobs)
    return book


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25), st.lists(st.integers(0, 25), max_size=6))
def test_how_the_facts_are_split_into_batches_makes_no_difference(
    steps: list[tuple[object, ...]], cuts: list[int]
) -> None:
    book = written(steps)
    split = History(empty_store())
    edges = [0, *sorted(cuts), len(book.facts)]
    for start, end in pairwise(edges):
        split.apply_batch(book.facts[start:end])

    assert all_rows(split._connection) == all_rows(told(book)._connection)


def test_many_jobs_at_once_leave_the_rows_that_they_leave_one_by_one() -> None:
    book = Book()
    for number in range(120):
        book.finished(f"j{number}")
        book.completed(f"j{number}", tags=["a", f"tag{number % 7}"])
    singly = History(empty_store())
    for entry in book.facts:
        singly.apply_batch([entry])

    rows = all_rows(told(book)._connection)
    assert rows == all_rows(singly._connection)
    assert len(rows["jobs"]) == len(rows["job_facts"]) == 120
    assert len(rows["job_words"]) == 120 * 4


# --- the file --------------------------------------------------------------------------------


def filled(path: Path) -> Book:
    """A file that holds one job and has been closed."""
    book = Book()
    book.completed("j1")
    connection = open_store(path, "ledger-1", 1)
    History(connection).apply_batch(book.facts)
    connection.close()
    return book


def test_a_file_goes_on_where_it_stopped(tmp_path: Path) -> None:
    filled(tmp_path / "history.db")
    history = History(open_store(tmp_path / "history.db", "ledger-1", 1))

    assert history.position == 1
    assert history.has("j1")
    assert History(open_reader(tmp_path / "history.db")).has("j1")


@pytest.mark.parametrize(("ledger", "end"), [("ledger-2", 10), ("ledger-1", 0)])
def test_a_file_of_another_ledger_or_beyond_its_end_is_rebuilt(
    ledger: str, end: int, tmp_path: Path
) -> None:
    filled(tmp_path / "history.db")
    connection = open_store(tmp_path / "history.db", ledger, end)

    assert History(connection).position == 0
    assert not History(connection).has("j1")
    assert read_meta(connection, "ledger") == ledger


def test_a_file_of_another_schema_is_rebuilt(tmp_path: Path) -> None:
    filled(tmp_path / "history.db")
    with sqlite3.connect(tmp_path / "history.db") as connection:
        connection.execute("UPDATE meta SET value = 0 WHERE name = 'schema'")

    assert History(open_store(tmp_path / "history.db", "ledger-1", 5)).position == 0


def damage_all(path: Path) -> None:
    path.write_bytes(b"no database at all" * 500)


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 200] = b"\xff" * 200
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [damage_all, damage_middle, empty, delete, condemn])
def test_a_harmed_file_is_replaced_and_can_be_folded_again(harm: object, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    book = filled(path)
    assert callable(harm)
    harm(path)

    history = History(open_store(path, "ledger-1", 1))

    assert history.position == 0
    history.apply_batch(book.facts)
    assert history.job("j1") == book.document(1)
    kept = path.with_name("history.db.damaged").exists()
    assert kept == (harm in (damage_all, damage_middle, condemn))


def test_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    """Rows and position stay as they were, and the same batch goes in later."""
    path = tmp_path / "history.db"
    connection = open_store(path, "ledger-1", 9)
    history = History(connection)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    book = Book()
    book.completed("j1", output="x" * 100_000)

    with pytest.raises(sqlite3.OperationalError) as error:
        history.apply_batch(book.facts)

    assert not is_damage(error.value)
    assert history.position == 0
    connection.execute("PRAGMA max_page_count = 100000")
    history.apply_batch(book.facts)
    assert history.has("j1")


def test_rows_of_a_search_are_json_text() -> None:
    book = Book()
    book.completed("j1", label="ä\u2028")
    rows: list[Json] = [json.loads(row) for row in told(book).search("*", NOW, verbose=True).rows]

    assert rows == [book.document(1)]


def test_a_late_report_turns_an_abort_into_a_warning_with_what_was_left() -> None:
    book = Book()
    book.completed("j1", code="abort", description="Server lost")
    book.finished("j1")
    job = told(book).job("j1")

    assert job is not None
    assert job["code"] == "warning"
    assert job["log_file_size"] == 5
    assert job["description"].startswith("Job was aborted, but")
