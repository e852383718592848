"""The facts: every kind of record that may stand on the ledger, and its bytes.

A fact is immutable and versioned. It says what happened, when (`at`, Unix seconds), who caused
it (`actor`) and what it follows from (`cause`: a command id or a ledger sequence). Facts hold no
credentials, no plain secrets and no log text. `domain/subjects.py` says where each kind is
written; this module knows nothing of NATS.

Stored bytes are for ever: a change of a kind's shape raises its version in `VERSIONS`, adds an
upcaster, and keeps the golden file of the old version (tests/golden).
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar, dataclass_transform, get_args

import msgspec

Json = dict[str, Any]


class _Kind(msgspec.StructMeta):
    """Has fields be given by name, also where a part of a fact adds some to those of another."""

    def __new__(cls, name: str, bases: tuple[type, ...], body: Json, **config: Any) -> Any:
        return super().__new__(cls, name, bases, body, **{"kw_only": True} | config)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
class Part(msgspec.Struct, metaclass=_Kind, frozen=True, omit_defaults=True, gc=False):
    """A frozen piece of a fact; `msgspec.structs.replace` makes a changed copy.

    What was read from bytes never refers to itself: the search for garbage may pass over it.
    """


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


class FactBase(Part, tag_field="kind", tag=True):
    """What all facts have in common."""

    v: int = 1
    at: float
    actor: Actor
    cause: str | int | None = None

    @property
    def kind(self) -> str:
        """The name of the fact's class, under which it is stored."""
        return type(self).__name__


class LedgerFounded(FactBase):
    """Fact 1: the random id by which views, snapshots and spools know their ledger.

    `fingerprint` tells whether a service holds the server secret of this ledger.
    """

    ledger: str
    fingerprint: str = ""


# --- definitions ---------------------------------------------------------------------------


class EventCreated(FactBase):
    """An event was defined; `definition` is the stored event, `counters` its first state."""

    event: str
    definition: Json
    counters: Counters | None = None


class EventUpdated(FactBase):
    """An event's new whole definition, the names of the changed keys, and set counters."""

    event: str
    definition: Json
    changed: list[str] = []
    counters: Counters | None = None
    reason: str | None = None


class EventDeleted(FactBase):
    """An event is gone; with `delete_jobs` its finished jobs are erased as well."""

    event: str
    delete_jobs: bool = False
    reason: str | None = None


CatalogType = Literal[
    "category", "tag", "group", "plugin", "role", "webhook", "server", "secret", "config"
]


class CatalogCreated(FactBase):
    """A supporting record was made (category, tag, group, plugin, ...)."""

    type: CatalogType
    id: str
    record: Json


class CatalogUpdated(FactBase):
    """A supporting record's new whole content and the names of the changed keys."""

    type: CatalogType
    id: str
    record: Json
    changed: list[str] = []


class CatalogDeleted(FactBase):
    """A supporting record is gone; `record` is what it was."""

    type: CatalogType
    id: str
    record: Json = {}


AccessType = Literal["api_key", "user"]


class AccessCreated(FactBase):
    """An API key (its keyed hash only) or a user was made."""

    type: AccessType
    id: str
    record: Json


class AccessUpdated(FactBase):
    """An API key's or a user's new whole record and the names of the changed keys."""

    type: AccessType
    id: str
    record: Json
    changed: list[str] = []


class AccessDeleted(FactBase):
    """An API key or a user is gone; `record` is what it was."""

    type: AccessType
    id: str
    record: Json = {}


class SessionStarted(FactBase):
    """A user logged in; `session` is the SHA-256 of the session id, `expires` Unix seconds."""

    id: str
    session: str
    expires: float


class SessionEnded(FactBase):
    """A session was closed."""

    id: str
    session: str


class RunnerEnrolled(FactBase):
    """The runner of this server was given a login for NATS; `public_key` is its NATS key."""

    server: str
    public_key: str


class SubscriberEnrolled(FactBase):
    """A program that follows the facts was given a login for NATS."""

    name: str
    public_key: str


class MasterSwitched(FactBase):
    """Scheduling was turned on or off (scheduling.md 5)."""

    enabled: bool


# --- jobs: requests and the owner's answers ------------------------------------------------


class JobRequested(FactBase):
    """A job is wanted. Everything that the definitions it is `made_of` do not say.

    `now` is the nominal time. `overrides` are event keys for this run only (`params` per key);
    `add_tags` come on top of the event's. `first_attempt` is the first job of a chain of
    retries, whose macros are expanded once (execution.md 8).
    """

    event: str
    job: str
    made_of: MadeOf
    source: str
    username: str
    now: float
    overrides: Json = {}
    add_tags: list[str] = []
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

    event: str
    job: str
    reason: str


class JobResumeRequested(FactBase):
    """Somebody wants a suspended job to go on, with these params merged in."""

    event: str
    job: str
    params: Json = {}


class JobDelaySkipRequested(FactBase):
    """Somebody wants a waiting job's delay to end now."""

    event: str
    job: str


class JobUpdateRequested(FactBase):
    """An admin changes properties of a live job."""

    event: str
    job: str
    changes: Json


class JobTagged(FactBase):
    """A final job's tags were replaced."""

    event: str
    job: str
    tags: list[str]


class JobUpdated(FactBase):
    """An admin changed properties of a final job; or one of its files, `erased`, was deleted."""

    event: str
    job: str
    changes: Json
    erased: str | None = None


class JobStarting(FactBase):
    """Start actions run; a server and a slot are held meanwhile."""

    event: str
    job: str
    server: str
    robin: int | None = None


class JobQueued(FactBase):
    """The job waits for a slot or a server; `reason` says for which."""

    event: str
    job: str
    reason: str


class JobDelayed(FactBase):
    """The job waits until `until` (Unix seconds) before it may start."""

    event: str
    job: str
    until: float
    wait: Literal["start_delay", "retry_delay"] = "start_delay"


class JobReleased(FactBase):
    """The job may start now, although nothing started it yet."""

    event: str
    job: str
    reason: str


class JobFannedOut(FactBase):
    """A multiplex parent named all its children."""

    event: str
    job: str
    children: list[Child]


class JobEnded(FactBase):
    """The result is known and completion actions are about to run (state `complete`)."""

    event: str
    job: str
    code: int | float | str
    description: str
    retry_ok: bool = False


class ActionStarted(FactBase):
    """One action of a stage (`start`, `end`, `instant`) begins; its key is (job, stage, index)."""

    event: str
    job: str
    stage: str
    index: int
    action: Json


class ActionEnded(FactBase):
    """What became of an action; `changes` are its effects on the job (tags, label, jobs).

    `http_status` is what a web hook's receiver answered (execution.md 9.4).
    """

    event: str
    job: str
    stage: str
    index: int
    code: int | float | str
    description: str = ""
    details: str | None = None
    elapsed_ms: int = 0
    changes: Json = {}
    http_status: int | None = None


class JobSuspended(FactBase):
    """A suspend action holds the job until somebody resumes it."""

    event: str
    job: str
    stage: str
    index: int


class JobResumed(FactBase):
    """A suspended job goes on; `params` were merged if it has not run yet."""

    event: str
    job: str
    stage: str
    index: int
    params: Json = {}


class JobChanged(FactBase):
    """The owner's answer to JobUpdateRequested, and a limit's or a child's effect on a live job."""

    event: str
    job: str
    changes: Json
    note: str | None = None


class JobCompleted(FactBase):
    """The job is final. `retry` names the successor that is owed (design.md 3.3)."""

    event: str
    job: str
    code: int | float | str
    description: str
    tags: list[str] = []
    retry_ok: bool = False
    retry: Follower | None = None
    jobs: list[Json] = []
    workflow: Json | None = None


class LaunchRejected(FactBase):
    """A fire or an action could not become a job (scheduling.md 3.6)."""

    event: str
    job: str
    reason: str
    now: float
    source: str
    fire: FireKey | None = None
    counters: Counters | None = None


class FiresMissed(FactBase):
    """Due times in (`after`, `upto`] that nobody evaluated in time; `count` is capped."""

    event: str
    after: float
    upto: float
    count: int
    reason: str
    counters: Counters | None = None


class QueueFlushRequested(FactBase):
    """Somebody wants the queued jobs of an event gone."""

    event: str


class QueueFlushed(FactBase):
    """The owner's answer: these queued jobs are gone; `cause` is the request's sequence."""

    event: str
    jobs: list[str]


# --- orders and reports --------------------------------------------------------------------


class JobAssigned(FactBase):
    """An order: run this job. Its own sequence is the order's number in all reports.

    `launch` is the JobRequested's run-specific content, left out when it is large: then the
    runner asks for it (design.md 7).
    """

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

    server: str
    event: str
    job: str
    order: int
    reason: str
    retry_ok: bool = False


class ServerJoined(FactBase):
    """A runner came up: who it is, where it runs, and what it still holds."""

    server: str
    boot: str
    machine_boot: str
    hostname: str
    ip: str = ""
    groups: list[str] = []
    info: Json = {}
    inventory: list[Held] = []


class ServerUpdated(FactBase):
    """A runner's own description changed."""

    server: str
    boot: str
    info: Json


class ServerLeft(FactBase):
    """A runner stopped on purpose."""

    server: str
    boot: str
    reason: str = ""


class JobStarted(FactBase):
    """The job's process runs; `started` is its start in Unix seconds."""

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
    report: Json = {}
    large: dict[str, Blob] = {}
    activity: list[Json] = []


class JobReturned(FactBase):
    """The order was never started and never will be: the job is ready again."""

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

    evaluated: float


class TermStarted(FactBase):
    """A scheduler leads; this fact's sequence is the fencing token of its term.

    `startup`: the service came up with it, so startup triggers are due (scheduling.md 4.1).
    """

    instance: str
    startup: bool = False


class TermEnded(FactBase):
    """A leader stopped on purpose."""

    instance: str


class JobDeleted(FactBase):
    """A final job is erased; `erased` lists [sequence, SHA-256] of each of its facts.

    `source`, `fire` and `counters` are those of its JobRequested: what is gone must not be fired
    again. More facts of a job that turn up later are named by further JobDeleted.
    """

    event: str
    job: str
    erased: list[tuple[int, str]] = []
    source: str = ""
    fire: FireKey | None = None
    counters: Counters | None = None


class ChainSealed(FactBase):
    """A keyed hash over the facts in [`first`, `last`], and a short tag of each (audit.py)."""

    first: int
    last: int
    digest: str
    tags: str = ""


Fact = (
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
    | ChainSealed
)

KINDS: dict[str, type[FactBase]] = {model.__name__: model for model in get_args(Fact)}

# The newest version of each kind's shape; a kind that is not named is at 1.
VERSIONS: dict[str, int] = {}

# (kind, old version) -> a function that lifts that version's JSON object to the next one.
UPCASTERS: dict[tuple[str, int], Callable[[Json], Json]] = {}

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Fact] = msgspec.json.Decoder(Fact)
_HEADS = {
    model: (len(f'{{"kind":"{kind}"'), f'{{"kind":"{kind}","v":{VERSIONS.get(kind, 1)}'.encode())
    for kind, model in KINDS.items()
}
P = TypeVar("P", bound=Part)


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A fact at its place on the ledger; `sequence` is the version of everything."""

    sequence: int
    subject: str
    fact: Fact


class UnreadableFact(Exception):
    """Bytes on the ledger are no fact that this release knows."""


def encode(fact: Fact) -> bytes:
    """A fact as compact JSON; what has its default value is left out.

    Half a character (a lone surrogate, which JSON text can name and UTF-8 cannot hold) becomes
    the replacement character: no program's output may keep a fact from being recorded. Raises
    ValueError for what could not be read again.
    """
    try:
        body = _ENCODER.encode(fact)
    except UnicodeEncodeError:
        body = _ENCODER.encode(_encodable(msgspec.to_builtins(fact)))
    _DECODER.decode(body)
    length, head = _HEADS[type(fact)]
    return head + body[length:]


def to_plain(part: Part) -> Json:
    """A fact or a part of one as a JSON object, without what has its default value."""
    plain: Json = msgspec.to_builtins(part)
    plain.pop("kind", None)
    return plain


def from_plain(kind: type[P], value: Any) -> P:
    """The part of this kind in a JSON object, whose other keys are ignored. Raises ValueError."""
    return msgspec.convert(value, kind)


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
    try:
        fact = _DECODER.decode(data)
        if fact.v == VERSIONS.get(type(fact).__name__, 1):
            return fact
    except (ValueError, RecursionError):
        pass  # an older shape, perhaps
    try:
        lifted: Fact = msgspec.convert(_lift(msgspec.json.decode(data)), Fact)
        return lifted
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableFact(f"{data[:80]!r}: {error}") from error


def _lift(record: Json) -> Json:
    kind = record["kind"]
    newest = VERSIONS.get(kind, 1)
    while record["v"] < newest:
        record = UPCASTERS[kind, record["v"]](record)
    if record["v"] > newest:
        raise ValueError("written by a newer release")
    return record
