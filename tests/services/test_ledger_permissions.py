"""What each role may do on NATS, with the files of nats/permissions on a real server."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from domain import facts as f
from services.ledger import append as appending
from services.ledger import live
from services.ledger.authority import Authority, Signer
from services.ledger.chunks import write_chunks
from services.ledger.connection import Ledger
from services.ledger.credentials import KeyPair, Login, signed
from services.ledger.embedded import EmbeddedNats, NatsSetup
from services.ledger.enrolment import answer_enrolments, enrolment_signer
from services.ledger.errors import LedgerUnavailable, OutcomeUnknown, Refused
from services.ledger.founding import found, ledger_id
from services.ledger.reader import Follower
from services.ledger.streams import ensure_streams
from tests.services.wire import ACTOR, abort, edit, term, tick


@dataclass
class Urls:
    """The address of one installation for each role."""

    setup: NatsSetup
    signer: Signer

    def __mod__(self, role: str) -> str:
        name, _, id = role.partition("-")
        login = self.signer.login(name, id) if id else self.setup.logins[name]
        return login.url(self.setup.address)


@pytest.fixture(scope="module")
def roles_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Urls]:
    """An installation of this module's own; `roles_url % role` is where that role connects."""
    home = tmp_path_factory.mktemp("roles")
    server = EmbeddedNats(home)
    asyncio.run(server.start())
    signer = enrolment_signer(home)
    assert signer is not None
    yield Urls(server.setup, signer)
    asyncio.run(server.stop())


@pytest.fixture
async def owner(roles_url: Urls, tmp_path: Path) -> AsyncIterator[Ledger]:
    """The ledger, seen by a user who may do everything; founded as a gateway would."""
    async with Ledger.open(roles_url % "owner", name="owner") as ledger:
        for name in ("LEDGER", "CHUNKS", "SNAPSHOTS"):
            await ledger.api(f"STREAM.DELETE.{name}")
        async with Ledger.open(roles_url % "gateway", name="gateway") as gateway:
            await ensure_streams(gateway)
            await found(gateway, tmp_path, 1.0)
        yield ledger


async def refused(ledger: Ledger, fact: f.Fact) -> bool:
    """Whether this role cannot write the fact."""
    try:
        await appending.append(ledger, fact, id=secrets.token_hex(4), patience=0.15)
    except OutcomeUnknown:
        return True
    return False


async def denied(ledger: Ledger, subject: str, body: bytes = b"") -> bool:
    """Whether a request on this subject stays unanswered."""
    try:
        await ledger.request(subject, body, within=0.15)
    except OutcomeUnknown:
        return True
    return False


def assigned(server: str) -> f.JobAssigned:
    return f.JobAssigned(
        at=1.0,
        actor=ACTOR,
        server=server,
        boot="b",
        event="e1",
        job="j1",
        attempt=1,
        made_of=f.MadeOf(event=1),
    )


def left(server: str) -> f.ServerLeft:
    return f.ServerLeft(at=1.0, actor=ACTOR, server=server, boot="b")


async def test_a_gateway_writes_commands_and_neither_orders_reports_nor_terms(
    owner: Ledger, roles_url: Urls
) -> None:
    async with Ledger.open(roles_url % "gateway", name="gateway") as ledger:
        assert await ledger.append(edit("e1", "x"), id="a", expect=0)
        assert await ledger.append(abort("j1"), id="b")
        for fact in (assigned("runner1"), left("runner1"), term("x"), tick()):
            assert await refused(ledger, fact)
        assert await denied(ledger, "$JS.API.STREAM.DELETE.LEDGER")
        assert await denied(ledger, "$JS.API.DIRECT.GET.SNAPSHOTS", b'{"seq":1}')
        assert await denied(ledger, "$JS.API.STREAM.PURGE.LEDGER")


async def test_a_scheduler_leads_orders_and_follows_but_reports_nothing(
    owner: Ledger, roles_url: Urls
) -> None:
    async with Ledger.open(roles_url % "scheduler", name="scheduler") as ledger:
        await ensure_streams(ledger)
        mine = await ledger.append(term("x"), id="t", expect=0)
        end = await ledger.append_fenced([("o", assigned("runner1")), ("k", tick())], mine)
        follower = Follower(ledger, lambda _: None, after=0)
        task = asyncio.create_task(follower.run())
        assert await follower.reached(end, 5)
        task.cancel()
        assert await refused(ledger, left("runner1"))
        assert await denied(ledger, "$JS.API.STREAM.DELETE.LEDGER")


async def test_a_runner_reads_its_own_orders_and_nothing_else(
    owner: Ledger, roles_url: Urls
) -> None:
    order = await owner.append(assigned("runner1"), id="o1")
    await owner.append(assigned("other"), id="o2")
    async with Ledger.open(roles_url % "runner-runner1", name="runner") as ledger:
        assert await ledger_id(ledger, within=5, consumer="runner-runner1")
        seen: list[int] = []
        follower = Follower(
            ledger,
            lambda r: seen.append(r.sequence),
            after=0,
            subjects=("facts.order.runner1",),
            consumer="runner-runner1",
        )
        task = asyncio.create_task(follower.run())
        assert await follower.reached(order, 5)
        later = await owner.append(assigned("runner1"), id="o3")
        assert await follower.reached(later, 5)
        task.cancel()
        assert seen == [order, later]

        create = "$JS.API.CONSUMER.CREATE.LEDGER"
        for filters in ({"filter_subject": "facts.access.>"}, {"filter_subjects": ["facts.>"]}):
            config = {"name": "runner-runner1", "ack_policy": "none"} | filters
            body = json.dumps({"stream_name": "LEDGER", "config": config}).encode()
            assert await denied(ledger, f"{create}.runner-runner1.facts.access.>", body)
            assert await denied(ledger, f"{create}.runner-runner1", body)
            reply = await ledger.request(f"{create}.runner-runner1.facts.order.runner1", body)
            assert "error" in json.loads(reply.data), "a filter was smuggled past the subject"
        for verb in (
            "DIRECT.GET.LEDGER",
            "DIRECT.GET.LEDGER.facts.access.kadmin",
            "STREAM.MSG.GET.LEDGER",
            "STREAM.MSG.DELETE.LEDGER",
            "STREAM.PURGE.CHUNKS",
            "CONSUMER.MSG.NEXT.LEDGER.runner-other",
        ):
            assert await denied(ledger, f"$JS.API.{verb}", b'{"seq":1}'), verb


async def test_a_runner_writes_as_itself_only(owner: Ledger, roles_url: Urls) -> None:
    async with Ledger.open(roles_url % "runner-runner1", name="runner") as ledger:
        assert await ledger.append(left("runner1"), id="a")
        assert (await write_chunks(ledger, "chunks.runner1.j1", [b"log"])).size == 3
        for fact in (left("other"), assigned("runner1"), abort("j1"), term("x")):
            assert await refused(ledger, fact)
        assert await denied(ledger, "chunks.other.j1", b"x")
        assert await denied(ledger, "live.scheduler", b"{}")


async def test_launches_and_logs_are_asked_for_across_roles(owner: Ledger, roles_url: Urls) -> None:
    async def echo(message: f.Json) -> f.Json:
        return message

    async with (
        Ledger.open(roles_url % "runner-runner1", name="runner") as runner,
        Ledger.open(roles_url % "scheduler", name="scheduler") as scheduler,
        Ledger.open(roles_url % "gateway", name="gateway") as gateway,
    ):
        await live.answer(scheduler, "live.launch.*", echo, queue="schedulers")
        await live.answer(runner, "live.log.runner1", echo)
        await scheduler.nc.flush()
        await runner.nc.flush()
        assert await live.ask(runner, "live.launch.runner1", {"n": 1}, 5) == {"n": 1}
        assert await live.ask(gateway, "live.log.runner1", {"n": 2}, 5) == {"n": 2}
        assert await denied(runner, "live.launch.other", b"{}")


async def test_a_subscriber_sees_facts_but_no_access_secrets_or_orders(
    owner: Ledger, roles_url: Urls
) -> None:
    async with Ledger.open(roles_url % "subscriber", name="subscriber") as ledger:
        heard: asyncio.Queue[str] = asyncio.Queue()

        async def hear(message: Any) -> None:
            await heard.put(message.subject)

        await ledger.nc.subscribe("ledger.>", cb=hear)
        await ledger.nc.flush()
        secret = f.CatalogCreated(at=1.0, actor=ACTOR, type="secret", id="s1", record={})
        session = f.SessionEnded(at=1.0, actor=ACTOR, id="admin", session="x")
        for fact in (secret, session, assigned("runner1"), edit("e1", "x")):
            await owner.append(fact, id=secrets.token_hex(4))
        async with asyncio.timeout(5):
            assert await heard.get() == "ledger.event.e1"
        assert heard.empty()
        assert await refused(ledger, abort("j1"))
        for verb in ("DIRECT.GET.LEDGER", "STREAM.MSG.GET.LEDGER", "STREAM.DELETE.LEDGER"):
            assert await denied(ledger, f"$JS.API.{verb}", b'{"seq":1}')


async def test_a_subscriber_reads_the_history_of_what_it_may_see(
    owner: Ledger, roles_url: Urls
) -> None:
    sequence = await owner.append(edit("e1", "x"), id="a")
    async with Ledger.open(roles_url % "subscriber", name="subscriber") as ledger:
        inbox = ledger.nc.new_inbox()
        history = await ledger.nc.subscribe(inbox)

        async def consume(filter: str, name: str = "subscriber") -> f.Json:
            config = {
                "name": name,
                "deliver_subject": inbox,
                "ack_policy": "none",
                "filter_subject": filter,
            }
            return await ledger.api(
                f"CONSUMER.CREATE.LEDGER.{name}.{filter}",
                {"stream_name": "LEDGER", "config": config},
                within=0.15,
            )

        assert "error" not in await consume("facts.event.>")
        message = await history.next_msg(timeout=5)
        assert message.subject == "facts.event.e1"
        assert f".{sequence}." in message.reply
        for filter in (
            "facts.>",
            "facts.access.>",
            "facts.catalog.>",
            "facts.catalog.secret.>",
            "facts.order.>",
        ):
            with pytest.raises(OutcomeUnknown):
                await consume(filter)
        with pytest.raises(OutcomeUnknown):
            await consume("facts.event.>", name="runner-runner1")


async def test_a_denied_permission_is_named_as_a_possible_reason(
    owner: Ledger, roles_url: Urls
) -> None:
    async with Ledger.open(roles_url % "subscriber", name="subscriber") as ledger:
        with pytest.raises(LedgerUnavailable, match="denied permission looks the same"):
            await appending.append(ledger, tick(), id="a", patience=0.1)


async def test_an_enrolment_login_may_ask_for_a_login_and_nothing_else(
    owner: Ledger, roles_url: Urls
) -> None:
    async with (
        Ledger.open(roles_url % "gateway", name="gateway") as gateway,
        Ledger.open(roles_url % "enrolment", name="enrolment") as ledger,
    ):
        await answer_enrolments(gateway, roles_url.signer)
        await gateway.nc.flush()
        key = KeyPair.new("user")
        answer = await live.ask(
            ledger, "live.enroll", {"server": "w1", "public_key": key.public}, 5
        )
        for wrong in ({"server": "*"}, {"server": "W1"}, {"public_key": "UABC"}, {}):
            request = {"server": "w1", "public_key": key.public} | wrong if wrong else {}
            assert "token" not in await live.ask(ledger, "live.enroll", request, 5)

        for fact in (left("w1"), assigned("w1"), abort("j1"), term("x"), edit("e1", "x")):
            assert await refused(ledger, fact)
        for subject in ("$JS.API.STREAM.INFO.LEDGER", "live.launch.w1", "live.server.w1"):
            assert await denied(ledger, subject, b"{}")
        assert await denied(ledger, "$JS.API.DIRECT.GET.LEDGER", b'{"seq":1}')

    login = Login.from_token(answer["token"], key.seed)
    async with Ledger.open(login.url(roles_url.setup.address), name="runner") as runner:
        assert await runner.append(left("w1"), id="mine")
        assert await refused(runner, left("runner1"))
    recorded = await owner.last_fact("facts.access.runner_w1")
    assert recorded is not None
    assert isinstance(recorded.fact, f.RunnerEnrolled)


async def test_runners_hear_neither_facts_nor_each_other(owner: Ledger, roles_url: Urls) -> None:
    async with Ledger.open(roles_url % "runner-runner1", name="runner") as ledger:
        heard: list[str] = []

        async def hear(message: Any) -> None:
            heard.append(message.subject)

        for subject in ("ledger.>", "facts.>", "live.>", "live.launch.>", "_INBOX.>", ">"):
            await ledger.nc.subscribe(subject, cb=hear)
        await ledger.nc.flush()
        await owner.append(edit("e1", "x"), id="a")
        owner.publish("live.server.other", b"{}")
        owner.publish("_INBOX.gateway.x", b"{}")
        await owner.nc.flush()
        await ledger.nc.flush()
        assert heard == []


@pytest.mark.parametrize("trick", ["another authority", "another role", "wider", "other account"])
async def test_a_login_that_was_not_signed_for_its_role_is_refused(
    roles_url: Urls, trick: str
) -> None:
    """Only a role's own key signs for the role, and a token cannot widen what that key allows."""
    key = KeyPair.new("user")
    signer, stranger = roles_url.signer, Authority.new().signer
    content: f.Json = {"type": "user", "version": 2, "issuer_account": signer.account}
    by = signer.keys["runner"]
    match trick:
        case "another authority":
            by = stranger.keys["runner"]
        case "another role":
            by = stranger.keys["scheduler"]
        case "wider":
            content["pub"] = {"allow": [">"]}
        case _:
            content["issuer_account"] = stranger.account
    token = signed(key.public, by, "runner-runner1", content)
    login = Login.from_token(token, key.seed)
    with pytest.raises(Refused):
        async with Ledger.open(login.url(roles_url.setup.address), name="x", wait=5):
            pass


async def test_a_stolen_token_is_worthless_without_its_key(roles_url: Urls) -> None:
    token = roles_url.setup.logins["owner"].token
    login = Login.from_token(token, KeyPair.new("user").seed)
    with pytest.raises(Refused):
        async with Ledger.open(login.url(roles_url.setup.address), name="x", wait=5):
            pass
