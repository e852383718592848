"""Waiting for a job: its end, and the live updates of its stream (api.md 4.11, 7.4)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

from domain.errors import event_rule
from domain.facts import Json
from domain.job import Job
from services.gateway import jobs, sse

if TYPE_CHECKING:
    from services.gateway.endpoint import Call
    from services.gateway.gateway import Gateway

# A stream says something each second: its keep-alive as well.
INTERVAL = 1.0
# Changes that follow each other faster than this go into one update.
_BREATH = 0.05


async def end_of(call: "Call", id: str) -> Json:
    """The final record of a job, whenever it comes; a client that leaves ends the waiting.

    Raises RuleBroken("event") if the job was flushed from the queue.
    """
    gateway = call.gateway
    with gateway.views.watch(id) as watch:
        while id in gateway.views.active.jobs:
            watch.changed.clear()
            await _unless(watch.changed.wait(), call.client_left(), gateway.stopping.wait())
            if gateway.stopping.is_set():
                raise event_rule("The server is shutting down; the job goes on.")
    record = await jobs.final_record(gateway, id)
    if record is None:
        raise event_rule(f"Job {id} was flushed from the queue or deleted.")
    return await jobs.completed(gateway, record)


async def updates(gateway: "Gateway", id: str, *, full: bool) -> AsyncIterator[bytes]:
    """The stream of one job: start, updates while it lives, the final one, end."""
    yield sse.event("start", {})
    told: Json = {}
    with gateway.views.watch(id) as watch:
        while (job := gateway.views.active.jobs.get(id)) is not None:
            watch.changed.clear()
            yield sse.event("update", _live_update(gateway, job, told, full=full))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await watch.changed.wait()
                await asyncio.sleep(_BREATH)
            if gateway.stopping.is_set():
                return
    record = await jobs.final_record(gateway, id)
    yield sse.event("update", await _final_update(gateway, record))
    yield sse.event("end", {})


def _live_update(gateway: "Gateway", job: Job, told: Json, *, full: bool) -> Json:
    """What the client does not know yet; `told` remembers what it does."""
    shown = jobs.live_document(gateway.seen, job, plain=not full)
    update: Json = {"xy": 1, "progress": shown.get("progress", 0)}
    if not told:
        update |= {"id": job.id, "started": shown["started"]}
    state: Json = {key: shown[key] for key in ("state", "until") if key in shown}
    if told.get("state") != state:
        told["state"] = state
        update |= state
    if shown.get("server") and told.get("server") != shown["server"]:
        told["server"] = update["server"] = shown["server"]
    update |= {key: shown[key] for key in ("cpu", "mem", "updated", "position") if shown.get(key)}
    posted = {key: shown[key] for key in ("table", "html") if shown.get(key)}
    if posted and posted != told.get("posted"):
        told["posted"] = posted
        update |= {"redraw": shown.get("redraw") or shown["updated"]} | posted
    return update


async def _final_update(gateway: "Gateway", record: Json | None) -> Json:
    if record is None:
        return {"xy": 1, "error": True, "code": 1, "description": "The job is gone."}
    shown = await jobs.completed(gateway, record)
    keys = ("id", "code", "description", "completed", "elapsed")
    posted = ("table", "html", "data", "files")
    return (
        {"xy": 1}
        | {key: shown.get(key) for key in keys}
        | {key: shown[key] for key in posted if shown.get(key)}
    )


async def _unless(*waits: Coroutine[Any, Any, Any]) -> None:
    """Until the first of these is over."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
