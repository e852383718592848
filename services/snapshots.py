"""When a service writes a snapshot of its folds, and how without holding up its loop.

Where the bytes are kept is each service's business (services/ledger/snapshots.py for schedulers,
the views' own file for gateways).
"""

import asyncio
import time
from typing import Any

from projections import snapshot

# A snapshot is due after so many facts: a start reads fewer again within half a second (design.md
# 8, 11), as long as writing takes no more than this share of the time ...
FACTS = 20_000
SHARE = 1 / 20
# ... else once a minute, if there is more to skip than a start reads in a moment ...
INTERVAL = 60.0
FEW = 1_000
# ... and within a day if anything changed: what was erased must not stay in old snapshots.
DAY = 86_400.0 / 2
# How often a service looks whether one is due, in seconds.
LOOK = 5.0
# Between two pieces the loop gets a turn: a thread that encodes would keep it off for 5 ms each.
_BREATH = 0.0005


class Pace:
    """When the next snapshot is due. `now` is monotonic, in seconds."""

    def __init__(self, position: int, now: float) -> None:
        self._position = position
        self._at = now
        self._took = 0.0

    def is_due(self, position: int, now: float) -> bool:
        """Whether enough was read, or it has been long enough, since the last one."""
        facts, waited = position - self._position, now - self._at
        return (
            (facts >= FACTS and waited * SHARE >= self._took)
            or (facts >= FEW and waited >= INTERVAL)
            or (facts > 0 and waited >= DAY)
        )

    def taken(self, position: int, now: float) -> None:
        """A snapshot of this position was begun."""
        self._position, self._at = position, now

    def took(self, seconds: float) -> None:
        """What the snapshot that was begun cost, in seconds of CPU."""
        self._took = seconds


async def encode(state: Any, pace: Pace) -> bytes:
    """The bytes of a state that nobody changes any more; the loop goes on meanwhile."""
    data, seconds = await asyncio.to_thread(_encode, state)
    pace.took(seconds)
    return data


def _encode(state: Any) -> tuple[bytes, float]:
    began = time.thread_time()
    encoded = bytearray()
    for piece in snapshot.pieces(state):
        encoded += piece
        time.sleep(_BREATH)
    return bytes(encoded), time.thread_time() - began
