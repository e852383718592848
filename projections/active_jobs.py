"""The live jobs: folded from the ledger, indexed for the questions the owner asks.

Every question costs the same whatever waits or is finished. A final job leaves with the fact
that made it final and is handed to whoever keeps history. Knows nothing of how jobs are shown.
"""

from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from domain import facts as f
from domain.assembly import NOTHING, Assembly, JobSpec, Made, Template, assemble
from domain.facts import Json, Recorded
from domain.job import HOLDS_A_SLOT, Job, JobState, begin, evolve
from domain.multiplex import child_result
from projections.definitions import Definitions

_COMPACT = 1024  # departed entries are kept up to this many
_COUNTED = HOLDS_A_SLOT | {JobState.QUEUED}  # in these states a scope counts a job

Entry = tuple[bool, int, str]  # not priority, sequence of the request, job: the order of leaving


@dataclass(slots=True)
class Scope:
    """The jobs counted together by job and queue limits (execution.md 6.1).

    `line` is sorted; what left it stays until `start` has passed it, so that leaving costs
    nothing however many wait.
    """

    running: int = 0
    queued: int = 0
    line: list[Entry] = field(default_factory=list)
    start: int = 0


_NO_SPEC = JobSpec({}, frozenset(), "", 0, 0, 0, 0.0, None, False)


@dataclass(frozen=True, slots=True)
class StoredJobs:
    """What a snapshot keeps of ActiveJobs; `owed` names followers by their place in `owners`.

    What a job is made of follows from its request: it is assembled again, not stored.
    """

    position: int
    jobs: dict[str, Job]
    owners: list[Job]
    owed: dict[str, int]
    results: dict[str, dict[str, Json]]
    boots: dict[str, str] = field(default_factory=dict)


class ActiveJobs:
    """Fold of all facts about live jobs. `definitions` must have seen each fact first."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.position = 0
        self.jobs: dict[str, Job] = {}
        self.by_event: dict[str, set[str]] = {}
        self.by_server: dict[str, set[str]] = {}
        self.by_parent: dict[str, set[str]] = {}
        self.scopes: dict[str, Scope] = {}
        self.weights: dict[str, float] = {}
        self.owed: dict[str, Job] = {}
        self.results: dict[str, dict[str, Json]] = {}
        self._boots: dict[str, str] = {}  # of each server the newest
        self._assembly = Assembly()

    def apply(self, recorded: Recorded) -> list[Job]:
        """Fold one fact; the jobs it touched, as they are now (final ones a last time)."""
        if recorded.sequence <= self.position:
            return []
        self.position = recorded.sequence
        fold = _FOLDS.get(type(recorded.fact))
        if fold is None:
            touched = self._evolve(getattr(recorded.fact, "job", ""), recorded)
        else:
            touched = fold(self, recorded)
        for job in touched:
            if job.request.workflow:
                return touched + self._parents_of(touched)
        return touched

    def template(self, made_of: f.MadeOf, sequence: int) -> Template | None:
        """What a job requested at `sequence` has in common with others; None: perhaps nothing."""
        made = self._made(made_of, sequence)
        return None if made is None else self._assembly.template(made_of, made)

    def prospect(self, request: f.JobRequested) -> Job:
        """The job that a request will lead to which is not on the ledger yet; its sequence is 0."""
        return begin(Recorded(0, "", request), self._spec(request, self.position + 1))

    def pass_over(self, recorded: Recorded) -> None:
        """Take in a fact of a job that ends before anybody can look at the live ones."""
        self.position = recorded.sequence

    def _parents_of(self, jobs: list[Job]) -> list[Job]:
        """The live parents that must know that these of the jobs, their children, ended."""
        ended = [job.request.workflow for job in jobs if job.id not in self.jobs]
        parents = dict.fromkeys(str(workflow.get("job")) for workflow in ended if workflow)
        return [self.jobs[id] for id in parents if id in self.jobs]

    def state(self) -> StoredJobs:
        """All that `restore` needs; not changed by what is folded later."""
        owners = {id(job): job for job in self.owed.values()}
        places = {key: place for place, key in enumerate(owners)}
        return StoredJobs(
            position=self.position,
            jobs={id: replace(job, spec=_NO_SPEC) for id, job in self.jobs.items()},
            owners=[replace(job, spec=_NO_SPEC) for job in owners.values()],
            owed={follower: places[id(job)] for follower, job in self.owed.items()},
            results={parent: dict(ended) for parent, ended in self.results.items()},
            boots=dict(self._boots),
        )

    def restore(self, state: StoredJobs) -> None:
        """Go on from a snapshot; only for a fold that is new, after `definitions` were restored."""
        self.position = state.position
        for job in map(self._whole, state.jobs.values()):
            self.jobs[job.id] = job
            self._index(job)
            self._count(None, job)
        owners = [self._whole(job) for job in state.owners]
        self.owed = {follower: owners[place] for follower, place in state.owed.items()}
        self.results, self._boots = state.results, state.boots

    def _whole(self, job: Job) -> Job:
        return replace(job, spec=self._spec(job.request, job.sequence))

    def running(self, scope: str) -> int:
        """How many jobs hold a slot in this scope."""
        return self.scopes[scope].running if scope in self.scopes else 0

    def queued(self, scope: str) -> int:
        """How many jobs wait in this scope's queue."""
        return self.scopes[scope].queued if scope in self.scopes else 0

    def queue(self, scope: str) -> Iterator[Job]:
        """The queued jobs of a scope in the order in which they leave (execution.md 6.3).

        Taking the first few costs the same however many wait.
        """
        entry = self.scopes.get(scope)
        if entry is None:
            return
        while entry.start < len(entry.line) and not self._is_queued(entry.line[entry.start][2]):
            entry.start += 1
        if entry.start > _COMPACT:
            del entry.line[: entry.start]
            entry.start = 0
        last = None
        for place in range(entry.start, len(entry.line)):
            id = entry.line[place][2]
            if id != last and self._is_queued(id):
                yield self.jobs[id]
            last = id

    def load(self, server: str) -> float:
        """The weight of the live jobs assigned to a server (execution.md 5.2)."""
        return self.weights.get(server, 0.0)

    def of_event(self, event: str) -> list[Job]:
        """The live jobs of an event, oldest first."""
        return sorted(
            (self.jobs[id] for id in self.by_event.get(event, ())), key=lambda j: j.sequence
        )

    def children(self, parent: str) -> list[Job]:
        """The live children of a multiplex job."""
        return [self.jobs[id] for id in sorted(self.by_parent.get(parent, ()))]

    def all_over(self, parent: Job) -> bool:
        """Whether every child of a multiplex job was launched and ended, retries included."""
        return parent.id not in self.by_parent and not any(
            parent.id in (owing.id, (owing.request.workflow or {}).get("job"))
            for owing in self.owed.values()
        )

    def _is_queued(self, id: str) -> bool:
        job = self.jobs.get(id)
        return job is not None and job.state is JobState.QUEUED

    def _requested(self, recorded: Recorded) -> list[Job]:
        request = recorded.fact
        assert isinstance(request, f.JobRequested)
        if request.job in self.jobs:
            return []
        self.owed.pop(request.job, None)
        job = begin(recorded, self._spec(request, recorded.sequence))
        self._put(None, job)
        return [job]

    def _spec(self, request: f.JobRequested, sequence: int) -> JobSpec:
        """What the job requested at `sequence` is made of."""
        made = self._made(request.made_of, sequence)
        if made is None:
            return assemble(NOTHING, request)
        return self._assembly.spec(made, request)

    def _made(self, made_of: f.MadeOf, sequence: int) -> Made | None:
        """The definitions of a job requested at `sequence`: those from before, as kept."""
        newest = max(made_of.event, made_of.category, made_of.plugin, made_of.config)
        return self.definitions.made(made_of) if newest < sequence else None

    def _evolve(self, id: str, recorded: Recorded) -> list[Job]:
        job = self.jobs.get(id)
        if job is None:
            return []
        moved = evolve(job, recorded)
        if moved is job:
            return []
        self._put(job, moved)
        return [moved]

    def _joined(self, recorded: Recorded) -> list[Job]:
        joined = recorded.fact
        assert isinstance(joined, f.ServerJoined)
        self._boots[joined.server] = joined.boot
        ids = sorted(self.by_server.get(joined.server, ()))
        return [job for id in ids for job in self._evolve(id, recorded)]

    def _returned(self, recorded: Recorded) -> list[Job]:
        """A runner that another one replaced says nothing of its jobs any more (design.md 7)."""
        fact = recorded.fact
        assert isinstance(fact, f.JobReturned)
        if self._boots.get(fact.server, fact.boot) != fact.boot:
            return []
        return self._evolve(fact.job, recorded)

    def _flushed(self, recorded: Recorded) -> list[Job]:
        assert isinstance(recorded.fact, f.QueueFlushed)
        gone = [self.jobs[id] for id in recorded.fact.jobs if self._is_queued(id)]
        for job in gone:
            self._put(job, None)
        return gone

    def _deleted(self, recorded: Recorded) -> list[Job]:
        """An erased job was final; with some of its facts gone it may not have looked so."""
        assert isinstance(recorded.fact, f.JobDeleted)
        id = recorded.fact.job
        self.owed.pop(id, None)
        job = self.jobs.get(id)
        if job is not None:
            self._put(job, None)
            for follower in [name for name, owing in self.owed.items() if owing.id == id]:
                del self.owed[follower]
        return []

    def _put(self, old: Job | None, new: Job | None) -> None:
        """Replace a job and keep every index true."""
        if old is not None and new is not None and _count_alike(old, new):
            self.jobs[new.id] = new
            return
        self._count(old, new)
        if new is None or new.final is not None:
            job = new or old
            assert job is not None
            self._leave(job)
            if new is not None:
                self._owe(new)
            if job.request.workflow:
                self._tell_parent(job)
            return
        self.jobs[new.id] = new
        if old is None:
            self._index(new)
        if new.children and (old is None or not old.children):
            self._owe(new)

    def _index(self, job: Job) -> None:
        self.by_event.setdefault(job.event, set()).add(job.id)
        if job.request.workflow:
            self.by_parent.setdefault(str(job.request.workflow.get("job")), set()).add(job.id)

    def _count(self, old: Job | None, new: Job | None) -> None:
        """Have scopes and servers count a job as what it became; None: it is no live job."""
        if old is not None and old.state in _COUNTED:
            self._count_in_scope(old, -1)
        if new is not None and new.state in _COUNTED:
            self._count_in_scope(new, +1)
        left = old.server if old is not None else None
        taken = new.server if new is not None and new.final is None else None
        if left != taken:
            if old is not None and left is not None:
                self._leave_server(old, left)
            if new is not None and taken is not None:
                self._take_server(new, taken)

    def _take_server(self, job: Job, server: str) -> None:
        self.by_server.setdefault(server, set()).add(job.id)
        self.weights[server] = self.weights.get(server, 0.0) + job.spec.weight

    def _leave_server(self, job: Job, server: str) -> None:
        held = self.by_server[server]
        held.discard(job.id)
        if held:
            self.weights[server] -= job.spec.weight
        else:
            del self.by_server[server], self.weights[server]

    def _count_in_scope(self, job: Job, by: int) -> None:
        name = job.scope
        scope = self.scopes.get(name)
        if scope is None:
            scope = self.scopes[name] = Scope()
        if job.state is not JobState.QUEUED:
            scope.running += by
        else:
            scope.queued += by
            if by > 0:
                entry = (not job.request.priority, job.sequence, job.id)
                insort(scope.line, entry, lo=scope.start)
        if scope.running == scope.queued == 0:
            del self.scopes[name]

    def _leave(self, job: Job) -> None:
        self.jobs.pop(job.id, None)
        self.results.pop(job.id, None)
        _discard(self.by_event, job.event, job.id)
        if job.request.workflow:
            _discard(self.by_parent, str(job.request.workflow.get("job")), job.id)

    def _tell_parent(self, child: Job) -> None:
        """A child is over; an attempt that is followed by a retry does not count."""
        parent = str((child.request.workflow or {}).get("job"))
        retried = child.final is not None and child.final.retry is not None
        if parent in self.jobs and not retried:
            self.results.setdefault(parent, {})[child.id] = child_result(child)

    def _owe(self, job: Job) -> None:
        """Followers named but not yet requested: any leader appends them (design.md 3.3)."""
        if job.final is not None and job.final.retry is not None:
            follower = job.final.retry.job
            if follower not in self.jobs:
                self.owed[follower] = job
        elif job.final is None:
            for child in job.children:
                if child.job not in self.jobs:
                    self.owed[child.job] = job


# What does not stand here moves the one job that it names.
_FOLDS: Mapping[type[f.FactBase], Callable[[ActiveJobs, Recorded], list[Job]]] = {
    f.JobRequested: ActiveJobs._requested,
    f.QueueFlushed: ActiveJobs._flushed,
    f.JobDeleted: ActiveJobs._deleted,
    f.ServerJoined: ActiveJobs._joined,
    f.JobReturned: ActiveJobs._returned,
}


def _count_alike(old: Job, new: Job) -> bool:
    """Whether no index tells a job from what it was before its last fact."""
    return (
        new.final is None
        and old.server == new.server
        and (old.state is new.state or (old.state in HOLDS_A_SLOT and new.state in HOLDS_A_SLOT))
        and old.children is new.children
    )


def _discard(index: dict[str, set[str]], key: str, id: str) -> None:
    members = index.get(key)
    if members is not None:
        members.discard(id)
        if not members:
            del index[key]
