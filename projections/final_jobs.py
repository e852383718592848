"""The jobs of a ledger, folded from its beginning: live ones, and each final one's document.

For rebuilding, checking and replaying; memory grows with what is defined and live, never with
what is finished. Knows nothing of where facts come from or documents go.
"""

from domain import facts as f
from domain.facts import Json, Recorded
from domain.job import Job
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.fleet import Fleet
from projections.job_activity import JobActivity
from projections.job_view import document


class FinalJobs:
    """Fold of all facts that a job's document is made of."""

    def __init__(self) -> None:
        self.definitions = Definitions()
        self.fleet = Fleet()
        self.active = ActiveJobs(self.definitions)
        self.activity = JobActivity()

    def apply(self, recorded: Recorded) -> Json | None:
        """Fold one fact; the document of the job that it made final."""
        self.definitions.apply(recorded)
        self.fleet.apply(recorded)
        touched = self.active.apply(recorded)
        self.activity.apply(recorded, touched)
        match recorded.fact:
            case f.JobCompleted() if touched:
                final = self.document(touched[0])
                self.activity.forget(touched[0].id)
                return final
            case f.QueueFlushed(jobs=jobs):
                for job in jobs:
                    self.activity.forget(job)
            case f.JobDeleted(job=job):
                self.activity.forget(job)
            case _:
                pass
        return None

    def document(self, job: Job) -> Json:
        """A job as it is now, as the wire shows it."""
        server = self.fleet.servers.get(job.server) if job.server else None
        groups = server.groups if server is not None else ()
        return document(job, groups=groups, activity=self.activity.of(job.id))
