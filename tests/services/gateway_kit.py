"""A gateway of a test's own: real ledger, real application, requests without a network."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from domain.facts import Fact, LedgerFounded, Recorded
from services.gateway.app import create_app
from services.gateway.gateway import Gateway
from services.gateway.run import http_server, listening
from services.ledger.connection import Ledger
from services.ledger.founding import found
from services.ledger.secrets import server_secret
from services.settings import Settings

NOW = 1_800_000_000.0
READY_WITHIN = 10.0

EVENT: dict[str, Any] = {
    "id": "backup",
    "title": "Backup",
    "enabled": True,
    "category": "general",
    "targets": ["main"],
    "plugin": "shellplug",
    "algo": "random",
    "params": {"script": "#!/bin/sh\ndate\n"},
    "triggers": [{"type": "manual", "enabled": True}],
}


@dataclass
class Clock:
    """The time that the gateway sees, in Unix seconds."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Api:
    """A gateway and a client that holds the admin key."""

    gateway: Gateway
    client: httpx.AsyncClient
    clock: Clock

    async def call(self, name: str, body: Any = None, **headers: str) -> httpx.Response:
        """POST a JSON body to a call; header names with `_` for `-`."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.client.post(f"/api/app/{name}", json=body or {}, headers=named)

    async def account(self, name: str, body: Any = None, **headers: str) -> httpx.Response:
        """POST a JSON body to a call of /api/user; header names with `_` for `-`."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.client.post(f"/api/user/{name}", json=body or {}, headers=named)

    async def ok(self, name: str, body: Any = None, **headers: str) -> dict[str, Any]:
        """A call that must succeed; its reply."""
        reply = await self.call(f"{name}/v1", body, **headers)
        answer: dict[str, Any] = reply.json()
        assert answer["code"] == 0, answer
        return answer

    async def code(self, name: str, body: Any = None, **headers: str) -> str | int:
        """The code of a call's reply."""
        answer: str | int = (await self.call(f"{name}/v1", body, **headers)).json()["code"]
        return answer

    async def record(self, fact: Fact) -> Recorded:
        """A fact that somebody else wrote, seen by the gateway."""
        sequence = await self.gateway.ledger.append(fact, id=f"test-{secrets.token_hex(8)}")
        assert await self.gateway.reached(sequence)
        return Recorded(sequence, "", fact)


@contextlib.asynccontextmanager
async def running_gateway(ledger: Ledger, data_dir: Path) -> AsyncIterator[Api]:
    """A gateway on this ledger, founded and caught up."""
    clock = Clock()
    await found(ledger, data_dir, clock.now)
    settings = Settings(data_dir=data_dir, timezone="UTC", disk_reserve=0)
    gateway = Gateway(settings, ledger, server_secret(data_dir), clock)
    first = await ledger.get(1)
    assert first is not None
    assert isinstance(first.fact, LedgerFounded)
    gateway.views.open_history(data_dir / "history.sqlite", first.fact.ledger, await ledger.end())
    following = asyncio.create_task(gateway.follower.run())
    async with asyncio.timeout(READY_WITHIN):
        await gateway.follower.caught_up.wait()
    key = (data_dir / "admin.key").read_text().strip()
    transport = httpx.ASGITransport(create_app(gateway))
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers={"X-API-Key": key}
        ) as client:
            yield Api(gateway, client, clock)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await gateway.views.close()


@contextlib.asynccontextmanager
async def over_http(api: Api) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """The gateway's own HTTP server, and the free port that it has."""
    with listening("127.0.0.1", 0) as listener:
        server = http_server(api.gateway)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running
