"""Stored bytes are for ever: every kind and version has a golden file that must stay readable."""

import json
import re
from pathlib import Path

import pytest

from domain import facts
from domain.facts import KINDS, VERSIONS, UnreadableFact, decode, encode
from domain.ids import ID
from domain.subjects import subject_of

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))
NAME = re.compile(r"(\w+)\.v(\d+)\.json")


def golden(kind: str, version: int) -> bytes:
    return (GOLDEN / f"{kind}.v{version}.json").read_bytes().removesuffix(b"\n")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_newest_version_of_every_kind_keeps_its_bytes(kind: str) -> None:
    stored = golden(kind, VERSIONS.get(kind, 1))

    fact = decode(stored)

    assert type(fact) is KINDS[kind]
    assert encode(fact) == stored


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_version_ever_written_can_be_read(file: Path) -> None:
    name = NAME.fullmatch(file.name)
    assert name is not None, f"a golden file is called KIND.vN.json, not {file.name}"

    assert decode(golden(name[1], int(name[2]))).kind == name[1]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_golden_file_shows_every_field(kind: str) -> None:
    """A field that is missing there could change its meaning without a test noticing."""
    stored = json.loads(golden(kind, VERSIONS.get(kind, 1)))
    fields = set(KINDS[kind].__struct_fields__) - {"v", "cause"}

    assert fields <= stored.keys()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_a_subject(kind: str) -> None:
    subject = subject_of(decode(golden(kind, 1)))

    assert re.fullmatch(r"facts(\.[a-z0-9_]+)+", subject)
    assert all(ID.fullmatch(token) for token in subject.split("."))


def test_facts_about_one_job_stand_together() -> None:
    kinds = ("JobRequested", "JobQueued", "JobCompleted", "JobAbortRequested", "JobTagged")

    assert {subject_of(decode(golden(kind, 1))) for kind in kinds} == {
        "facts.job.nightly.jmuoajnl50000001"
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"not json",
        b'{"kind":"NeverHeardOf","v":1,"at":1,"actor":{"type":"user","id":"x"}}',
        b'{"kind":"TickFired","v":99,"at":1,"actor":{"type":"user","id":"x"},"evaluated":1}',
        b'{"kind":"TickFired","v":1,"at":1,"actor":{"type":"user","id":"x"}}',
        b'{"kind":"TickFired","v":1,"at":"soon","actor":{"type":"user","id":"x"},"evaluated":1}',
        b"\xff\xfe",
    ],
)
def test_bytes_that_are_no_fact_are_refused(data: bytes) -> None:
    with pytest.raises(UnreadableFact):
        decode(data)


def test_a_field_added_by_a_later_release_is_ignored() -> None:
    stored = golden("TickFired", 1)

    assert decode(stored[:-1] + b',"later":1}') == decode(stored)


def test_half_a_character_does_not_keep_a_fact_from_being_recorded() -> None:
    """JSON may name lone surrogates; the ledger holds what can be written of them."""
    told = {"data": {"a\ud800": ["x\udfff", "\ud83d\ude00"]}}
    fact = facts.JobChanged(
        at=1.0, actor=facts.Actor(type="system", id="s"), event="e", job="j", changes=told
    )
    decoded = facts.decode(facts.encode(fact))
    assert isinstance(decoded, facts.JobChanged)
    assert decoded.changes == {"data": {"a\ufffd": ["x\ufffd", "\U0001f600"]}}
