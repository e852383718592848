"""What a fact costs on its way to the disk, written alone or in an atomic batch.

    python benchmarks/writes.py [--facts 400] [--rounds 3] [--json FILE]

A nats-server with the product's settings and nobody who reads: writes that are under way together,
each with a sync of its own, against one batch of as many facts, collected on the disk or in memory
(services/ledger/staging.py). From where a batch costs less services write batches
(services/ledger/groups.py). Medians of the rounds, in us per fact: until all are acknowledged, and
CPU of nats-server as its scheduler counts it.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from statistics import median

import msgspec
from stack import machine, print_table, write_json

from domain import facts as f
from domain.facts import Json, encode
from domain.subjects import subject_of
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.staging import Staging, is_possible
from services.ledger.streams import ensure_streams

SIZES = (1, 2, 4, 8, 16, 32, 100, 300)
LEAST = 3  # groups of facts that make a round
RUNNER = f.Actor(type="runner", id="benchmark")
NUMBERS = count(1)

Write = Callable[[Ledger, int], Awaitable[None]]


def reports(size: int) -> Iterator[tuple[str, f.JobStarted]]:
    """So many reports as a runner sends them, with their ids."""
    for _ in range(size):
        job = f"j{next(NUMBERS):012}"
        yield (
            f"{job}-started",
            f.JobStarted(
                at=time.time(), actor=RUNNER, server="s1", boot="boot1", event="event1", job=job,
                order=1, pid=1, started=time.time(), cwd="/",
            ),
        )  # fmt: skip


async def alone(ledger: Ledger, size: int) -> None:
    """Each fact a write of its own, all under way together."""
    answers = [
        ledger.begin(subject_of(fact), encode(fact), {"Nats-Msg-Id": id, "Fact-Kind": fact.kind})
        for id, fact in reports(size)
    ]
    for reply in await asyncio.gather(*answers):
        answer = msgspec.json.decode(reply.data) if reply else {}
        if "seq" not in answer:
            raise SystemExit(f"A write was not acknowledged: {answer}")


async def together(ledger: Ledger, size: int) -> None:
    """All facts as one atomic batch."""
    await ledger.append_all(list(reports(size)))


WAYS: dict[str, Write] = {"alone": alone, "together": together}


def cpu(pid: int) -> float:
    """CPU seconds of a process that still has all its threads, to the microsecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


async def measure(server: EmbeddedNats, args: argparse.Namespace) -> dict[tuple[int, str], Json]:
    """Medians by number of facts and way of writing; both ways take turns."""
    assert server.pid is not None
    rounds: dict[tuple[int, str], list[tuple[float, float]]] = {}
    async with Ledger.open(server.url, name="bench") as ledger:
        for size in SIZES:
            groups = max(LEAST, args.facts // size)
            for _ in range(args.rounds):
                for way, write in WAYS.items():
                    used, began = cpu(server.pid), time.perf_counter()
                    for _ in range(groups):
                        await write(ledger, size)
                    took = time.perf_counter() - began, cpu(server.pid) - used
                    each = rounds.setdefault((size, way), [])
                    each.append((1e6 * took[0] / groups / size, 1e6 * took[1] / groups / size))
    return {
        key: {"wall_us": median(w for w, _ in found), "cpu_us": median(c for _, c in found)}
        for key, found in rounds.items()
    }


async def serve(args: argparse.Namespace, *, in_memory: bool) -> dict[tuple[int, str], Json]:
    """What is measured on a new server."""
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        server = EmbeddedNats(Path(folder))
        staging = Staging(Path(folder) / "nats")
        await server.start()
        try:
            async with Ledger.open(server.url, name="bench") as ledger:
                await ensure_streams(ledger)
                if in_memory:
                    staging.look()
                await together(ledger, 16)
            return await measure(server, args)
        finally:
            await server.stop()
            staging.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description="Single writes and batches.")
    parser.add_argument("--facts", type=int, default=400, help="facts per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    places = {"on the disk": False} | ({"in memory": True} if is_possible() else {})
    results = []
    for place, in_memory in places.items():
        found = asyncio.run(serve(args, in_memory=in_memory))
        results += [{"batches": place, "facts": n, "way": w} | x for (n, w), x in found.items()]
        rows = [
            [n, *(found[n, way][unit] for unit in ("wall_us", "cpu_us") for way in WAYS)]
            for n in SIZES
        ]
        columns = ["facts", "alone", "together", "alone, CPU", "together, CPU"]
        print_table(f"us per fact, batches collected {place}; {before}", columns, rows)
    write_json(args.json, {"writes": results})


if __name__ == "__main__":
    main()
