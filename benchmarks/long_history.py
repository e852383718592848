"""What a long history costs: start and memory of each service with a full ledger.

    python benchmarks/long_history.py [--facts 0 100000 ...]

For each length a throw-away ledger is filled, then scheduler and gateway start on it twice: first
they read all of it and write a snapshot, then they go on from that. Prints a table. A million
facts take about six minutes.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from generate import FACTS_PER_JOB, fill
from rich.console import Console
from rich.table import Table

from services.ledger.embedded import EmbeddedNats

EVENTS = 100
PATIENCE = 900.0
# What a service says in its log when it is ready, and that it wrote a snapshot.
READY = {"gateway": "gateway_ready", "scheduler": "term_begins", "runner": ""}
WRITTEN = "snapshot_written"
ENDED = "ended"
# A service is at rest this long after it was ready, in seconds.
REST = 3.0
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a service: seconds to its being ready, resident bytes at rest and at most."""

    seconds: float
    resident: int
    peak: int


class Service:
    """A service process whose log is read."""

    def __init__(self, name: str, home: Path, nats: str, port: int) -> None:
        self.name = name
        self._environment = os.environ | {
            "JOBLEDGER_DATA_DIR": str(home),
            "JOBLEDGER_NATS": nats,
            "JOBLEDGER_PORT": str(port),
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
        if READY[self.name]:
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

    def memory(self) -> tuple[int, int]:
        """Resident bytes now and at most so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return psutil.Process(self._process.pid).memory_info().rss, int(peak.split()[1]) * 1024

    async def stop(self) -> None:
        """Stop it as `up` does."""
        self._process.send_signal(signal.SIGTERM)
        await self._process.wait()
        await asyncio.gather(*self._readers)


async def measure(service: Service, *, snapshot: bool) -> Start:
    """Start a service and stop it; `snapshot`: not before it wrote one."""
    seconds = await service.start()
    try:
        if snapshot:
            await service.said(WRITTEN)
        await asyncio.sleep(REST)
        return Start(seconds, *service.memory())
    finally:
        await service.stop()


async def measure_all(facts: int) -> dict[str, Start]:
    """All starts on a ledger of this length, by what the table calls them."""
    starts: dict[str, Start] = {}
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        home = Path(folder)
        nats = EmbeddedNats(home)
        await nats.start()
        try:
            await fill(nats.url, home, facts // FACTS_PER_JOB, EVENTS)
            for name in ("scheduler", "gateway"):
                service = Service(name, home, nats.url, free_port())
                starts[f"{name}, reads all"] = await measure(service, snapshot=facts >= 50_000)
                if facts >= 50_000:
                    starts[f"{name}, from its snapshot"] = await measure(service, snapshot=False)
            runner = Service("runner", home, nats.url, free_port())
            starts["runner"] = await measure(runner, snapshot=False)
        finally:
            await nats.stop()
    return starts


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--facts", type=int, nargs="+", default=[0, 100_000])
    table = Table(title="Start and memory with a long ledger")
    for column in ("facts", "service", "ready after", "facts/s", "resident", "at most"):
        table.add_column(column, justify="left" if column == "service" else "right")
    for facts in parser.parse_args().facts:
        for name, start in asyncio.run(measure_all(facts)).items():
            reads_all = facts and name.endswith("all")
            table.add_row(
                f"{facts:,}",
                name,
                f"{start.seconds:.2f} s" if start.seconds > 0.1 else "",
                f"{facts / start.seconds:,.0f}" if reads_all else "",
                f"{start.resident / MEBIBYTE:.0f} MB",
                f"{start.peak / MEBIBYTE:.0f} MB",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
