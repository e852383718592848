"""The gateway's snapshots: what its views hold in memory, kept in their own SQLite file.

There they are never ahead of the rows: a file that is lost takes its snapshots along, and a
finished job's fact that is read again after a start is skipped by its position. Knows nothing of
HTTP.
"""

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING

from projections import snapshot
from projections.store import is_damage
from services import logs
from services.gateway.views import ViewsState
from services.snapshots import LOOK, Pace, encode

if TYPE_CHECKING:
    from services.gateway.gateway import Gateway

log = logs.logger("gateway")


async def restore(gateway: "Gateway") -> None:
    """Go on from the newest snapshot that can be used; after the history was opened."""
    for position, data in gateway.views.kept_states():
        state = await asyncio.to_thread(snapshot.load, data, ViewsState)
        refusal = _refusal(gateway, state)
        if state is not None and refusal is None:
            gateway.views.restore(state)
            gateway.follower.position = state.position
            log.info("Going on from a snapshot", action="snapshot_restored", position=position)
            return
        log.warning(
            f"The snapshot of position {position} is not used: {refusal}.",
            action="snapshot_discarded",
            position=position,
        )


def _refusal(gateway: "Gateway", state: ViewsState | None) -> str | None:
    """Why a snapshot cannot be used; that it is this ledger's, its file guarantees."""
    if state is None:
        return "it is damaged, or another release wrote it"
    views = gateway.views
    if (state.timezone, state.dst_policy) != (views.timezone, views.dst_policy):
        return "the time zone or the daylight saving policy was changed"
    return None


async def keep_snapshots(gateway: "Gateway") -> None:
    """Write a snapshot whenever one is due, until cancelled."""
    pace = Pace(gateway.follower.position, time.monotonic())
    while True:
        await asyncio.sleep(LOOK)
        began = time.monotonic()
        if pace.is_due(gateway.follower.position, began):
            pace.taken(gateway.follower.position, began)
            try:
                await write(gateway, pace)
            except Exception:
                # What a snapshot saves is time at the next start: no reason to end this one.
                log.exception("The snapshot failed", action="snapshot_failed")


async def write(gateway: "Gateway", pace: Pace) -> None:
    """Write a snapshot of the views as they are now."""
    began = time.monotonic()
    state = gateway.views.state()
    copied = time.monotonic()
    data = await encode(state, pace)
    try:
        await gateway.views.keep_state(state.position, data)
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return  # the views have noticed, and end the service
        log.warning("No snapshot was written", action="snapshot_failed", reason=str(error))
        return
    log.info(
        "Wrote a snapshot",
        action="snapshot_written",
        position=state.position,
        bytes=len(data),
        copy_ms=round((copied - began) * 1000, 1),
        elapsed_ms=round((time.monotonic() - began) * 1000),
    )
