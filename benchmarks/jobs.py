"""Jobs per second from the first request to the last end, and what they cost, by process.

    python benchmarks/jobs.py [--jobs 1000] [--limits 0,32,8] [--rounds 3] [--json FILE]
    python benchmarks/jobs.py --peer-url http://HOST:PORT --peer-key KEY [--peer-pid PID]

A trivial shell job; a limit of 0 lets all run at once; medians of the rounds. CPU comes from the
kernel's counters, facts from the ledger's sequence. `of bare` compares with how often this machine
starts the same script with nothing around it: posix_spawn, two at a time, before and after.

With a peer (any server that speaks this API) both run in turn, and the ratio is printed; the CPU of
a peer on this machine is that of the process tree of --peer-pid. --url, --key and --pid put another
server in place of the own one. `--profile SECONDS` names the processes and waits before it begins,
so that a profiler can be attached.
"""

import argparse
import asyncio
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median

from client import BadReply, Client, Json, run
from stack import (
    ROLES,
    SHORT,
    Stack,
    ended,
    event,
    machine,
    print_table,
    running,
    server,
    write_json,
)

BARE = 1000


async def throughput(stack: Stack, limit: int, jobs: int, clients: int) -> Json:
    """So many jobs of one event with this limit; CPU in ms per job, as far as it is known."""
    async with Client(stack) as control:
        name = f"limit{limit}_{time.time_ns()}"
        await control.call("create_event/v1", event(name, jobs=limit))
        first, cpu, began = control.sequence, stack.cpu(), time.perf_counter()
        await post(stack, name, jobs, clients)
        posted = time.perf_counter() - began
        await ended(control, f"event:{name}", jobs)
        took = time.perf_counter() - began
        per_job = {role: 1000 * (now - cpu[role]) / jobs for role, now in stack.cpu().items()}
        await control.call("update_event/v1", {"id": name, "enabled": False})
        facts = control.sequence - first - 1
        if stack.home is None:
            await control.call("delete_event/v1", {"id": name, "delete_jobs": True})
    if len(per_job) > 1:
        per_job["all"] = sum(per_job.values())
    return {
        "limit": limit,
        "jobs_per_second": jobs / took,
        "accepted_per_second": jobs / posted,
        "facts_per_job": facts / jobs if first else None,
        "cpu_ms_per_job": per_job,
    }


async def post(stack: Stack, name: str, jobs: int, clients: int) -> None:
    """Request so many jobs of the event, from so many clients."""
    left = iter(range(jobs))

    async def post() -> None:
        async with Client(stack) as client:
            for _ in left:
                await client.raw("run_event/v1", {"id": name})

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(post())


def bare() -> float:
    """How many processes of the trivial script this machine starts and ends in a second."""
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        script = str(Path(folder) / "script")
        Path(script).write_text(SHORT)
        os.chmod(script, 0o700)
        running: list[int] = []
        began = time.perf_counter()
        for _ in range(BARE):
            if len(running) == 2:
                os.waitpid(running.pop(0), 0)
            running.append(os.posix_spawn(script, [script], {}))
        for pid in running:
            os.waitpid(pid, 0)
        return BARE / (time.perf_counter() - began)


async def measure(stacks: list[Stack], args: argparse.Namespace) -> list[Json]:
    """A row per server and limit: medians of the rounds, after a warm-up."""
    for stack in stacks:
        await throughput(stack, 0, min(200, args.jobs), args.clients)
    if args.profile:
        print(stacks[0].pids(), flush=True)
        await asyncio.sleep(args.profile)
    limits = [int(limit) for limit in args.limits.split(",")]
    rounds: dict[tuple[int, int], list[Json]] = {}
    for _ in range(args.rounds):
        for limit in limits:
            for number, stack in enumerate(stacks):
                before = bare()
                row = await throughput(stack, limit, args.jobs, args.clients)
                row["of_bare"] = row["jobs_per_second"] / fmean((before, bare()))
                rounds.setdefault((number, limit), []).append(row | {"server": number})
    return [medians(rows) for rows in rounds.values()]


def medians(rows: list[Json]) -> Json:
    """One row of several that have the same keys: each value's median."""
    result = {}
    for key, value in rows[0].items():
        values = [row[key] for row in rows]
        if isinstance(value, dict):
            result[key] = medians(values)
        else:
            result[key] = median(values) if isinstance(value, float) else value
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Jobs per second and their cost.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--limits", default="0,32,8")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=float, default=0.0)
    for prefix in ("", "peer-"):
        parser.add_argument(f"--{prefix}url")
        parser.add_argument(f"--{prefix}key", default="")
        parser.add_argument(f"--{prefix}pid", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    with ExitStack() as held:
        own = server(args.url, args.key, args.pid) if args.url else held.enter_context(running())
        peer = [server(args.peer_url, args.peer_key, args.peer_pid)] if args.peer_url else []
        try:
            rows = run(measure([own, *peer], args))
        except (BadReply, OSError) as error:
            raise SystemExit(str(error)) from None
    _print(rows, f"{args.jobs} trivial jobs; CPU in ms per job; {before}")
    write_json(args.json, {"jobs": rows})


def _print(rows: list[Json], title: str) -> None:
    columns = ["at a time", "jobs/s", "of bare", "accepted/s", "facts/job", *ROLES, "all"]
    rates = {row["limit"]: row["jobs_per_second"] for row in reversed(rows)}
    table: list[list[object]] = []
    for row in rows:
        name = str(row["limit"] or "any")
        if row["server"]:
            name += f", the peer; ratio {rates[row['limit']] / row['jobs_per_second']:.2f}"
        cpu = row["cpu_ms_per_job"]
        keys = ("jobs_per_second", "of_bare", "accepted_per_second", "facts_per_job")
        table.append(
            [name, *(row[key] for key in keys), *(cpu.get(role) for role in (*ROLES, "all"))]
        )
    print_table(title, columns, table)


if __name__ == "__main__":
    main()
