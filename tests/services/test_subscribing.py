"""Following the facts from outside: the document, the read-only login, and the example."""

import asyncio
import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

import nats
from domain.facts import KINDS, JobCompleted, decode
from services import asyncapi
from services.ledger.connection import Ledger, WrongSequence
from services.ledger.embedded import EmbeddedNats
from tests.services.wire import ACTOR, abort, edit, until

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "mirror_completions.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mirror_completions", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def creds(nats_server: EmbeddedNats, tmp_path: Path) -> Path:
    """The read-only login, as `up` writes it."""
    file = tmp_path / "subscriber.creds"
    file.write_text(nats_server.setup.logins["subscriber"].creds())
    return file


@pytest.fixture
async def subscriber(nats_server: EmbeddedNats, creds: Path) -> AsyncIterator[Client]:
    """An ordinary NATS client with that login."""
    client = await nats.connect(
        nats_server.setup.address, user_credentials=str(creds), inbox_prefix="_INBOX.subscriber"
    )
    yield client
    await client.close()


# --- the document ----------------------------------------------------------------------------


def test_the_document_in_the_repository_is_current() -> None:
    stored = json.loads((ROOT / "docs" / "asyncapi.json").read_text())

    assert stored == asyncapi.document(), "run: jobledger asyncapi > docs/asyncapi.json"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_example_is_a_fact_that_can_be_read(kind: str) -> None:
    messages = asyncapi.document()["components"]["messages"]
    hidden = asyncapi.channel_of(asyncapi.example(kind)) is None

    assert (kind not in messages) == hidden
    if not hidden:
        payload = messages[kind]["examples"][0]["payload"]
        assert decode(json.dumps(payload).encode()).kind == kind


def test_no_kind_about_access_or_orders_is_described() -> None:
    hidden = {kind for kind in KINDS if asyncapi.channel_of(asyncapi.example(kind)) is None}

    assert hidden == {
        "AccessCreated",
        "AccessUpdated",
        "AccessDeleted",
        "SessionStarted",
        "SessionEnded",
        "RunnerEnrolled",
        "SubscriberEnrolled",
        "JobAssigned",
        "JobAbortOrdered",
    }


def test_every_reference_in_the_document_leads_somewhere() -> None:
    document = asyncapi.document()

    def references(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in set(references(document)):
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


# --- what a follower sees --------------------------------------------------------------------


async def test_a_follower_sees_what_was_stored_and_never_what_was_refused(
    ledger: Ledger, subscriber: Client
) -> None:
    seen: list[Msg] = []

    async def hear(message: Msg) -> None:
        seen.append(message)

    await subscriber.subscribe("ledger.>", cb=hear)
    await subscriber.flush()

    first = await ledger.append(edit("e1", "one"), id="a", expect=0)
    with pytest.raises(WrongSequence):
        await ledger.append(edit("e1", "refused"), id="b", expect=0)
    await ledger.append(edit("e1", "one"), id="a", expect=0)  # repeated: stored once
    last = await ledger.append(edit("e1", "two"), id="c", expect=first)

    await until(lambda: len(seen) >= 2, "both facts come")
    await subscriber.flush()
    assert [json.loads(m.data)["definition"]["title"] for m in seen] == ["one", "two"]
    assert [m.headers["Nats-Sequence"] for m in seen if m.headers] == [str(first), str(last)]


async def test_the_headers_are_those_of_the_document(ledger: Ledger, subscriber: Client) -> None:
    subscription = await subscriber.subscribe("ledger.>")
    await subscriber.flush()
    await ledger.append(edit("e1", "one"), id="a", expect=0)
    message = await subscription.next_msg(timeout=5)

    described = asyncapi.document()["components"]["messages"]["EventUpdated"]["headers"]
    assert set(described["properties"]) <= set(message.headers or {})


async def test_the_subject_that_shows_refused_facts_as_well_is_closed_to_followers(
    ledger: Ledger, nats_server: EmbeddedNats, creds: Path
) -> None:
    refusals: list[str] = []

    async def refused(error: Exception) -> None:
        refusals.append(str(error))

    client = await nats.connect(
        nats_server.setup.address, user_credentials=str(creds), error_cb=refused
    )
    await client.subscribe("facts.>")
    await until(lambda: refusals, "the subscription is refused")
    assert "permissions violation" in refusals[0].lower()
    await client.close()


# --- the example -----------------------------------------------------------------------------


def completed(job: str, description: str = "Success") -> JobCompleted:
    return JobCompleted(at=1.5, actor=ACTOR, event="e1", job=job, code=0, description=description)


def mirrored(target: Path) -> list[list[str]]:
    if not target.exists():
        return []
    with target.open(newline="") as file:
        return [[row["job"], row["description"]] for row in csv.DictReader(file)]


async def test_the_example_mirrors_old_and_new_completions_and_goes_on_where_it_stopped(
    ledger: Ledger, nats_server: EmbeddedNats, creds: Path, tmp_path: Path, example: ModuleType
) -> None:
    target = tmp_path / "completions.csv"
    await ledger.append(completed("j1"), id="a")
    await ledger.append(abort("j2"), id="b")

    mirror = example.mirror(nats_server.setup.address, creds, target)
    task = asyncio.create_task(mirror)
    await until(lambda: len(mirrored(target)) == 1, "the old completion is mirrored")
    await ledger.append(completed("j2", 'said "no", twice'), id="c")
    await until(lambda: len(mirrored(target)) == 2, "the new completion is mirrored")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await ledger.append(completed("j3"), id="d")
    with target.open("a") as file:
        file.write("99,1.5,e1,j")  # a line that a crash cut off

    address = [nats_server.setup.address, str(creds), str(target)]
    process = subprocess.Popen([sys.executable, str(EXAMPLE), *address])  # noqa: ASYNC220
    try:
        await until(lambda: ["j3", "Success"] in mirrored(target), "it goes on where it stopped")
    finally:
        process.terminate()
        process.wait()
    assert mirrored(target) == [["j1", "Success"], ["j2", 'said "no", twice'], ["j3", "Success"]]
