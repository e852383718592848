"""A runner whose disk takes no more. A limit on the size of its files stands for a full disk."""

import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from tests.services.runner_bench import Bench, founded, runner_process

ROOM = 150_000


@pytest.fixture
async def scheduler(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Bench]:
    """A stand-in scheduler on a founded ledger; runners are processes of their own."""
    async with founded(ledger, tmp_path) as made:
        yield made


def fill_disk(pid: int, room: int = ROOM) -> None:
    """From now on no file that this process writes gets longer than `room` bytes."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


async def test_an_input_file_that_has_no_room_keeps_the_job_from_starting(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """Given room for a part of its last piece, then the job does not run with a shorter file."""
    scheduler.files = {"f1": b"a" * (ROOM + 10_000)}
    given = {"files": [{"id": "f1", "filename": "in.bin"}]}
    with runner_process(nats_server, tmp_path) as runner:
        await scheduler.joined(1)
        fill_disk(runner.pid)
        finished = await scheduler.finished(await scheduler.script("wc -c in.bin", input=given))
    assert finished.code == 1
    assert finished.description == "Setup Error: Cannot write in.bin: File too large"


@pytest.mark.parametrize("secrets", [{}, {"TOKEN": "hush-hush"}])
async def test_a_log_that_the_runner_writes_itself_is_complete_on_a_full_disk(
    scheduler: Bench, nats_server: EmbeddedNats, tmp_path: Path, secrets: dict[str, str]
) -> None:
    """Given output with stamps, or with secrets that are masked, then the runner goes on."""
    scheduler.secrets = secrets
    with runner_process(nats_server, tmp_path) as runner:
        await scheduler.joined(1)
        await scheduler.finished(await scheduler.script("true"))
        fill_disk(runner.pid)
        order = await scheduler.script(
            "seq 100000; echo the end", params={"annotate": not secrets, "TOKEN": ""}
        )
        finished = await scheduler.finished(order)
        assert finished.code == 0
        lines = (await scheduler.log(finished)).splitlines()
        said = [line.rpartition("] ")[2] for line in lines]
        assert said == [*(str(number) for number in range(1, 100_001)), "the end"]
