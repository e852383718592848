"""One job, five hundred watchers: all see its start, its updates and its end (api.md 4.11)."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.contract.client import Client, Json
from tests.contract.stack import Stack, running_stack
from tests.contract.test_jobs_scenarios import until_file

WATCHERS = 500
RUNS_FOR = 6.0
PATIENCE = 60.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running_stack(tmp_path_factory.mktemp("streams") / "data") as stack:
        key = {"X-API-Key": stack.admin_key}
        with httpx.Client(base_url=stack.url, headers=key, timeout=40) as http:
            yield Client(stack, http)


@contextlib.asynccontextmanager
async def connected(
    stack: Stack, job: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has asked for the job's stream."""
    where = urlsplit(stack.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=2**16)
    request = f"GET /api/app/stream_job/v1?id={job} HTTP/1.1\r\nHost: x\r\n"
    writer.write(f"{request}X-API-Key: {stack.admin_key}\r\n\r\n".encode())
    try:
        yield reader, writer
    finally:
        writer.close()


async def watch(stack: Stack, job: str) -> list[tuple[float, str, Json]]:
    """All events of the stream with the time of their arrival."""
    events = []
    async with connected(stack, job) as (reader, _):
        while not events or events[-1][1] != "end":
            line = await reader.readline()
            assert line, "the stream broke off"
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
                data = json.loads((await reader.readline())[6:])
                events.append((time.monotonic(), name, data))
    return events


async def test_all_watchers_see_everything_and_a_slow_one_slows_nobody(
    client: Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    client.create("watched", f'{until_file(go)}; echo \'{{"xy":1,"code":3}}\'')
    job = await asyncio.to_thread(client.run, "watched")
    await asyncio.to_thread(client.active, job)
    async with connected(client.stack, job):  # one that asks and never reads
        watching = asyncio.gather(*(watch(client.stack, job) for _ in range(WATCHERS)))
        await asyncio.sleep(RUNS_FOR)  # what is measured: how often each is told in this time
        go.touch()
        async with asyncio.timeout(PATIENCE):
            streams = await watching
    done = await asyncio.to_thread(client.final, job)
    assert len(streams) == WATCHERS
    for events in streams:
        names = [name for _, name, _ in events]
        assert names[0] == "start"
        assert names[-2:] == ["update", "end"]
        assert set(names[1:-1]) == {"update"}
        assert events[-2][2]["code"] == 3
        assert events[1][2]["id"] == job
        gaps = [after[0] - before[0] for before, after in itertools.pairwise(events)]
        assert max(gaps) < 4, "a watcher was not told for seconds"
        assert len(events) >= RUNS_FOR - 2
    ends = sorted(events[-1][0] for events in streams)
    assert ends[-1] - ends[0] < 3
    assert done["code"] == 3
