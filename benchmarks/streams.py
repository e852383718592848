"""Many clients that follow jobs as server-sent events: nobody misses anything, and what it costs.

    python benchmarks/streams.py [--clients 200] [--jobs 500] [--each 4] [--json FILE]

Trivial jobs wait in a queue, eight at a time may run. When all clients follow one each, the queue
is set free; a client whose job is over follows its next one. --each clients follow each job. Every
stream must hold its start, the job's states in order, the final update with code 0, and the end:
one that does not ends this program with status 1. CPU of the gateway per job with the clients, and
without. The clients are a process of their own and speak through bare connections.
"""

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path

from client import Client, Json, run
from stack import Stack, ended, event, machine, print_table, running, write_json

AT_A_TIME = 8
POSTERS = 16
PATIENCE = 90.0
STATES = ["ready", "queued", "starting", "active", "finishing", "complete"]


async def measure(stack: Stack, clients: int, jobs: int, each: int) -> Json:
    """CPU of the gateway in ms per job without and with clients, and what these got."""
    await _round(stack, "warm", jobs // 5, 0, 0)
    without = await _round(stack, "without", jobs, 0, 0)
    with_clients = await _round(stack, "with", jobs, clients, each)
    return {"clients": clients, "jobs": jobs, "without": without, "with": with_clients}


async def _round(stack: Stack, name: str, jobs: int, clients: int, each: int) -> Json:
    assert stack.home is not None
    gate = stack.home / f"gate_{name}"
    async with Client(stack) as client:
        await client.call("create_event/v1", event(name, jobs=AT_A_TIME))
        wait = f"#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.1; done"
        for _ in range(AT_A_TIME):
            await client.call("run_event/v1", {"id": name, "params": {"script": wait}})
        ids = await _post(stack, name, jobs)
        follower = Follower(stack, [ids[c // each :: clients // each] for c in range(clients)])
        await asyncio.to_thread(follower.answer)
        cpu, began = stack.cpu()["gateway"], time.perf_counter()
        gate.touch()
        await ended(client, f"event:{name}", jobs + AT_A_TIME, PATIENCE)
        took = time.perf_counter() - began
        seen = await asyncio.to_thread(follower.answer)
        used = stack.cpu()["gateway"] - cpu
    if seen["wrong"] or seen["streams"] != (jobs * each if clients else 0):
        raise SystemExit(f"{seen['streams']} streams; wrong ones: {seen['wrong'][:5]}")
    return {"jobs_per_second": jobs / took, "gateway_ms_per_job": 1000 * used / jobs} | seen


async def _post(stack: Stack, name: str, jobs: int) -> list[str]:
    ids: list[str] = []
    left = iter(range(jobs))

    async def post() -> None:
        async with Client(stack) as client:
            for _ in left:
                ids.append((await client.call("run_event/v1", {"id": name}))["id"])  # noqa: PERF401

    await asyncio.gather(*(post() for _ in range(POSTERS)))
    return ids


class Follower:
    """The process of the clients; answers when all follow a job, and when all jobs are over."""

    def __init__(self, stack: Stack, jobs: list[list[str]]) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._answers = ours
        process = multiprocessing.get_context("spawn").Process(
            target=follow, args=(stack, jobs, theirs), daemon=True
        )
        process.start()
        theirs.close()

    def answer(self) -> Json:
        if not self._answers.poll(PATIENCE):
            raise SystemExit("The clients do not get what they wait for.")
        found: Json = self._answers.recv()
        return found


def follow(stack: Stack, jobs: list[list[str]], answers: Connection) -> None:
    """The clients' process: each follows the jobs of its list, one after the other."""
    answers.send(run(_follow_all(stack, jobs, answers)))


async def _follow_all(stack: Stack, jobs: list[list[str]], answers: Connection) -> Json:
    seen: Json = {"streams": 0, "events": 0, "wrong": []}
    waiting = {client for client, ids in enumerate(jobs) if ids}
    if not waiting:
        answers.send(seen)

    def begun(client: int) -> None:
        if client in waiting:
            waiting.discard(client)
            if not waiting:
                answers.send({})

    async def client(number: int, ids: list[str]) -> None:
        for id in ids:
            got = []
            async for name, data in _events(stack, id):
                got.append((name, data))
                begun(number)
            seen["streams"] += 1
            seen["events"] += len(got)
            if reason := flaw(id, got):
                seen["wrong"].append(reason)

    await asyncio.gather(*(client(number, ids) for number, ids in enumerate(jobs)))
    return seen


async def _events(stack: Stack, job: str) -> AsyncIterator[tuple[str, Json]]:
    """The events of one stream, through a connection of its own."""
    reader, writer = await asyncio.open_connection(stack.host, stack.port)
    request = f"GET /api/app/stream_job/v1?id={job} HTTP/1.1\r\nHost: {stack.host}\r\n"
    writer.write(f"{request}X-API-Key: {stack.key}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    text = b""
    while size := int(await reader.readline(), 16):
        text += (await reader.readexactly(size + 2))[:-2]
        while b"\n\n" in text:
            one, _, text = text.partition(b"\n\n")
            name, _, data = one.removeprefix(b"event: ").partition(b"\ndata: ")
            yield name.decode(), json.loads(data)
    writer.close()


def flaw(job: str, events: list[tuple[str, Json]]) -> str | None:
    """What is missing in a stream from its start to its end, None if nothing is."""
    names = [name for name, _ in events]
    if names != ["start", *["update"] * (len(names) - 2), "end"] or len(names) < 3:
        return f"{job}: {names}"
    updates = [data for _, data in events[1:-1]]
    states = [STATES.index(data["state"]) for data in updates if "state" in data]
    if "id" not in updates[0] or states != sorted(states):
        return f"{job}: {updates}"
    if updates[-1].get("code") != 0 or updates[-1].get("id") != job:
        return f"{job}: {updates[-1]}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="Streams of many clients.")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--each", type=int, default=4)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.clients % args.each:
        parser.error("--clients must be a multiple of --each")
    before = machine()
    with running() as stack:
        found = run(measure(stack, args.clients, args.jobs, args.each))
    names = ("jobs_per_second", "gateway_ms_per_job", "streams", "events")
    rows: list[list[object]] = [
        [label, *(found[key][name] for name in names)]
        for label, key in (("nobody follows", "without"), (f"{args.clients} clients", "with"))
    ]
    more = found["with"]["gateway_ms_per_job"] - found["without"]["gateway_ms_per_job"]
    found["gateway_ms_per_stream"] = more / args.each
    columns = ["", "jobs/s", "gateway: ms per job", "streams", "events, all there"]
    title = f"{args.jobs} jobs; {found['gateway_ms_per_stream']:.2f} ms of CPU per stream; {before}"
    print_table(title, columns, rows)
    write_json(args.json, {"streams": found})


if __name__ == "__main__":
    main()
