"""Writes that go together: each has an outcome of its own, whoever shares its batch."""

import asyncio
from collections.abc import Sequence

import pytest

from domain.facts import Fact
from services.ledger import reading
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.errors import LedgerUnavailable, WrongSequence
from tests.services.wire import Cable, abort, edit, everything, tick, until

MANY = 40


@pytest.fixture
async def ledger(ledger: Ledger) -> Ledger:
    """An empty ledger on which four that wait go together."""
    ledger.groups.in_memory = True
    return ledger


async def outcomes(ledger: Ledger, facts: Sequence[tuple[str, Fact, int | None]]) -> list[object]:
    """What becomes of these (id, fact, guard), all asked for at once."""
    writes = (ledger.append(fact, id=id, expect=expect) for id, fact, expect in facts)
    return await asyncio.gather(*writes, return_exceptions=True)


def aborts(count: int = MANY) -> list[tuple[str, Fact, int | None]]:
    """So many facts on subjects of their own."""
    return [(f"i{n}", abort(f"j{n}"), None) for n in range(count)]


async def in_batches(ledger: Ledger) -> int:
    """How many facts came in a batch."""
    found = [await reading.find(ledger, {"seq": n + 1}) for n in range(await ledger.end())]
    return sum("Nats-Batch-Id" in stored.headers for stored in found if stored)


async def test_each_is_told_where_it_stands(ledger: Ledger, nats_server: EmbeddedNats) -> None:
    """Also while others write: a batch stands in one piece."""
    async with Ledger.open(nats_server.url, name="other") as other:
        other.groups.in_memory = True
        mine, theirs = await asyncio.gather(
            outcomes(ledger, aborts()),
            outcomes(other, [(f"o{n}", abort(f"other{n}"), None) for n in range(MANY)]),
        )

    stands = {recorded.sequence: recorded.fact for recorded in await everything(ledger)}
    assert [stands[told] for told in mine] == [abort(f"j{n}") for n in range(MANY)]
    assert [stands[told] for told in theirs] == [abort(f"other{n}") for n in range(MANY)]
    assert await in_batches(ledger) > MANY


async def test_those_on_one_subject_keep_their_order(ledger: Ledger) -> None:
    """As the reports of a runner do."""
    told = await outcomes(ledger, [(f"i{n}", tick(n), None) for n in range(MANY)])

    assert told == list(range(1, MANY + 1))
    assert [r.fact for r in await everything(ledger)] == [tick(n) for n in range(MANY)]
    assert await in_batches(ledger) > MANY // 2


async def test_a_few_at_once_go_by_themselves(ledger: Ledger) -> None:
    await outcomes(ledger, aborts(4))
    assert await in_batches(ledger) == 0


async def test_a_guard_that_fails_refuses_its_own_fact_alone(ledger: Ledger) -> None:
    last = await ledger.append(edit("e1", "one"), id="a", expect=0)
    facts = aborts()
    facts[MANY // 2] = ("late", edit("e1", "late"), last - 1)

    told = await outcomes(ledger, facts)

    refused = told.pop(MANY // 2)
    assert isinstance(refused, WrongSequence)
    assert refused.last == last
    assert sorted(map(str, told)) == sorted(str(last + 1 + n) for n in range(MANY - 1))


async def test_a_repeated_id_has_the_place_of_the_first(ledger: Ledger) -> None:
    first = await ledger.append(abort("before"), id="before")
    facts = aborts()
    facts[MANY // 2] = ("before", abort("before"), None)

    told = await outcomes(ledger, facts)

    assert told[MANY // 2] == first
    assert await ledger.end() == MANY


async def test_what_is_too_large_is_refused_alone(ledger: Ledger) -> None:
    facts = aborts()
    facts[MANY // 2] = ("huge", edit("e1", "x" * (9 * 1024 * 1024)), None)

    told = await outcomes(ledger, facts)

    assert isinstance(told[MANY // 2], LedgerUnavailable)
    assert await ledger.end() == MANY - 1


async def test_of_many_who_have_seen_the_same_exactly_one_succeeds(ledger: Ledger) -> None:
    told = await outcomes(ledger, [(f"i{n}", edit("e1", f"{n}"), 0) for n in range(MANY)])

    assert sum(isinstance(each, int) for each in told) == 1
    assert sum(isinstance(each, WrongSequence) for each in told) == MANY - 1


async def test_a_guard_on_another_subject_sees_what_is_written_there(ledger: Ledger) -> None:
    """Of those who rely on an event that is changed meanwhile, all after the change fail."""

    async def rely(number: int) -> int:
        fact = abort(f"r{number}")
        return await ledger.append_all([(f"r{number}", fact)], expect={"facts.event.e1": 0})

    changes = [ledger.append(edit("e1", "changed"), id="change", expect=0)]
    told = await asyncio.gather(
        *(rely(n) for n in range(10)),
        *changes,
        *(rely(n) for n in range(10, MANY)),
        return_exceptions=True,
    )
    changed = told[10]

    assert isinstance(changed, int)
    assert all(r.sequence <= changed for r in await everything(ledger))
    assert any(isinstance(each, WrongSequence) for each in told)


async def test_an_interruption_loses_and_doubles_nothing(ledger: Ledger, cable: Cable) -> None:
    """Whether their answers were lost or they had not been sent yet."""
    async with Ledger.open(cable.url, name="far") as far:
        far.groups.in_memory = True
        cable.deafen()
        writes = asyncio.create_task(outcomes(far, aborts()))
        async with asyncio.timeout(5):
            await cable.said.wait()
        await cable.cut()
        await cable.plug()

        stands = {}
        told = await writes
        for recorded in await everything(ledger):
            stands[recorded.sequence] = recorded.fact
    assert [stands[each] for each in told] == [abort(f"j{n}") for n in range(MANY)]
    assert len(stands) == MANY


async def test_what_was_given_up_while_it_waited_is_never_written(
    ledger: Ledger, cable: Cable
) -> None:
    async with Ledger.open(cable.url, name="far") as far:
        far.groups.in_memory = True
        await far.end()
        writes = [asyncio.create_task(far.append(f, id=id)) for id, f, _ in aborts(4)]
        await asyncio.sleep(0)
        waiting = asyncio.create_task(far.append(abort("given-up"), id="given-up"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(*writes)
        await far.append(abort("last"), id="last")

    await until(lambda: waiting.done(), "the write goes on")
    assert [r.fact for r in await everything(ledger)][4:] == [abort("last")]
