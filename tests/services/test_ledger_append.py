"""Writing facts: guards, repetitions, batches, the fence, and lost answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.ledger import append as appending
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.errors import Deposed, LedgerUnavailable, OutcomeUnknown, WrongSequence
from tests.services.wire import Cable, abort, edit, everything, term, tick, until


@pytest.fixture(params=[False, True], ids=["batches-on-disk", "batches-in-memory"])
async def ledger(request: pytest.FixtureRequest, ledger: Ledger) -> Ledger:
    """An empty ledger whose writes go together early, or late."""
    ledger.groups.in_memory = request.param
    return ledger


@pytest.fixture
async def far(ledger: Ledger, cable: Cable) -> AsyncIterator[Ledger]:
    """The same ledger, reached through the cable."""
    async with Ledger.open(cable.url, name="far") as opened:
        opened.groups.in_memory = ledger.groups.in_memory
        yield opened


async def offered(ledger: Ledger, id: str) -> str:
    """What becomes of an offer."""
    end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    ledger.offer(
        tick(1),
        id=id,
        stored=lambda: end.set_result("stored"),
        otherwise=lambda: end.set_result("unknown"),
    )
    return await asyncio.wait_for(end, 10)


class TestOneFact:
    async def test_its_sequence_is_where_it_stands(self, ledger: Ledger) -> None:
        first = await ledger.append(tick(1), id="a")
        second = await ledger.append(tick(2), id="b")

        assert (first, second) == (1, 2)
        stored = await ledger.get(second)
        assert stored is not None
        assert (stored.fact, stored.subject) == (tick(2), "facts.schedule")

    async def test_the_same_id_is_the_same_fact(self, ledger: Ledger) -> None:
        first = await ledger.append(tick(1), id="a")
        again = await ledger.append(tick(1), id="a")

        assert again == first
        assert await ledger.end() == 1

    async def test_an_offered_fact_is_told_when_it_is_stored(self, ledger: Ledger) -> None:
        ends = await offered(ledger, "a"), await offered(ledger, "a")

        assert ends == ("stored", "stored")
        assert await ledger.end() == 1

    async def test_an_offer_without_an_answer_can_be_settled(
        self, ledger: Ledger, far: Ledger, cable: Cable
    ) -> None:
        cable.deafen()
        lost = asyncio.create_task(offered(far, "a"))
        await asyncio.wait_for(cable.said.wait(), 5)
        await cable.cut()
        assert await lost == "unknown"
        await until(lambda: not far.connected, "the connection still stands")
        assert await offered(far, "b") == "unknown"
        await cable.plug()

        assert await far.append(tick(1), id="a") == 1
        assert await ledger.end() == 1

    async def test_the_same_id_and_guard_is_the_same_fact_even_when_others_wrote_since(
        self, ledger: Ledger
    ) -> None:
        first = await ledger.append(edit("e1", "one"), id="a", expect=0)
        await ledger.append(edit("e1", "two"), id="b", expect=first)

        assert await ledger.append(edit("e1", "one"), id="a", expect=0) == first

    async def test_a_writer_who_has_not_seen_the_last_fact_is_refused(self, ledger: Ledger) -> None:
        last = await ledger.append(edit("e1", "one"), id="a", expect=0)

        with pytest.raises(WrongSequence) as refusal:
            await ledger.append(edit("e1", "other"), id="b", expect=0)

        assert refusal.value.last == last
        assert await ledger.end() == last

    async def test_a_refused_id_may_be_used_again(self, ledger: Ledger) -> None:
        last = await ledger.append(edit("e1", "one"), id="a", expect=0)
        with pytest.raises(WrongSequence):
            await ledger.append(edit("e1", "two"), id="b", expect=0)

        assert await ledger.append(edit("e1", "two"), id="b", expect=last) == last + 1

    async def test_of_many_who_race_exactly_one_wins(self, ledger: Ledger) -> None:
        for round in range(10):
            seen = await ledger.last_sequence("facts.event.e1")
            results = await asyncio.gather(
                *(
                    ledger.append(edit("e1", f"{n}"), id=f"{round}-{n}", expect=seen)
                    for n in range(8)
                ),
                return_exceptions=True,
            )
            assert sum(isinstance(result, int) for result in results) == 1
            assert sum(isinstance(result, WrongSequence) for result in results) == 7

    async def test_a_fact_of_four_mebibytes_fits(self, ledger: Ledger) -> None:
        big = edit("e1", "x" * (4 * 1024 * 1024))
        sequence = await ledger.append(big, id="big", expect=0)

        stored = await ledger.last_fact("facts.event.e1")
        assert stored is not None
        assert (stored.sequence, stored.fact) == (sequence, big)

    async def test_what_does_not_fit_is_refused_and_not_stored(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerUnavailable, match="does not take"):
            await ledger.append(edit("e1", "x" * (9 * 1024 * 1024)), id="huge")
        assert await ledger.end() == 0

    async def test_only_what_was_stored_is_republished(self, ledger: Ledger) -> None:
        heard: list[tuple[str, str | None]] = []
        everyone = await ledger.nc.subscribe("ledger.>")
        await ledger.nc.flush()
        await ledger.append(edit("e1", "one"), id="a", expect=0)
        await ledger.append(edit("e1", "one"), id="a", expect=0)
        with pytest.raises(WrongSequence):
            await ledger.append(edit("e1", "two"), id="b", expect=0)
        await ledger.append(tick(), id="c")

        for _ in range(2):
            message = await everyone.next_msg(timeout=5)
            heard.append((message.subject, (message.headers or {}).get("Nats-Sequence")))
        assert heard == [("ledger.event.e1", "1"), ("ledger.schedule", "2")]
        assert everyone.pending_msgs == 0


class TestManyFactsAtOnce:
    async def test_all_stand_in_order(self, ledger: Ledger) -> None:
        last = await ledger.append_all([(f"i{n}", abort(f"j{n}")) for n in range(1000)])

        facts = await everything(ledger)
        assert last == 1000
        assert [recorded.fact for recorded in facts] == [abort(f"j{n}") for n in range(1000)]

    async def test_one_failed_guard_refuses_all(self, ledger: Ledger) -> None:
        seen = await ledger.append(edit("e1", "one"), id="a", expect=0)

        with pytest.raises(WrongSequence):
            await ledger.append_all(
                [("b", abort("j1")), ("c", edit("e1", "two")), ("d", tick())],
                expect={"facts.event.e1": seen - 1},
            )
        assert await ledger.end() == seen

    async def test_a_guard_may_be_on_a_subject_that_is_not_written(self, ledger: Ledger) -> None:
        seen = await ledger.append(edit("e1", "one"), id="a", expect=0)
        with pytest.raises(WrongSequence):
            await ledger.append_all([("b", abort("j1"))], expect={"facts.event.e1": 0})

        assert await ledger.append_all([("c", abort("j1"))], expect={"facts.event.e1": seen}) == 2

    async def test_the_same_batch_again_is_the_same_facts(self, ledger: Ledger) -> None:
        batch = [("a", edit("e1", "one")), ("b", edit("e1", "two"))]
        first = await ledger.append_all(batch, expect={"facts.event.e1": 0})
        await ledger.append(edit("e1", "three"), id="c", expect=first)

        assert await ledger.append_all(batch, expect={"facts.event.e1": 0}) == first
        assert await ledger.end() == first + 1

    async def test_a_batch_with_a_fact_that_stands_already_is_refused_whole(
        self, ledger: Ledger
    ) -> None:
        await ledger.append(abort("j1"), id="a")
        with pytest.raises(LedgerUnavailable, match="duplicate"):
            await ledger.append_all([("a", abort("j1")), ("b", abort("j2"))])
        assert await ledger.end() == 1

    async def test_more_than_a_thousand_are_a_mistake(self, ledger: Ledger) -> None:
        with pytest.raises(ValueError, match="1000"):
            await ledger.append_all([(f"i{n}", tick()) for n in range(1001)])


class TestTheFence:
    @pytest.mark.parametrize("count", [1, 2, 10, 11, 2500])
    async def test_a_leader_writes_in_order(self, ledger: Ledger, count: int) -> None:
        mine = await ledger.append(term("a"), id="t1", expect=0)
        facts = [(f"i{n}", abort(f"j{n}")) for n in range(count)]

        last = await ledger.append_fenced(facts, mine)

        assert last == mine + count
        assert [r.fact for r in await everything(ledger)][1:] == [fact for _, fact in facts]

    @pytest.mark.parametrize("count", [1, 3, 50])
    async def test_a_deposed_leader_writes_nothing(self, ledger: Ledger, count: int) -> None:
        mine = await ledger.append(term("a"), id="t1", expect=0)
        end = await ledger.append(term("b"), id="t2", expect=mine)

        with pytest.raises(Deposed):
            await ledger.append_fenced([(f"i{n}", abort(f"j{n}")) for n in range(count)], mine)
        assert await ledger.end() == end

    async def test_no_write_of_an_old_term_lands_behind_the_new_one(
        self, ledger: Ledger, nats_server: EmbeddedNats
    ) -> None:
        mine = await ledger.append(term("a"), id="t1", expect=0)
        async with Ledger.open(nats_server.url, name="rival") as rival:
            writes = [
                ledger.append_fenced([(f"i{n}-{k}", abort(f"j{n}{k}")) for k in range(3)], mine)
                for n in range(30)
            ]
            results = await asyncio.gather(
                *writes[:15],
                rival.append(term("b"), id="t2", expect=mine),
                *writes[15:],
                return_exceptions=True,
            )
        begun = await ledger.last_sequence("facts.term")
        assert all(r.sequence <= begun for r in await everything(ledger))
        assert any(isinstance(result, Deposed) for result in results) or begun == await ledger.end()

    @pytest.mark.parametrize("count", [2, 50])
    async def test_what_must_stand_behind_another_does(self, ledger: Ledger, count: int) -> None:
        mine = await ledger.append(term("a"), id="t1", expect=0)
        facts = [(f"i{n}", abort(f"j{n}")) for n in range(count)]

        last = await ledger.append_fenced(facts, mine, behind={f"i{count - 1}"})

        assert last == mine + count
        assert [r.fact for r in await everything(ledger)][1:] == [fact for _, fact in facts]

    async def test_what_must_stand_behind_another_is_left_out_if_something_is_between(
        self, ledger: Ledger
    ) -> None:
        mine = await ledger.append(term("a"), id="t1", expect=0)
        first = await ledger.append_fenced([("i1", abort("j1"))], mine)
        between = await ledger.append(tick(1), id="somebody-else")
        pair = [("i1", abort("j1")), ("i2", abort("j2"))]

        assert await ledger.append_fenced(pair, mine, behind={"i2"}) == first
        assert await ledger.end() == between

        assert await ledger.append_fenced(pair[1:], mine) == between + 1  # decided anew

    async def test_writing_nothing_is_a_mistake(self, ledger: Ledger) -> None:
        with pytest.raises(ValueError, match="nothing"):
            await ledger.append_fenced([], 1)


class TestLostAnswers:
    async def lose_the_answer(self, cable: Cable, write: "asyncio.Task[int]") -> int:
        """Cut the cable once the server has answered; plug it in again; the write's result."""
        async with asyncio.timeout(5):
            await cable.said.wait()
        await cable.cut()
        await cable.plug()
        return await write

    async def test_a_stored_fact_is_found_again(
        self, ledger: Ledger, far: Ledger, cable: Cable
    ) -> None:
        cable.deafen()
        write = asyncio.create_task(far.append(abort("j1"), id="a"))

        assert await self.lose_the_answer(cable, write) == 1
        assert await ledger.end() == 1

    async def test_a_stored_fact_with_a_guard_is_found_again(
        self, ledger: Ledger, far: Ledger, cable: Cable
    ) -> None:
        cable.deafen()
        write = asyncio.create_task(far.append(edit("e1", "one"), id="a", expect=0))

        assert await self.lose_the_answer(cable, write) == 1
        assert await ledger.end() == 1

    async def test_a_stored_batch_is_found_again(
        self, ledger: Ledger, far: Ledger, cable: Cable
    ) -> None:
        cable.deafen()
        batch = [("a", abort("j1")), ("b", abort("j2")), ("c", abort("j3"))]
        write = asyncio.create_task(far.append_all(batch))

        assert await self.lose_the_answer(cable, write) == 3
        assert await ledger.end() == 3

    @pytest.mark.parametrize("count", [1, 5, 20])
    async def test_a_leaders_stored_decisions_are_found_again(
        self, ledger: Ledger, far: Ledger, cable: Cable, count: int
    ) -> None:
        mine = await far.append(term("a"), id="t1", expect=0)
        await far.end()
        cable.deafen()
        facts = [(f"i{n}", abort(f"j{n}")) for n in range(count)]
        write = asyncio.create_task(far.append_fenced(facts, mine))

        assert await self.lose_the_answer(cable, write) == mine + count
        assert [r.fact for r in await everything(ledger)][1:] == [fact for _, fact in facts]

    async def test_what_stands_behind_another_is_found_though_its_repetition_would_not(
        self, ledger: Ledger, far: Ledger, cable: Cable
    ) -> None:
        mine = await far.append(term("a"), id="t1", expect=0)
        await far.end()
        cable.deafen()
        pair = [("i1", abort("j1")), ("i2", abort("j2"))]
        write = asyncio.create_task(far.append_fenced(pair, mine, behind={"i2"}))
        async with asyncio.timeout(5):
            while await ledger.end() < mine + 2:
                pass
        await ledger.append(tick(1), id="somebody-else")

        assert await self.lose_the_answer(cable, write) == mine + 2
        assert await ledger.end() == mine + 3

    async def test_a_guard_that_failed_behind_a_lost_answer_is_told(
        self, ledger: Ledger, far: Ledger, cable: Cable
    ) -> None:
        await ledger.append(edit("e1", "mine"), id="b", expect=0)
        cable.deafen()
        write = asyncio.create_task(far.append(edit("e1", "late"), id="a", expect=0))

        with pytest.raises(WrongSequence):
            await self.lose_the_answer(cable, write)
        assert await ledger.end() == 1

    async def test_what_cannot_be_settled_is_unknown(
        self, ledger: Ledger, far: Ledger, cable: Cable
    ) -> None:
        cable.deafen()
        write = asyncio.create_task(appending.append(far, abort("j1"), id="a", patience=0.5))
        async with asyncio.timeout(5):
            await cable.said.wait()
        await cable.cut()

        with pytest.raises(OutcomeUnknown):
            await write
        assert await ledger.end() == 1

    async def test_what_was_reported_as_not_stored_never_is(
        self, ledger: Ledger, far: Ledger, cable: Cable
    ) -> None:
        await cable.cut()
        await until(lambda: not far.connected, "the client noticed no cut")

        with pytest.raises(LedgerUnavailable) as failure:
            await appending.append(far, abort("j1"), id="a", patience=0.3)
        assert not isinstance(failure.value, OutcomeUnknown)

        await cable.plug()
        assert await far.append(abort("j2"), id="b") == 1
        assert [r.fact for r in await everything(ledger)] == [abort("j2")]

    async def test_a_write_waits_for_a_short_interruption(self, far: Ledger, cable: Cable) -> None:
        await cable.cut()
        await until(lambda: not far.connected, "the client noticed no cut")
        write = asyncio.create_task(far.append(abort("j1"), id="a"))
        await asyncio.sleep(0)
        await cable.plug()

        assert await write == 1
