"""Live messages: telling, listening, asking."""

import asyncio

import pytest

from domain.facts import Json
from services.ledger import live
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.errors import NotServed, OutcomeUnknown


async def test_listeners_hear_in_order(ledger: Ledger) -> None:
    heard: asyncio.Queue[Json] = asyncio.Queue()
    await live.listen(ledger, "live.server.*", heard.put)
    for n in range(3):
        assert live.publish(ledger, "live.server.s1", {"n": n})
    async with asyncio.timeout(5):
        assert [(await heard.get())["n"] for _ in range(3)] == [0, 1, 2]


async def test_what_is_no_object_and_what_fails_do_not_end_the_listening(ledger: Ledger) -> None:
    heard: asyncio.Queue[Json] = asyncio.Queue()

    async def hear(message: Json) -> None:
        if "bad" in message:
            raise RuntimeError("a broken handler")
        await heard.put(message)

    await live.listen(ledger, "live.test", hear)
    ledger.publish("live.test", b"not json")
    ledger.publish("live.test", b"[1]")
    live.publish(ledger, "live.test", {"bad": True})
    live.publish(ledger, "live.test", {"good": True})
    async with asyncio.timeout(5):
        assert await heard.get() == {"good": True}


async def test_one_of_a_group_answers(ledger: Ledger) -> None:
    asked: list[str] = []

    async def first(message: Json) -> Json:
        asked.append("first")
        return {"echo": message["n"]}

    async def second(message: Json) -> Json:
        asked.append("second")
        return {"echo": message["n"]}

    await live.answer(ledger, "live.launch.*", first, queue="schedulers")
    await live.answer(ledger, "live.launch.*", second, queue="schedulers")
    answers = [await live.ask(ledger, "live.launch.s1", {"n": n}, 5) for n in range(20)]
    assert [answer["echo"] for answer in answers] == list(range(20))
    assert len(asked) == 20


async def test_a_slow_answer_does_not_hold_the_next_one(ledger: Ledger) -> None:
    free = asyncio.Event()

    async def handler(message: Json) -> Json:
        if message["slow"]:
            await free.wait()
        return message

    await live.answer(ledger, "live.test", handler)
    slow = asyncio.create_task(live.ask(ledger, "live.test", {"slow": True}, 5))
    assert await live.ask(ledger, "live.test", {"slow": False}, 5) == {"slow": False}
    free.set()
    assert await slow == {"slow": True}


async def test_bytes_with_headers_can_be_answered(ledger: Ledger) -> None:
    async def handler(message: Json) -> live.RawAnswer:
        return live.RawAnswer(b"\x00log", {"Log-Size": "4"})

    await live.answer(ledger, "live.log.s1", handler)
    reply = await live.ask_raw(ledger, "live.log.s1", {"job": "j1"}, 5)
    assert (reply.data, reply.headers["Log-Size"]) == (b"\x00log", "4")


async def test_a_failed_request_is_told_to_the_asker(ledger: Ledger) -> None:
    async def handler(message: Json) -> Json:
        raise KeyError("job")

    await live.answer(ledger, "live.test", handler)
    assert await live.ask(ledger, "live.test", {}, 5) == {"error": "'job'"}


async def test_nobody_there_is_known_at_once_and_silence_in_time(ledger: Ledger) -> None:
    with pytest.raises(NotServed):
        await live.ask(ledger, "live.nobody", {}, 5)
    await ledger.nc.subscribe("live.silent")
    with pytest.raises(OutcomeUnknown, match=r"within 0\.1 s"):
        await live.ask(ledger, "live.silent", {}, 0.1)


async def test_a_flush_says_that_the_server_knows_all_subscriptions(
    ledger: Ledger, nats_server: EmbeddedNats
) -> None:
    """Who asks over another connection right afterwards is answered."""

    async def echo(message: Json) -> Json:
        return message

    async with Ledger.open(nats_server.url, name="asker") as asker:
        for n in range(50):
            await live.answer(ledger, f"live.test.{n}", echo)
            await ledger.nc.flush()
            assert await live.ask(asker, f"live.test.{n}", {"n": n}, 5) == {"n": n}
