"""Calls per second and their latency, for each kind of call.

    python benchmarks/api.py [--seconds 1] [--events 100,1000,10000] [--json FILE]
    python benchmarks/api.py --url http://HOST:PORT --key KEY [--peer-url ... --peer-key ...]

Without --url it measures an installation of its own. With it, any server that speaks this API,
on which it makes events and deletes them again; with a peer as well, both in turn, and the ratio
of their rates. Each client sends its next call when it has the reply to the last one.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

from stack import Client, Json, Stack, event, machine, print_table, running, write_json

Call = Callable[[int], tuple[str, Json | None]]
PATIENCE = 60.0
CHANGED = 100


async def rate(stack: Stack, call: Call, clients: int, seconds: float) -> Json:
    """Calls per second of so many clients, and their latency in milliseconds."""
    numbers = itertools.count()
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def ask() -> None:
        async with Client(stack) as client:
            while (began := time.perf_counter()) < end:
                await client.call(*call(next(numbers)))
                took.append(1000 * (time.perf_counter() - began))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(ask())
    per_second = len(took) / (time.perf_counter() - began)
    p99 = quantiles(took, n=100)[98] if len(took) > 1 else took[0]
    return {"per_second": per_second, "p50": median(took), "p99": p99}


async def measure(stack: Stack, events: list[int], seconds: float) -> dict[str, Json]:
    """The figures of each call, by its name and the number of clients."""
    tag = f"bench{time.time_ns()}"
    found: dict[str, Json] = {}

    async def note(name: str, call: Call, clients: int) -> None:
        found[f"{name}, {clients} clients"] = await rate(stack, call, clients, seconds)

    async with Client(stack) as control:
        made = 0

        async def make_up_to(total: int) -> None:
            nonlocal made
            while made < total:
                await control.call("create_event/v1", event(f"{tag}x{made}"))
                made += 1

        await make_up_to(1)
        first = f"{tag}x0"
        job = (await control.call("run_event/v1/wait", {"id": first}))["job"]["id"]
        await note("ping", lambda _: ("ping/v1", None), 16)
        await note("get_event", lambda _: (f"get_event/v1?id={first}", None), 16)
        await note("get_job", lambda _: (f"get_job/v1?id={job}", None), 16)
        for total in events:
            await make_up_to(total)
            await note(f"get_events of {total}", lambda _: ("get_events/v1?limit=50", None), 16)
        for clients in (1, 16):
            ids = (f"{tag}c{clients}x{number}" for number in itertools.count())
            await note("create_event", _creating(ids), clients)
            await note("update_event", _changing(tag), clients)
        queue = event(f"{tag}q", jobs=1)
        await control.call("create_event/v1", queue)
        for clients in (1, 16, 64):
            await note("run_event", lambda _: ("run_event/v1", {"id": f"{tag}q"}), clients)
        await _clean_up(control, tag)
    return found


def _creating(ids: Iterator[str]) -> Call:
    return lambda _: ("create_event/v1", event(next(ids)))


def _changing(tag: str) -> Call:
    """Other clients change other events: what two change at once is decided twice."""
    return lambda n: ("update_event/v1", {"id": f"{tag}x{n % CHANGED}", "notes": str(n)})


async def _clean_up(control: Client, tag: str) -> None:
    """Empty the queue and delete what was made."""
    await control.call("flush_event_queue/v1", {"id": f"{tag}q"})
    deadline = time.monotonic() + PATIENCE
    while (await control.call("get_active_jobs/v1?limit=1"))["list"]["length"]:
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    rows = (await control.call("get_events/v1?limit=0"))["rows"]
    for row in rows:
        if row["id"].startswith(tag):
            await control.call("delete_event/v1", {"id": row["id"]})


def _server(url: str, key: str) -> Stack:
    where = urlsplit(url)
    return Stack(str(where.hostname), where.port or 80, key)


def main() -> None:
    parser = argparse.ArgumentParser(description="Calls per second.")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--events", default="100,1000")
    parser.add_argument("--url")
    parser.add_argument("--key", default="")
    parser.add_argument("--peer-url")
    parser.add_argument("--peer-key", default="")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    events = [int(number) for number in args.events.split(",")]
    before = machine()
    with ExitStack() as held:
        ours = _server(args.url, args.key) if args.url else held.enter_context(running())
        servers = [ours, *([_server(args.peer_url, args.peer_key)] if args.peer_url else [])]
        found = [asyncio.run(measure(server, events, args.seconds)) for server in servers]
    columns = ["call", "per second", "p50 ms", "p99 ms"]
    rows: list[list[Any]] = [
        [name, figures["per_second"], figures["p50"], figures["p99"]]
        for name, figures in found[0].items()
    ]
    if len(found) == 2:
        columns += ["peer's per second", "ratio"]
        for row in rows:
            peer = found[1][row[0]]["per_second"]
            row += [peer, row[1] / peer]
    print_table(f"The API; {before}", columns, rows)
    write_json(args.json, {"api": found})


if __name__ == "__main__":
    main()
