"""A fold of a ledger from which erased facts are gone is the fold that saw them."""

from hypothesis import given
from hypothesis import strategies as st

from domain import facts as f
from domain.facts import Recorded
from domain.subjects import subject_of
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.final_record import FinalRecord
from projections.history import History
from tests.projections.recording import ANNA, START, Book, all_rows, empty_store


def order(job: str) -> f.JobAssigned:
    return f.JobAssigned(
        at=START, actor=ANNA, server="s1", boot="b", event="backup", job=job, attempt=1,
        made_of=f.MadeOf(event=0),
    )  # fmt: skip


def ledger() -> Book:
    book = Book()
    book.created("backup")
    for job in ("j1", "j2"):
        asked = f.JobRequested(
            at=book.now, actor=ANNA, event="backup", job=job, made_of=f.MadeOf(event=0),
            source="user", username="anna", now=book.now,
        )  # fmt: skip
        book.add(asked)
        book.add(order(job))
        abort = f.JobAbortRequested(
            at=book.now, actor=ANNA, event="backup", job=job, reason="enough"
        )
        book.add(abort)
        book.completed(job)
        book.tagged(job, "important")
        book.changed(job, notes="seen")
    book.add(order("j1"))  # a report that came late
    return book


def erasure(book: Book, job: str) -> list[int]:
    """Record the deletion of a job; the sequences that it names."""
    named = [
        recorded.sequence for recorded, _ in book.facts if getattr(recorded.fact, "job", "") == job
    ]
    book.add(
        f.JobDeleted(
            at=book.now, actor=ANNA, event="backup", job=job,
            erased=[(sequence, "0" * 64) for sequence in named],
        )
    )  # fmt: skip
    return named


def rows_of(
    facts: list[tuple[Recorded, FinalRecord | None]],
) -> dict[str, list[tuple[object, ...]]]:
    connection = empty_store()
    History(connection).apply_batch(facts)
    facts_left = sorted(connection.execute("SELECT * FROM job_facts"))
    return all_rows(connection) | {"job_facts": facts_left}


@given(st.data())
def test_however_far_the_erasing_is_the_rows_are_the_same(data: st.DataObject) -> None:
    book = ledger()
    named = erasure(book, "j1")
    gone = data.draw(st.sets(st.sampled_from(named)))
    left = [(recorded, job) for recorded, job in book.facts if recorded.sequence not in gone]
    assert rows_of(left) == rows_of(book.facts)


def test_nothing_of_the_erased_job_is_in_any_row() -> None:
    book = ledger()
    erasure(book, "j1")
    rows = rows_of(book.facts)
    assert [row[0] for row in rows["jobs"]] == ["j2"]
    assert {row[0] for row in rows["job_facts"]} == {"j2"}
    told = [row for row in rows["activity"] if "j1" in str(row)]
    assert [row[2] for row in told] == ["job_delete"]


@given(st.data())
def test_whatever_is_gone_no_erased_job_is_live_or_owed(data: st.DataObject) -> None:
    book = ledger()
    retried = f.JobCompleted(
        at=book.now, actor=ANNA, event="backup", job="j0", code=1, description="",
        retry=f.Follower(job="j1"),
    )  # fmt: skip
    asked = f.JobRequested(
        at=book.now, actor=ANNA, event="backup", job="j0", made_of=f.MadeOf(event=0),
        source="user", username="anna", now=book.now,
    )  # fmt: skip
    facts = [Recorded(n, subject_of(fact), fact) for n, fact in enumerate((asked, retried), 1)]
    named = erasure(book, "j1")
    gone = data.draw(st.sets(st.sampled_from(named)))
    facts += [
        Recorded(recorded.sequence + 2, recorded.subject, recorded.fact)
        for recorded, _ in book.facts
        if recorded.sequence not in gone
    ]
    jobs = ActiveJobs(Definitions())
    for recorded in facts:
        jobs.apply(recorded)
    assert jobs.jobs == {}
    assert jobs.owed == {}
    assert (jobs.by_event, jobs.scopes) == ({}, {})
