"""What an installation costs that has nothing to do: CPU and memory by process.

python benchmarks/idle.py [SECONDS]
"""

import sys
import time

from stack import SERVICES, machine, print_table, running


def main(seconds: float) -> None:
    before = machine()
    with running() as stack:
        time.sleep(3.0)
        first, began = stack.cpu(), time.perf_counter()
        time.sleep(seconds)
        took = time.perf_counter() - began
        percent = {name: 100 * (stack.cpu()[name] - first[name]) / took for name in SERVICES}
        memory = stack.memory()
    rows = [[name, percent[name], memory[name]] for name in SERVICES]
    rows.append(["all", sum(percent.values()), sum(memory.values())])
    print_table(f"Idle; {before}", ["process", "% of a core", "resident MB"], rows)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
