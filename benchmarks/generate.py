"""Fills a ledger with a long history: finished jobs, five facts each, as real ones are.

    python benchmarks/generate.py [--nats URL] [--jobs 20000] [--events 100]

Without --nats it fills a ledger of its own, which is thrown away, and prints how fast. The facts
are those that gateway, scheduler and runner write for a scheduled shell job; they lie in the past,
ten seconds apart. Nothing else may write to the ledger meanwhile.
"""

import argparse
import asyncio
import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from domain import facts as f
from domain.facts import Json
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.founding import found
from services.ledger.streams import ensure_streams

FACTS_PER_JOB = 5
BATCH = 200 * FACTS_PER_JOB
APART = 10.0  # seconds between two jobs
SERVER = "s1"
BOOT = "boot1"
FAILS = 21  # every so manieth job fails

ADMIN = f.Actor(type="user", id="admin", address="192.0.2.1")
RUNNER = f.Actor(type="runner", id=BOOT)
SCHEDULER = f.Actor(type="scheduler", id="7")


def definition(number: int, now: float, until: float) -> Json:
    """An event as somebody might have written it; it fires no more after `until`."""
    return {
        "id": f"event{number}",
        "title": f"Nightly job {number}",
        "enabled": True,
        "category": "general",
        "plugin": "shellplug",
        "targets": ["main"],
        "algo": "random",
        "params": {"script": "#!/bin/sh\n\n" + "echo working\n" * 20, "annotate": False},
        "triggers": [
            {"type": "manual", "enabled": True},
            {"type": "schedule", "enabled": True, "hours": [number % 24], "minutes": [number % 60]},
            {"type": "range", "enabled": True, "end": int(until)},
        ],
        "limits": [{"type": "job", "enabled": True, "amount": 1}],
        "actions": [{"type": "email", "enabled": True, "condition": "error", "users": ["admin"]}],
        "tags": [],
        "notes": "",
        "created": int(now),
        "modified": int(now),
        "revision": 1,
        "username": "admin",
    }


def founding_facts(events: int, now: float, until: float) -> Iterator[f.Fact]:
    """The server and the events."""
    yield f.ServerJoined(
        at=now, actor=RUNNER, server=SERVER, boot=BOOT, machine_boot="m1", hostname="host.example",
        groups=["main"], info={"os": {"platform": "Linux"}, "memory": {"total": 16 * 2**30}},
    )  # fmt: skip
    for number in range(events):
        record = definition(number, now, until)
        yield f.EventCreated(at=now, actor=ADMIN, event=record["id"], definition=record)


def life(number: int, event: str, made_of: f.MadeOf, at: float, first: int) -> list[f.Fact]:
    """The five facts of a finished job; `first` is the sequence that the first of them gets."""
    job = f"j{number:011d}"
    code = int(number % FAILS == 0)
    where: Json = {"server": SERVER, "boot": BOOT, "event": event, "job": job}
    launch = {"now": at, "source": "scheduler", "username": "admin", "type": "schedule"}
    order = first + 1
    digest = hashlib.sha256(job.encode()).hexdigest()
    report: Json = {
        "cpu": {"min": 0, "max": 12.5, "total": 25.0, "count": 4, "current": 6.25},
        "mem": {"min": 4e6, "max": 9e6, "total": 3e7, "count": 4, "current": 8e6},
        "perf": {"total": 3.2, "db": 1.1},
    }
    return [
        f.JobRequested(
            at=at, actor=SCHEDULER, event=event, job=job, made_of=made_of, **launch,
            fire=f.FireKey(anchor=made_of.event, trigger=1, due=at),
            counters=f.Counters(cursor=int(at)),
        ),
        f.JobAssigned(
            at=at + 0.01, actor=SCHEDULER, cause=first, **where, attempt=1, made_of=made_of,
            launch=launch,
        ),
        f.JobStarted(
            at=at + 0.02, actor=RUNNER, cause=order, **where, order=order, pid=4711,
            started=at + 0.02, cwd=f"/var/lib/jobledger/runner/work/{job}",
        ),
        f.JobFinished(
            at=at + 4, actor=RUNNER, cause=order, **where, order=order, code=code,
            description="" if code == 0 else "The script failed.", ended=at + 4,
            log=f.Blob(sequences=[number], size=240, sha256=digest), report=report,
        ),
        f.JobCompleted(
            at=at + 4.01, actor=SCHEDULER, cause=first + 3, event=event, job=job, code=code,
            description="", tags=["_success", "_last"] if code == 0 else ["_error", "_last"],
        ),
    ]  # fmt: skip


async def generate(ledger: Ledger, jobs: int, events: int, now: float) -> int:
    """Append the history of so many jobs of so many events that ends at `now`; its last sequence.

    The ledger must be founded, and hold no history of this kind yet.
    """
    began = now - jobs * APART
    made: list[f.MadeOf] = []
    end = await ledger.end()
    for number, fact in enumerate(founding_facts(events, began, now)):
        end = await ledger.append(fact, id=f"history-{end}-{number}")
        if isinstance(fact, f.EventCreated):
            made.append(f.MadeOf(event=end))
    for start in range(0, jobs, BATCH // FACTS_PER_JOB):
        batch: list[tuple[str, f.Fact]] = []
        for number in range(start, min(jobs, start + BATCH // FACTS_PER_JOB)):
            at, place = began + number * APART, number % events
            first = end + 1 + len(batch)
            facts = life(number, f"event{place}", made[place], at, first)
            batch += [(f"{first}-{n}", fact) for n, fact in enumerate(facts)]
        end = await ledger.append_all(batch)
    left = f.ServerLeft(at=now, actor=RUNNER, server=SERVER, boot=BOOT)
    return await ledger.append(left, id=f"history-{end}-left")


async def fill(url: str, data_dir: Path, jobs: int, events: int) -> float:
    """Found the ledger at `url` if need be and fill it; the seconds it took."""
    async with Ledger.open(url, name="generator") as ledger:
        await ensure_streams(ledger)
        await found(ledger, data_dir, time.time())
        began = time.perf_counter()
        await generate(ledger, jobs, events, time.time())
        return time.perf_counter() - began


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nats", help="the ledger to fill; default: one that is thrown away")
    parser.add_argument("--data-dir", type=Path, help="where the ledger's server.secret is")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        own = EmbeddedNats(Path(folder)) if options.nats is None else None
        if own is not None:
            await own.start()
        try:
            url = own.url if own is not None else options.nats
            home = options.data_dir or Path(folder)
            seconds = await fill(url, home, options.jobs, options.events)
        finally:
            if own is not None:
                await own.stop()
    facts = options.jobs * FACTS_PER_JOB
    print(f"{facts:,} facts of {options.jobs:,} jobs in {seconds:.1f} s: {facts / seconds:,.0f}/s")


if __name__ == "__main__":
    asyncio.run(main())
