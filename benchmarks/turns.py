"""Two or more checkouts measured in turn: what a change gains, whatever the machine does meanwhile.

    python benchmarks/turns.py --trees now=.,before=../other [--rounds 3] PROGRAM [its options]
    git worktree add ../other v1; python benchmarks/turns.py --trees now=.,before=../other jobs.py

Each tree runs its own benchmarks/PROGRAM in this interpreter, once a round, every other round in
reverse order, as a machine that grows slower is unfair to whoever comes second. Printed are the
medians of each number, all rounds in brackets, and the ratio of each tree to the first one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from stack import print_table, write_json

Numbers = dict[str, list[float]]


def numbers(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """All measured numbers of a program's JSON with their paths.

    A row of a list is named by its whole numbers and words, which are what was asked for.
    """
    match found:
        case dict():
            for key, value in found.items():
                yield from numbers(value, f"{name} {key}".lstrip())
        case list():
            for number, row in enumerate(found):
                yield from numbers(row, f"{name} {_asked_for(row) or number}")
        case float():
            yield name, found


def _asked_for(row: Any) -> str:
    """The name of a row."""
    if not isinstance(row, dict):
        return ""
    return ", ".join(f"{key} {value}" for key, value in row.items() if isinstance(value, int | str))


def once(tree: Path, program: list[str]) -> Iterator[tuple[str, float]]:
    """One run of the tree's own program. Raises SystemExit if it fails."""
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, f"benchmarks/{program[0]}", *program[1:], "--json", str(file)]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{tree}: {' '.join(command)}\n{done.stdout}{done.stderr}")
        yield from numbers(json.loads(file.read_text()))


def in_turn(trees: dict[str, Path], program: list[str], rounds: int) -> dict[str, Numbers]:
    """What each tree measured, a value per round."""
    found: dict[str, Numbers] = {name: {} for name in trees}
    for number in range(rounds):
        for name in list(trees)[:: -1 if number % 2 else 1]:
            for what, value in once(trees[name], program):
                found[name].setdefault(what, []).append(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The same benchmark of several trees, in turn.")
    parser.add_argument("--trees", required=True, help="NAME=DIRECTORY,NAME=DIRECTORY")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("program", nargs=argparse.REMAINDER, help="api.py, jobs.py ... and options")
    args = parser.parse_args()
    pairs = (pair.partition("=") for pair in args.trees.split(","))
    trees = {name: Path(folder).resolve() for name, _, folder in pairs}
    for name, tree in trees.items():
        if not args.program or not (tree / "benchmarks" / args.program[0]).is_file():
            raise SystemExit(f"{name}: {tree} has no such program in its benchmarks directory.")
    found = in_turn(trees, args.program, args.rounds)
    _print(found, " ".join(args.program), args.rounds)
    write_json(args.json, {"turns": found})


def _print(found: dict[str, Numbers], title: str, rounds: int) -> None:
    first, *others = found
    columns = [title, *found, *(f"{name} / {first}" for name in others)]
    rows: list[list[Any]] = []
    for what in found[first]:
        each = [found[name].get(what, []) for name in found]
        middles = [median(values) if values else None for values in each]
        ratios = [m / middles[0] if m is not None and middles[0] else None for m in middles[1:]]
        rows.append([what, *map(_shown, each), *ratios])
    print_table(f"Medians (rounds); {rounds} rounds in turn", columns, rows)


def _shown(values: list[float]) -> str | None:
    if not values:
        return None
    return f"{median(values):,.2f} ({', '.join(f'{value:,.2f}' for value in values)})"


if __name__ == "__main__":
    main()
