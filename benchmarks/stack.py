"""What the benchmarks share: a throw-away Jobledger, a client that costs little, CPU by process.

    with running() as stack:
        before = stack.cpu()
        ...

Everything listens on the loopback interface and is gone with the block. What a process has used
comes from the kernel's own counters. Knows nothing of what is measured.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

SERVICES = ("nats", "gateway", "scheduler", "runner")
ROLES = (*SERVICES, "children")
PATIENCE = 60.0
_TICK = os.sysconf("SC_CLK_TCK")
# A fixed piece of work: how long it takes says how fast the machine is just now.
_CALIBRATION = 2_000_000


@dataclass(frozen=True, slots=True)
class Stack:
    """A running installation: its API, and its data directory if it is on this machine."""

    host: str
    port: int
    key: str
    home: Path | None = None

    def pids(self) -> dict[str, int]:
        """The process of each service."""
        assert self.home is not None
        return {name: int((self.home / "run" / f"{name}.pid").read_text()) for name in SERVICES}

    def cpu(self) -> dict[str, float]:
        """CPU seconds used so far, by service; `children` is what the runner has waited for."""
        used: dict[str, float] = {}
        for name, pid in self.pids().items():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user, system, child_user, child_system = (int(x) / _TICK for x in fields[11:15])
            used[name] = user + system
            if name == "runner":
                used["children"] = child_user + child_system
        return used

    def memory(self) -> dict[str, float]:
        """Resident megabytes by service."""
        return {
            name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6
            for name, pid in self.pids().items()
        }


@contextmanager
def running(*flags: str, home: Path | None = None) -> Iterator[Stack]:
    """`jobledger up` until the block ends, on `home` or a directory that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        home = home or Path(folder) / "data"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
        command = [sys.executable, "-m", "services.cli", "up", *flags]
        up = subprocess.Popen(
            [*command, "--data-dir", str(home), "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield _ready(home, port)
        finally:
            up.send_signal(signal.SIGINT)
            up.wait()


def _ready(home: Path, port: int) -> Stack:
    """The stack, once its API answers and its runner has joined."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            stack = Stack("127.0.0.1", port, (home / "admin.key").read_text().strip(), home)
            answer = asyncio.run(_ask_once(stack, "get_active_servers/v1"))
            if answer["rows"] and stack.pids():
                return stack
        except (OSError, RuntimeError, ValueError):  # nothing there yet, or only half of it
            pass
        time.sleep(0.02)
    raise SystemExit("Jobledger does not start.")


async def _ask_once(stack: Stack, call: str) -> Json:
    async with Client(stack) as client:
        return await client.call(call)


class Client:
    """One kept-alive HTTP connection; `await call(name, body)` gives the reply's JSON.

    Hand-made: a general HTTP client would use more CPU than the server it measures.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.sequence = 0
        """The ledger's sequence in the last reply that named one."""

    async def __aenter__(self) -> "Client":
        self._reader, self._writer = await asyncio.open_connection(
            self._stack.host, self._stack.port, limit=64 * 1024 * 1024
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def call(self, name: str, body: Json | None = None) -> Json:
        """POST the body, or GET without one; raises RuntimeError unless the code is 0."""
        reply: Json = json.loads(await self.raw(name, body))
        if reply.get("code") != 0:
            raise RuntimeError(f"{name}: {reply.get('code')} {reply.get('description')}")
        return reply

    async def raw(self, name: str, body: Json | None = None) -> bytes:
        """As `call`, the reply's bytes."""
        content = b"" if body is None else json.dumps(body).encode()
        verb = "GET" if body is None else "POST"
        head = (
            f"{verb} /api/app/{name} HTTP/1.1\r\nHost: {self._stack.host}\r\n"
            f"X-API-Key: {self._stack.key}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        self._writer.write(head.encode() + content)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = {
            key.lower(): value.strip() for key, _, value in (x.partition(b":") for x in lines[1:])
        }
        if b"x-ledger-seq" in headers:
            self.sequence = int(headers[b"x-ledger-seq"])
        return await self._reader.readexactly(int(headers[b"content-length"]))


def event(id: str, script: str = "#!/bin/sh\ntrue", jobs: int = 0, **more: Any) -> Json:
    """A shell event; at most `jobs` at a time (0: no limit), the rest waits in its queue."""
    amounts = {"job": jobs, "queue": 1_000_000} if jobs else {}
    limits = [{"type": t, "enabled": True, "amount": amount} for t, amount in amounts.items()]
    return {
        "id": id,
        "title": id,
        "enabled": True,
        "category": "general",
        "targets": ["main"],
        "algo": "random",
        "plugin": "shellplug",
        "params": {"script": script},
        "triggers": [{"type": "manual", "enabled": True}],
        "limits": limits,
    } | more


def calibration() -> float:
    """CPU milliseconds for a fixed piece of work; compare figures only where this is alike."""
    began = time.process_time()
    total = 0
    for number in range(_CALIBRATION):
        total += number & 7
    return 1000 * (time.process_time() - began)


def machine() -> Json:
    """What the figures were measured on, and how busy it was with other things."""
    return {
        "cores": os.cpu_count(),
        "calibration_ms": round(calibration(), 1),
        "load": round(os.getloadavg()[0], 2),
    }


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table on standard output; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(f"{x:,.2f}" if isinstance(x, float) else str(x) for x in row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def write_json(path: Path | None, results: Json) -> None:
    """Keep the results where somebody asked for it."""
    if path is not None:
        path.write_text(json.dumps(results | {"machine": machine()}, indent=1) + "\n")
