"""How late fires are through a whole installation: many events due at the same instant.

    python benchmarks/fires.py [--due 1,100,1000,2000] [--rounds 10] [--json FILE]

For each number an installation of its own with so many events whose interval triggers share one
grid, so that all are due together, seconds ahead; a trivial script. Milliseconds after the due
second, from the ledger: when NATS had stored the last JobRequested, and when the processes were
started (JobStarted); CPU per fire by process, all that goes on meanwhile included. A lone event is
due each second, --rounds times; 100 are due three times.
"""

import argparse
import asyncio
import math
import time
from pathlib import Path
from statistics import median

from client import Client, Json, run
from stack import ROLES, Stack, event, facts, machine, percentile, print_table, running, write_json

CLIENTS = 16
# The grid's step in seconds where there are several rounds, and where there is one.
STEPS, STEP = {1: 1, 100: 5}, 300
# At least so many events are defined per second.
DEFINED = 200
# Seconds of rest before the first due second that counts.
QUIET = 1.5
PATIENCE = 120.0


async def measure(stack: Stack, due: int, rounds: int) -> Json:
    """Lateness in ms when so many events are due at once, over so many rounds."""
    step = STEPS.get(due, STEP)
    grid = int(time.time() + QUIET + due / DEFINED) + 1
    await _define(stack, due, grid, step)
    late = math.ceil((time.time() + QUIET - grid) / step)
    counted = {grid + step * (max(0, late) + number) for number in range(rounds)}
    await asyncio.sleep(min(counted) - 0.5 - time.time())
    cpu = stack.cpu()
    await asyncio.sleep(max(counted) + 0.5 + due / 500 - time.time())
    stored, started = await _lateness(stack, counted, due * rounds)
    used = {role: now - cpu[role] for role, now in stack.cpu().items()}
    starts = [ms for found in started.values() for ms in found]
    return {
        "due": due,
        "rounds": rounds,
        "stored_last": median(max(found) for found in stored.values()),
        "started_p50": percentile(starts, 50),
        "started_p99": percentile(starts, 99),
        "started_last": median(max(found) for found in started.values()),
        "started_max": max(starts),
        "cpu_ms_per_fire": {role: 1000 * s / (due * rounds) for role, s in used.items()},
    }


async def _define(stack: Stack, due: int, grid: int, step: int) -> None:
    trigger = {"type": "interval", "enabled": True, "start": grid, "duration": step}
    left = iter(range(due))

    async def create() -> None:
        async with Client(stack) as client:
            for number in left:
                await client.call("create_event/v1", event(f"due{number}", triggers=[trigger]))

    await asyncio.gather(*(create() for _ in range(CLIENTS)))


Lateness = dict[float, list[float]]


async def _lateness(stack: Stack, counted: set[int], jobs: int) -> tuple[Lateness, Lateness]:
    """By due second: ms until each request was stored, and until each process was started."""
    stored: Lateness = {second: [] for second in counted}
    started: Lateness = {second: [] for second in counted}
    due_of: dict[str, float] = {}
    position, deadline = 0, time.monotonic() + PATIENCE
    while sum(map(len, started.values())) < jobs:
        for sequence, at, fact in await facts(stack, position):
            position = sequence
            if fact.kind == "JobRequested" and fact.fire and fact.fire.due in counted:
                due_of[fact.job] = fact.fire.due
                stored[fact.fire.due].append(1000 * (at - fact.fire.due))
            elif fact.kind == "JobStarted" and fact.job in due_of:
                due = due_of[fact.job]
                started[due].append(1000 * (fact.started - due))
        if time.monotonic() > deadline:
            raise SystemExit(f"{sum(map(len, started.values()))} of {jobs} jobs were started.")
        await asyncio.sleep(0.5)
    return stored, started


def main() -> None:
    parser = argparse.ArgumentParser(description="The lateness of fires.")
    parser.add_argument("--due", default="1,100,1000,2000")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before, found = machine(), []
    for due in map(int, args.due.split(",")):
        rounds = min(args.rounds, 3) if due in STEPS and due > 1 else args.rounds
        with running() as stack:
            found.append(run(measure(stack, due, rounds if due in STEPS else 1)))
    columns = ["due at once", "rounds", "all stored", "started p50", "p99", "all started", "most"]
    table: list[list[object]] = []
    for figures in found:
        *lateness, cpu = figures.values()
        table.append([*lateness, *cpu.values()])
    title = f"Fires: ms after the due second, CPU in ms per fire; {before}"
    print_table(title, [*columns, *ROLES], table)
    write_json(args.json, {"fires": found})


if __name__ == "__main__":
    main()
