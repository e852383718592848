"""Which actions of a job begin, and what follows from what became of them (execution.md 9, 10).

Pure decisions of the job's owner. An action is known by (job, stage, index): ActionStarted stands
on the ledger before anything happens, ActionEnded after it, so that a new leader knows what to
repeat. Must not know how an email or a web hook is sent: `OUTSIDE` types are performed by
services/scheduler/acting.py, whose `Outcome` comes back here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain import facts as f
from domain.actions import select
from domain.completion import Result, user_tags
from domain.facts import Json
from domain.job import ActionRun, Job
from domain.macros import expand_text

Code = int | float | str
Key = tuple[str, int]

START = "start"
END = "end"
LIMIT = "limit"
UPDATE = "update"
"""What the process asks of its own event (`update_event`) is carried out like an action."""

OUTSIDE = frozenset(
    {"email", "web_hook", "run_event", "plugin", "update_event", "disable", "delete"}
)
"""Types that somebody outside the deciding loop performs."""

LAST = frozenset({"disable", "delete"})
"""Types that wait for all others of the job: the event changes when the job ends."""

ON_TIMEOUT = "The job was suspended for too long."

_NOT_SUPPORTED = frozenset({"store", "fetch", "channel", "ticket", "snapshot"})
_MARKUP = re.compile(r"<[^>]*>|[<>]")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an action. `code` 0 is fine; `child` is the job that a run_event launched.

    `answer` is what a web hook's receiver said, for the plugin that fires one.
    """

    code: Code
    description: str = ""
    details: str | None = None
    http_status: int | None = None
    child: str | None = None
    ended: float | None = None
    answer: Json | None = None


# --- which actions begin -----------------------------------------------------------------------


def actions_of(job: Job) -> list[Json]:
    """The job's own and inherited actions, then those its process pushed (execution.md 9)."""
    pushed = (job.finished.report.get("push") or {}) if job.finished else {}
    own, more = job.value("actions"), pushed.get("actions")
    actions = [action for action in own or [] if isinstance(action, dict)]
    return actions + [a | {"source": "job"} for a in more or [] if isinstance(a, dict)]


def at_start(job: Job) -> list[tuple[int, Json]]:
    """The start actions that have not begun; a multiplex parent has none, its children have."""
    if job.spec.multiplex:
        return []
    chosen = select(actions_of(job), START)
    return [(i, a) for i, a in chosen if a.get("type") not in LAST and not _begun(job, START, i)]


def at_end(job: Job, result: Result, known_tags: Mapping[str, str]) -> list[tuple[int, Json]]:
    """The actions of a completion that have not begun, in the order of their conditions.

    What a process pushed as `instant` comes first. `disable` and `delete` of the start stage
    belong here, since they take effect when the job ends; not for a job that never came to its
    start stage. `known_tags` maps tag ids and titles to ids. A parent whose children ran has
    none: they had them.
    """
    if job.children:
        return []
    actions = actions_of(job)
    tags = [known_tags.get(tag, tag) for tag in user_tags(job)]
    chosen = select(actions, "instant") + select(actions, END, result.code, tags)
    types = {action.get("type") for _, action in chosen}
    starting = select(actions, START) if _came_to_start(job) else []
    delayed = [(i, a) for i, a in starting if a.get("type") in LAST - types]
    return [(i, a) for i, a in dict(chosen + delayed).items() if not _begun(job, END, i)]


def instants(job: Job, pushed: Sequence[tuple[int, Json]]) -> list[tuple[int, Json]]:
    """The `instant` actions of a running job that have not begun.

    `pushed` are the process's, each with its place among all that it has pushed so far.
    """
    own = len(actions_of(job))
    actions: list[Json] = [{}] * (own + max((place + 1 for place, _ in pushed), default=0))
    for place, action in pushed:
        actions[own + place] = action | {"source": "job"}
    return [(i, a) for i, a in select(actions, "instant") if not _begun(job, END, i)]


def event_update(job: Job) -> list[tuple[int, Json]]:
    """What the process asked to change of its event, as an action that has not begun (17)."""
    asked = job.finished.report.get("update_event") if job.finished else None
    if not isinstance(asked, dict) or not asked or _begun(job, UPDATE, 0):
        return []
    return [(0, {"type": "update_event"})]


def begin(
    job: Job, stage: str, chosen: list[tuple[int, Json]], *, now: float, actor: f.Actor
) -> list[f.Fact]:
    """The facts by which these actions begin."""
    return [
        f.ActionStarted(
            at=now,
            actor=actor,
            cause=job.version,
            event=job.event,
            job=job.id,
            stage=stage,
            index=index,
            action=action,
        )
        for index, action in chosen
    ]


def settled(job: Job, result: Result, *, now: float, actor: f.Actor) -> f.JobEnded:
    """The fact that the result stands and its actions run: stated after they began.

    So whoever reads it knows that the choice of the actions is complete.
    """
    return f.JobEnded(
        at=now,
        actor=actor,
        cause=job.version,
        event=job.event,
        job=job.id,
        code=result.code,
        description=result.description,
        retry_ok=result.retry_ok,
    )


def _came_to_start(job: Job) -> bool:
    """Whether a server was given to the job, or held while its start actions ran."""
    return job.server is not None or any(run.stage == START for run in job.actions)


def _begun(job: Job, stage: str, index: int) -> bool:
    return any(run.stage == stage and run.index == index for run in job.actions)


# --- what follows from those that began --------------------------------------------------------


def unfinished(job: Job) -> list[ActionRun]:
    """The actions that began and have no result yet; the job waits for them."""
    return [run for run in job.actions if run.ended is None]


def to_perform(job: Job) -> list[ActionRun]:
    """The actions that somebody must perform now."""
    waiting = unfinished(job)
    others = any(run.action.get("type") not in LAST for run in waiting)
    return [
        run
        for run in waiting
        if run.action.get("type") in OUTSIDE and not (others and run.action.get("type") in LAST)
    ]


def advance(
    job: Job,
    outcome: Callable[[Key], Outcome | None],
    *,
    source: str,
    shown: Callable[[], Json],
    now: float,
    actor: f.Actor,
) -> list[f.Fact]:
    """What follows for the actions that have begun, and for what an administrator changes.

    [] while they are under way.

    `source` is that of the job, for a child that of its outermost parent (`sources` of suspend);
    `shown` tells what a label's macros may read of the job.
    """
    story = _Story(job, shown, now, actor)
    if job.update_asked:
        story.change(job.update_asked)
    for run in unfinished(job):
        kind = run.action.get("type")
        if kind == "suspend":
            _suspension(story, run, source)
        elif kind not in OUTSIDE:
            story.end(run, _at_once(story, run.action))
        elif (found := outcome((run.stage, run.index))) is not None:
            story.end(run, found)
    if job.suspended is not None and _is_over(job) and not story.resumed:
        story.resume(job.suspended)
    return story.facts


def suspended_until(job: Job) -> float | None:
    """When a suspension ends by itself, in Unix seconds; None if it does not."""
    for run in unfinished(job):
        timeout = run.action.get("timeout")
        if job.suspended == (run.stage, run.index) and isinstance(timeout, int | float) and timeout:
            return run.started + timeout
    return None


class _Story:
    """The facts of one decision, and the changes to the job that they add up to."""

    def __init__(self, job: Job, shown: Callable[[], Json], now: float, actor: f.Actor) -> None:
        self.job = job
        self.shown = shown
        self.now = now
        self.facts: list[f.Fact] = []
        self.resumed = False
        self._common: dict[str, Any] = {
            "at": now,
            "actor": actor,
            "cause": job.version,
            "event": job.event,
            "job": job.id,
        }
        self._tags: list[str] | None = None
        self._jobs: list[Json] | None = None

    def end(self, run: ActionRun, outcome: Outcome) -> None:
        moment = self.now if outcome.ended is None else outcome.ended
        self.facts.append(
            f.ActionEnded(
                **self._common,
                stage=run.stage,
                index=run.index,
                code=outcome.code,
                description=outcome.description,
                details=outcome.details,
                http_status=outcome.http_status,
                elapsed_ms=max(0, round((moment - run.started) * 1000)),
                changes=self._changes(run.action, outcome),
            )
        )

    def change(self, changes: Json) -> None:
        note = f"Job was updated: {', '.join(sorted(changes))}"
        self.facts.append(f.JobChanged(**self._common, changes=changes, note=note))

    def suspend(self, run: ActionRun) -> None:
        self.facts.append(f.JobSuspended(**self._common, stage=run.stage, index=run.index))

    def resume(self, key: Key) -> None:
        asked = self.job.resume_asked
        self.resumed = True
        self.facts.append(
            f.JobResumed(
                **self._common, stage=key[0], index=key[1], params=asked.params if asked else {}
            )
        )

    def ask_abort(self, reason: str) -> None:
        self.facts.append(f.JobAbortRequested(**self._common, reason=reason))

    def _changes(self, action: Json, outcome: Outcome) -> Json:
        """Tags, label and launched jobs, on top of what this decision changed already."""
        if outcome.code != 0:
            return {}
        match action.get("type"):
            case "tag":
                before = self.job.value("tags") if self._tags is None else self._tags
                added = [t for t in action.get("tags") or [] if isinstance(t, str)]
                self._tags = list(dict.fromkeys([*(before or []), *added]))
                return {"tags": self._tags}
            case "label":
                return {"label": _label(action, self.shown())}
            case "run_event" if outcome.child is not None:
                before = self.job.value("jobs") if self._jobs is None else self._jobs
                self._jobs = [*(before or []), {"id": outcome.child, "reason": "action"}]
                return {"jobs": self._jobs}
            case _:
                return {}


def _suspension(story: _Story, run: ActionRun, source: str) -> None:
    """One step of a suspend action: hold the job, or let it go (execution.md 10)."""
    job, action = story.job, run.action
    sources = action.get("sources")
    end = suspended_until(job)
    if job.abort is not None and job.abort.sequence > (job.ended_at if run.stage == END else 0):
        story.end(run, Outcome("abort", job.abort.reason))
    elif isinstance(sources, list) and sources and source not in sources:
        story.end(run, Outcome(0, f"Skipped: the job's source is {source}."))
    elif job.suspended is None:
        story.suspend(run)
    elif job.resume_asked is not None:
        story.end(run, _resumption(job, run, story.now))
        story.resume((run.stage, run.index))
    elif end is not None and end <= story.now:
        if action.get("on_timeout") == "resume":
            story.end(run, Outcome(0, ON_TIMEOUT))
            story.resume((run.stage, run.index))
        else:
            story.ask_abort(ON_TIMEOUT)


def _is_over(job: Job) -> bool:
    """Whether the suspend action has its result: a crash came between that and JobResumed."""
    return not any((run.stage, run.index) == job.suspended for run in unfinished(job))


def _resumption(job: Job, run: ActionRun, now: float) -> Outcome:
    asked = job.resume_asked
    assert asked is not None
    who = f"{'API Key' if asked.actor.type == 'key' else 'user'} {asked.actor.id}"
    lines = [
        f"- **Resumed by:** {who}",
        f"- **At:** {asked.at:.3f}",
        f"- **Suspended for:** {max(0.0, now - run.started):.3f} seconds",
    ]
    if asked.actor.address:
        lines.append(f"- **Address:** {asked.actor.address}")
    if asked.params:
        lines.append(f"- **Params:** {', '.join(sorted(asked.params))}")
    return Outcome(0, f"Job was resumed by {who}.", "\n".join(lines))


def _at_once(story: _Story, action: Json) -> Outcome:
    """The outcome of an action that needs nothing from outside."""
    kind = action.get("type")
    match kind:
        case "tag":
            tags = [t for t in action.get("tags") or [] if isinstance(t, str)]
            return Outcome(0, f"Added tags: {', '.join(tags)}")
        case "label":
            return Outcome(0, f"Label set: {_label(action, story.shown())}")
        case _ if kind in _NOT_SUPPORTED:
            return Outcome("type", f"Actions of type {kind} are not supported.")
        case _:
            return Outcome("type", f"Unknown action type: {kind}")


def _label(action: Json, context: Json) -> str:
    return _MARKUP.sub("", expand_text(str(action.get("label") or ""), context))
