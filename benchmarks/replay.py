"""What a long history costs: folding it, and each service's start and memory with a full ledger.

    python benchmarks/replay.py [--facts 0,20000,100000] [--json FILE]

For each length a throw-away ledger is filled (generate.py). In this process: facts per second that
are decoded, folded by a scheduler, and folded by a gateway with its SQLite file. Then scheduler and
gateway really start on it, twice: first without a snapshot they read all of it, then they go on
from the snapshot that they wrote. A million facts take about six minutes.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from client import Json
from generate import FACTS_PER_JOB, fill
from service import Service
from stack import machine, print_table, write_json

from domain.facts import Recorded, decode
from projections.access import Access
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.fleet import Fleet
from projections.schedule import Schedule
from services.gateway.views import Views
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.raw import read_raw
from services.ledger.reader import TOGETHER

EVENTS = 100
# A service writes a snapshot soon after it has read so many facts.
ENOUGH = 50_000
WRITTEN = "snapshot_written"
# A service is at rest this long after it was ready, in seconds.
REST = 1.0
# So many facts are folded in this process at most.
MOST = 100_000


async def measure(facts: int) -> list[Json]:
    """All rows of a ledger of this length."""
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        home = Path(folder)
        nats = EmbeddedNats(home)
        await nats.start()
        try:
            await fill(nats.url, home, facts // FACTS_PER_JOB, EVENTS)
            rows = await _folds(nats.url, home) if facts else []
            for name in ("scheduler", "gateway"):
                service = Service(name, home, nats.url)
                first = await _start(service, snapshot=facts >= ENOUGH)
                if facts:
                    first["facts_per_second"] = facts / first["seconds"]
                rows.append({"what": f"{name} starts, reads all"} | first)
                if facts >= ENOUGH:
                    again = await _start(service, snapshot=False)
                    rows.append({"what": f"{name} starts from its snapshot"} | again)
            runner = await _start(Service("runner", home, nats.url), snapshot=False)
            rows.append({"what": "runner starts"} | runner)
        finally:
            await nats.stop()
    return [{"facts": facts} | row for row in rows]


async def _start(service: Service, *, snapshot: bool) -> Json:
    """Start a service and stop it; `snapshot`: not before it wrote one."""
    seconds = await service.start()
    used = service.cpu()
    try:
        if snapshot:
            await service.said(WRITTEN)
        await asyncio.sleep(REST)
        resident, peak = service.memory()
        return {"seconds": seconds, "cpu_s": used, "resident_mb": resident, "peak_mb": peak}
    finally:
        await service.stop()


async def _folds(url: str, home: Path) -> list[Json]:
    """How fast this process folds the ledger, from the stored bytes on."""
    stored: list[tuple[int, str, bytes]] = []
    async with Ledger.open(url, name="bench") as ledger:
        async for batch in read_raw(ledger, after=0, upto=min(MOST, await ledger.end())):
            stored += [(raw.sequence, raw.subject, raw.data) for raw in batch]

    def timed(what: str, *folds: Callable[[Recorded], object]) -> Json:
        began, cpu = time.perf_counter(), time.process_time()
        for sequence, subject, data in stored:
            recorded = Recorded(sequence, subject, decode(data))
            for fold in folds:
                fold(recorded)
        return _row(what, len(stored), began, cpu)

    definitions = Definitions()
    schedule = Schedule(definitions, zone="UTC", dst_policy="literal")
    views = (
        definitions, schedule, Fleet(), EventStates("UTC"), Access(), ActiveJobs(definitions),
    )  # fmt: skip
    rows = [timed("decode"), timed("decode, fold of a scheduler", *(v.apply for v in views))]
    gateway = Views()
    gateway.open_history(home / "fold.sqlite", "bench", len(stored))
    began, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(stored), TOGETHER):
        some = stored[start : start + TOGETHER]
        gateway.apply_all([Recorded(sequence, on, decode(data)) for sequence, on, data in some])
        await asyncio.sleep(0)
        await gateway.breathe()
    await gateway.history(lambda history: history.position)
    rows.append(_row("decode, fold of a gateway, stored", len(stored), began, cpu))
    await gateway.close()
    return rows


def _row(what: str, facts: int, began: float, cpu: float) -> Json:
    used = time.process_time() - cpu
    per_second = facts / (time.perf_counter() - began)
    return {"what": what, "facts_per_second": per_second, "facts_per_cpu_second": facts / used}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--facts", default="0,20000,100000")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    found = [row for n in args.facts.split(",") for row in asyncio.run(measure(int(n)))]
    keys = (
        "seconds",
        "cpu_s",
        "facts_per_second",
        "facts_per_cpu_second",
        "resident_mb",
        "peak_mb",
    )
    table = [[f"{row['facts']:,}: {row['what']}", *map(row.get, keys)] for row in found]
    columns = [
        "facts",
        "ready after s",
        "CPU s",
        "facts/s",
        "per s of CPU",
        "resident MB",
        "at most MB",
    ]
    print_table(f"A long ledger; {before}", columns, table)
    write_json(args.json, {"replay": found})


if __name__ == "__main__":
    main()
