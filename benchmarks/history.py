"""The view of finished jobs: how fast it is folded and searched.

python benchmarks/history.py [JOBS] [--json FILE]
"""

import argparse
import tempfile
import time
from pathlib import Path

from stack import machine, print_table, write_json

from domain import facts as f
from domain.facts import Json, Recorded
from domain.subjects import subject_of
from projections.final_record import FinalRecord, final_record
from projections.history import History
from projections.search import Calendar
from projections.store import open_store

BATCHES = (1, 50, 1000)
QUERIES = (
    "*",
    "event:event7",
    "event:event7 tags:_error",
    "tags:nightly",
    "tags:_error",
    "date:2023-11-20",
)
START = 1_700_000_000.0
SYSTEM = f.Actor(type="system", id="benchmark")


def finished(number: int) -> tuple[Recorded, FinalRecord]:
    """The end of a trivial job, one every ten seconds, every 21st a failure."""
    at = START + 10 * number
    job, event, code = f"j{number:09}", f"event{number % 100}", int(number % 21 == 0)
    fact = f.JobCompleted(at=at, actor=SYSTEM, event=event, job=job, code=code, description="")
    document: Json = {
        "id": job, "event": event, "category": "general", "plugin": "shellplug",
        "server": "s1", "groups": ["main"], "targets": ["main"], "source": "scheduler",
        "tags": ["nightly"] if number % 50 == 0 else [], "code": code, "started": at - 2,
        "completed": at, "elapsed": 2.0, "state": "complete", "final": True,
        "params": {"script": "#!/bin/sh\ntrue"}, "activity": [], "output": "done\n",
    }  # fmt: skip
    return Recorded(number + 1, subject_of(fact), fact), final_record(job, document)


def fold(folder: Path, batch: int, jobs: int) -> tuple[History, float]:
    """A history of so many jobs, and the jobs folded per second."""
    history = History(open_store(folder / f"{batch}.sqlite", "benchmark", jobs))
    facts = [finished(number) for number in range(jobs)]
    began = time.perf_counter()
    for start in range(0, jobs, batch):
        history.apply_batch(facts[start : start + batch])
    return history, jobs / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description="The view of finished jobs.")
    parser.add_argument("jobs", type=int, nargs="?", default=100_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    most, before = args.jobs, machine()
    folded: dict[int, float] = {}
    searched: list[Json] = []
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as name:
        for batch in BATCHES:
            jobs = most if batch == BATCHES[-1] else min(most, 5000 * batch)
            history, folded[batch] = fold(Path(name), batch, jobs)
        for query in QUERIES:
            began = time.perf_counter()
            page = history.search(query, Calendar(START), limit=50)
            took = (time.perf_counter() - began) * 1000
            searched.append({"query": query, "hits": page.length, "ms": took})
    rates: list[list[object]] = [[f"{batch:,}", rate] for batch, rate in folded.items()]
    print_table(f"Finished jobs, folded; {before}", ["jobs per transaction", "jobs/s"], rates)
    found = [list(row.values()) for row in searched]
    print_table(f"A search in {most:,} jobs for 50 rows", ["query", "hits", "ms"], found)
    write_json(args.json, {"history": {"jobs_per_second": folded, "searches": searched}})


if __name__ == "__main__":
    main()
