"""Looks once a second whether a running job exceeds a limit (execution.md 7.1).

Keeps since when each job uses too much memory or CPU without a break; a new leader begins to
count anew. What fires, and what follows, is decided in domain/running_limits.py.
"""

from collections.abc import Iterator

from domain.facts import Json
from domain.job import Job, JobState
from domain.running_limits import Fired, Usage, above, first_due, limits_of, watched
from projections.active_jobs import ActiveJobs
from services.scheduler.choosing import Chooser


class Limiting:
    """The running jobs that have limits. Times are seconds that no clock change moves."""

    def __init__(self, jobs: ActiveJobs, chooser: Chooser) -> None:
        self._jobs = jobs
        self._chooser = chooser
        self._watched: dict[str, dict[int, float]] = {}

    def begin(self) -> None:
        """A new term: watch what runs."""
        self._watched.clear()
        for job in self._jobs.jobs.values():
            self.note(job)

    def note(self, job: Job) -> None:
        """A job has changed: from now on it is watched, or not any more."""
        if job.state is JobState.ACTIVE and job.assigned and not job.abort and watched(job):
            self._watched.setdefault(job.id, {})
        elif self._watched:
            self._watched.pop(job.id, None)

    def due(self) -> Iterator[tuple[Job, Fired]]:
        """The limits that are exceeded now: at most one of each job."""
        for id in list(self._watched):
            job = self._jobs.jobs.get(id)
            fired = self._look(job) if job is not None else None
            if job is not None and fired is not None:
                yield job, fired

    def _look(self, job: Job) -> Fired | None:
        now = self._chooser.ticks()
        told, heard_at = self._told(job)
        limits = limits_of(job)
        mem, cpu = _current(told.get("mem")), _current(told.get("cpu"))
        since = self._watched[job.id]
        high = above(limits, mem, cpu)
        self._watched[job.id] = since = {index: since.get(index, now) for index in high}
        log_size = told.get("log_size")
        usage = Usage(
            elapsed=_seconds(told.get("elapsed")) + now - heard_at,
            log_size=log_size if isinstance(log_size, int | float) else 0,
            mem=mem,
            cpu=cpu,
            since=since,
        )
        return first_due(limits, usage, now)

    def _told(self, job: Job) -> tuple[Json, float]:
        """The job's part of its runner's last heartbeat, and when that came."""
        heard = self._chooser.heard_of.get(job.server or "")
        told = heard.jobs.get(job.id) if heard is not None and heard.boot == job.boot else None
        if heard is None or not isinstance(told, dict):
            return {}, self._chooser.ticks()
        return told, heard.at


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _current(metric: object) -> float:
    value = metric.get("current") if isinstance(metric, dict) else metric
    return float(value) if isinstance(value, int | float) else 0.0
