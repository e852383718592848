"""Live data: what the runners' heartbeats say of servers and running jobs (design.md 6).

Telemetry is never on the ledger. The last heartbeat of each server is kept; a job's part of it
counts only while it belongs to the order that the job runs under.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from domain.facts import Json
from domain.job import Job

if TYPE_CHECKING:
    from services.gateway.views import Views

SUBJECT = "live.server.*"


class LiveData:
    """The last heartbeats, by server."""

    def __init__(self, views: "Views", clock: Callable[[], float]) -> None:
        self._views = views
        self._clock = clock
        self._jobs: dict[str, dict[str, Json]] = {}
        self.beats = 0
        """How many heartbeats were taken in."""

    def heard(self, beat: Json) -> None:
        """Take in a heartbeat; a malformed one changes nothing."""
        server, boot = beat.get("server"), beat.get("boot")
        info, jobs = beat.get("info"), beat.get("jobs")
        if not isinstance(server, str) or not isinstance(boot, str):
            return
        self._views.fleet.heard(server, boot, self._clock(), info if isinstance(info, dict) else {})
        self._jobs[server] = jobs if isinstance(jobs, dict) else {}
        self.beats += 1

    def of(self, job: Job) -> Json | None:
        """What is known of a running job right now; None if nothing is."""
        if job.server is None:
            return None
        found = self._jobs.get(job.server, {}).get(job.id)
        if not isinstance(found, dict) or found.get("order") != job.order:
            return None
        return found
