"""Erasing finished jobs: which facts are a job's, and what the recorded deletion says of them.

A deletion is itself a fact: JobDeleted names every fact of the job with its hash, and what must
outlive it (which fire it was). The facts, chunks and rows go afterwards (design.md 8). Pure.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from domain import facts as f
from domain.audit import RawFact, fact_hash
from domain.errors import job_rule
from domain.facts import Actor, Json
from domain.subjects import standing

# A JobDeleted names at most this many facts; a job that has more gets several.
MOST_NAMED = 10_000

OWN = (
    f.JobAssigned,
    f.JobAbortOrdered,
    f.JobStarted,
    f.JobFinishing,
    f.JobFinished,
    f.JobReturned,
)
"""A job's orders and reports: they stand on subjects of its server."""

# These stand on a job's subject and tell of a job that never was.
_NO_JOB = (f.LaunchRejected, f.FiresMissed)


def job_of(fact: f.Fact) -> tuple[str, str] | None:
    """(event, job) if this fact goes when that job is erased."""
    if isinstance(fact, (*OWN, f.JobRequested)):
        return fact.event, fact.job
    if isinstance(fact, (*_NO_JOB, f.JobDeleted)):
        return None
    event, job = getattr(fact, "event", None), getattr(fact, "job", None)
    return (event, job) if isinstance(event, str) and isinstance(job, str) else None


@dataclass(slots=True)
class JobFacts:
    """What of a job stands on the ledger: hashes by sequence, its request, whether it is over."""

    event: str
    job: str
    hashes: dict[int, bytes] = field(default_factory=dict)
    requested: int = 0
    source: str = ""
    fire: f.FireKey | None = None
    counters: f.Counters | None = None
    over: bool = False
    at: float = 0.0
    """When the last of these facts was stored, in Unix seconds."""

    def take(self, raw: RawFact, fact: f.Fact) -> None:
        """One of the job's facts."""
        self.hashes[raw.sequence] = fact_hash(raw)
        self.at = max(self.at, raw.at)
        if isinstance(fact, f.JobRequested):
            self.requested, self.source = raw.sequence, fact.source
            self.fire, self.counters = fact.fire, fact.counters
        elif isinstance(fact, f.JobCompleted):
            self.over = True

    @property
    def first(self) -> int:
        """The lowest sequence."""
        return min(self.hashes)

    def deletions(
        self, *, now: float, actor: Actor, cause: str | None = None
    ) -> list[f.JobDeleted]:
        """The facts that record the deletion; usually one."""
        named = [(sequence, self.hashes[sequence].hex()) for sequence in sorted(self.hashes)]
        parts = [named[n : n + MOST_NAMED] for n in range(0, len(named), MOST_NAMED)] or [[]]
        return [
            f.JobDeleted(
                at=now,
                actor=actor,
                event=self.event,
                job=self.job,
                erased=part,
                source=self.source,
                fire=self.fire,
                counters=self.counters,
            )
            for part in parts
        ]


def facts_of(event: str, job: str, raws: Iterable[RawFact]) -> JobFacts:
    """Those of these facts that are the job's; what cannot be read is nobody's."""
    found = JobFacts(event, job)
    for raw in raws:
        fact = readable(raw)
        if fact is not None and job_of(fact) == (event, job):
            found.take(raw, fact)
    return found


def readable(raw: RawFact) -> f.Fact | None:
    """The fact in these bytes, if it is one and stands where it may."""
    try:
        return standing(raw.subject, raw.data)
    except f.UnreadableFact:
        return None


def decide_delete_job(
    record: Json,
    raws: Sequence[RawFact],
    *,
    parent_is_live: bool,
    now: float,
    actor: Actor,
) -> list[f.JobDeleted]:
    """A finished job is to be erased (api.md 4.7); `raws` are its facts.

    Raises RuleBroken("job") for a child of a run that is not finished (api.md 4.1).
    """
    if parent_is_live:
        raise job_rule("The job belongs to a run that is not finished.")
    return facts_of(str(record["event"]), record["id"], raws).deletions(now=now, actor=actor)


def children_of(record: Json) -> list[str]:
    """The ids of a final multiplex job's children, which go with it."""
    workflow = record.get("workflow")
    nodes = workflow.get("jobs") if isinstance(workflow, dict) else None
    rows = nodes.values() if isinstance(nodes, dict) else []
    children = [child for row in rows if isinstance(row, list) for child in row]
    return [str(child["id"]) for child in children if isinstance(child, dict) and "id" in child]


def chunk_subjects(facts: Iterable[f.Fact]) -> set[str]:
    """Where a job's logs and files are: wherever it ran, and what was uploaded with its launch.

    Those uploads pass on to a retry, and belong to the parent of a child.
    """
    subjects: set[str] = set()
    uploads: set[str] = set()
    passed_on = False
    for fact in facts:
        match fact:
            case f.JobAssigned() | f.JobFinished() | f.JobStarted():
                subjects.add(f"chunks.{fact.server}.{fact.job}")
            case f.JobRequested() if not fact.workflow:
                uploads |= set(_uploads(fact))
            case f.JobCompleted(retry=retry):
                passed_on = retry is not None
            case _:
                pass
    return subjects if passed_on else subjects | uploads


def _uploads(asked: f.JobRequested) -> Iterator[str]:
    """The uploads that belong to this job, or to the first of its attempts.

    A file that was uploaded by itself names no job, and one of another job names that one: other
    jobs may be given either, so they stay (api.md 4.7) until they expire or their own job goes.
    """
    owner = asked.first_attempt or asked.job
    files = (asked.input or {}).get("files")
    for file in files if isinstance(files, list) else []:
        known = isinstance(file, dict) and "blob" in file and isinstance(file.get("id"), str)
        if known and file.get("job") == owner:
            yield f"chunks.upload.{file['id']}"


class Gathering:
    """Collects the facts of finished jobs while a range of the ledger is read in order.

    `wanted` says by its event, and by the sequence of its request, whether a job is looked for.
    """

    def __init__(self, wanted: Callable[[str, int], bool] = lambda _event, _request: True) -> None:
        self.open: dict[str, JobFacts] = {}
        """Jobs of which a fact was seen, oldest first, until they are handed out."""
        self.position = 0
        """The last sequence that was looked at."""
        self._wanted = wanted
        self._others: set[str] = set()

    def take(self, raw: RawFact) -> None:
        """One more fact of the range."""
        self.position = raw.sequence
        fact = readable(raw)
        if isinstance(fact, f.QueueFlushed):
            for job in fact.jobs:
                if job in self.open:
                    self.open[job].over = True
            return
        owner = job_of(fact) if fact is not None else None
        if fact is None or owner is None or not self._wanted(owner[0], 0):
            return
        event, job = owner
        if isinstance(fact, f.JobRequested) and not self._wanted(event, raw.sequence):
            self._others.add(job)
        if job in self._others:
            return
        if job not in self.open:
            self.open[job] = JobFacts(event, job)
        self.open[job].take(raw, fact)

    def finished(self, keep: int = 0) -> list[JobFacts]:
        """Hand out the jobs that are over, but for the newest `keep`, whose facts may go on.

        What has no request left belongs to a job that was erased before: it is over as well.
        """
        oldest = list(self.open.values())[: max(0, len(self.open) - keep)]
        done = [job for job in oldest if job.over or not job.requested]
        for job in done:
            del self.open[job.job]
        return done

    @property
    def first_open(self) -> int | None:
        """The lowest sequence of what was not handed out."""
        return min((job.first for job in self.open.values()), default=None)
