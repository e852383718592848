"""Backup and restore on real servers: sequences, bytes, views and the audit chain stay."""

import os
import time
from pathlib import Path

import pytest

from domain import facts as f
from services.gateway.refold import compare
from services.ledger.auditing import audit
from services.ledger.backup import BackupUnusable, backup, check_backup, restore
from services.ledger.chunks import read_chunks
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.founding import found
from services.ledger.secrets import audit_key, server_secret
from tests.services.deletion_kit import (
    everything,
    gone,
    leading_scheduler,
    write_job,
)
from tests.services.gateway_kit import EVENT, running_gateway


def quiet(_what: str, _bytes: int) -> None:
    """No progress is shown."""


async def lived_in(ledger: Ledger, home: Path) -> Path:
    """A ledger with jobs, one of them erased, all sealed; and a gateway's view of it."""
    async with running_gateway(ledger, home) as api:
        api.clock.now = time.time()
        await api.ok("create_event", EVENT)
        for n in range(30):
            await write_job(ledger, f"j{n}", secret=f"word{n}" * 50)
        doomed = await write_job(ledger, "jgone")
        assert await api.gateway.reached(doomed[-1])
        async with leading_scheduler(ledger, home) as scheduler:
            await api.ok("delete_job", {"id": "jgone"})
            await gone(ledger, doomed)
            end = await ledger.end()
            await scheduler.upkeep.sealing.reached(end)
        assert await api.gateway.reached(await ledger.end())
        await api.gateway.views.history(lambda history: history.position)
    return home / "history.sqlite"


async def test_a_restored_ledger_is_the_same_in_every_byte_and_view(
    ledger: Ledger, own_server: EmbeddedNats, tmp_path: Path
) -> None:
    view = await lived_in(ledger, tmp_path)
    file = tmp_path / "ledger.backup"
    written = await backup(ledger, file, now=time.time(), progress=quiet)
    assert check_backup(file).ledger == written.ledger
    assert file.stat().st_mode & 0o777 == 0o600
    before = await everything(ledger)
    async with Ledger.open(own_server.url, name="restored") as copy:
        await restore(copy, file, force=False, replicas=1, progress=quiet)
        assert await everything(copy) == before
        assert await copy.end() == await ledger.end()
        finished = [
            fact
            for raw in before
            if isinstance(fact := f.decode(raw.data), f.JobFinished) and fact.log is not None
        ]
        assert len(finished) == 30
        assert finished[7].log is not None
        assert b"".join([p async for p in read_chunks(copy, finished[7].log)]) == b"word7" * 50
        compared = await compare(copy, view, ledger_id=written.ledger, progress=lambda *_: None)
        assert compared.differences == []
        assert compared.rows > 100
        findings = await audit(copy, audit_key(server_secret(tmp_path)))
        assert [str(problem) for problem in findings.problems] == []
        assert findings.erased == 6


async def test_a_ledger_that_is_not_empty_is_replaced_only_by_force(
    ledger: Ledger, own_server: EmbeddedNats, tmp_path: Path
) -> None:
    await lived_in(ledger, tmp_path)
    file = tmp_path / "ledger.backup"
    await backup(ledger, file, now=time.time(), progress=quiet)
    before = await everything(ledger)
    with pytest.raises(BackupUnusable, match="not empty"):
        await restore(ledger, file, force=False, replicas=1, progress=quiet)
    await write_job(ledger, "jlater")
    await restore(ledger, file, force=True, replicas=1, progress=quiet)
    assert await everything(ledger) == before


async def test_a_damaged_or_cut_backup_is_refused_before_anything_is_removed(
    ledger: Ledger, tmp_path: Path
) -> None:
    await found(ledger, tmp_path, time.time())
    file = tmp_path / "ledger.backup"
    await backup(ledger, file, now=time.time(), progress=quiet)
    whole = file.read_bytes()
    before = await everything(ledger)
    for spoilt in (whole[: len(whole) // 2], whole[:-20], b"no backup", flipped(whole)):
        file.write_bytes(spoilt)
        with pytest.raises(BackupUnusable):
            await restore(ledger, file, force=True, replicas=1, progress=quiet)
    assert await everything(ledger) == before


def flipped(data: bytes) -> bytes:
    """The same bytes but for one in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


async def test_an_interrupted_restore_leaves_no_facts_without_their_bytes(
    ledger: Ledger, own_server: EmbeddedNats, tmp_path: Path
) -> None:
    await lived_in(ledger, tmp_path)
    file = tmp_path / "ledger.backup"
    await backup(ledger, file, now=time.time(), progress=quiet)

    def interrupt(what: str, _bytes: int) -> None:
        if what == "CHUNKS":
            raise KeyboardInterrupt

    async with Ledger.open(own_server.url, name="restored") as copy:
        with pytest.raises(KeyboardInterrupt):
            await restore(copy, file, force=False, replicas=1, progress=interrupt)
        assert "error" in await copy.api("STREAM.INFO.LEDGER")

        await restore(copy, file, force=False, replicas=1, progress=quiet)
        assert await everything(copy) == await everything(ledger)


async def test_an_unfounded_ledger_has_no_backup(ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "ledger.backup"
    with pytest.raises(Exception, match="not founded"):
        await backup(ledger, file, now=time.time(), progress=quiet)
    assert not os.listdir(tmp_path)
