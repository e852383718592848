"""Draws what other programs here have measured, from the files that their --json wrote.

    python benchmarks/plots.py [--out benchmarks/plots] FILE.json ...

A picture for each: the cost of a job beside events, queued and finished jobs (curves.py), start
and memory by the length of the ledger (replay.py), jobs per second by limit (jobs.py), lateness of
fires (fires.py). `make plots` measures what is missing, and draws.
"""

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import Json
from stack import ROLES

Line = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: lines by their name, as points (x, y); `bars` where x is only a name."""

    title: str
    x: str
    y: str
    bars: bool = False
    log: bool = False
    lines: Line = field(default_factory=dict)

    def add(self, line: str, x: float, y: float) -> None:
        self.lines.setdefault(line, []).append((x, y))


def panels(results: Json) -> dict[str, list[Panel]]:
    """The diagrams of each picture, of those results that are there."""
    drawn = {"curves": _curves, "replay": _replay, "jobs": _jobs, "fires": _fires}
    return {name: draw(results[name]) for name, draw in drawn.items() if name in results}


def _curves(rows: list[Json]) -> list[Panel]:
    found: dict[str, Panel] = {}
    for row in rows:
        what = row["what"]
        panel = found.setdefault(what, Panel(f"Beside {what}", what, "CPU per job, ms"))
        for role in (*ROLES, "all"):
            panel.add(role, row["amount"], row["cpu_ms_per_job"][role])
    return list(found.values())


def _replay(rows: list[Json]) -> list[Panel]:
    start = Panel("Start", "facts on the ledger", "seconds until ready")
    memory = Panel("Memory at rest", "facts on the ledger", "MB")
    for row in rows:
        if row.get("seconds"):
            start.add(row["what"], row["facts"], row["seconds"])
        if "resident_mb" in row:
            memory.add(row["what"], row["facts"], row["resident_mb"])
    return [start, memory]


def _jobs(rows: list[Json]) -> list[Panel]:
    panel = Panel("Jobs per second", "at a time", "jobs/s", bars=True)
    for row in sorted(rows, key=lambda row: row["limit"] or math.inf):
        panel.add(
            "the peer" if row["server"] else "Jobledger", row["limit"], row["jobs_per_second"]
        )
    return [panel]


def _fires(rows: list[Json]) -> list[Panel]:
    panel = Panel("Fires", "due at the same second", "ms late", log=True)
    names = {
        "stored_last": "all stored",
        "started_p50": "started, p50",
        "started_last": "all started",
    }
    for row in rows:
        for key, name in names.items():
            panel.add(name, row["due"], row[key])
    return [panel]


def draw(name: str, diagrams: list[Panel], folder: Path) -> Path:
    """The picture's file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(diagrams), 4.5), layout="constrained")
    for number, panel in enumerate(diagrams):
        axes = figure.add_subplot(1, len(diagrams), number + 1)
        (_bars if panel.bars else _lines)(axes, panel)
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axes.set_yscale("log") if panel.log else axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    return path


def _lines(axes: Any, panel: Panel) -> None:
    for line, points in panel.lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=line)
    amounts = {x for points in panel.lines.values() for x, _ in points if x}
    if amounts and max(amounts) > 100:
        axes.set_xscale("symlog", linthresh=min(amounts))


def _bars(axes: Any, panel: Panel) -> None:
    width = 0.8 / len(panel.lines)
    for number, (line, points) in enumerate(panel.lines.items()):
        places = [place + number * width for place in range(len(points))]
        axes.bar(places, [y for _, y in points], width, label=line)
        axes.set_xticks(places, [str(x or "any") for x, _ in points])


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw what was measured.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "plots")
    args = parser.parse_args()
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise SystemExit(
            "Plots need matplotlib: .venv/bin/pip install --editable '.[bench]'"
        ) from None
    results: Json = {}
    for file in args.files:
        results |= json.loads(file.read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    for name, diagrams in panels(results).items():
        print(draw(name, diagrams, args.out))


if __name__ == "__main__":
    main()
