"""Following the ledger: every fact once and in order, through gaps, restarts and damage."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from domain.facts import Recorded, UnreadableFact
from services.ledger import reader, reading
from services.ledger.connection import Ledger
from services.ledger.errors import AheadOfLedger
from services.ledger.reader import FEW, PULL, TOGETHER, Follower
from tests.services.wire import abort, edit, following, term, tick, until


async def write(ledger: Ledger, first: int, last: int) -> int:
    """Facts numbered from `first` up to but not including `last`, in batches."""
    mine = await ledger.last_sequence("facts.term") or await ledger.append(term("a"), id="t")
    return await ledger.append_fenced([(f"n{n}", tick(n)) for n in range(first, last)], mine)


async def test_old_facts_come_before_new_ones_and_none_is_missing(ledger: Ledger) -> None:
    await write(ledger, 0, 50)
    seen: list[Recorded] = []
    async with following(ledger, seen.append) as follower:
        async with asyncio.timeout(5):
            await follower.caught_up.wait()
        assert follower.position == 51
        end = await write(ledger, 50, 100)
        assert await follower.reached(end, 5)

    assert [r.sequence for r in seen] == list(range(1, end + 1))
    assert [r.fact for r in seen[1:]] == [tick(n) for n in range(100)]


async def test_more_facts_than_fit_into_the_open_pulls_all_come(ledger: Ledger) -> None:
    end = await write(ledger, 0, 5 * PULL)
    seen: list[int] = []
    async with following(ledger, lambda r: seen.append(r.sequence)) as follower:
        assert await follower.reached(end, 30)
    assert seen == list(range(1, end + 1))


async def test_it_starts_after_the_given_position(ledger: Ledger) -> None:
    end = await write(ledger, 0, 10)
    seen: list[int] = []
    async with following(ledger, lambda r: seen.append(r.sequence), after=4) as follower:
        assert await follower.reached(end, 5)
    assert seen == list(range(5, end + 1))


async def test_only_the_wanted_subjects_come_and_the_end_counts_as_reached(
    ledger: Ledger,
) -> None:
    await ledger.append(abort("j1"), id="a")
    await ledger.append(tick(1), id="b")
    await ledger.append(abort("j2"), id="c")
    end = await ledger.append(abort("j3"), id="d")
    seen: list[str] = []
    for subjects in (["facts.schedule"], ["facts.schedule", "facts.term"]):
        seen.clear()
        follower = Follower(ledger, lambda r: seen.append(r.subject), after=0, subjects=subjects)
        task = asyncio.create_task(follower.run())
        assert await follower.reached(end, 5)
        task.cancel()
        assert seen == ["facts.schedule"]


async def test_erased_facts_are_no_obstacle(ledger: Ledger) -> None:
    end = await write(ledger, 0, 20)
    for sequence in (1, 7, 8, end):
        answer = await ledger.api("STREAM.MSG.DELETE.LEDGER", {"seq": sequence})
        assert answer["success"]
    seen: list[int] = []
    async with following(ledger, lambda r: seen.append(r.sequence)) as follower:
        assert await follower.reached(end, 5), "the erased last fact was waited for"
        assert seen == [n for n in range(1, end) if n not in (1, 7, 8)]
        assert await follower.reached(await ledger.append(tick(99), id="x"), 5)
    assert await ledger.get(7) is None


async def test_a_position_that_is_not_reached_in_time_is_told(ledger: Ledger) -> None:
    async with following(ledger, lambda _: None) as follower:
        assert not await follower.reached(1, 0.05)
        waiting = [asyncio.create_task(follower.reached(n, 5)) for n in (3, 1, 2)]
        for n in range(3):
            await ledger.append(tick(n), id=f"i{n}")
        assert await asyncio.gather(*waiting) == [True, True, True]


async def test_after_a_burst_its_end_is_announced_once_all_is_applied(ledger: Ledger) -> None:
    positions: list[int] = []
    follower = Follower(
        ledger,
        lambda _: None,
        after=0,
        after_batch=lambda: positions.append(follower.position),
    )
    task = asyncio.create_task(follower.run())
    end = await write(ledger, 0, 300)
    await until(lambda: end in positions, "the end of the burst was not announced")
    assert positions == sorted(set(positions))
    task.cancel()


async def test_what_one_wrote_oneself_is_applied_once_as_soon_as_it_is_confirmed(
    ledger: Ledger,
) -> None:
    """Before its delivery, which is passed over; others' facts come in between as ever."""
    seen: list[Recorded] = []
    async with following(ledger, seen.append) as follower:
        for n in range(0, 30, 3):
            mine = await ledger.append(tick(n), id=f"a{n}", stored=follower.take_own)
            assert follower.position == mine, "there was nothing before it to be awaited"
            other = await ledger.append(tick(n + 1), id=f"b{n}")
            late = await ledger.append(tick(n + 2), id=f"c{n}", stored=follower.take_own)
            assert await follower.reached(late, 5)
            assert (mine, other, late) == (n + 1, n + 2, n + 3)
    assert [r.sequence for r in seen] == list(range(1, 31))
    assert [r.fact for r in seen] == [tick(n) for n in range(30)]
    assert {r.subject for r in seen} == {"facts.schedule"}


async def test_own_facts_that_come_while_it_asks_for_the_end_are_no_other_ledgers(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end that the server told is behind them when its answer is looked at."""
    seen: list[int] = []
    follower = Follower(ledger, lambda r: seen.append(r.sequence), after=0)
    ask = reading.end

    async def ask_and_write(of: Ledger) -> int:
        end = await ask(of)
        await of.append(tick(1), id="own", stored=follower.take_own)
        return end

    monkeypatch.setattr(reading, "end", ask_and_write)
    task = asyncio.create_task(follower.run())
    done, _ = await asyncio.wait(
        (task, caught_up := asyncio.create_task(follower.caught_up.wait())),
        timeout=5,
        return_when=asyncio.FIRST_COMPLETED,
    )
    task.cancel()
    assert done == {caught_up}
    assert seen == [1]


async def test_the_copy_of_somebody_else_is_awaited(ledger: Ledger) -> None:
    """Under a repeated id stands what came first, whatever was sent the second time."""
    first = await ledger.append(tick(1), id="same")
    told: list[int] = []
    repeated = await ledger.append(tick(2), id="same", stored=lambda at, *_: told.append(at))
    assert (repeated, told) == (first, [])


async def test_one_who_cannot_keep_up_is_not_given_more(ledger: Ledger) -> None:
    """While the reader waits to breathe, not even its own facts are applied."""
    air, breathing, seen = asyncio.Event(), asyncio.Event(), list[int]()

    async def breathe() -> None:
        breathing.set()
        await air.wait()

    follower = Follower(ledger, lambda r: seen.append(r.sequence), after=0, breathe=breathe)
    task = asyncio.create_task(follower.run())
    await ledger.append(tick(1), id="a")
    await asyncio.wait_for(breathing.wait(), 5)
    end = await ledger.append(tick(2), id="b", stored=follower.take_own)
    assert seen == [1]
    air.set()
    assert await follower.reached(end, 5)
    assert seen == [1, 2]
    task.cancel()


async def test_a_fact_that_nobody_knows_stops_the_follower_before_it(ledger: Ledger) -> None:
    await ledger.append(tick(1), id="a")
    await ledger.request("facts.schedule", b'{"kind":"FromTheFuture","v":1,"at":1.0}')
    await ledger.append(tick(2), id="b")
    seen: list[int] = []
    follower = Follower(ledger, lambda r: seen.append(r.sequence), after=0)

    with pytest.raises(UnreadableFact, match=r"Fact 2 on facts\.schedule"):
        await asyncio.wait_for(follower.run(), 5)
    assert seen == [1]
    assert follower.position == 1
    with pytest.raises(UnreadableFact, match="Fact 2"):
        await ledger.get(2)


async def test_many_facts_at_hand_are_applied_together_and_each_once(ledger: Ledger) -> None:
    end = await write(ledger, 0, 3 * TOGETHER)
    seen: list[int] = []
    at_once: list[int] = []

    def apply_all(facts: Sequence[Recorded]) -> None:
        at_once.append(len(facts))
        seen.extend(recorded.sequence for recorded in facts)

    follower = Follower(ledger, lambda r: seen.append(r.sequence), after=0, apply_all=apply_all)
    task = asyncio.create_task(follower.run())

    assert await follower.reached(end, 10)
    assert seen == list(range(1, end + 1))
    assert at_once
    assert FEW <= min(at_once) <= max(at_once) <= TOGETHER
    task.cancel()


async def test_what_comes_before_a_fact_that_nobody_knows_is_applied_with_the_rest(
    ledger: Ledger,
) -> None:
    end = await write(ledger, 0, 2 * FEW)
    await ledger.request("facts.schedule", b'{"kind":"FromTheFuture","v":1,"at":1.0}')
    await write(ledger, 2 * FEW, 3 * FEW)
    seen: list[int] = []
    follower = Follower(
        ledger,
        lambda r: seen.append(r.sequence),
        after=0,
        apply_all=lambda facts: seen.extend(recorded.sequence for recorded in facts),
    )

    with pytest.raises(UnreadableFact, match=f"Fact {end + 1} "):
        await asyncio.wait_for(follower.run(), 5)
    assert seen == list(range(1, end + 1))
    assert follower.position == end


async def test_an_error_of_the_fold_ends_the_follower(ledger: Ledger) -> None:
    def fail(_: Recorded) -> None:
        raise RuntimeError("a broken fold")

    await ledger.append(tick(1), id="a")
    with pytest.raises(RuntimeError, match="broken fold"):
        await asyncio.wait_for(Follower(ledger, fail, after=0).run(), 5)


async def test_a_position_beyond_the_end_means_another_ledger(ledger: Ledger) -> None:
    await ledger.append(tick(1), id="a")
    with pytest.raises(AheadOfLedger, match="5 lies beyond the ledger's end at 1"):
        await asyncio.wait_for(Follower(ledger, lambda _: None, after=5).run(), 5)


async def test_a_vanished_consumer_is_replaced_without_loss(ledger: Ledger) -> None:
    seen: list[int] = []
    async with following(ledger, lambda r: seen.append(r.sequence)) as follower:
        for round in range(3):
            await follower.reached(await ledger.append(tick(round), id=f"a{round}"), 5)
            names = (await ledger.api("CONSUMER.NAMES.LEDGER"))["consumers"]
            assert len(names) == 1
            await ledger.api(f"CONSUMER.DELETE.LEDGER.{names[0]}")
            end = await ledger.append(tick(round), id=f"b{round}")
            assert await follower.reached(end, 5), "the follower did not notice"
    assert seen == list(range(1, 7))


async def test_a_busy_follower_does_not_take_the_server_for_silent(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came while this process was held up is read before anything is concluded."""
    monkeypatch.setattr(reader, "LOOK", 0.12)
    monkeypatch.setattr(reader, "HEARTBEAT", 0.1)
    monkeypatch.setattr(reader, "LONE", 1.0)
    async with following(ledger, lambda _: None) as follower:
        await follower.reached(await ledger.append(tick(1), id="a"), 5)
        before = (await ledger.api("CONSUMER.NAMES.LEDGER"))["consumers"]
        time.sleep(reader.LOOK * reader.SILENT_LOOKS * 2)  # noqa: ASYNC251 - this holds it up
        await follower.reached(await ledger.append(tick(2), id="b"), 5)
        assert (await ledger.api("CONSUMER.NAMES.LEDGER"))["consumers"] == before


async def test_a_consumer_that_is_gone_without_a_word_is_missed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a broken connection nor a status tells: only heartbeats are missing."""
    monkeypatch.setattr(reader, "LOOK", 0.03)
    monkeypatch.setattr(reader, "HEARTBEAT", 60.0)
    async with following(ledger, lambda _: None) as follower:
        await follower.caught_up.wait()
        before = (await ledger.api("CONSUMER.NAMES.LEDGER"))["consumers"]
        async with asyncio.timeout(10):
            while (await ledger.api("CONSUMER.NAMES.LEDGER"))["consumers"] == before:
                pass  # the silence lasts for three looks


async def test_a_stopped_follower_leaves_nothing_behind(ledger: Ledger) -> None:
    async with following(ledger, lambda _: None) as follower:
        async with asyncio.timeout(5):
            await follower.caught_up.wait()
    subscriptions = len(ledger.nc._subs)
    for _ in range(3):
        async with following(ledger, lambda _: None) as follower:
            async with asyncio.timeout(5):
                await follower.caught_up.wait()
    assert len(ledger.nc._subs) == subscriptions
    assert not ledger.on_reconnect
    async with asyncio.timeout(5):
        while (await ledger.api("CONSUMER.NAMES.LEDGER"))["consumers"]:
            pass  # its end is asked for without waiting for the answer


async def test_many_facts_larger_than_one_pull_may_carry_all_come(ledger: Ledger) -> None:
    for n in range(12):
        await ledger.append(edit("e1", "x" * (3 * 1024 * 1024)), id=f"i{n}")
    seen: list[int] = []
    async with following(ledger, lambda r: seen.append(r.sequence)) as follower:
        assert await follower.reached(12, 30)
    assert seen == list(range(1, 13))
