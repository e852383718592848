"""A job that writes a large log, and what it does to its neighbours.

    python benchmarks/logs.py [--size 100] [--jobs 40] [--json FILE]

A job writes --size megabytes of text as fast as it can: seconds from its start to JobCompleted on
the ledger, and until its log's last byte came over the API; CPU by process, and the runner's peak
of memory. Then four more, with lone trivial jobs beside them: how long after its request a job's
process starts (JobStarted), compared with --jobs of them on an idle installation.
"""

import argparse
import asyncio
import gzip
import http.client
import random
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from client import Client, Json, run
from stack import (
    Stack,
    event,
    facts,
    machine,
    percentile,
    print_table,
    resident,
    running,
    write_json,
)

PAUSE = 0.05
MEGABYTE = 1_000_000
# Lines of numbers, as they compress like real logs; written again and again.
PIECE = 4
# So many of them one after the other beside the lone jobs, which are too few for a p99 otherwise.
WRITERS = 4


def write_piece(path: Path) -> None:
    """A file of text, PIECE megabytes long."""
    chance = random.Random(1)
    lines = [
        f"{n:08} worker-{chance.randrange(64)} took {chance.random():.6f} s for"
        f" item {chance.getrandbits(64):016x}\n"
        for n in range(PIECE * MEGABYTE // 50)
    ]
    path.write_bytes("".join(lines).encode()[: PIECE * MEGABYTE])


async def measure(stack: Stack, size: int, jobs: int) -> Json:
    """All figures; `size` in megabytes."""
    assert stack.home is not None
    piece = stack.home / "piece"
    write_piece(piece)
    pieces = size // PIECE
    script = f"#!/bin/sh\ni=0\nwhile [ $i -lt {pieces} ]; do cat {piece}; i=$((i+1)); done"
    async with Client(stack) as client:
        await client.call("create_event/v1", event("lone"))
        await client.call("create_event/v1", event("writer", script))
        before = await _lone_until(stack, asyncio.sleep((jobs + 1) * PAUSE))
        peak, cpu = _peak(stack), stack.cpu()
        id = (await client.call("run_event/v1/wait", {"id": "writer"}))["job"]["id"]
        took = await _took(stack, id)
        stored = stack.cpu()
        read, reading = await asyncio.to_thread(_read_log, stack, id)
        served = stack.cpu()
        if read != pieces * PIECE * MEGABYTE:
            raise SystemExit(f"{read:,} of {pieces * PIECE * MEGABYTE:,} bytes were read.")
        beside = await _lone_until(stack, _write_again(client))
    return {
        "megabytes": pieces * PIECE,
        "completed_s": took,
        "read_s": reading,
        "cpu_s_written": {role: stored[role] - cpu[role] for role in cpu},
        "cpu_s_read": {role: served[role] - stored[role] for role in cpu},
        "runner_peak_mb": {"before": peak, "after": _peak(stack)},
        "lone_ms": {"alone": _spread(before), "beside": _spread(beside)},
    }


async def _write_again(client: Client) -> None:
    for _ in range(WRITERS):
        await client.call("run_event/v1/wait", {"id": "writer"})


async def _lone_until(stack: Stack, end: Coroutine[Any, Any, object]) -> list[float]:
    """Milliseconds from request to process of trivial jobs, one after the other until then."""
    over = asyncio.create_task(end)
    sent: dict[str, float] = {}
    async with Client(stack) as client:
        while not over.done():
            began = time.time()
            reply = await client.call("run_event/v1/wait", {"id": "lone"})
            sent[reply["job"]["id"]] = began
            await asyncio.sleep(PAUSE)
    await over
    return [
        1000 * (fact.started - sent[fact.job])
        for _, _, fact in await facts(stack, 0)
        if fact.kind == "JobStarted" and fact.job in sent
    ]


async def _took(stack: Stack, job: str) -> float:
    """Seconds from the start of its process until its end stood on the ledger."""
    moments = {
        fact.kind: fact.started if fact.kind == "JobStarted" else stored
        for _, stored, fact in await facts(stack, 0)
        if getattr(fact, "job", "") == job
    }
    return moments["JobCompleted"] - moments["JobStarted"]


def _read_log(stack: Stack, job: str) -> tuple[int, float]:
    """The bytes of its log, and the seconds until the last of them had come."""
    connection = http.client.HTTPConnection(stack.host, stack.port, timeout=120)
    began = time.perf_counter()
    connection.request("GET", f"/api/app/get_job_log/v1?id={job}", headers={"X-API-Key": stack.key})
    packed = connection.getresponse().read()
    took = time.perf_counter() - began
    connection.close()
    return len(gzip.decompress(packed)), took


def _peak(stack: Stack) -> float:
    """Most resident megabytes of the runner so far."""
    return resident(stack.pids()["runner"])[1]


def _spread(values: list[float]) -> Json:
    return {"p50": percentile(values, 50), "p99": percentile(values, 99), "jobs": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description="A large log.")
    parser.add_argument("--size", type=int, default=100, help="megabytes, in steps of four")
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    machine_before = machine()
    with running() as stack:
        found = run(measure(stack, args.size, args.jobs))
    alone, beside = found["lone_ms"]["alone"], found["lone_ms"]["beside"]
    size = found["megabytes"]
    rows: list[list[object]] = [
        ["from its start to JobCompleted", found["completed_s"], "s"],
        ["", size / found["completed_s"], "MB/s"],
        ["its log read through the API", found["read_s"], "s"],
        ["", size / found["read_s"], "MB/s"],
        ["from its start to the last byte read", found["completed_s"] + found["read_s"], "s"],
        *([f"CPU of {role}, written", s, "s"] for role, s in found["cpu_s_written"].items()),
        ["CPU of gateway, read", found["cpu_s_read"]["gateway"], "s"],
        ["runner's peak of memory before", found["runner_peak_mb"]["before"], "MB"],
        ["runner's peak of memory after", found["runner_peak_mb"]["after"], "MB"],
        *(
            [f"start of a lone job, {p}: {beside[p]:.1f} beside it, {alone[p]:.1f} alone",
             beside[p] / alone[p], "times"]
            for p in ("p50", "p99")
        ),
    ]  # fmt: skip
    print_table(f"A log of {size} MB; {machine_before}", ["", "", ""], rows)
    write_json(args.json, {"logs": found})


if __name__ == "__main__":
    main()
