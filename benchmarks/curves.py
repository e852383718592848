"""What a job costs depending on what else there is: it must not grow.

    python benchmarks/curves.py [--events 0,1000,10000] [--queued 0,10000] [--finished 0,5000]

One installation that grows; after each step the CPU per trivial job, by process, all jobs at
once (jobs.py). The steps add up: events first, then finished jobs, then jobs that wait.
"""

import argparse
import asyncio
import itertools
from pathlib import Path
from typing import Any

from jobs import post, throughput
from stack import ROLES, Client, Json, Stack, event, machine, print_table, running, write_json

PROBE = 300
CLIENTS = 16


async def measure(stack: Stack, args: argparse.Namespace) -> list[Json]:
    """One row per step."""
    await throughput(stack, 0, PROBE, CLIENTS)
    rows = []
    steps: tuple[tuple[str, str, Any], ...] = (
        ("events", args.events, _define),
        ("finished", args.finished, _finish),
        ("queued", args.queued, _queue),
    )
    for what, amounts, grow in steps:
        there = 0
        for amount in map(int, amounts.split(",")):
            await grow(stack, there, amount)
            there = amount
            figures = await throughput(stack, 0, PROBE, CLIENTS)
            rows.append({"what": what, "amount": amount} | figures)
    await _empty_queue(stack)
    return rows


async def _define(stack: Stack, there: int, amount: int) -> None:
    left = iter(range(there, amount))

    async def create() -> None:
        async with Client(stack) as client:
            for number in left:
                await client.call("create_event/v1", event(f"more{number}"))

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(create())


async def _finish(stack: Stack, there: int, amount: int) -> None:
    if amount > there:
        await throughput(stack, 0, amount - there, CLIENTS)


async def _queue(stack: Stack, there: int, amount: int) -> None:
    """Jobs that wait behind one that sleeps."""
    if amount > there:
        if not there:
            async with Client(stack) as client:
                sleeper = event("queue", script="#!/bin/sh\nsleep 600", jobs=1)
                await client.call("create_event/v1", sleeper)
                await client.call("run_event/v1", {"id": "queue"})
        await post(stack, "queue", amount - there, CLIENTS)


async def _empty_queue(stack: Stack) -> None:
    async with Client(stack) as client:
        live = await client.call("get_active_jobs/v1?event=queue&state=active&limit=0")
        if live["rows"]:
            await client.call("flush_event_queue/v1", {"id": "queue"})
            for row in live["rows"]:
                await client.call("abort_job/v1", {"id": row["id"]})
        for _ in itertools.repeat(None, 100):
            if not (await client.call("get_active_jobs/v1?limit=1"))["list"]["length"]:
                return
            await asyncio.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a job as everything grows.")
    parser.add_argument("--events", default="0,1000,10000")
    parser.add_argument("--finished", default="0,5000")
    parser.add_argument("--queued", default="0,10000")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    with running() as stack:
        rows = asyncio.run(measure(stack, args))
    table = [
        [
            f"{row['amount']:,} {row['what']}",
            row["jobs_per_second"],
            *row["cpu_ms_per_job"].values(),
        ]
        for row in rows
    ]
    print_table(f"CPU in ms per job; {before}", ["with", "jobs/s", *ROLES, "all"], table)
    write_json(args.json, {"curves": rows})


if __name__ == "__main__":
    main()
