"""The contract: every pair of tests/vectors/examples.json, in order, against a whole server.

An entry that is expected to fail is named here with the reason; when it passes, its name must
go: the list can only shrink.

With JOBLEDGER_CONTRACT_URL and JOBLEDGER_CONTRACT_KEY the pairs are played against a server
that runs already.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.player import Mismatch, Player
from tests.contract.stack import Stack, running_stack

VECTORS = Path(__file__).parent.parent / "vectors" / "examples.json"
ENTRIES: list[dict[str, Any]] = json.loads(VECTORS.read_text())

# name -> why it cannot pass yet
EXPECTED_FAILURES: dict[str, str] = {}

# Longer than any `wait` in the file and any job it runs.
_TIMEOUT = 90.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = os.environ.get("JOBLEDGER_CONTRACT_URL")
    if url:
        yield Stack(url.rstrip("/"), os.environ["JOBLEDGER_CONTRACT_KEY"])
        return
    with running_stack(tmp_path_factory.mktemp("contract") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def player(stack: Stack) -> Iterator[Player]:
    with httpx.Client(base_url=stack.url, timeout=_TIMEOUT) as client:
        yield Player(client, {"ADMIN_KEY": stack.admin_key})


def test_expected_failures_name_existing_entries() -> None:
    """A name in the list that no entry has would hide nothing but a typing error."""
    assert EXPECTED_FAILURES.keys() <= {entry["name"] for entry in ENTRIES}


@pytest.mark.parametrize(
    "entry",
    ENTRIES,
    ids=[f"{number:03d} {entry['name']}" for number, entry in enumerate(ENTRIES, 1)],
)
def test_entry(entry: dict[str, Any], player: Player) -> None:
    """The server answers as the entry says."""
    reason = EXPECTED_FAILURES.get(entry["name"])
    if reason is None:
        player.play(entry)
        return
    with pytest.raises((Mismatch, KeyError)):
        player.play(entry)
