"""What is done again and again is freed when it is over, not by Python's search for cycles.

Such a search holds up whatever comes just then, for some milliseconds (services/pauses.py).
"""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.gateway.connections import GuardedProtocol
from services.ledger.connection import Ledger
from tests.services.gateway_kit import EVENT, over_http, running_gateway
from tests.services.runner_bench import bench, running

# Waits for a file, but not for ever: a job outlives a test that fails.
_SCRIPT = "echo out; echo err >&2; for _ in $(seq 1000); do [ -e {gate} ] && exit; sleep 0.01; done"


@pytest.fixture(autouse=True)
def no_search() -> Iterator[None]:
    """Nothing looks for cycles meanwhile."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_a_job_that_is_reported_is_freed(ledger: Ledger, tmp_path: Path) -> None:
    async with bench(ledger) as scheduler, running(scheduler, tmp_path) as runner:
        gates = [tmp_path / "first", tmp_path / "second"]
        orders = [
            await scheduler.script(_SCRIPT.format(gate=gate), job=gate.name) for gate in gates
        ]
        await asyncio.gather(*map(scheduler.started, orders))
        run = runner.runs["first"]
        parts = [weakref.ref(run), weakref.ref(run.output)]
        del run
        gates[0].touch()
        assert (await scheduler.finished(orders[0])).code == 0
        await scheduler.until(lambda: not _left(parts), "the first job is still there")
        gates[1].touch()
        await scheduler.finished(orders[1])


@pytest.mark.parametrize(
    ("path", "body"),
    [("get_events/v1", None), ("get_job/v1?id=jnone", None), ("create_event/v1", EVENT)],
)
async def test_a_request_that_is_answered_is_freed(
    ledger: Ledger, tmp_path: Path, path: str, body: dict[str, Any] | None
) -> None:
    async with running_gateway(ledger, tmp_path) as api, over_http(api) as (server, port):
        url = f"http://127.0.0.1:{port}/api/app/"
        async with httpx.AsyncClient(base_url=url, headers=api.client.headers) as client:
            await (client.get(path) if body is None else client.post(path, json=body))
            (connection,) = server.server_state.connections
            assert isinstance(connection, GuardedProtocol)
            answered = weakref.ref(connection.cycle)
            assert answered() is not None  # as the connection's last
            await client.get("ping/v1")
            assert not _left([answered])


def _left(parts: list[Any]) -> list[object]:
    return [part() for part in parts if part() is not None]
