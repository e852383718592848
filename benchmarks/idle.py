"""What an installation costs that has nothing to do: CPU and memory by process.

    python benchmarks/idle.py [SECONDS] [--json FILE]

`all` is an installation as it is after its start. The runner's keeper comes with the first job:
what that adds stands below, measured after one job.
"""

import argparse
import time
from pathlib import Path

from client import Client, run
from stack import (
    SERVICES,
    Stack,
    children_of,
    ended,
    event,
    machine,
    print_table,
    resident,
    running,
    write_json,
)

# A start is over after so many seconds: the runner makes files for its first jobs after some.
REST = 6.0


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of idling.")
    parser.add_argument("seconds", type=float, nargs="?", default=20.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    with running() as stack:
        time.sleep(REST)
        first, began = stack.cpu(), time.perf_counter()
        time.sleep(args.seconds)
        last, took = stack.cpu(), time.perf_counter() - began
        memory = stack.memory()
        shares = {name: share(pid) for name, pid in stack.pids().items()}
        run(run_one_job(stack))
        (keeper,) = children_of(stack.pids()["runner"])
        more = ["keeper", None, resident(keeper)[0], share(keeper)]
    percent = {name: 100 * (last[name] - first[name]) / took for name in SERVICES}
    rows: list[list[object]] = [
        [name, percent[name], memory[name], shares[name]] for name in SERVICES
    ]
    rows.append(["all", *(sum(column.values()) for column in (percent, memory, shares))])
    rows.append(more)
    columns = ["process", "% of a core", "resident MB", "its share MB"]
    print_table(f"Idle; {before}", columns, rows)
    write_json(args.json, {"idle": {"percent": percent, "resident_mb": memory, "pss_mb": shares}})


async def run_one_job(stack: Stack) -> None:
    """Run a trivial job to its end."""
    async with Client(stack) as client:
        await client.call("create_event/v1", event("one"))
        await client.call("run_event/v1", {"id": "one"})
        await ended(client, "event:one", 1)


def share(pid: int) -> float:
    """Megabytes of a process, where what several use counts once in all (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


if __name__ == "__main__":
    main()
