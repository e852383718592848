"""The set of live jobs and its indexes, under any history."""

from collections import Counter

from hypothesis import given as forall
from hypothesis import settings
from hypothesis import strategies as st

from domain import facts as f
from domain.facts import Actor, Json, Recorded
from domain.job import HOLDS_A_SLOT, JobState
from domain.subjects import subject_of
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions

ACTOR = Actor(type="scheduler", id="7")
JOBS = ("j1", "j2", "j3")
SERVERS = ("s1", "s2")


def views() -> ActiveJobs:
    definitions = Definitions()
    limits = [{"type": "retry", "enabled": True, "amount": 1}]
    created = f.EventCreated(
        at=1.0, actor=ACTOR, event="e1", definition={"id": "e1", "limits": limits}
    )
    definitions.apply(Recorded(1, "", created))
    return ActiveJobs(definitions)


def fold(jobs: ActiveJobs, history: list[f.Fact], after: int = 1) -> ActiveJobs:
    for sequence, fact in enumerate(history, after + 1):
        recorded = Recorded(sequence, subject_of(fact), fact)
        jobs.definitions.apply(recorded)
        jobs.apply(recorded)
    return jobs


def fact(kind: type[f.FactBase], **fields: object) -> f.Fact:
    base: Json = {"at": 5.0, "actor": ACTOR, "event": "e1"}
    return f.from_plain(kind, base | fields)  # type: ignore[return-value]


def requested(job: str, **fields: object) -> f.Fact:
    base: Json = {"made_of": {"event": 1}, "source": "key", "username": "k", "now": 5.0}
    return fact(f.JobRequested, job=job, **(base | fields))


def assigned(job: str, server: str = "s1") -> f.Fact:
    order: Json = {"server": server, "boot": "b", "attempt": 1, "made_of": {"event": 1}}
    return fact(f.JobAssigned, job=job, **order)


def completed(job: str, retry: str | None = None) -> f.Fact:
    follower = {"job": retry} if retry else None
    return fact(f.JobCompleted, job=job, code=1, description="", retry=follower)


def queued(job: str) -> f.Fact:
    return fact(f.JobQueued, job=job, reason="full")


def histories() -> st.SearchStrategy[list[f.Fact]]:
    job = st.sampled_from(JOBS)
    order = st.integers(2, 20)
    report: Json = {"server": "s1", "boot": "b"}
    ended: Json = report | {"code": 0, "description": "", "ended": 6.0}
    return st.lists(
        st.one_of(
            st.builds(requested, job, priority=st.booleans()),
            st.builds(assigned, job, st.sampled_from(SERVERS)),
            st.builds(queued, job),
            st.builds(completed, job, st.sampled_from([None, "j3"])),
            st.builds(
                lambda j, o: fact(f.JobStarted, job=j, order=o, pid=1, started=5.0, **report),
                job,
                order,
            ),
            st.builds(lambda j, o: fact(f.JobFinished, job=j, order=o, **ended), job, order),
            st.builds(lambda j: fact(f.QueueFlushed, jobs=[j]), job),
        ),
        max_size=25,
    )


@forall(histories())
@settings(max_examples=300)
def test_every_index_agrees_with_a_recount(history: list[f.Fact]) -> None:
    jobs = fold(views(), history)
    live = jobs.jobs.values()
    running = Counter(j.scope for j in live if j.state in HOLDS_A_SLOT)
    waiting = Counter(j.scope for j in live if j.state is JobState.QUEUED)
    assert {s: jobs.running(s) for s in ("e1",)} == {"e1": running["e1"]}
    assert jobs.queued("e1") == waiting["e1"]
    order = sorted(
        (j for j in live if j.state is JobState.QUEUED),
        key=lambda j: (not j.request.priority, j.sequence),
    )
    assert list(jobs.queue("e1")) == order
    for server in SERVERS:
        held = {j.id for j in live if j.server == server}
        assert jobs.by_server.get(server, set()) == held
        assert jobs.load(server) == sum(jobs.jobs[id].spec.weight for id in held)
    assert {j.id for j in jobs.of_event("e1")} == set(jobs.jobs)


@forall(histories())
def test_facts_read_twice_change_nothing(history: list[f.Fact]) -> None:
    once = fold(views(), history)
    twice = fold(views(), history)
    for sequence, fact in enumerate(history, 2):
        assert twice.apply(Recorded(sequence, subject_of(fact), fact)) == []
    assert once.jobs == twice.jobs
    assert once.owed.keys() == twice.owed.keys()


def test_a_retry_is_owed_until_it_is_requested() -> None:
    jobs = fold(views(), [requested("j1"), completed("j1", retry="j2")])
    assert set(jobs.owed) == {"j2"}
    fold(jobs, [requested("j2", retry_prev="j1")], after=3)
    assert jobs.owed == {}


def test_children_are_owed_until_requested_and_told_to_their_parent() -> None:
    child = f.Child(job="j2", server="s1")
    jobs = fold(views(), [requested("j1"), fact(f.JobFannedOut, job="j1", children=[child])])
    assert set(jobs.owed) == {"j2"}
    assert not jobs.all_over(jobs.jobs["j1"])
    workflow = {"job": "j1", "event": "e1", "node": "job"}
    fold(jobs, [requested("j2", workflow=workflow), completed("j2")], after=3)
    assert jobs.all_over(jobs.jobs["j1"])
    assert jobs.results["j1"]["j2"]["code"] == 1


def test_those_who_wait_stand_in_line() -> None:
    history = [x for job in JOBS for x in (requested(job), queued(job))]
    jobs = fold(views(), history)
    scope = jobs.jobs["j1"].scope
    assert [job.id for job in jobs.queue(scope)] == ["j1", "j2", "j3"]
    fold(jobs, [assigned("j1")], after=7)
    assert [job.id for job in jobs.queue(scope)] == ["j2", "j3"]


def fanned_out(parent: str, *children: str) -> f.Fact:
    named = [{"job": child, "server": f"s{place}"} for place, child in enumerate(children, 1)]
    return fact(f.JobFannedOut, job=parent, children=named)


def child(job: str, parent: str, **fields: object) -> f.Fact:
    return requested(job, workflow={"job": parent, "event": "e1", "node": "job"}, **fields)


def test_a_parent_is_not_over_while_a_retry_of_its_child_is_only_named() -> None:
    begun = [requested("j1"), fanned_out("j1", "j2"), child("j2", "j1")]
    jobs = fold(views(), [*begun, completed("j2", retry="j3")])
    assert not jobs.all_over(jobs.jobs["j1"])

    fold(jobs, [child("j3", "j1", retry_prev="j2")], after=jobs.position)
    assert not jobs.all_over(jobs.jobs["j1"])

    fold(jobs, [completed("j3")], after=jobs.position)
    assert jobs.all_over(jobs.jobs["j1"])
    assert [result["id"] for result in jobs.results["j1"].values()] == ["j3"]


def test_a_runner_that_was_replaced_gives_no_job_back() -> None:
    """Else the job is handed out again and again, while the new runner has it already."""
    named: Json = {"server": "s1", "machine_boot": "m", "hostname": "h"}
    joined = [fact(f.ServerJoined, boot=boot, **named) for boot in ("old", "b")]
    jobs = fold(views(), [*joined, requested("j1"), assigned("j1")])
    given: Json = {
        "server": "s1",
        "job": "j1",
        "order": 5,
        "reason": "The runner was started anew.",
    }

    fold(jobs, [fact(f.JobReturned, boot="old", **given)], after=5)
    assert jobs.jobs["j1"].state is JobState.STARTING

    fold(jobs, [fact(f.JobReturned, boot="b", **given)], after=6)
    assert jobs.jobs["j1"].state is JobState.READY
