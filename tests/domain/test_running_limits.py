"""Limits of running jobs: when they fire and what they leave behind; the limit on input files."""

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from domain import facts as f
from domain.assembly import Made, assemble
from domain.completion import result_of, retry_of
from domain.facts import Actor, Json, Recorded
from domain.file_limit import pruned
from domain.job import Job, begin, evolve
from domain.running_limits import Fired, Usage, above, fire, first_due, limits_of, watched
from domain.subjects import subject_of
from domain.wording import spoken_duration, spoken_size

ACTOR = Actor(type="scheduler", id="7")
COMMON: Json = {"at": 101.0, "actor": ACTOR, "event": "e1", "job": "j1"}


def limit(type: str, **fields: object) -> Json:
    return {"type": type, "enabled": True} | fields


def usage(**figures: object) -> Usage:
    base: Json = {"elapsed": 0.0, "log_size": 0.0, "mem": 0.0, "cpu": 0.0, "since": {}}
    return Usage(**(base | figures))


def running(*limits: Json) -> Job:
    request = f.from_plain(
        f.JobRequested,
        COMMON
        | {"made_of": {"event": 1}, "source": "user", "username": "joe", "now": 100.0}
        | {"add_tags": ["t0"]},
    )
    made = Made(event={"limits": list(limits)}, category={}, plugin={}, config={})
    job = begin(Recorded(10, "", request), assemble(made, request))
    order = f.from_plain(
        f.JobAssigned,
        COMMON | {"server": "s1", "boot": "b1", "attempt": 1, "made_of": {"event": 1}},
    )
    started = f.from_plain(
        f.JobStarted,
        COMMON | {"server": "s1", "boot": "b1", "order": 11, "pid": 7, "started": 102.0},
    )
    return folded(job, [order, started], after=10)


def folded(job: Job, facts: list[f.Fact], after: int = 20) -> Job:
    for sequence, fact in enumerate(facts, after + 1):
        job = evolve(job, Recorded(sequence, subject_of(fact), fact))
    return job


def fired(job: Job, index: int = 0) -> list[f.Fact]:
    chosen = limits_of(job)[index]
    return fire(job, Fired(index, chosen, "Too much."), now=200.0, actor=ACTOR)


def due(limits: list[Json], use: Usage, now: float = 200.0) -> str | None:
    found = first_due(limits, use, now)
    return found.message if found else None


# --- when


def test_a_job_within_its_limits_is_left_alone() -> None:
    limits = [limit("time", duration=60), limit("log", amount=1000)]

    assert due(limits, usage(elapsed=60, log_size=1000)) is None


@pytest.mark.parametrize(
    ("one", "use", "message"),
    [
        (
            limit("time", duration=90),
            usage(elapsed=91),
            "Job elapsed time has exceeded maximum limit of 1 minute, 30 seconds.",
        ),
        (
            limit("log", amount=1536),
            usage(log_size=1537),
            "Job output size has exceeded maximum limit of 1.5 KB.",
        ),
        (
            limit("mem", amount=1048576, duration=5),
            usage(mem=2e6, since={0: 190.0}),
            "Job memory usage has exceeded maximum limit of 1 MB for 5 seconds.",
        ),
        (
            limit("cpu", amount=150, duration=60),
            usage(cpu=151, since={0: 100.0}),
            "Job CPU usage has exceeded maximum limit of 150% for 1 minute.",
        ),
    ],
)
def test_each_limit_says_what_was_exceeded(one: Json, use: Usage, message: str) -> None:
    assert due([one], use) == message


def test_too_much_cpu_counts_only_when_it_lasts() -> None:
    one = limit("cpu", amount=100, duration=10)

    assert due([one], usage(cpu=200, since={0: 191.0})) is None
    assert due([one], usage(cpu=200, since={0: 189.0})) is not None


def test_without_a_duration_the_first_sample_is_enough() -> None:
    assert due([limit("mem", amount=10)], usage(mem=11, since={0: 200.0})) is not None


def test_above_names_the_limits_that_are_exceeded_at_this_moment() -> None:
    limits = [limit("mem", amount=10), limit("cpu", amount=50), limit("mem", amount=100)]

    assert above(limits, mem=50, cpu=50) == {0}


def test_time_fires_before_log() -> None:
    limits = [limit("log", amount=1), limit("time", duration=1)]

    assert "time" in (due(limits, usage(elapsed=5, log_size=5)) or "")


@pytest.mark.parametrize("state", [{"enabled": False}, {"date": 150.0}])
def test_a_limit_that_is_off_or_has_fired_is_silent(state: Json) -> None:
    assert due([limit("time", duration=1) | state], usage(elapsed=5)) is None


# --- what follows


def test_a_limit_fires_once() -> None:
    job = running(limit("time", duration=1))
    assert watched(job)

    job = folded(job, fired(job))

    assert not watched(job)
    assert limits_of(job)[0]["msg"] == "Too much."


def test_a_limit_adds_its_tags() -> None:
    job = running(limit("time", duration=1, tags=["slow", "t0"]))

    assert folded(job, fired(job)).value("tags") == ["t0", "slow"]


def test_a_limit_tells_people_before_it_aborts_and_counts_as_fired_last() -> None:
    """Who writes these facts may die in between: then the limit fires again, or the job ends."""
    one = limit("time", duration=1, email="a@b.c", users=["joe"], web_hook="w1", abort=True)
    facts = fired(running(one | {"text": "Look!"}))

    kinds = [fact.kind for fact in facts]
    assert kinds == ["ActionStarted", "ActionStarted", "JobAbortOrdered", "JobChanged"]
    notices = [fact for fact in facts if isinstance(fact, f.ActionStarted)]
    assert [(n.stage, n.index) for n in notices] == [("limit", 0), ("limit", 1)]
    assert notices[0].action["text"] == "Too much. (Job aborted) Look!"
    for upto in range(len(facts)):
        left = folded(running(one), facts[:upto])
        assert watched(left) or left.abort is not None


def test_a_job_aborted_by_a_limit_may_be_retried() -> None:
    job = running(limit("time", duration=1, abort=True), limit("retry", amount=1))
    job = folded(job, fired(job))
    end = {"order": 11, "code": 0, "description": "x", "ended": 201.0, "aborted": True}
    end |= {"server": "s1", "boot": "b1"}
    job = folded(job, [f.from_plain(f.JobFinished, COMMON | end)], after=30)
    result = result_of(job)

    assert result is not None
    assert (result.code, result.description) == ("abort", "Too much.")
    assert retry_of(job, result, 202.0) is not None


def test_without_abort_the_job_goes_on() -> None:
    job = running(limit("time", duration=1))

    assert folded(job, fired(job)).abort is None


# --- the limit on input files

FILES: list[Json] = [
    {"filename": "a.CSV", "size": 100},
    {"filename": "b.txt", "size": 100},
    {"filename": "c.csv", "size": 100},
]


def names(limit: Json | None) -> list[str]:
    return [file["filename"] for file in pruned(FILES, limit)[0]]


@pytest.mark.parametrize(
    ("one", "kept"),
    [
        (None, ["a.CSV", "b.txt", "c.csv"]),
        ({}, ["a.CSV", "b.txt", "c.csv"]),
        ({"amount": 0}, []),
        ({"amount": 2}, ["a.CSV", "b.txt"]),
        ({"size": 250}, ["a.CSV", "b.txt"]),
        ({"accept": ".csv, .json"}, ["a.CSV", "c.csv"]),
        ({"amount": 2, "accept": "csv"}, ["a.CSV"]),
    ],
)
def test_files_are_pruned_by_count_then_size_then_extension(
    one: Json | None, kept: list[str]
) -> None:
    assert names(one) == kept


def test_every_pruning_is_told() -> None:
    _, remarks = pruned(FILES, {"amount": 2, "accept": "csv"})

    assert len(remarks) == 2


@forall(
    st.lists(st.integers(0, 1000), max_size=10),
    st.fixed_dictionaries({}, optional={"amount": st.integers(0, 5), "size": st.integers(0, 3000)}),
)
def test_what_stays_keeps_to_the_limit(sizes: list[int], one: Json) -> None:
    files: list[Json] = [{"filename": f"{n}", "size": size} for n, size in enumerate(sizes)]
    kept, remarks = pruned(files, one)

    assert kept == files[: len(kept)]
    assert len(kept) <= one.get("amount", 10)
    assert not one.get("size") or sum(x["size"] for x in kept) <= one["size"]
    assert bool(remarks) == (len(kept) < len(files))


# --- how figures are read


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 seconds"),
        (0.25, "0.25 seconds"),
        (1, "1 second"),
        (3600, "1 hour"),
        (3661, "1 hour, 1 minute"),
        (86400 + 60, "1 day"),
    ],
)
def test_durations_are_told_by_their_largest_units(seconds: float, said: str) -> None:
    assert spoken_duration(seconds) == said


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024**2 * 1.5, "1.5 MB")]
)
def test_sizes_are_told_in_their_largest_unit(size: float, said: str) -> None:
    assert spoken_size(size) == said
