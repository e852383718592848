"""Calls per second and their latency, for each kind of call, by one client and by several.

    python benchmarks/api.py [--seconds 1] [--events 100,1000,10000] [--json FILE]
    python benchmarks/api.py --url http://HOST:PORT --key KEY [--peer-url ... --peer-key ...]

Without --url it measures an installation of its own. With it, any server that speaks this API,
on which it makes events and deletes them again; with a peer both, row by row in turn, and the
ratio of their rates. Each client sends its next call when it has the reply to the last one; one
client alone has a blocking socket, so that little of the time is its own. `CPU` is what the gateway
used per call, where that is known: it says more on a busy machine.

`run_event` shows acceptance alone: the event runs one job at a time, which sleeps, so what is
requested waits in the queue. `run_event, jobs run` has them run meanwhile, eight at a time.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from client import BadReply, Client, Json, Wire, run
from stack import (
    SHORT,
    Stack,
    ended,
    event,
    machine,
    percentile,
    print_table,
    running,
    server,
    write_json,
)

PATIENCE = 120.0
CHANGED = 100
# One where jobs wait, one where they run: the script, and how many at a time.
QUEUES = {"q": ("#!/bin/sh\nexec sleep 600", 1), "r": (SHORT, 8)}


@dataclass(slots=True)
class Subject:
    """A server that is measured, and what was made there."""

    stack: Stack
    tag: str
    events: int = 0
    job: str = ""


Call = Callable[[Subject, int], tuple[str, Json | None]]
Step = tuple[str, Callable[[Subject], Awaitable[None]] | None, Call, tuple[int, ...]]


def steps(sizes: list[int]) -> list[Step]:
    """What is measured, in order: name, what to do before, the call, numbers of clients."""
    few, many = (1, 16), (1, 16, 64)
    lists: list[Step] = []
    for size in sizes:
        page, grow = f"get_events/v1?limit={min(50, size)}", partial(_grow, size)
        lists.append((f"get_events, 50 of {size:,}", grow, lambda s, n, p=page: (p, None), few))
        lists.append((f"get_events, all {size:,}", None, lambda s, n: ("get_events/v1", None), few))
    return [
        ("ping", None, lambda s, n: ("ping/v1", None), few),
        ("get_event", _begin, lambda s, n: (f"get_event/v1?id={s.tag}x0", None), few),
        ("get_job", None, lambda s, n: (f"get_job/v1?id={s.job}", None), few),
        *lists,
        ("create_event", None, lambda s, n: ("create_event/v1", _created(s, n)), few),
        ("update_event", None, lambda s, n: ("update_event/v1", _changed(s, n)), few),
        ("run_event", _queues, partial(_run, "q"), many),
        ("run_event, jobs run", None, partial(_run, "r"), few),
    ]


def _created(subject: Subject, _: int) -> Json:
    return event(f"{subject.tag}c{time.time_ns()}")


def _changed(subject: Subject, number: int) -> Json:
    """Other clients change other events: what two change at once is decided twice."""
    return {"id": f"{subject.tag}x{number % CHANGED}", "notes": str(number)}


def _run(name: str, subject: Subject, _: int) -> tuple[str, Json]:
    return "run_event/v1", {"id": f"{subject.tag}{name}"}


async def _begin(subject: Subject) -> None:
    await _grow(CHANGED, subject)
    async with Client(subject.stack) as client:
        # Not run_event/wait, which not every server has.
        subject.job = (await client.call("run_event/v1", {"id": f"{subject.tag}x0"}))["id"]
        await ended(client, f"event:{subject.tag}x0", 1)


async def _grow(events: int, subject: Subject) -> None:
    """Until there are so many."""
    left = iter(range(subject.events, events))
    subject.events = max(events, subject.events)

    async def create() -> None:
        async with Client(subject.stack) as client:
            for number in left:
                await client.call("create_event/v1", event(f"{subject.tag}x{number}"))

    await asyncio.gather(*(create() for _ in range(16)))


async def _queues(subject: Subject) -> None:
    async with Client(subject.stack) as client:
        for name, (script, jobs) in QUEUES.items():
            await client.call("create_event/v1", event(f"{subject.tag}{name}", script, jobs))
            await client.call("run_event/v1", {"id": f"{subject.tag}{name}"})


async def rate(subject: Subject, call: Call, clients: int, seconds: float) -> Json:
    """Calls per second of so many clients, latency in ms, CPU of the gateway, bytes of a reply."""
    numbers = itertools.count()
    took: list[float] = []
    sizes: list[int] = []

    async def ask() -> None:
        async with Client(subject.stack) as client:
            while (began := time.perf_counter()) < end or not took:
                await client.raw(*call(subject, next(numbers)))
                took.append(1000 * (time.perf_counter() - began))
            sizes.append(client.size)

    async def ask_alone() -> None:
        with Wire(subject.stack) as wire:
            while (began := time.perf_counter()) < end or not took:
                wire.raw(*call(subject, next(numbers)))
                took.append(1000 * (time.perf_counter() - began))
            sizes.append(wire.size)

    cpu, began = subject.stack.cpu().get("gateway"), time.perf_counter()
    end = began + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(ask() if clients > 1 else ask_alone())
    per_second = len(took) / (time.perf_counter() - began)
    used = None if cpu is None else 1e6 * (subject.stack.cpu()["gateway"] - cpu) / len(took)
    return {
        "per_second": per_second,
        "p50": median(took),
        "p99": percentile(took, 99),
        "gateway_us": used,
        "bytes": max(sizes),
    }


async def measure(stacks: list[Stack], sizes: list[int], seconds: float) -> list[dict[str, Json]]:
    """The figures of each server, by call and number of clients."""
    subjects = [Subject(stack, f"bench{time.time_ns()}") for stack in stacks]
    found: list[dict[str, Json]] = [{} for _ in stacks]
    try:
        for name, prepare, call, counts in steps(sizes):
            for subject in subjects:
                if prepare is not None:
                    await prepare(subject)
            for clients, (subject, figures) in itertools.product(
                counts, zip(subjects, found, strict=True)
            ):
                try:
                    figures[f"{name}; {clients}"] = await rate(subject, call, clients, seconds)
                except* (BadReply, OSError) as errors:  # a foreign server may lack a call
                    figures[f"{name}; {clients}"] = {"failed": str(errors.exceptions[0])}
                if name.startswith("run_event"):
                    await _settle(subject)
    finally:
        for subject in subjects:
            await _clean_up(subject)
    return found


async def _settle(subject: Subject) -> None:
    """Empty the queues, and wait until only the sleeper runs."""
    deadline = time.monotonic() + PATIENCE
    async with Client(subject.stack) as client:
        for name in QUEUES:
            await client.call("flush_event_queue/v1", {"id": f"{subject.tag}{name}"})
        while [job for job in await _live(subject, client) if job["event"] != f"{subject.tag}q"]:
            if time.monotonic() > deadline:
                raise SystemExit("The jobs do not end.")
            await asyncio.sleep(0.1)


async def _live(subject: Subject, client: Client) -> list[Json]:
    """What is not finished."""
    jobs = []
    for name in QUEUES:
        reply = await client.call(f"get_active_jobs/v1?event={subject.tag}{name}")
        jobs += reply["rows"]
    return jobs


async def _clean_up(subject: Subject) -> None:
    """End what runs and delete what was made, unless all of it is thrown away anyway."""
    if subject.stack.home is not None:
        return
    deadline = time.monotonic() + PATIENCE
    async with Client(subject.stack) as client:
        for job in await _live(subject, client):
            await client.call("abort_job/v1", {"id": job["id"]})
        while await _live(subject, client):
            if time.monotonic() > deadline:
                raise SystemExit("The jobs do not end.")
            await asyncio.sleep(0.1)
        for row in (await client.call("get_events/v1"))["rows"]:
            if row["id"].startswith(subject.tag):
                await client.call("delete_event/v1", {"id": row["id"]})


def main() -> None:
    parser = argparse.ArgumentParser(description="Calls per second.")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--events", default="100,1000,10000")
    parser.add_argument("--url")
    parser.add_argument("--key", default="")
    parser.add_argument("--peer-url")
    parser.add_argument("--peer-key", default="")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sizes = [int(number) for number in args.events.split(",")]
    before = machine()
    with ExitStack() as held:
        stacks = [server(args.url, args.key) if args.url else held.enter_context(running())]
        if args.peer_url:
            stacks.append(server(args.peer_url, args.peer_key))
        try:
            found = run(measure(stacks, sizes, args.seconds))
        except (BadReply, OSError) as error:
            raise SystemExit(str(error)) from None
    _print(found, f"The API, by call and number of clients; {before}")
    write_json(args.json, {"api": found})


COLUMNS = {"per_second": "per second", "p50": "p50 ms", "p99": "p99 ms", "bytes": "bytes"}


def _print(found: list[dict[str, Json]], title: str) -> None:
    keys = {**COLUMNS, "gateway_us": "CPU us"} if len(found) == 1 else COLUMNS
    columns = [*keys.values()]
    if len(found) == 2:
        columns += ["peer's per second", *columns[1:], "ratio"]
    table = []
    for name in found[0]:
        row: list[object] = [name]
        for figures in (subject[name] for subject in found):
            row += [figures.get(key) for key in keys]
        rates = [subject[name].get("per_second") for subject in found]
        if len(rates) == 2:
            row.append(rates[0] / rates[1] if all(rates) else None)
        table.append(row)
    print_table(title, ["call; clients", *columns], table)
    for subject in found:
        for name, figures in subject.items():
            if "failed" in figures:
                print(f"{name}: {figures['failed']}")


if __name__ == "__main__":
    main()
