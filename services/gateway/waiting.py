"""Waiting for a job: its end, and the live updates of its stream (api.md 4.11, 7.4)."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from domain.errors import event_rule
from domain.facts import Json
from domain.job import Job
from services.gateway import jobs, sse
from services.gateway.views import Watch

if TYPE_CHECKING:
    from services.gateway.endpoint import Call
    from services.gateway.gateway import Gateway

# A stream says something each second: its keep-alive as well.
INTERVAL = 1.0
# Changes that follow each other faster than this go into one update.
_BREATH = 0.05
# Places in a queue are counted anew after so many seconds, for all streams.
_COUNTED_FOR = 0.2
_START, _END = sse.event("start", {}), sse.event("end", {})
_TOLD_ALWAYS = ("cpu", "mem", "updated", "position")


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


async def updates(
    gateway: "Gateway", id: str, *, full: bool, admitted: Callable[[Job | None], bool]
) -> AsyncGenerator[bytes, None]:
    """The stream of one job: start, updates while it lives, the final one, end.

    What is told at one moment comes in one piece. A client that is `admitted` no longer, because
    its key was deleted or its limits were narrowed, is told nothing more, not even the end.
    """
    begin = _START
    told: Json = {}
    with gateway.views.watch(id) as watch:
        while (job := gateway.views.active.jobs.get(id)) is not None:
            if not admitted(job):
                return
            watch.changed.clear()
            update, told = gateway.updates.next(job, told, full=full)
            yield begin + update
            begin = b""
            await _news(watch)
            if gateway.stopping.is_set():
                return
    if admitted(None):
        yield sse.Last(begin + await gateway.updates.final(id) + _END)


async def _news(watch: Watch) -> None:
    """Until there is something to tell, or it is time to say that there is not."""
    loop = asyncio.get_running_loop()
    due = loop.time() + INTERVAL
    timer = loop.call_at(due, watch.changed.set)
    try:
        await watch.changed.wait()
    finally:
        timer.cancel()
    if loop.time() < due:
        await asyncio.sleep(_BREATH)


class Updates:
    """What streams tell of live jobs, made once for all clients that know the same by then."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._positions = jobs.Positions(gateway.seen)
        self._counted = 0.0
        self._last: tuple[object, Json, bytes, Json] = (None, {}, b"", {})
        self._last_final: tuple[object, bytes] = (None, b"")

    def next(self, job: Job, told: Json, *, full: bool) -> tuple[bytes, Json]:
        """The update for a client that was told this much, and what it was told then."""
        gateway = self._gateway
        moment = (job.id, full, gateway.views.position, gateway.live.beats)
        last, known, text, then = self._last
        if last == moment and known == told:
            return text, then
        update, then = self._update(job, told, full=full)
        text = sse.event("update", update)
        self._last = (moment, told, text, then)
        return text, then

    async def final(self, id: str) -> bytes:
        """The last update of a job that is over."""
        moment = (id, self._gateway.views.position)
        if self._last_final[0] != moment:
            record = await jobs.final_record(self._gateway, id)
            text = sse.event("update", await _final_update(self._gateway, record))
            self._last_final = (moment, text)
            return text
        return self._last_final[1]

    def _update(self, job: Job, told: Json, *, full: bool) -> tuple[Json, Json]:
        """What the client does not know yet, and what it knows then."""
        seen, positions = self._gateway.seen, self._recent_positions()
        shown = jobs.live_document(seen, job, positions=positions, plain=not full)
        update: Json = {"xy": 1, "progress": shown.get("progress", 0)}
        if not told:
            update |= {"id": job.id, "started": shown["started"]}
        told = dict(told)
        state: Json = {key: shown[key] for key in ("state", "until") if key in shown}
        if told.get("state") != state:
            told["state"] = state
            update |= state
        if shown.get("server") and told.get("server") != shown["server"]:
            told["server"] = update["server"] = shown["server"]
        update |= {key: shown[key] for key in _TOLD_ALWAYS if shown.get(key)}
        posted = {key: shown[key] for key in ("table", "html") if shown.get(key)}
        if posted and posted != told.get("posted"):
            told["posted"] = posted
            update |= {"redraw": shown.get("redraw") or shown["updated"]} | posted
        return update, told

    def _recent_positions(self) -> jobs.Positions:
        """Places in the queues, a moment old: counting them takes long where many wait."""
        now = asyncio.get_running_loop().time()
        if now - self._counted >= _COUNTED_FOR:
            self._counted, self._positions = now, jobs.Positions(self._gateway.seen)
        return self._positions


async def _final_update(gateway: "Gateway", record: Json | None) -> Json:
    if record is None:
        return {"xy": 1, "error": True, "code": 1, "description": "The job is gone."}
    shown = jobs.shown_record(await jobs.filled(gateway, record))
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
