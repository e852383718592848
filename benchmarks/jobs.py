"""Jobs per second from the first request to the last end, and what they cost, by process.

    python benchmarks/jobs.py [--jobs 1000] [--limits 0,32,8] [--clients 16] [--json FILE]

A trivial shell job; a limit of 0 lets all run at once. CPU comes from the kernel's counters,
facts from the ledger's sequence. `--profile SECONDS` names the processes and waits before it
begins, so that a profiler can be attached.
"""

import argparse
import asyncio
import time
from pathlib import Path

from stack import ROLES, Client, Json, Stack, event, machine, print_table, running, write_json

POLL = 0.1
PATIENCE = 300.0


async def throughput(stack: Stack, limit: int, jobs: int, clients: int) -> Json:
    """So many jobs of one event with this limit; all figures per 1,000 jobs."""
    async with Client(stack) as control:
        name = f"limit{limit}_{time.time_ns()}"
        await control.call("create_event/v1", event(name, jobs=limit))
        first, cpu, began = control.sequence, stack.cpu(), time.perf_counter()
        await post(stack, name, jobs, clients)
        posted = time.perf_counter() - began
        await _all_over(control, name, jobs, began)
        took = time.perf_counter() - began
        used = {role: value - cpu[role] for role, value in stack.cpu().items()}
        await control.call("update_event/v1", {"id": name, "enabled": False})
        facts = control.sequence - first - 1
    per_job = {role: 1000 * used[role] / jobs for role in ROLES}
    return {
        "limit": limit,
        "jobs_per_second": jobs / took,
        "accepted_per_second": jobs / posted,
        "facts_per_job": facts / jobs,
        "cpu_ms_per_job": per_job | {"all": sum(per_job.values())},
    }


async def post(stack: Stack, name: str, jobs: int, clients: int) -> None:
    """Request so many jobs of the event, from so many clients."""
    left = iter(range(jobs))

    async def post() -> None:
        async with Client(stack) as client:
            for _ in left:
                await client.call("run_event/v1", {"id": name})

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(post())


async def _all_over(control: Client, name: str, jobs: int, began: float) -> None:
    """Until the history holds them all; looks less often while many are missing."""
    while True:
        history = await control.call(f"search_jobs/v1?query=event:{name}&limit=1")
        missing = jobs - history["list"]["length"]
        if not missing:
            return
        if time.perf_counter() - began > PATIENCE:
            raise SystemExit(f"{missing} of {jobs} jobs do not end.")
        await asyncio.sleep(max(0.01, min(POLL, missing / 2000)))


async def measure(stack: Stack, args: argparse.Namespace) -> list[Json]:
    """One row per limit and round, after a warm-up."""
    await throughput(stack, 0, min(200, args.jobs), args.clients)
    if args.profile:
        print(stack.pids(), flush=True)
        await asyncio.sleep(args.profile)
    return [
        await throughput(stack, limit, args.jobs, args.clients)
        for _ in range(args.rounds)
        for limit in map(int, args.limits.split(","))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Jobs per second and their cost.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--limits", default="0,32,8")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--profile", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    with running() as stack:
        rows = asyncio.run(measure(stack, args))
    columns = ["at a time", "jobs/s", "accepted/s", "facts/job", *ROLES, "all"]
    table = [
        [
            row["limit"] or "any",
            row["jobs_per_second"],
            row["accepted_per_second"],
            row["facts_per_job"],
            *row["cpu_ms_per_job"].values(),
        ]
        for row in rows
    ]
    print_table(f"{args.jobs} trivial jobs; CPU in ms per job; {before}", columns, table)
    write_json(args.json, {"jobs": rows})


if __name__ == "__main__":
    main()
