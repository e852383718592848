"""Facts that come together leave what they leave one by one; so does a replay that is killed."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domain import facts as f
from domain.facts import Recorded
from domain.subjects import subject_of
from projections.active_jobs import _NO_SPEC
from projections.history import History
from projections.plain_jobs import Outline, Parts, PlainJob, plain_jobs
from projections.store import is_damage, open_store
from services.gateway import scribe, storing
from services.gateway.dictation import Dictated, Dictation
from services.gateway.scribe import Scribe, ScribeGone
from services.gateway.views import Views, ViewsState
from tests.projections.recording import all_rows

LEDGER = "ledger-1"
SYSTEM = f.Actor(type="system", id="test")
ANNA = f.Actor(type="user", id="anna")
EVENTS = {"e1": 2, "e2": 3}  # and the sequences at which they were made
BLOB = f.Blob(sequences=[4], size=240, sha256="ab")


def beginning() -> list[f.Fact]:
    """A server, an event as most are, and one whose definition has keys of jobs."""
    plain = {"title": "One", "category": "c", "plugin": "p", "targets": ["s1"], "tags": ["own"]}
    odd = plain | {"title": "", "type": "x", "code": 9, "files": [1], "status": "y", "perf": 1}
    joined = f.ServerJoined(
        at=1.0, actor=SYSTEM, server="s1", boot="b", machine_boot="m", hostname="h", groups=["g"]
    )
    return [joined] + [
        f.EventCreated(at=2.0, actor=SYSTEM, event=event, definition={"id": event} | definition)
        for event, definition in (("e1", plain), ("e2", odd))
    ]


@st.composite
def lives(draw: st.DrawFn, job: str) -> list[f.Fact]:
    """All facts of a job; those of most have nothing special. `order` -1 is put right later."""
    event = draw(st.sampled_from([*EVENTS]))
    seldom = draw(st.integers(0, 3)) == 0
    rare: Any = st.sampled_from
    where: dict[str, Any] = {"event": event, "job": job, "server": "s1", "boot": "b"}
    named: dict[str, Any] = {"event": event, "job": job}
    request: dict[str, Any] = {
        "type": draw(rare([None, "schedule"])),
        "source": draw(rare(["scheduler", "user"])),
        "add_tags": draw(rare([[], ["more"]])),
        "retry_count": draw(rare([0, 2])),
        "until": draw(rare([None, 9.0])),
    }
    report: dict[str, Any] = draw(rare([{}, {"cpu": {"min": 0, "max": 1.5}, "perf": {"a": 2}}]))
    finished: dict[str, Any] = {
        "log": draw(rare([None, BLOB])),
        "report": report,
        "activity": draw(rare([[], [{"id": "r1", "msg": "The runner says so."}]])),
    }
    completed: dict[str, Any] = {"code": draw(rare([0, 1, "abort"])), "tags": ["_success", "own"]}
    if seldom:
        request |= draw(
            rare(
                [
                    {},
                    {"overrides": {"label": "mine"}},
                    {"ephemeral": True},
                    {"test": True},
                    {"workflow": {"job": "j0"}},
                    {"input": {"data": {"x": 1}}},
                ]
            )
        )
        finished |= draw(
            rare(
                [
                    {},
                    {"report": {"html": {"a": 1}, "redraw": 1}},
                    {"report": {"push": {"actions": [{"type": "email"}]}}},
                    {"large": {"table": BLOB}},
                    {"order": 1},
                ]
            )
        )
        completed |= draw(
            rare([{}, {"retry": f.Follower(job="j1")}, {"jobs": [{"id": "x"}]}, {"retry_ok": True}])
        )
    facts: list[f.Fact] = [
        f.JobRequested(
            at=10.0, actor=draw(rare([SYSTEM, ANNA])), cause=draw(rare([None, "key-1"])), now=10.0,
            made_of=f.MadeOf(event=EVENTS[event]), counters=f.Counters(cursor=10), username="anna",
            **named, **request,
        ),
        f.JobAssigned(
            at=11.0, actor=SYSTEM, attempt=1, made_of=f.MadeOf(event=EVENTS[event]), robin=1,
            **where,
        ),
        f.JobStarted(
            at=12.0, actor=SYSTEM, order=-1, pid=7, started=12.25,
            cwd=draw(rare(["/work", "/work", None])), **where,
        ),
        f.JobFinished(
            at=13.0, actor=SYSTEM, code=0, description="", ended=13.5,
            **({"order": -1} | where | finished),
        ),
        f.JobCompleted(at=14.0, actor=SYSTEM, description="Über", **named, **completed),
    ]  # fmt: skip
    if seldom:
        other = draw(
            rare(
                [
                    f.JobQueued(at=11.0, actor=SYSTEM, reason="full", **named),
                    f.JobAbortRequested(at=11.0, actor=ANNA, reason="no", **named),
                    f.JobTagged(at=15.0, actor=ANNA, tags=["late"], **named),
                    f.JobDeleted(at=15.0, actor=ANNA, **named),
                    facts[draw(st.integers(0, 4))],
                ]
            )
        )
        facts.insert(draw(st.integers(0, len(facts))), other)
        if draw(st.booleans()):
            del facts[draw(st.integers(0, len(facts) - 1))]
    return facts


@st.composite
def histories(draw: st.DrawFn) -> list[Recorded]:
    """Jobs that overlap, some of them odd, with a change of everything now and then."""
    ids = [f"j{number}" for number in range(draw(st.integers(1, 8)))]
    left = [draw(lives(draw(st.sampled_from([id, id, id, "j0"])))) for id in ids]
    facts = beginning()
    while left := [life for life in left if life]:
        facts.append(left[draw(st.integers(0, len(left) - 1))].pop(0))
        if draw(st.integers(0, 12)) == 0:
            facts.append(draw(st.sampled_from(changes())))
    return as_recorded(facts)


def changes() -> list[f.Fact]:
    """What concerns more than one job."""
    who: dict[str, Any] = {"at": 12.0, "actor": SYSTEM}
    server: dict[str, Any] = {"server": "s1", "machine_boot": "m", "hostname": "h"}
    return [
        f.ServerJoined(boot="b", groups=["g", "other"], **server, **who),
        f.ServerJoined(boot="b2", groups=[], **server, **who),
        f.EventUpdated(event="e1", definition={"id": "e1", "limits": [{"type": "day"}]}, **who),
        f.EventDeleted(event="e2", delete_jobs=True, **who),
        f.QueueFlushed(event="e1", jobs=["j0", "j1"], **who),
        f.MasterSwitched(enabled=False, **who),
    ]


def as_recorded(facts: Sequence[f.Fact]) -> list[Recorded]:
    """At the places that they take on a ledger; reports name the last order of their job."""
    orders: dict[str, int] = {}
    recorded = []
    for sequence, fact in enumerate(facts, 1):
        if isinstance(fact, f.JobAssigned):
            orders[fact.job] = sequence
        if isinstance(fact, f.JobStarted | f.JobFinished) and fact.order == -1:
            fact = replace(fact, order=orders.get(fact.job, 0))
        recorded.append(Recorded(sequence, subject_of(fact), fact))
    return recorded


async def opened(path: Path, end: int = 10_000) -> Views:
    views = Views()
    views.open_history(path, LEDGER, end)
    return views


async def one_by_one(path: Path, facts: Sequence[Recorded]) -> ViewsState:
    views = await opened(path)
    for recorded in facts:
        views.apply(recorded)
    await views.history(lambda _: None)
    await views.close()
    return views.state()


async def together(path: Path, facts: Sequence[Recorded], cuts: Sequence[int]) -> ViewsState:
    """Read up to each of the cuts at once, and store it."""
    views = await opened(path)
    for start, end in zip([0, *cuts], [*cuts, len(facts)], strict=True):
        if facts[start:end]:
            views.apply_all(facts[start:end])
    await views.history(lambda _: None)
    await views.close()
    return views.state()


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return all_rows(connection)


def cuts_of(facts: Sequence[Recorded]) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(facts)), max_size=4).map(sorted)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_facts_that_come_together_leave_what_they_leave_one_by_one(data: st.DataObject) -> None:
    facts = data.draw(histories())
    cuts = data.draw(cuts_of(facts))
    with TemporaryDirectory() as folder:
        alone, at_once = Path(folder) / "alone", Path(folder) / "at-once"
        expected = asyncio.run(one_by_one(alone, facts))

        assert asyncio.run(together(at_once, facts, cuts)) == expected
        assert rows(at_once) == rows(alone)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_replay_that_was_killed_anywhere_goes_on_to_the_same_rows(data: st.DataObject) -> None:
    """What it holds in memory is read again from the beginning; rows and position are kept."""
    facts = data.draw(histories())
    read = data.draw(st.integers(0, len(facts)))
    with TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        expected = asyncio.run(one_by_one(alone, facts))
        asyncio.run(together(killed, facts[:read], data.draw(cuts_of(facts[:read]))))

        assert asyncio.run(together(killed, facts, data.draw(cuts_of(facts)))) == expected
        assert rows(killed) == rows(alone)


def plain(job: str) -> list[f.Fact]:
    """The life of a job of which there is nothing else to tell."""
    where: dict[str, Any] = {"event": "e1", "job": job, "server": "s1", "boot": "b"}
    who: dict[str, Any] = {"actor": SYSTEM}
    return [
        f.JobRequested(
            at=10.0, event="e1", job=job, source="user", username="anna", now=10.0,
            made_of=f.MadeOf(event=2), **who,
        ),
        f.JobAssigned(at=11.0, attempt=1, made_of=f.MadeOf(event=2), **where, **who),
        f.JobStarted(at=12.0, order=-1, pid=1, started=12.0, cwd="/work", **where, **who),
        f.JobFinished(at=13.0, order=-1, code=0, description="", ended=13.0, **where, **who),
        f.JobCompleted(at=14.0, event="e1", job=job, code=0, description="", **who),
    ]  # fmt: skip


def test_plain_jobs_are_known_as_such() -> None:
    """Else the tests above would show nothing."""
    facts = beginning() + [fact for job in ("j0", "j1", "j2") for fact in plain(job)]

    found = plain_jobs(as_recorded(facts), {"j2": None}, {})

    assert [job is not None for job in found] == [False] * 3 + [True] * 10 + [False] * 5


async def test_who_waits_for_a_job_is_woken_by_its_end(tmp_path: Path) -> None:
    facts = as_recorded(beginning() + plain("j0") + plain("j1"))
    views = await opened(tmp_path / "history.sqlite", end=0)
    with views.watch("j0") as first, views.watch("j1") as second, views.watch("j2") as other:
        views.apply_all(facts)

        assert first.changed.is_set()
        assert second.changed.is_set()
        assert not other.changed.is_set()
    document = views.final_at_hand("j1")
    await views.close()

    assert document is not None
    assert (document["state"], document["elapsed"]) == ("complete", 1.0)


@pytest.mark.parametrize("delete_jobs", [True, False])
async def test_an_event_that_is_deleted_with_its_jobs_leaves_none_at_hand(
    tmp_path: Path, delete_jobs: bool
) -> None:
    """They are shown no longer than their rows are there, whether these were stored or not."""
    facts = as_recorded(
        [
            *beginning(),
            *plain("j0"),
            f.EventDeleted(at=12.0, actor=ANNA, event="e1", delete_jobs=delete_jobs),
        ]
    )
    views = await opened(tmp_path / "history.sqlite", end=0)
    for recorded in facts:
        views.apply(recorded)

    document = views.final_at_hand("j0")
    stored = await views.history(lambda history: history.job("j0"))
    await views.close()

    assert (document is None, stored is None) == (delete_jobs, delete_jobs)


LONG = 50_000  # as far as these ledgers reach, in their owners' eyes: worth a scribe


async def told(path: Path, facts: Sequence[Recorded], killed: bool) -> None:
    """Views that have a scribe read everything in two parts; it may be killed in between."""
    views = Views()
    views.open_history(path, LEDGER, LONG)
    assert views._history is not None
    scribe = views._history._scribe
    assert scribe is not None
    half = len(facts) // 2
    views.apply_all(facts[:half])
    await views.history(lambda _: None)
    if killed:
        os.kill(scribe.pid, signal.SIGKILL)
    views.apply_all(facts[half:])
    assert await views.history(lambda history: history.has("j0"))
    assert (views._history._scribe is None) == killed
    await views.close()


@pytest.mark.parametrize("killed", [False, True])
async def test_a_scribe_stores_a_long_history_and_may_be_killed(
    tmp_path: Path, killed: bool
) -> None:
    facts = as_recorded(
        beginning() + [fact for number in range(20) for fact in plain(f"j{number}")]
    )
    await one_by_one(tmp_path / "alone", facts)

    await told(tmp_path / "long", facts, killed)

    assert rows(tmp_path / "long") == rows(tmp_path / "alone")


async def test_numbers_that_only_json_knows_are_stored_without_the_scribe(tmp_path: Path) -> None:
    huge = f.JobUpdated(at=20.0, actor=ANNA, event="e1", job="j0", changes={"hits": 10**30})
    facts = as_recorded([*beginning(), *plain("j0"), huge])
    await one_by_one(tmp_path / "alone", facts)

    await told(tmp_path / "long", facts, killed=False)

    assert rows(tmp_path / "long") == rows(tmp_path / "alone")


def test_what_a_scribe_stored_after_its_gateway_was_killed_is_not_stored_twice(
    tmp_path: Path,
) -> None:
    """The next gateway opens the file before the last transaction of the old one's scribe."""
    facts = [(recorded, None) for recorded in as_recorded([*beginning(), *plain("j0")])]
    old, new = (History(open_store(tmp_path / "history", LEDGER, LONG)) for _ in range(2))
    old.apply_batch(facts)

    new.apply_batch(facts[:5])
    new.apply_batch([], upto=20)

    assert new.position == 20
    assert new.facts_of("j0") == [5, 6, 7]


def test_a_scribe_that_could_not_store_something_stores_nothing_after_it(tmp_path: Path) -> None:
    """It is sent more before it answers; a gap would be taken for stored."""
    facts = as_recorded([*beginning(), *plain("j0")])
    path, dictation = tmp_path / "history", Dictation()
    scribe = Scribe(path, LEDGER, LONG)
    try:
        scribe.send([dictation.write([(facts[0], None)])], 1)
        scribe.confirm()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("ALTER TABLE activity RENAME TO hidden")
        scribe.send([dictation.write([(facts[1], None)])], 2)
        with pytest.raises(sqlite3.DatabaseError) as raised:
            scribe.confirm()
        with pytest.raises(ScribeGone):
            scribe.confirm()
    finally:
        scribe.close()

    assert is_damage(raised.value)
    assert "activity" in str(raised.value)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE hidden RENAME TO activity")
    assert History(open_store(path, LEDGER, LONG)).position == 1


async def test_what_could_not_be_stored_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here because another program holds the file; nothing is left out, nor stored twice."""
    facts = as_recorded([*beginning(), *plain("j0"), *plain("j1")])
    await one_by_one(tmp_path / "alone", facts)
    views = await opened(tmp_path / "late")
    assert views._history is not None
    views._history._connection.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(tmp_path / "late", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        views.apply_all(facts[:8])
        waits = asyncio.Event()
        monkeypatch.setattr(storing.log, "warning", lambda *_, **__: waits.set(), raising=False)
        stored = asyncio.create_task(views.history(lambda history: history.position))
        await asyncio.wait_for(waits.wait(), 10)
        other.execute("ROLLBACK")
    views.apply_all(facts[8:])

    assert await asyncio.wait_for(stored, 10) >= 8
    await views.close()
    assert rows(tmp_path / "late") == rows(tmp_path / "alone")


@settings(deadline=None, max_examples=10)
@given(st.data())
def test_a_replay_whose_scribe_was_killed_anywhere_leaves_the_same_rows(
    data: st.DataObject,
) -> None:
    """Some of what it was sent it has stored, and has not said so."""
    facts = data.draw(histories())
    cuts = data.draw(cuts_of(facts))
    killed_after = data.draw(st.integers(0, len(cuts)))

    async def replay(path: Path) -> ViewsState:
        views = Views()
        views.open_history(path, LEDGER, LONG)
        assert views._history is not None
        scribe = views._history._scribe
        assert scribe is not None
        for part, (start, end) in enumerate(pairwise([0, *cuts, len(facts)])):
            if facts[start:end]:
                views.apply_all(facts[start:end])
            if part % 2:
                await views.history(lambda _: None)
            else:
                await asyncio.sleep(0)  # the writer begins
            if part == killed_after:
                os.kill(scribe.pid, signal.SIGKILL)
        await views.history(lambda _: None)
        await views.close()
        return views.state()

    with TemporaryDirectory() as folder:
        alone, long = Path(folder) / "alone", Path(folder) / "long"
        expected = asyncio.run(one_by_one(alone, facts))

        assert asyncio.run(replay(long)) == expected
        assert rows(long) == rows(alone)


@settings(deadline=None, max_examples=10)
@given(st.data())
def test_a_gateway_that_was_killed_while_its_scribe_was_busy_goes_on_to_the_same_rows(
    data: st.DataObject,
) -> None:
    """Nobody heard what the scribe has stored of what it was sent; the next begins meanwhile."""
    facts = data.draw(histories())
    cuts = data.draw(cuts_of(facts))

    async def begin(path: Path) -> Scribe:
        views = Views()
        views.open_history(path, LEDGER, LONG)
        writer = views._history
        assert writer is not None
        scribe = writer._scribe
        assert scribe is not None
        for start, end in pairwise([0, *cuts]):
            if facts[start:end]:
                views.apply_all(facts[start:end])
                part = writer._take()
                scribe.send(
                    [piece for piece in part.pieces if isinstance(piece, Dictated)], part.upto
                )
        return scribe

    with TemporaryDirectory() as folder:
        alone, long = Path(folder) / "alone", Path(folder) / "long"
        expected = asyncio.run(one_by_one(alone, facts))
        scribe = asyncio.run(begin(long))

        assert asyncio.run(together(long, facts, data.draw(cuts_of(facts)))) == expected
        scribe.close()
        assert rows(long) == rows(alone)


async def test_a_busy_writer_is_given_records_and_an_idle_one_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has time makes the records of plain jobs; they are the same."""
    monkeypatch.setattr(storing, "_MANY_PENDING", 1000)
    many = [fact for number in range(600) for fact in plain(f"j{number}")]
    facts = as_recorded(beginning() + many)
    await one_by_one(tmp_path / "alone", facts)
    views = await opened(tmp_path / "history", end=0)
    writer = views._history
    assert writer is not None

    for start in range(0, len(facts), 1000):
        views.apply_all(facts[start : start + 1000])
    parts = list(writer._pending)
    document = views.final_at_hand("j9")
    await views.history(lambda _: None)
    await views.close()

    pieces = [piece for part in parts for piece in part.pieces if not isinstance(piece, Dictated)]
    kinds = [{type(entry) for entry in piece[20:120]} for piece in pieces]
    assert kinds[0] == {PlainJob}
    assert kinds[2] == {tuple}
    assert document is not None
    assert document["id"] == "j9"
    assert rows(tmp_path / "history") == rows(tmp_path / "alone")


def test_outlines_are_sent_once_and_forgotten_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What many jobs share costs little, and a long history of changes no memory."""
    monkeypatch.setattr(scribe, "_MOST_OUTLINES", 2)
    sent: list[scribe.Batch] = []
    monkeypatch.setattr(scribe, "_send", lambda _, data: sent.append(scribe._BATCHES.decode(data)))
    facts = beginning() + [fact for number in range(2) for fact in plain(f"j{number}")]
    jobs = list({id(job): job for job in plain_jobs(as_recorded(facts), {}, {}) if job}.values())
    outlines = {t: Outline(Parts({}, {}, [], [], replace(_NO_SPEC, title=t))) for t in "abcd"}
    dictation = Dictation()
    with closing(Scribe(tmp_path / "history", LEDGER, LONG)) as end:
        for titles in ("ab", "ba", "cd", "ac"):
            for job, title in zip(jobs, titles, strict=True):
                job.outline = outlines[title]
            end.send([dictation.write(jobs)], 1)

    assert [len(batch.outlines) for batch in sent] == [2, 0, 2, 2]
    assert [batch.anew for batch in sent] == [False, False, False, True]
