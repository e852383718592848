"""What an installation costs that has nothing to do: CPU and memory by process.

python benchmarks/idle.py [SECONDS] [--json FILE]
"""

import argparse
import time
from pathlib import Path

from stack import SERVICES, machine, print_table, running, write_json

# A start is over after so many seconds.
REST = 3.0


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
    percent = {name: 100 * (last[name] - first[name]) / took for name in SERVICES}
    rows = [[name, percent[name], memory[name]] for name in SERVICES]
    rows.append(["all", sum(percent.values()), sum(memory.values())])
    print_table(f"Idle; {before}", ["process", "% of a core", "resident MB"], rows)
    write_json(args.json, {"idle": {"percent": percent, "resident_mb": memory}})


if __name__ == "__main__":
    main()
