"""One service of Jobledger, started by itself; what it says in its log can be waited for."""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from stack import cpu_of, free_port, resident

PATIENCE = 1800.0
# What a service says in its log when it is ready.
READY = {"gateway": "gateway_ready", "scheduler": "term_begins", "runner": "server_joined"}
ENDED = "ended"


class Service:
    """A service process whose log is read."""

    def __init__(self, name: str, home: Path, nats: str) -> None:
        self.name = name
        self._environment = os.environ | {
            "JOBLEDGER_DATA_DIR": str(home),
            "JOBLEDGER_NATS": nats,
            "JOBLEDGER_PORT": str(free_port()),
            "JOBLEDGER_LOG_FORMAT": "json",
        }
        self._said: set[str] = set()
        self._news = asyncio.Condition()

    async def start(self) -> float:
        """Start it; the seconds until it was ready."""
        began = time.perf_counter()
        self._said.clear()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", self.name,
            env=self._environment, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._readers = [
            asyncio.create_task(self._read(stream))
            for stream in (self._process.stderr, self._process.stdout)
            if stream is not None
        ]
        await self.said(READY[self.name])
        return time.perf_counter() - began

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            try:
                action = json.loads(line).get("action", "")
            except ValueError:
                print(line.decode().rstrip(), file=sys.stderr)
                continue
            await self._hear(action)
        await self._hear(ENDED)

    async def _hear(self, action: str) -> None:
        async with self._news:
            self._said.add(action)
            self._news.notify_all()

    async def said(self, action: str) -> None:
        """Wait until it said so in its log."""
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: self._said & {action, ENDED})
            if action not in self._said:
                raise RuntimeError(f"The {self.name} has ended.")

    def cpu(self) -> float:
        """CPU seconds used so far."""
        return cpu_of(self._process.pid)[0]

    def memory(self) -> tuple[float, float]:
        """Resident megabytes now and at most so far."""
        return resident(self._process.pid)

    async def stop(self) -> None:
        """Stop it as `up` does."""
        self._process.send_signal(signal.SIGTERM)
        await self._process.wait()
        await asyncio.gather(*self._readers)
