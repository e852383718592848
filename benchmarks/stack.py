"""What the benchmarks share: a throw-away Jobledger, a client that costs little, CPU by process.

    with running() as stack:
        before = stack.cpu()
        ...

Everything listens on the loopback interface and is gone with the block. What a process has used
comes from the kernel's own counters. Knows nothing of what is measured.
"""

import asyncio
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from client import Client, Json, run

from domain.facts import Fact, decode
from services.ledger.connection import Ledger
from services.ledger.raw import read_raw
from services.settings import load_settings

# What is measured says nothing on the screen that is no warning.
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

SHORT = "#!/bin/sh\ntrue"
"""The trivial job."""
SERVICES = ("nats", "gateway", "scheduler", "runner")
ROLES = (*SERVICES, "keeper", "children")
PATIENCE = 60.0
_TICK = os.sysconf("SC_CLK_TCK")
# A fixed piece of work: how long it takes says how fast the machine is just now.
_CALIBRATION = 2_000_000


@dataclass(frozen=True, slots=True)
class Stack:
    """A running installation: its API, and what is known of its processes.

    `home`: the data directory of a Jobledger on this machine; `pid`: the first process of any
    other server here.
    """

    host: str
    port: int
    key: str
    home: Path | None = None
    pid: int | None = None

    def pids(self) -> dict[str, int]:
        """The process of each service."""
        assert self.home is not None
        return {name: int((self.home / "run" / f"{name}.pid").read_text()) for name in SERVICES}

    def cpu(self) -> dict[str, float]:
        """CPU seconds used so far, by service; `children` are the jobs that have ended.

        `keeper` is the runner's child whose children they are. Of another server `all` of its
        processes together, or nothing if they are not known.
        """
        if self.home is None:
            return {"all": _tree_cpu(self.pid)} if self.pid is not None else {}
        used: dict[str, float] = {}
        for name, pid in self.pids().items():
            used[name], children = cpu_of(pid)
            if name == "runner":
                keepers = [cpu_of(keeper) for keeper in children_of(pid)]
                used["keeper"] = sum(own for own, _ in keepers)
                used["children"] = children + sum(jobs for _, jobs in keepers)
        return used

    def memory(self) -> dict[str, float]:
        """Resident megabytes by service."""
        return {name: resident(pid)[0] for name, pid in self.pids().items()}


def server(url: str, key: str, pid: int | None = None) -> Stack:
    """A server that somebody else started: http://HOST:PORT."""
    where = urlsplit(url)
    if where.scheme != "http" or where.hostname is None:
        raise SystemExit(f"{url}: http://HOST:PORT is what can be measured.")
    return Stack(where.hostname, where.port or 80, key, pid=pid)


def cpu_of(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and of those children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, child_user, child_system = (int(x) / _TICK for x in fields[11:15])
    return user + system, child_user + child_system


def _tree_cpu(pid: int) -> float:
    """CPU seconds of a process and of all its descendants, ended ones included."""
    total = 0.0
    with suppress(OSError):  # it may have ended just now
        total += sum(cpu_of(pid))
        total += sum(map(_tree_cpu, children_of(pid)))
    return total


def children_of(pid: int) -> list[int]:
    """The processes that this one has started and that still run."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@contextmanager
def running(*flags: str, home: Path | None = None, patience: float = PATIENCE) -> Iterator[Stack]:
    """`jobledger up` until the block ends, on `home` or a directory that is thrown away.

    It may take `patience` seconds until it is ready.
    """
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        home = home or Path(folder) / "data"
        port = free_port()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
        command = [sys.executable, "-m", "services.cli", "up", *flags]
        up = subprocess.Popen(
            [*command, "--data-dir", str(home), "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=installed(),
        )
        try:
            yield _ready(home, port, patience)
        finally:
            up.send_signal(signal.SIGINT)
            up.wait()
            _end_jobs(home)


def installed() -> dict[str, str]:
    """The environment of an installation: Python keeps what it compiled, from the first start on.

    To compile all of it again each time takes a sixth of a start, and memory.
    """
    return {k: value for k, value in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def _end_jobs(home: Path) -> None:
    """End what still runs there: jobs outlive their installation."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended just now, or is somebody else's
            if (process / "cwd").readlink().is_relative_to(home):
                os.kill(int(process.name), signal.SIGKILL)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def resident(pid: int) -> tuple[float, float]:
    """Megabytes of a process in memory: now, and at most so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    kilobytes = {
        name: rest.split()[0]
        for name, _, rest in (line.partition(":") for line in status.splitlines())
        if name in ("VmRSS", "VmHWM")
    }
    return int(kilobytes["VmRSS"]) * 1024 / 1e6, int(kilobytes["VmHWM"]) * 1024 / 1e6


def _ready(home: Path, port: int, patience: float) -> Stack:
    """The stack, once its API answers and its runner has joined."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            stack = Stack("127.0.0.1", port, (home / "admin.key").read_text().strip(), home)
            answer = run(_ask_once(stack, "get_active_servers/v1"))
            if answer["rows"] and stack.pids():
                return stack
        except (OSError, RuntimeError, ValueError):  # nothing there yet, or only half of it
            pass
        time.sleep(0.05)
    raise SystemExit("Jobledger does not start.")


async def _ask_once(stack: Stack, call: str) -> Json:
    async with Client(stack) as client:
        return await client.call(call)


async def facts(stack: Stack, after: int, upto: int | None = None) -> list[tuple[int, float, Fact]]:
    """A part of the ledger: sequences, the moments at which NATS stored them, facts."""
    settings = load_settings(data_dir=stack.home)
    found = []
    async with Ledger.open(settings.nats_url, name="bench") as ledger:
        end = await ledger.end() if upto is None else upto
        async for batch in read_raw(ledger, after=after, upto=end):
            found += [(raw.sequence, raw.at, decode(raw.data)) for raw in batch]
    return found


async def ended(client: Client, query: str, jobs: int, patience: float = 300.0) -> None:
    """Until the history holds so many jobs; looks less often while many are missing.

    Raises SystemExit if they take longer than `patience` seconds, or if one failed.
    """
    deadline = time.monotonic() + patience
    while (missing := jobs - (await _found(client, query))[0]) > 0:
        if time.monotonic() > deadline:
            raise SystemExit(f"{missing} of {jobs} jobs do not end.")
        await asyncio.sleep(max(0.01, min(0.1, missing / 2000)))
    failed, one = await _found(client, f"{query} tags:_error")
    if failed:
        raise SystemExit(f"{failed} of {jobs} jobs failed, one of them: {one.get('description')}")


async def _found(client: Client, query: str) -> tuple[int, Json]:
    """How many jobs the history holds, and one of them."""
    history = await client.call(f"search_jobs/v1?query={quote(query)}&limit=1")
    return int(history["list"]["length"]), next(iter(history["rows"]), {})


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def event(id: str, script: str = SHORT, jobs: int = 0, **more: Any) -> Json:
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
    """A table on standard output, below its title; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(_shown, row))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(title, highlight=False)
    console.print(table)


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)


def write_json(path: Path | None, results: Json) -> None:
    """Keep the results where somebody asked for it."""
    if path is not None:
        path.write_text(json.dumps(results | {"machine": machine()}, indent=1) + "\n")
