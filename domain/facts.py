"""The facts: every kind of record that may stand on the ledger, and its bytes.

A fact is immutable and versioned. It says what happened, when (`at`, Unix seconds), who caused
it (`actor`) and what it follows from (`cause`: a command id or a ledger sequence). Facts hold no
credentials, no plain secrets and no log text. `domain/subjects.py` says where each kind is
written; this module knows nothing of NATS.

Stored bytes are for ever: a change of a kind's shape raises its version in `VERSIONS`, adds an
upcaster, and keeps the golden file of the old version (tests/golden).
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import PydanticSerializationError

Json = dict[str, Any]


class Part(BaseModel):
    """A frozen piece of a fact."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Actor(Part):
    """Who caused a fact: a user, an API key, a scheduler's term, a runner's boot."""

    type: Literal["user", "key", "magic", "scheduler", "runner", "system"]
    id: str
    address: str | None = None


class MadeOf(Part):
    """The ledger sequences of the definition facts a job was made of (design.md 3.2).

    0 means that there was none (no category, or the built-in configuration).
    """

    event: int
    category: int = 0
    plugin: int = 0
    config: int = 0


class FireKey(Part):
    """What makes a fire unique, together with its event (design.md 5)."""

    anchor: int
    trigger: int
    due: float


class Counters(Part):
    """The event's counters after a due minute is complete; carried by its last fire."""

    cursor: int | None = None
    nth: int | None = None


class Blob(Part):
    """Bytes kept in CHUNKS: message sequences in order, size in bytes, SHA-256 in hex."""

    sequences: list[int]
    size: int
    sha256: str


class Child(Part):
    """One child of a multiplex job: its id, its server, and when it may start."""

    job: str
    server: str
    until: float | None = None


class Follower(Part):
    """The retry that an ended job owes: its id, and when it may start."""

    job: str
    until: float | None = None


class Held(Part):
    """A job that a runner holds when it joins: the order's sequence and how far it got."""

    job: str
    order: int
    state: Literal["ordered", "running", "ended"]


class FactBase(Part):
    """What all facts have in common."""

    v: int = 1
    at: float
    actor: Actor
    cause: str | int | None = None


class LedgerFounded(FactBase):
    """Fact 1: the random id by which views, snapshots and spools know their ledger.

    `fingerprint` tells whether a service holds the server secret of this ledger.
    """

    kind: Literal["LedgerFounded"] = "LedgerFounded"
    ledger: str
    fingerprint: str = ""


# --- definitions ---------------------------------------------------------------------------


class EventCreated(FactBase):
    """An event was defined; `definition` is the stored event, `counters` its first state."""

    kind: Literal["EventCreated"] = "EventCreated"
    event: str
    definition: Json
    counters: Counters | None = None


class EventUpdated(FactBase):
    """An event's new whole definition, the names of the changed keys, and set counters."""

    kind: Literal["EventUpdated"] = "EventUpdated"
    event: str
    definition: Json
    changed: list[str] = Field(default_factory=list)
    counters: Counters | None = None
    reason: str | None = None


class EventDeleted(FactBase):
    """An event is gone; with `delete_jobs` its finished jobs are erased as well."""

    kind: Literal["EventDeleted"] = "EventDeleted"
    event: str
    delete_jobs: bool = False
    reason: str | None = None


CatalogType = Literal[
    "category", "tag", "group", "plugin", "role", "webhook", "server", "secret", "config"
]


class CatalogCreated(FactBase):
    """A supporting record was made (category, tag, group, plugin, ...)."""

    kind: Literal["CatalogCreated"] = "CatalogCreated"
    type: CatalogType
    id: str
    record: Json


class CatalogUpdated(FactBase):
    """A supporting record's new whole content and the names of the changed keys."""

    kind: Literal["CatalogUpdated"] = "CatalogUpdated"
    type: CatalogType
    id: str
    record: Json
    changed: list[str] = Field(default_factory=list)


class CatalogDeleted(FactBase):
    """A supporting record is gone; `record` is what it was."""

    kind: Literal["CatalogDeleted"] = "CatalogDeleted"
    type: CatalogType
    id: str
    record: Json = Field(default_factory=dict)


AccessType = Literal["api_key", "user"]


class AccessCreated(FactBase):
    """An API key (its keyed hash only) or a user was made."""

    kind: Literal["AccessCreated"] = "AccessCreated"
    type: AccessType
    id: str
    record: Json


class AccessUpdated(FactBase):
    """An API key's or a user's new whole record and the names of the changed keys."""

    kind: Literal["AccessUpdated"] = "AccessUpdated"
    type: AccessType
    id: str
    record: Json
    changed: list[str] = Field(default_factory=list)


class AccessDeleted(FactBase):
    """An API key or a user is gone; `record` is what it was."""

    kind: Literal["AccessDeleted"] = "AccessDeleted"
    type: AccessType
    id: str
    record: Json = Field(default_factory=dict)


class SessionStarted(FactBase):
    """A user logged in; `session` is the SHA-256 of the session id, `expires` Unix seconds."""

    kind: Literal["SessionStarted"] = "SessionStarted"
    id: str
    session: str
    expires: float


class SessionEnded(FactBase):
    """A session was closed."""

    kind: Literal["SessionEnded"] = "SessionEnded"
    id: str
    session: str


class RunnerEnrolled(FactBase):
    """The runner of this server was given a login for NATS; `public_key` is its NATS key."""

    kind: Literal["RunnerEnrolled"] = "RunnerEnrolled"
    server: str
    public_key: str


class SubscriberEnrolled(FactBase):
    """A program that follows the facts was given a login for NATS."""

    kind: Literal["SubscriberEnrolled"] = "SubscriberEnrolled"
    name: str
    public_key: str


class MasterSwitched(FactBase):
    """Scheduling was turned on or off (scheduling.md 5)."""

    kind: Literal["MasterSwitched"] = "MasterSwitched"
    enabled: bool


# --- jobs: requests and the owner's answers ------------------------------------------------


class JobRequested(FactBase):
    """A job is wanted. Everything that the definitions it is `made_of` do not say.

    `now` is the nominal time. `overrides` are event keys for this run only (`params` per key);
    `add_tags` come on top of the event's. `first_attempt` is the first job of a chain of
    retries, whose macros are expanded once (execution.md 8).
    """

    kind: Literal["JobRequested"] = "JobRequested"
    event: str
    job: str
    made_of: MadeOf
    source: str
    username: str
    now: float
    overrides: Json = Field(default_factory=dict)
    add_tags: list[str] = Field(default_factory=list)
    input: Json | None = None
    until: float | None = None
    wait: Literal["start_delay", "retry_delay"] | None = None
    type: str | None = None
    stype: str | None = None
    splugin: str | None = None
    test: bool = False
    test_actions: bool = False
    test_limits: bool = False
    test_conditions: list[str] | None = None
    priority: bool = False
    invisible: bool = False
    ephemeral: bool = False
    parent: Json | None = None
    workflow: Json | None = None
    retry_count: int = 0
    retry_prev: str | None = None
    first_attempt: str | None = None
    fire: FireKey | None = None
    counters: Counters | None = None


class JobAbortRequested(FactBase):
    """Somebody wants a live job to end as `abort`."""

    kind: Literal["JobAbortRequested"] = "JobAbortRequested"
    event: str
    job: str
    reason: str


class JobResumeRequested(FactBase):
    """Somebody wants a suspended job to go on, with these params merged in."""

    kind: Literal["JobResumeRequested"] = "JobResumeRequested"
    event: str
    job: str
    params: Json = Field(default_factory=dict)


class JobDelaySkipRequested(FactBase):
    """Somebody wants a waiting job's delay to end now."""

    kind: Literal["JobDelaySkipRequested"] = "JobDelaySkipRequested"
    event: str
    job: str


class JobUpdateRequested(FactBase):
    """An admin changes properties of a live job."""

    kind: Literal["JobUpdateRequested"] = "JobUpdateRequested"
    event: str
    job: str
    changes: Json


class JobTagged(FactBase):
    """A final job's tags were replaced."""

    kind: Literal["JobTagged"] = "JobTagged"
    event: str
    job: str
    tags: list[str]


class JobUpdated(FactBase):
    """An admin changed properties of a final job."""

    kind: Literal["JobUpdated"] = "JobUpdated"
    event: str
    job: str
    changes: Json


class JobStarting(FactBase):
    """Start actions run; a server and a slot are held meanwhile."""

    kind: Literal["JobStarting"] = "JobStarting"
    event: str
    job: str
    server: str
    robin: int | None = None


class JobQueued(FactBase):
    """The job waits for a slot or a server; `reason` says for which."""

    kind: Literal["JobQueued"] = "JobQueued"
    event: str
    job: str
    reason: str


class JobDelayed(FactBase):
    """The job waits until `until` (Unix seconds) before it may start."""

    kind: Literal["JobDelayed"] = "JobDelayed"
    event: str
    job: str
    until: float
    wait: Literal["start_delay", "retry_delay"] = "start_delay"


class JobReleased(FactBase):
    """The job may start now, although nothing started it yet."""

    kind: Literal["JobReleased"] = "JobReleased"
    event: str
    job: str
    reason: str


class JobFannedOut(FactBase):
    """A multiplex parent named all its children."""

    kind: Literal["JobFannedOut"] = "JobFannedOut"
    event: str
    job: str
    children: list[Child]


class JobEnded(FactBase):
    """The result is known and completion actions are about to run (state `complete`)."""

    kind: Literal["JobEnded"] = "JobEnded"
    event: str
    job: str
    code: int | float | str
    description: str
    retry_ok: bool = False


class ActionStarted(FactBase):
    """One action of a stage (`start`, `end`, `instant`) begins; its key is (job, stage, index)."""

    kind: Literal["ActionStarted"] = "ActionStarted"
    event: str
    job: str
    stage: str
    index: int
    action: Json


class ActionEnded(FactBase):
    """What became of an action; `changes` are its effects on the job (tags, label, jobs).

    `http_status` is what a web hook's receiver answered (execution.md 9.4).
    """

    kind: Literal["ActionEnded"] = "ActionEnded"
    event: str
    job: str
    stage: str
    index: int
    code: int | float | str
    description: str = ""
    details: str | None = None
    elapsed_ms: int = 0
    changes: Json = Field(default_factory=dict)
    http_status: int | None = None


class JobSuspended(FactBase):
    """A suspend action holds the job until somebody resumes it."""

    kind: Literal["JobSuspended"] = "JobSuspended"
    event: str
    job: str
    stage: str
    index: int


class JobResumed(FactBase):
    """A suspended job goes on; `params` were merged if it has not run yet."""

    kind: Literal["JobResumed"] = "JobResumed"
    event: str
    job: str
    stage: str
    index: int
    params: Json = Field(default_factory=dict)


class JobChanged(FactBase):
    """The owner's answer to JobUpdateRequested, and a limit's or a child's effect on a live job."""

    kind: Literal["JobChanged"] = "JobChanged"
    event: str
    job: str
    changes: Json
    note: str | None = None


class JobCompleted(FactBase):
    """The job is final. `retry` names the successor that is owed (design.md 3.3)."""

    kind: Literal["JobCompleted"] = "JobCompleted"
    event: str
    job: str
    code: int | float | str
    description: str
    tags: list[str] = Field(default_factory=list)
    retry_ok: bool = False
    retry: Follower | None = None
    jobs: list[Json] = Field(default_factory=list)
    workflow: Json | None = None


class LaunchRejected(FactBase):
    """A fire or an action could not become a job (scheduling.md 3.6)."""

    kind: Literal["LaunchRejected"] = "LaunchRejected"
    event: str
    job: str
    reason: str
    now: float
    source: str
    fire: FireKey | None = None
    counters: Counters | None = None


class FiresMissed(FactBase):
    """Due times in (`after`, `upto`] that nobody evaluated in time; `count` is capped."""

    kind: Literal["FiresMissed"] = "FiresMissed"
    event: str
    after: float
    upto: float
    count: int
    reason: str
    counters: Counters | None = None


class QueueFlushRequested(FactBase):
    """Somebody wants the queued jobs of an event gone."""

    kind: Literal["QueueFlushRequested"] = "QueueFlushRequested"
    event: str


class QueueFlushed(FactBase):
    """The owner's answer: these queued jobs are gone; `cause` is the request's sequence."""

    kind: Literal["QueueFlushed"] = "QueueFlushed"
    event: str
    jobs: list[str]


# --- orders and reports --------------------------------------------------------------------


class JobAssigned(FactBase):
    """An order: run this job. Its own sequence is the order's number in all reports.

    `launch` is the JobRequested's run-specific content, left out when it is large: then the
    runner asks for it (design.md 7).
    """

    kind: Literal["JobAssigned"] = "JobAssigned"
    server: str
    boot: str
    event: str
    job: str
    attempt: int
    made_of: MadeOf
    launch: Json | None = None
    robin: int | None = None


class JobAbortOrdered(FactBase):
    """An order: end this job; `order` is the JobAssigned's sequence."""

    kind: Literal["JobAbortOrdered"] = "JobAbortOrdered"
    server: str
    event: str
    job: str
    order: int
    reason: str
    retry_ok: bool = False


class ServerJoined(FactBase):
    """A runner came up: who it is, where it runs, and what it still holds."""

    kind: Literal["ServerJoined"] = "ServerJoined"
    server: str
    boot: str
    machine_boot: str
    hostname: str
    ip: str = ""
    groups: list[str] = Field(default_factory=list)
    info: Json = Field(default_factory=dict)
    inventory: list[Held] = Field(default_factory=list)


class ServerUpdated(FactBase):
    """A runner's own description changed."""

    kind: Literal["ServerUpdated"] = "ServerUpdated"
    server: str
    boot: str
    info: Json


class ServerLeft(FactBase):
    """A runner stopped on purpose."""

    kind: Literal["ServerLeft"] = "ServerLeft"
    server: str
    boot: str
    reason: str = ""


class JobStarted(FactBase):
    """The job's process runs; `started` is its start in Unix seconds."""

    kind: Literal["JobStarted"] = "JobStarted"
    server: str
    boot: str
    event: str
    job: str
    order: int
    pid: int
    started: float
    cwd: str | None = None


class JobFinishing(FactBase):
    """The process is over; its files and its large log are being stored."""

    kind: Literal["JobFinishing"] = "JobFinishing"
    server: str
    boot: str
    event: str
    job: str
    order: int
    code: int | float | str
    description: str = ""


class JobFinished(FactBase):
    """The end of the process, with everything it left. `ended` is in Unix seconds.

    `report` holds the job keys that the child posted (label, perf, table, html, cpu, mem,
    disk, net, files, push, update_event, custom, ...). A value above 64 KiB stands in `large`
    under its key, as bytes of JSON in CHUNKS. `activity` are the runner's meta lines.
    """

    kind: Literal["JobFinished"] = "JobFinished"
    server: str
    boot: str
    event: str
    job: str
    order: int
    code: int | float | str
    description: str
    ended: float
    aborted: bool = False
    log: Blob | None = None
    report: Json = Field(default_factory=dict)
    large: dict[str, Blob] = Field(default_factory=dict)
    activity: list[Json] = Field(default_factory=list)


class JobReturned(FactBase):
    """The order was never started and never will be: the job is ready again."""

    kind: Literal["JobReturned"] = "JobReturned"
    server: str
    boot: str
    event: str
    job: str
    order: int
    reason: str


# --- schedule, terms, deletions ------------------------------------------------------------


class TickFired(FactBase):
    """Up to `evaluated` (Unix seconds) every due time was looked at.

    `cause` is the sequence up to which the ledger was known then: an event that changed after it
    was looked at in its older form.
    """

    kind: Literal["TickFired"] = "TickFired"
    evaluated: float


class TermStarted(FactBase):
    """A scheduler leads; this fact's sequence is the fencing token of its term.

    `startup`: the service came up with it, so startup triggers are due (scheduling.md 4.1).
    """

    kind: Literal["TermStarted"] = "TermStarted"
    instance: str
    startup: bool = False


class TermEnded(FactBase):
    """A leader stopped on purpose."""

    kind: Literal["TermEnded"] = "TermEnded"
    instance: str


class JobDeleted(FactBase):
    """A final job is erased; `erased` lists [sequence, SHA-256] of each of its facts.

    `source`, `fire` and `counters` are those of its JobRequested: what is gone must not be fired
    again. More facts of a job that turn up later are named by further JobDeleted.
    """

    kind: Literal["JobDeleted"] = "JobDeleted"
    event: str
    job: str
    erased: list[tuple[int, str]] = Field(default_factory=list)
    source: str = ""
    fire: FireKey | None = None
    counters: Counters | None = None


class ChainSealed(FactBase):
    """A keyed hash over the facts in [`first`, `last`], and a short tag of each (audit.py)."""

    kind: Literal["ChainSealed"] = "ChainSealed"
    first: int
    last: int
    digest: str
    tags: str = ""


Fact = Annotated[
    LedgerFounded
    | EventCreated
    | EventUpdated
    | EventDeleted
    | CatalogCreated
    | CatalogUpdated
    | CatalogDeleted
    | AccessCreated
    | AccessUpdated
    | AccessDeleted
    | SessionStarted
    | SessionEnded
    | RunnerEnrolled
    | SubscriberEnrolled
    | MasterSwitched
    | JobRequested
    | JobAbortRequested
    | JobResumeRequested
    | JobDelaySkipRequested
    | JobUpdateRequested
    | JobTagged
    | JobUpdated
    | JobStarting
    | JobQueued
    | JobDelayed
    | JobReleased
    | JobFannedOut
    | JobEnded
    | ActionStarted
    | ActionEnded
    | JobSuspended
    | JobResumed
    | JobChanged
    | JobCompleted
    | LaunchRejected
    | FiresMissed
    | QueueFlushRequested
    | QueueFlushed
    | JobAssigned
    | JobAbortOrdered
    | ServerJoined
    | ServerUpdated
    | ServerLeft
    | JobStarted
    | JobFinishing
    | JobFinished
    | JobReturned
    | TickFired
    | TermStarted
    | TermEnded
    | JobDeleted
    | ChainSealed,
    Field(discriminator="kind"),
]

KINDS: dict[str, type[FactBase]] = {
    model.model_fields["kind"].default: model for model in get_args(get_args(Fact)[0])
}

# The newest version of each kind's shape; a kind that is not named is at 1.
VERSIONS: dict[str, int] = {}

# (kind, old version) -> a function that lifts that version's JSON object to the next one.
UPCASTERS: dict[tuple[str, int], Callable[[Json], Json]] = {}

_ADAPTER: TypeAdapter[Fact] = TypeAdapter(Fact)
_HEAD = re.compile(rb'\{"kind":"(\w+)","v":(\d+)')


@dataclass(frozen=True, slots=True)
class Recorded:
    """A fact at its place on the ledger; `sequence` is the version of everything."""

    sequence: int
    subject: str
    fact: Fact


class UnreadableFact(Exception):
    """Bytes on the ledger are no fact that this release knows."""


def encode(fact: Fact) -> bytes:
    """A fact as compact JSON; what has its default value is left out.

    Half a character (a lone surrogate, which JSON text can name and UTF-8 cannot hold) becomes
    the replacement character: no program's output may keep a fact from being recorded.
    """
    try:
        body = fact.model_dump_json(exclude_defaults=True)
    except PydanticSerializationError:
        whole = KINDS[fact.kind].model_validate(_encodable(fact.model_dump(exclude_defaults=True)))
        body = whole.model_dump_json(exclude_defaults=True)
    return f'{{"kind":"{fact.kind}","v":{VERSIONS.get(fact.kind, 1)},{body[1:]}'.encode()


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
        case list() | tuple():
            return [_encodable(item) for item in value]
        case _:
            return value


def decode(data: bytes) -> Fact:
    """The fact in these bytes, lifted to its newest version.

    Raises UnreadableFact for anything else.
    """
    head = _HEAD.match(data)
    try:
        if head is not None and int(head[2]) == VERSIONS.get(head[1].decode(), 1):
            return _ADAPTER.validate_json(data)
        return _ADAPTER.validate_python(_lift(json.loads(data)))
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableFact(f"{data[:80]!r}: {error}") from error


def _lift(record: Json) -> Json:
    kind = record["kind"]
    newest = VERSIONS.get(kind, 1)
    while record["v"] < newest:
        record = UPCASTERS[kind, record["v"]](record)
    if record["v"] > newest:
        raise ValueError("written by a newer release")
    return record
