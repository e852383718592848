"""A ledger is founded once, whoever starts first and wherever it is killed."""

import asyncio
import stat
from pathlib import Path

import pytest

from domain import facts as f
from services.ledger import founding
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.errors import LedgerUnavailable, StartupError, WrongSecret
from services.ledger.founding import found, ledger_id
from services.ledger.secrets import hash_api_key, server_secret
from tests.services.wire import everything

NOW = 1_700_000_000.0


async def test_the_first_fact_names_the_ledger_and_its_secret(
    ledger: Ledger, tmp_path: Path
) -> None:
    founded = await found(ledger, tmp_path, NOW)
    facts = await everything(ledger)

    assert facts[0].fact == founded
    assert founded.ledger
    assert founded.fingerprint
    assert server_secret(tmp_path).decode() not in repr(facts)


async def test_the_default_records_are_there(ledger: Ledger, tmp_path: Path) -> None:
    await found(ledger, tmp_path, NOW)
    facts = [recorded.fact for recorded in await everything(ledger)]

    made = {(x.type, x.id) for x in facts if isinstance(x, f.CatalogCreated)}
    accounts = {(x.type, x.id) for x in facts if isinstance(x, f.AccessCreated)}
    assert {("category", "general"), ("group", "main"), ("plugin", "shellplug")} <= made
    assert accounts == {("user", "admin"), ("api_key", "kadmin")}


async def test_the_admin_key_stands_in_a_private_file_and_its_hash_on_the_ledger(
    ledger: Ledger, tmp_path: Path
) -> None:
    await found(ledger, tmp_path, NOW)

    file = tmp_path / "admin.key"
    plain = file.read_text().strip()
    recorded = await ledger.last_fact("facts.access.kadmin")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert recorded is not None
    assert isinstance(recorded.fact, f.AccessCreated)
    assert recorded.fact.record["key"] == hash_api_key(server_secret(tmp_path), plain)
    assert recorded.fact.record["mask"] == f"{plain[:4]}********{plain[-4:]}"
    assert plain not in repr(recorded)


async def test_a_second_start_writes_nothing(ledger: Ledger, tmp_path: Path) -> None:
    first = await found(ledger, tmp_path, NOW)
    key = (tmp_path / "admin.key").read_text()
    end = await ledger.end()

    assert await found(ledger, tmp_path, NOW + 1) == first
    assert await ledger.end() == end
    assert (tmp_path / "admin.key").read_text() == key


async def test_a_removed_key_file_is_not_made_again(ledger: Ledger, tmp_path: Path) -> None:
    await found(ledger, tmp_path, NOW)
    (tmp_path / "admin.key").unlink()
    await found(ledger, tmp_path, NOW)
    assert not (tmp_path / "admin.key").exists()


async def test_many_founders_of_one_directory_found_one_ledger(
    ledger: Ledger, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    async with Ledger.open(nats_server.url, name="other") as other:
        results = await asyncio.gather(
            *(found(which, tmp_path, NOW) for which in (ledger, other) * 4)
        )
    assert len({founded.ledger for founded in results}) == 1
    kinds = [recorded.fact.kind for recorded in await everything(ledger)]
    assert kinds.count("LedgerFounded") == 1
    assert (kinds.count("AccessCreated")) == 2
    plain = (tmp_path / "admin.key").read_text().strip()
    recorded = await ledger.last_fact("facts.access.kadmin")
    assert recorded is not None
    assert isinstance(recorded.fact, f.AccessCreated)
    assert recorded.fact.record["key"] == hash_api_key(server_secret(tmp_path), plain)


async def test_a_founder_killed_before_the_key_was_recorded_is_completed(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(founding, "_record_admin_key", die)
        with pytest.raises(Killed):
            await found(ledger, tmp_path, NOW)
    (tmp_path / "admin.key").write_text("a-key-that-was-written-before-the-kill\n")

    await found(ledger, tmp_path, NOW)
    recorded = await ledger.last_fact("facts.access.kadmin")
    assert recorded is not None
    assert isinstance(recorded.fact, f.AccessCreated)
    assert recorded.fact.record["key"] == hash_api_key(
        server_secret(tmp_path), "a-key-that-was-written-before-the-kill"
    )


async def test_another_secret_is_told_in_one_sentence(ledger: Ledger, tmp_path: Path) -> None:
    await found(ledger, tmp_path / "one", NOW)
    with pytest.raises(WrongSecret, match=r"copy server\.secret"):
        await found(ledger, tmp_path / "two", NOW)
    assert not (tmp_path / "two" / "admin.key").exists()


async def test_an_unreadable_secret_is_told_in_one_sentence(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "server.secret").mkdir()
    with pytest.raises(StartupError, match="cannot be read: Is a directory"):
        await found(ledger, tmp_path, NOW)


async def test_the_secret_may_come_from_a_named_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "elsewhere"
    named.write_text("0123456789abcdef\n")
    monkeypatch.setenv("JOBLEDGER_SERVER_SECRET_FILE", str(named))
    assert server_secret(tmp_path / "dir") == b"0123456789abcdef"
    assert not (tmp_path / "dir").exists()


async def test_whoever_follows_learns_the_ledgers_id_once_it_is_founded(
    ledger: Ledger, tmp_path: Path
) -> None:
    with pytest.raises(LedgerUnavailable, match="not founded"):
        await ledger_id(ledger, within=0.1)
    asked = asyncio.create_task(ledger_id(ledger, within=5))
    founded = await found(ledger, tmp_path, NOW)
    assert await asked == founded.ledger
