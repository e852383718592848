"""The audit chain and the check of the views, against a real ledger (design.md 8)."""

import itertools
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from domain import facts as f
from domain.audit import Auditor, Erased, Findings, RawFact
from services.gateway.refold import compare
from services.ledger.auditing import audit, erased_in
from services.ledger.connection import Ledger
from services.ledger.founding import found
from services.ledger.raw import remove
from services.ledger.secrets import audit_key, server_secret
from tests.services.deletion_kit import everything, gone, leading_scheduler, write_job
from tests.services.gateway_kit import EVENT, running_gateway


@pytest.fixture
async def key(ledger: Ledger, tmp_path: Path) -> bytes:
    """The key of a ledger that was founded, filled, partly erased and sealed in several seals."""
    async with running_gateway(ledger, tmp_path) as api:
        api.clock.now = time.time()
        await api.ok("create_event", EVENT)
        doomed = await write_job(ledger, "jgone")
        assert await api.gateway.reached(doomed[-1])
        async with leading_scheduler(ledger, tmp_path) as scheduler:
            await api.ok("delete_job", {"id": "jgone"})
            await gone(ledger, doomed)
            for n in range(5):
                await write_job(ledger, f"j{n}")
            await scheduler.upkeep.sealing.reached(await ledger.end())
    return audit_key(server_secret(tmp_path))


async def findings_of(ledger: Ledger, key: bytes, facts: Sequence[RawFact]) -> Findings:
    """An audit of these facts instead of those that stand there."""
    end = await ledger.end()
    auditor = Auditor(key, Erased(await erased_in(ledger, after=0, upto=end)))
    for fact in facts:
        auditor.take(fact)
    return auditor.finish(end)


def told(findings: Findings) -> list[str]:
    return [str(problem) for problem in findings.problems]


async def test_a_ledger_with_a_recorded_deletion_is_sound(ledger: Ledger, key: bytes) -> None:
    findings = await audit(ledger, key)
    assert told(findings) == []
    assert findings.sound
    assert findings.erased == 6
    assert findings.seals >= 2
    assert findings.sealed + findings.unsealed == findings.end == await ledger.end()


@pytest.mark.parametrize("part", ["data", "headers", "subject"])
async def test_one_flipped_byte_is_found_and_named(ledger: Ledger, key: bytes, part: str) -> None:
    facts = await everything(ledger)
    for place in (0, 3, len(facts) // 2):
        fact = facts[place]
        altered = list(facts)
        if part == "subject":
            altered[place] = replace(fact, subject=fact.subject + "x")
        else:
            data = getattr(fact, part)
            flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
            altered[place] = replace(fact, **{part: flipped})
        findings = await findings_of(ledger, key, altered)
        assert findings.problem_count == 1, told(findings)
        assert findings.problems[0].first == findings.problems[0].last == fact.sequence


async def test_a_removed_fact_is_found_and_named(ledger: Ledger, key: bytes) -> None:
    facts = await everything(ledger)
    doomed = facts[20].sequence
    assert await remove(ledger, doomed, overwrite=False)
    findings = await audit(ledger, key)
    assert f"fact {doomed}: missing, and no recorded deletion names it" in told(findings)
    assert {problem.first for problem in findings.problems} == {doomed}


async def test_a_fact_put_into_the_place_of_an_erased_one_is_found(
    ledger: Ledger, key: bytes
) -> None:
    facts = await everything(ledger)
    gap = next(a.sequence + 1 for a, b in itertools.pairwise(facts) if b.sequence > a.sequence + 1)
    slipped = replace(facts[-1], sequence=gap)
    inserted = sorted([*facts, slipped], key=lambda fact: fact.sequence)
    findings = await findings_of(ledger, key, inserted)
    assert {problem.first for problem in findings.problems} == {gap}


async def test_a_fact_slipped_in_between_is_found(ledger: Ledger, key: bytes) -> None:
    """All later facts have another place then."""
    facts = await everything(ledger)
    place = next(n for n, fact in enumerate(facts) if f.decode(fact.data).kind == "JobStarted")
    moved = [replace(fact, sequence=fact.sequence + 1) for fact in facts[place:]]
    slipped = replace(facts[place - 1], sequence=facts[place].sequence)
    findings = await findings_of(ledger, key, [*facts[:place], slipped, *moved])
    assert not findings.sound
    assert findings.problems[0].first == facts[place].sequence


async def test_a_fact_that_stands_twice_is_found(ledger: Ledger, key: bytes) -> None:
    facts = await everything(ledger)
    findings = await findings_of(ledger, key, [*facts[:9], facts[8], *facts[9:]])
    assert told(findings) == [f"fact {facts[8].sequence}: stands there a second time"]


async def test_facts_removed_from_the_end_are_missed(ledger: Ledger, key: bytes) -> None:
    facts = await everything(ledger)
    findings = await findings_of(ledger, key, facts[:-3])
    assert (findings.problems[0].first, findings.problems[0].last) == (
        facts[-3].sequence,
        facts[-1].sequence,
    )


async def test_a_forged_deletion_does_not_hide_an_alteration(ledger: Ledger, key: bytes) -> None:
    """Whoever can write a JobDeleted still cannot make a seal fit."""
    facts = await everything(ledger)
    victim = next(raw for raw in facts if f.decode(raw.data).kind == "EventCreated")
    forged = f.JobDeleted(
        at=time.time(), actor=f.Actor(type="user", id="x"), event="e", job="j",
        erased=[(victim.sequence, "0" * 64)],
    )  # fmt: skip
    await ledger.append(forged, id="forged")
    assert await remove(ledger, victim.sequence, overwrite=False)
    findings = await audit(ledger, key)
    assert [problem.first for problem in findings.problems] == [victim.sequence]


async def test_the_wrong_secret_fits_no_seal(ledger: Ledger, key: bytes) -> None:
    findings = await audit(ledger, b"another key")
    assert findings.problem_count == findings.seals


async def test_the_next_leader_goes_on_with_the_chain(
    ledger: Ledger, key: bytes, tmp_path: Path
) -> None:
    before = await audit(ledger, key)
    async with leading_scheduler(ledger, tmp_path) as scheduler:
        await write_job(ledger, "jmore")
        end = await ledger.end()
        await scheduler.upkeep.sealing.reached(end)
    after = await audit(ledger, key)
    assert told(after) == []
    assert after.seals == before.seals + 1
    assert after.sealed >= end


async def test_little_is_sealed_after_ten_minutes_and_an_idle_ledger_never(
    ledger: Ledger, key: bytes, tmp_path: Path
) -> None:
    async with leading_scheduler(ledger, tmp_path) as scheduler:
        sealing = scheduler.upkeep.sealing
        await sealing.reached(await ledger.end())
        assert await scheduler.follower.reached(await ledger.end(), 5.0)
        now = time.time()
        assert not sealing.is_due(now + 601)
        sequence = await ledger.append(
            f.MasterSwitched(at=now, actor=f.Actor(type="user", id="x"), enabled=True), id="s"
        )
        assert await scheduler.follower.reached(sequence, 5.0)
        assert not sealing.is_due(now + 1)
        assert sealing.is_due(now + 601)


# --- views ---------------------------------------------------------------------------------------


async def view_of(ledger: Ledger, home: Path) -> tuple[Path, str]:
    """A gateway's view of this ledger, and the ledger's id."""
    founded = await found(ledger, home, time.time())
    async with running_gateway(ledger, home) as api:
        await api.gateway.views.history(lambda history: history.position)
    return home / "history.sqlite", founded.ledger


async def test_a_view_is_what_the_ledger_says(ledger: Ledger, key: bytes, tmp_path: Path) -> None:
    view, id = await view_of(ledger, tmp_path)
    found = await compare(ledger, view, ledger_id=id, progress=lambda *_: None)
    assert found.differences == []
    assert (found.position, found.rows > 60) == (await ledger.end(), True)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        ("UPDATE jobs SET code = '1' WHERE id = 'j3'", "jobs: a row of j3 is not in the ledger"),
        ("DELETE FROM jobs WHERE id = 'j3'", "jobs: a row of j3 is missing from the view"),
        ("DELETE FROM job_facts WHERE job = 'j3'", "job_facts: a row of j3 is missing"),
        ("UPDATE activity SET at = 1 WHERE sequence = 2", "activity: a row of 2 is not in"),
    ],
)
async def test_a_view_that_was_altered_is_told_from_a_sound_one(
    ledger: Ledger, key: bytes, tmp_path: Path, spoil: str, sentence: str
) -> None:
    view, id = await view_of(ledger, tmp_path)
    connection = sqlite3.connect(view)
    with connection:
        connection.execute(spoil)
    connection.close()
    found = await compare(ledger, view, ledger_id=id, progress=lambda *_: None)
    assert any(line.startswith(sentence) for line in found.differences), found.differences


async def test_what_was_erased_since_the_view_stopped_is_no_difference(
    ledger: Ledger, key: bytes, tmp_path: Path
) -> None:
    view, id = await view_of(ledger, tmp_path)
    stopped = view.read_bytes()
    async with running_gateway(ledger, tmp_path) as api, leading_scheduler(ledger, tmp_path):
        await api.ok("delete_job", {"id": "j3"})
        first = next(raw.sequence for raw in await everything(ledger) if b'"j3"' in raw.data)
        await gone(ledger, [first])
    view.write_bytes(stopped)
    found = await compare(ledger, view, ledger_id=id, progress=lambda *_: None)
    assert found.differences == []
