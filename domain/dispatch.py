"""May this job start, wait, or end? The owner's decision before a server has it (execution.md 6).

Pure: the situation (slots, queue, definitions, servers) is measured by the caller; the choice of
a server is only asked for when the job would get a slot.
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from domain import facts as f
from domain.completion import Result, aborted
from domain.facts import Json
from domain.job import Job, JobState
from domain.multiplex import Eligible

# A launch larger than this is asked for by the runner instead of copied into the order.
LAUNCH_BYTES = 32 * 1024

NO_SLOT = "Maximum number of concurrent jobs for event has been reached."
NO_SLOT_NO_ROOM = (
    "Maximum number of concurrent jobs for event has been reached, and the queue is maxed out."
)
NO_SERVER = "No available servers matching targets."
NO_SERVER_NO_ROOM = "No available servers matching targets, and the queue is full."


class Chosen(Struct, frozen=True, gc=False):
    """The server a job may start on; `robin` is the event's next round-robin index.

    `groups` are the server's where its runner does not know them: others than it told.
    """

    server: str
    boot: str
    robin: int | None = None
    groups: tuple[str, ...] | None = None


class NoServer(Struct, frozen=True, gc=False):
    """Why no server may have the job; `final` if waiting cannot help (unknown algorithm).

    `unsettled` says that the fleet is not known yet: decide again in a moment.
    """

    reason: str = NO_SERVER
    final: bool = False
    unsettled: bool = False


class Situation(Struct, frozen=True, gc=False):
    """What the start decision depends on besides the job.

    running, queued: similar jobs, this round's decisions included
    event: the event's record now in force, None if it is gone
    ahead: whether others of the scope wait in the queue before this job
    """

    running: int
    queued: int
    event: Json | None
    ahead: bool = False


Start = Chosen | Eligible | Result | f.JobQueued | None


def decide_start(
    job: Job,
    situation: Situation,
    choose: Callable[[], Chosen | Eligible | NoServer],
    *,
    now: float,
    actor: f.Actor,
) -> Start:
    """What becomes of a ready or queued job: a server, a result, a place in the queue.

    None: nothing yet, ask again when something changed.
    """
    if job.abort is not None:
        return aborted(job.abort.reason, retry_ok=job.abort.retry_ok)
    if situation.event is None:
        return aborted(f"Event not found: {job.event}")
    if not situation.event.get("enabled") and not job.request.test:
        return aborted(f"Event is disabled: {situation.event.get('title')}")
    # A job that holds its slot already (start actions, resumed) is not counted again (6.2).
    limit = 0 if job.held else job.spec.job_limit
    if limit and (situation.running >= limit or situation.ahead):
        return _wait(job, situation, NO_SLOT, NO_SLOT_NO_ROOM, retry_ok=False, now=now, actor=actor)
    choice = choose()
    if not isinstance(choice, NoServer):
        return choice
    if choice.unsettled:
        return None
    if choice.final:
        return aborted(choice.reason)
    return _wait(
        job, situation, choice.reason, NO_SERVER_NO_ROOM, retry_ok=True, now=now, actor=actor
    )


def _wait(
    job: Job,
    situation: Situation,
    reason: str,
    full: str,
    *,
    retry_ok: bool,
    now: float,
    actor: f.Actor,
) -> Start:
    """A place in the queue if there is one, else the end as abort (6.2; 5 step 6)."""
    if job.state is JobState.QUEUED:
        return None
    room = job.spec.queue_limit
    if not room:
        return aborted(reason, retry_ok=retry_ok)
    if situation.queued >= room:
        return aborted(full, retry_ok=retry_ok)
    return f.JobQueued(
        at=now, actor=actor, cause=job.version, event=job.event, job=job.id, reason=reason
    )


def launch_of(job: Job, groups: tuple[str, ...] | None = None) -> Json:
    """What a runner needs besides the definitions: the request, and what changed the job since.

    `changes` is left out where nothing did: start actions, params given when it was resumed.
    `groups` as in `Chosen`.
    """
    launch = f.to_plain(job.request)
    changes = {k: v for k, v in job.changes.items() if k not in ("limits", "jobs")}
    if groups is not None:
        launch["groups"] = list(groups)
    return launch | ({"changes": changes} if changes else {})


def order(job: Job, chosen: Chosen, *, now: float, actor: f.Actor) -> f.JobAssigned:
    """The order that hands the job to a runner (design.md 7).

    It follows from the job's last fact; from what its request follows from, if that is not on the
    ledger yet.
    """
    launch = launch_of(job, chosen.groups)
    small = len(msgspec.json.encode(launch)) <= LAUNCH_BYTES
    return f.JobAssigned(
        at=now,
        actor=actor,
        cause=job.version or job.request.cause,
        server=chosen.server,
        boot=chosen.boot,
        event=job.event,
        job=job.id,
        attempt=job.attempt,
        made_of=job.request.made_of,
        launch=launch if small else None,
        robin=chosen.robin,
    )
