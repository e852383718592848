"""Jobs that a runner goes on with although they are over: it was declared lost, and came back.

Its processes have to end (design.md 6). A report may still be on its way, so only a runner that
insists is told, and told again if it goes on. Knows nothing of how it is told.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from domain.job import Job

# For so many seconds it must insist; and so many pass until it is told again.
AFTER = 3.0
AGAIN = 60.0

Order = tuple[str, str, int]
"""Server, job and number of the order by which the server has the job."""


class Strangers:
    """What heartbeats tell of `jobs`, the live ones. `now` is in seconds that only ever grow."""

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self._jobs = jobs
        self._seen: dict[str, dict[Order, float]] = {}
        self._due: list[Order] = []

    def __bool__(self) -> bool:
        """Whether there is one that its server must be told of."""
        return bool(self._due)

    def clear(self) -> None:
        """Forget what was heard so far."""
        self._seen.clear()
        self._due.clear()

    def hear(self, server: str, held: Mapping[str, Any], now: float) -> None:
        """The jobs that this server has, by id, and what its heartbeat tells of each."""
        before, seen = self._seen.get(server, {}), {}
        for id, told in held.items():
            number = int(told.get("order") or 0)
            job = self._jobs.get(id)
            if job is not None and job.order == number:
                continue
            order = server, id, number
            seen[order] = before.get(order, now)
            if seen[order] <= now - AFTER:
                self._due.append(order)
                seen[order] = now + AGAIN
        self._seen[server] = seen

    def take(self) -> Iterator[Order]:
        """Those that their servers must be told of, each once."""
        while self._due:
            yield self._due.pop()
