"""Which facts are a job's, what a deletion says of them, and what its seals hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import facts as f
from domain.audit import NO_HASH, Auditor, Erased, RawFact, fact_hash, seal
from domain.deletion import (
    MOST_NAMED,
    Gathering,
    JobFacts,
    children_of,
    chunk_subjects,
    decide_delete_job,
    facts_of,
    job_of,
)
from domain.errors import RuleBroken
from domain.subjects import subject_of

WHO = f.Actor(type="user", id="anna")
KEY = b"key"
FIRE = f.FireKey(anchor=3, trigger=0, due=60.0)
BLOB = {"sequences": [1], "size": 1, "sha256": ""}


def raw(sequence: int, fact: f.Fact) -> RawFact:
    return RawFact(sequence, subject_of(fact), b"NATS/1.0\r\n\r\n", f.encode(fact), float(sequence))


def requested(job: str, event: str = "e", **keys: object) -> f.JobRequested:
    return f.from_plain(f.JobRequested,
        {
            "at": 1, "actor": WHO, "event": event, "job": job, "made_of": {"event": 1},
            "source": "scheduler", "username": "anna", "now": 1,
        }
        | keys
    )  # fmt: skip


def assigned(job: str, event: str = "e", server: str = "s1") -> f.JobAssigned:
    return f.JobAssigned(
        at=1, actor=WHO, server=server, boot="b", event=event, job=job, attempt=1,
        made_of=f.MadeOf(event=1),
    )  # fmt: skip


def completed(job: str, event: str = "e", retry: str | None = None) -> f.JobCompleted:
    owed = f.Follower(job=retry) if retry else None
    return f.JobCompleted(at=1, actor=WHO, event=event, job=job, code=0, description="", retry=owed)


def life(job: str, first: int, event: str = "e") -> list[RawFact]:
    facts: list[f.Fact] = [requested(job, event), assigned(job, event), completed(job, event)]
    return [raw(first + n, fact) for n, fact in enumerate(facts)]


# --- deleting one job ----------------------------------------------------------------------------


def decide(raws: list[RawFact], *, parent_is_live: bool = False) -> list[f.JobDeleted]:
    record = {"id": "j1", "event": "e"}
    return decide_delete_job(record, raws, parent_is_live=parent_is_live, now=9, actor=WHO)


def test_a_deletion_names_each_fact_of_the_job_with_its_hash() -> None:
    raws = life("j1", 10)
    [deleted] = decide([*raws, *life("j2", 20)])
    assert deleted.erased == [(one.sequence, fact_hash(one).hex()) for one in raws]


def test_a_deletion_remembers_which_fire_the_job_was() -> None:
    fired = requested("j1", fire=FIRE, counters=f.Counters(cursor=60, nth=2))
    [deleted] = decide([raw(5, fired)])
    assert (deleted.source, deleted.fire) == ("scheduler", FIRE)
    assert deleted.counters == f.Counters(cursor=60, nth=2)


def test_a_child_stays_as_long_as_its_parent_is_live() -> None:
    with pytest.raises(RuleBroken) as refused:
        decide(life("j1", 1), parent_is_live=True)
    assert refused.value.code == "job"


def test_very_many_facts_are_named_by_several_deletions() -> None:
    job = JobFacts("e", "j1", hashes={n: bytes(32) for n in range(MOST_NAMED + 1)})
    parts = job.deletions(now=1, actor=WHO)
    assert [len(part.erased) for part in parts] == [MOST_NAMED, 1]


def test_what_cannot_be_read_belongs_to_nobody() -> None:
    broken = RawFact(1, "facts.job.e.j1", b"", b"no fact")
    assert facts_of("e", "j1", [broken]).hashes == {}


def test_no_runner_ends_a_job_for_its_age_by_a_report() -> None:
    forged = RawFact(1, "facts.report.s1", b"", f.encode(completed("j1")))
    assert facts_of("e", "j1", [forged]).hashes == {}


@pytest.mark.parametrize(
    "fact",
    [
        f.LaunchRejected(at=1, actor=WHO, event="e", job="j1", reason="", now=1, source="user"),
        f.FiresMissed(at=1, actor=WHO, event="e", after=1, upto=2, count=1, reason=""),
        f.JobDeleted(at=1, actor=WHO, event="e", job="j1"),
        f.QueueFlushed(at=1, actor=WHO, event="e", jobs=["j1"]),
        f.EventDeleted(at=1, actor=WHO, event="e"),
    ],
)
def test_facts_that_outlive_the_job(fact: f.Fact) -> None:
    assert job_of(fact) is None


def test_the_children_of_a_parent_are_those_its_result_names() -> None:
    nodes = {"job": [{"id": "a"}, {"id": "b"}], "other": [{"id": "c"}, {}]}
    assert children_of({"workflow": {"jobs": nodes}}) == ["a", "b", "c"]
    assert children_of({"workflow": {}}) == children_of({}) == []


# --- where its bytes are -------------------------------------------------------------------------


def test_chunks_are_wherever_the_job_ran() -> None:
    facts = [assigned("j1", server="s1"), assigned("j1", server="s2"), completed("j1")]
    assert chunk_subjects(facts) == {"chunks.s1.j1", "chunks.s2.j1"}


def test_uploads_go_unless_a_retry_or_a_parent_has_them() -> None:
    own = {"id": "f1", "blob": BLOB, "job": "j1"}
    uploads = {"files": [own, {"id": "f2", "job": "j1"}, "odd"]}
    asked = requested("j1", input=uploads)
    assert chunk_subjects([asked, completed("j1")]) == {"chunks.upload.f1"}
    assert chunk_subjects([asked, completed("j1", retry="j2")]) == set()
    again = requested("j2", input=uploads, retry_prev="j1", first_attempt="j1")
    assert chunk_subjects([again, completed("j2")]) == {"chunks.upload.f1"}
    child = requested("j1", input=uploads, workflow={"job": "parent"})
    assert chunk_subjects([child, completed("j1")]) == set()


def test_files_that_another_job_may_have_been_given_stay() -> None:
    uploaded_alone = {"id": "f1", "blob": BLOB}
    of_another = {"id": "f2", "blob": BLOB, "job": "j0", "path": "files/jobs/j0/x/out.txt"}
    asked = requested("j1", input={"files": [uploaded_alone, of_another]})
    assert chunk_subjects([asked, completed("j1")]) == set()


# --- looking for finished jobs -------------------------------------------------------------------


def gathered(raws: list[RawFact], gathering: Gathering | None = None) -> Gathering:
    gathering = gathering or Gathering()
    for one in raws:
        gathering.take(one)
    return gathering


def test_finished_jobs_are_handed_out_and_unfinished_ones_kept() -> None:
    gathering = gathered([*life("j1", 1), raw(5, requested("j2")), raw(6, assigned("j2"))])
    assert [job.job for job in gathering.finished()] == ["j1"]
    assert (list(gathering.open), gathering.first_open) == (["j2"], 5)
    gathered([raw(7, completed("j2"))], gathering)
    [second] = gathering.finished()
    assert sorted(second.hashes) == [5, 6, 7]
    assert gathering.first_open is None


def test_the_newest_wait_for_facts_that_may_still_come() -> None:
    gathering = gathered([*life("j1", 1), *life("j2", 5), *life("j3", 9)])
    assert [job.job for job in gathering.finished(keep=2)] == ["j1"]


def test_a_flushed_job_is_over() -> None:
    flushed = f.QueueFlushed(at=1, actor=WHO, event="e", jobs=["j1", "unknown"])
    gathering = gathered([raw(1, requested("j1")), raw(2, flushed)])
    assert [sorted(job.hashes) for job in gathering.finished()] == [[1]]


def test_a_late_report_of_an_erased_job_is_found_as_well() -> None:
    gathering = gathered([raw(9, assigned("jgone"))])
    assert [job.job for job in gathering.finished()] == ["jgone"]


def test_only_jobs_requested_up_to_the_deletion_of_their_event_are_looked_for() -> None:
    gathering = Gathering(lambda event, request: event == "e" and request <= 10)
    gathered([*life("old", 1), *life("else", 5, event="other"), *life("new", 11)], gathering)
    assert [job.job for job in gathering.finished()] == ["old"]
    assert gathering.open == {}
    assert gathering.position == 13


# --- the chain -----------------------------------------------------------------------------------


def sealed(ledger: list[RawFact], first: int) -> RawFact:
    """The next fact: a seal over those from `first` to the last."""
    last = ledger[-1].sequence
    by_sequence = {one.sequence: fact_hash(one) for one in ledger}
    hashes = [by_sequence.get(n, NO_HASH) for n in range(first, last + 1)]
    digest, tags = seal(KEY, first, hashes)
    fact = f.ChainSealed(at=1, actor=WHO, first=first, last=last, digest=digest, tags=tags)
    return raw(last + 1, fact)


def audited(ledger: list[RawFact], deletions: list[f.JobDeleted], end: int) -> list[str]:
    auditor = Auditor(KEY, Erased(deletions))
    for one in ledger:
        auditor.take(one)
    return [str(problem) for problem in auditor.finish(end).problems]


def small_ledger() -> list[RawFact]:
    ledger = life("j1", 1)
    ledger.append(sealed(ledger, 1))
    ledger += life("j2", 5)
    ledger.append(sealed(ledger, 4))
    return ledger


def test_an_untouched_chain_has_no_problems() -> None:
    assert audited(small_ledger(), [], 8) == []


def test_an_erased_job_counts_by_what_its_deletion_names() -> None:
    ledger = small_ledger()
    [deleted] = decide(ledger)
    left = [one for one in ledger if one.sequence > 3]
    assert audited(left, [deleted, deleted], 8) == []
    assert audited(left, [], 8) == [
        "facts 1 to 3: missing, and no recorded deletion names it",
        "facts 1 to 3: not what seal 4 says was recorded",
    ]


def test_a_seal_that_is_gone_is_missed_and_its_range_told() -> None:
    told = audited([one for one in small_ledger() if one.sequence != 4], [], 8)
    assert "facts 1 to 3: not covered by any seal" in told
    assert "fact 4: missing, and no recorded deletion names it" in told


@given(st.data())
def test_any_one_change_is_found(data: st.DataObject) -> None:
    ledger = small_ledger()
    place = data.draw(st.integers(0, 6))
    victim = ledger[place]
    bit = data.draw(st.integers(0, len(victim.data) * 8 - 1))
    flipped = bytearray(victim.data)
    flipped[bit // 8] ^= 1 << bit % 8
    changed = RawFact(victim.sequence, victim.subject, victim.headers, bytes(flipped))
    assert audited([*ledger[:place], changed, *ledger[place + 1 :]], [], 8)
    assert audited([*ledger[:place], *ledger[place + 1 :]], [], 8)
    assert audited([*ledger[:place], ledger[place], *ledger[place:]], [], 8)


@given(st.binary(max_size=8), st.binary(max_size=8), st.text("ab.", max_size=4))
def test_no_two_facts_that_differ_share_a_hash(headers: bytes, data: bytes, subject: str) -> None:
    """Where one part ends and the next begins counts as well."""
    one = RawFact(1, subject, headers, data)
    for other in (
        RawFact(2, subject, headers, data),
        RawFact(1, subject + "x", headers, data),
        RawFact(1, subject, headers + b"x", data),
        RawFact(1, subject, headers, data + b"x"),
    ):
        assert fact_hash(one) != fact_hash(other)
    if headers:
        moved = RawFact(1, subject, headers[:-1], headers[-1:] + data)
        assert fact_hash(one) != fact_hash(moved)
