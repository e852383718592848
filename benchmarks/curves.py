"""What a job costs depending on what else there is: it must not grow.

    python benchmarks/curves.py [--events 10,100,1000,10000] [--queued 0,1000,10000]
                                [--finished 0,10000,100000] [--probes 3] [--json FILE]

CPU per trivial job by process, all jobs at once (jobs.py), medians of the probes, beside so many
defined events, jobs that wait in a queue, and finished jobs. The latter are written into the ledger
by generate.py; then an installation is started on it, and measured once it has sealed all that.
In minutes on two quiet cores: 100,000 finished jobs two, 1,000,000 twenty, 100,000 queued ones two.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from client import Client, Json, run
from generate import fill
from jobs import medians, post, throughput
from stack import ROLES, Stack, event, machine, print_table, running, write_json

from services.ledger.embedded import EmbeddedNats

CLIENTS = 16
# Events that the finished jobs are of.
EVENTS = 100
# A gateway reads the ledger before it answers: at least so many finished jobs per second.
READ = 400
# An installation has caught up when it uses less than this share of a core, looked at so often (s).
QUIET, LOOK = 0.1, 2.0


Probe = Callable[[Stack], Awaitable[Json]]


def probing(jobs: int, probes: int) -> Probe:
    """What finds the cost of a job: medians of probes, after a warm-up."""

    async def probe(stack: Stack) -> Json:
        await throughput(stack, 0, jobs, CLIENTS)
        return medians([await throughput(stack, 0, jobs, CLIENTS) for _ in range(probes)])

    return probe


async def beside_events(stack: Stack, amounts: list[int], probe: Probe, rows: list[Json]) -> None:
    """A row more for each number of defined events."""
    there = 0
    for amount in amounts:
        left = iter(range(there, amount))
        await asyncio.gather(*(_create(stack, left) for _ in range(CLIENTS)))
        there = amount
        rows.append({"what": "events", "amount": amount} | await probe(stack))


async def _create(stack: Stack, left: Iterator[int]) -> None:
    async with Client(stack) as client:
        for number in left:
            await client.raw("create_event/v1", event(f"more{number}"))


async def beside_queued(stack: Stack, amounts: list[int], probe: Probe, rows: list[Json]) -> None:
    """A row more for each number of jobs that wait behind one that sleeps."""
    async with Client(stack) as client:
        await client.call("create_event/v1", event("queue", "#!/bin/sh\nexec sleep 3600", jobs=1))
        await client.call("run_event/v1", {"id": "queue"})
    there = 0
    for amount in amounts:
        await post(stack, "queue", amount - there, CLIENTS)
        there = amount
        rows.append({"what": "queued", "amount": amount} | await probe(stack))


def beside_finished(amount: int, probe: Probe) -> Json:
    """The row of so many finished jobs."""
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        home = Path(folder)
        asyncio.run(_generate(home, amount))
        began = time.perf_counter()
        with running(home=home, patience=60 + amount / READ) as stack:
            ready = time.perf_counter() - began
            asyncio.run(_caught_up(stack, 60 + amount / READ))
            costs = run(probe(stack))
            return {"what": "finished", "amount": amount, "ready_s": ready} | costs


async def _caught_up(stack: Stack, patience: float) -> None:
    """Wait until the history, which nobody saw before, is sealed into the audit chain."""
    deadline = time.monotonic() + patience
    used = 1.0
    while used > QUIET:
        if time.monotonic() > deadline:
            raise SystemExit("The installation does not come to rest.")
        before = sum(stack.cpu().values())
        await asyncio.sleep(LOOK)
        used = (sum(stack.cpu().values()) - before) / LOOK


async def _generate(home: Path, jobs: int) -> None:
    nats = EmbeddedNats(home)
    await nats.start()
    try:
        await fill(nats.url, home, jobs, EVENTS)
    finally:
        await nats.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a job as everything grows.")
    parser.add_argument("--events", default="10,100,1000,10000")
    parser.add_argument("--queued", default="0,1000,10000")
    parser.add_argument("--finished", default="0,10000,100000")
    parser.add_argument("--probes", type=int, default=3)
    parser.add_argument("--probe", type=int, default=300, help="jobs of a probe")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    events, queued, finished = (
        [int(amount) for amount in text.split(",") if amount]
        for text in (args.events, args.queued, args.finished)
    )
    probe = probing(args.probe, args.probes)
    before = machine()
    rows: list[Json] = []
    try:
        for amounts, beside in ((events, beside_events), (queued, beside_queued)):
            if amounts:
                with running() as stack:
                    run(beside(stack, amounts, probe, rows))
        for amount in finished:
            rows.append(beside_finished(amount, probe))  # noqa: PERF401 - kept one by one
    finally:  # what was measured in twenty minutes is shown, whatever ends the rest
        _show(rows, before, args.json)


def _show(rows: list[Json], before: Json, file: Path | None) -> None:
    table = [
        [
            f"{row['amount']:,} {row['what']}",
            row["jobs_per_second"],
            *row["cpu_ms_per_job"].values(),
        ]
        for row in rows
    ]
    print_table(f"CPU in ms per job; {before}", ["with", "jobs/s", *ROLES, "all"], table)
    write_json(file, {"curves": rows})


if __name__ == "__main__":
    main()
