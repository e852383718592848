"""Where the time of a lone job goes, stage by stage.

    python benchmarks/lone.py [--jobs 50] [--json FILE]

One trivial job at a time on an idle installation. The stages are read off the ledger: when NATS
stored each fact, and what the runner noted of the process. Half of the jobs are waited for
(`run_event/wait`): their reply is when a client sees the end. Milliseconds after the request,
which comes from a blocking socket: little of the time is the client's own.
"""

import argparse
import asyncio
import json
from pathlib import Path
from statistics import median

from client import Client, Json, Wire, checked, request, run
from stack import Stack, event, facts, machine, percentile, print_table, running, write_json

PAUSE = 0.15
STAGES = (
    "JobRequested stored",
    "reply of run_event",
    "JobAssigned stored",
    "process started",
    "JobStarted stored",
    "process ended",
    "JobFinished stored",
    "JobCompleted stored",
    "reply of run_event/wait",
)


async def measure(stack: Stack, jobs: int) -> dict[str, list[float]]:
    """Milliseconds from the request to each stage, of every job."""
    sent: dict[str, float] = {}
    found: dict[str, list[float]] = {stage: [] for stage in STAGES}
    async with Client(stack) as client:
        await client.call("create_event/v1", event("lone"))
        first = client.sequence
        with Wire(stack) as wire:
            for number in range(jobs):
                wait = "/wait" * (number % 2)
                asked = request(stack, f"run_event/v1{wait}", {"id": "lone"})
                await asyncio.sleep(PAUSE)
                reply, began, at = wire.ask(asked)
                told = json.loads(checked("run_event", reply.body))
                found[f"reply of run_event{wait}"].append(1000 * (at - began))
                sent[told["job"]["id"] if wait else told["id"]] = began
        await asyncio.sleep(1.0)
        await client.call("update_event/v1", {"id": "lone", "enabled": False})
    await _read_stages(stack, sent, found, first, client.sequence)
    return found


async def _read_stages(
    stack: Stack, sent: dict[str, float], found: dict[str, list[float]], first: int, last: int
) -> None:
    for _, stored, fact in await facts(stack, first, last):
        began = sent.get(getattr(fact, "job", ""))
        if began is None:
            continue
        moments = {f"{fact.kind} stored": stored}
        if fact.kind == "JobStarted":
            moments["process started"] = fact.started
        if fact.kind == "JobFinished":
            moments["process ended"] = fact.ended
        for stage, moment in moments.items():
            if stage in found:
                found[stage].append(1000 * (moment - began))


def main() -> None:
    parser = argparse.ArgumentParser(description="The stages of a lone job.")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    with running() as stack:
        found = run(measure(stack, args.jobs))
    rows = [
        [stage, median(ms), percentile(ms, 95), percentile(ms, 99), len(ms)]
        for stage, ms in found.items()
        if len(ms) > 1
    ]
    columns = ["ms after the request", "p50", "p95", "p99", "jobs"]
    print_table(f"A lone job; {before}", columns, rows)
    result: Json = {stage: {"p50": p50, "p95": p95, "p99": p99} for stage, p50, p95, p99, _ in rows}
    write_json(args.json, {"lone": result})


if __name__ == "__main__":
    main()
