"""Performs actions off the deciding loop: emails, web hooks, plugins, launches (execution.md 9).

`perform` is called by the leader for an action that stands on the ledger as begun; what became
of it waits in `outcome` until the leader has recorded it. Nothing here decides about a job. An
action that an earlier term began is repeated as execution.md 9.2 says: with the same keys, or
not at all.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import structlog

from domain import completion
from domain import facts as f
from domain.access import user_id
from domain.acting import Outcome
from domain.assembly import NOTHING
from domain.chaining import Launcher, child_id, launched
from domain.errors import DomainError, event_rule
from domain.event import changed_by_child, delete, disable
from domain.facts import Json, Recorded
from domain.job import ActionRun, Job
from domain.subjects import job_subject
from projections.access import Access
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.event_state import EventStates
from services.ledger import live
from services.ledger.chunks import read_chunks, read_range
from services.ledger.connection import Ledger
from services.ledger.errors import ChunksMissing, LedgerUnavailable, WrongSequence
from services.ledger.vault import Unreadable
from services.scheduler.action_plugins import run_plugin
from services.scheduler.mailing import Mailer, last_lines, recipients_of
from services.scheduler.notices import Notices
from services.scheduler.plugin_secrets import PluginSecrets
from services.scheduler.web_hooks import WebHooks

# So many actions are performed at the same time; the others wait.
AT_ONCE = 32
LOG_TAIL = 16 * 1024  # bytes, enough for 50 lines
LOG_WAIT = 2.0
LEDGER_PAUSE = 0.5
READ_WAIT = 5.0

HOOK_PLUGIN = "plugin"
"""In the place of an action's stage: the job's own plugin sends."""

UNKNOWN = "It is not known whether the plugin ran: the scheduler ended meanwhile."

ActionKey = tuple[str, str, int]
"""Job, stage, index."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What performing needs to reach. `reached` waits until a sequence was folded.

    `brake` says why no job can be launched at a moment, if there is a reason (scheduling.md 3.6).
    """

    ledger: Ledger
    definitions: Definitions
    access: Access
    states: EventStates
    jobs: ActiveJobs
    brake: Callable[[float], str | None]
    notices: Notices
    mailer: Mailer
    hooks: WebHooks
    secrets: PluginSecrets
    clock: Callable[[], float]
    reached: Callable[[int, float], Awaitable[bool]]


class Acting:
    """The actions under way in this term, and their outcomes until they are recorded.

    `done` is called with a job's id when one of its actions has an outcome.
    """

    def __init__(self, around: Surroundings, done: Callable[[str], None]) -> None:
        self._around = around
        self._done = done
        self._actor = f.Actor(type="scheduler", id="")
        self._tasks: dict[ActionKey, asyncio.Task[None]] = {}
        self._notifying: set[asyncio.Task[None]] = set()
        self._outcomes: dict[ActionKey, Outcome] = {}
        self._hooks: dict[tuple[str, int], asyncio.Task[Outcome]] = {}
        """By job and attempt: the web hooks that jobs are about."""
        self._slots = asyncio.Semaphore(AT_ONCE)

    def begin(self, actor: f.Actor) -> None:
        """A term begins; within the same term, what is under way goes on."""
        if actor.id != self._actor.id:
            self.stop()
        self._actor = actor

    def stop(self) -> None:
        """The term is over: another leader repeats what has no result on the ledger."""
        for task in [*self._tasks.values(), *self._notifying, *self._hooks.values()]:
            task.cancel()
        self._tasks.clear()
        self._hooks.clear()
        self._outcomes.clear()

    async def close(self) -> None:
        """End everything, for good."""
        tasks = [*self._tasks.values(), *self._notifying, *self._hooks.values()]
        self.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._around.hooks.close()

    def outcome(self, job: str, key: tuple[str, int]) -> Outcome | None:
        """What became of an action; None while it is under way."""
        return self._outcomes.get((job, *key))

    def shown(self, job: Job) -> Json:
        """What the macros of a label may read of the job."""
        return self._around.notices.label_context(job)

    def note(self, recorded: Recorded, job: Job | None) -> None:
        """Forget outcomes that are recorded; tell people of a suspension this term decided.

        They are told once at most: another leader cannot know and does not repeat it (9.2).
        """
        match recorded.fact:
            case f.ActionEnded() as fact:
                self._outcomes.pop((fact.job, fact.stage, fact.index), None)
            case f.JobSuspended() as fact if fact.actor.id == self._actor.id and job is not None:
                for run in job.actions:
                    if (run.stage, run.index) == (fact.stage, fact.index):
                        self._notify(job, run)
            case _:
                pass

    async def fire_hook(self, job: Job, action: Json) -> Outcome:
        """Send the web hook that a job is about (plugins.md 9.5), for whoever asks.

        Asked again for the same attempt, it is sent with the same idempotency key.
        """
        run = ActionRun(HOOK_PLUGIN, job.attempt, action, self._around.clock())
        notice = self._around.notices.notice(job, run, self._around.clock())
        return await self._around.hooks.send(notice)

    async def fired_hook(self, job: Job, action: Json, within: float) -> Outcome | None:
        """As `fire_hook`, once however often this is asked; None while it takes longer."""
        key = job.id, job.attempt
        task = self._hooks.get(key)
        if task is None:
            live = self._around.jobs.jobs
            self._hooks = {known: task for known, task in self._hooks.items() if known[0] in live}
            task = self._hooks[key] = asyncio.create_task(self.fire_hook(job, action))
        await asyncio.wait((task,), timeout=within)
        if not task.done() or task.cancelled():
            return None
        if task.exception() is not None:
            self._hooks.pop(key, None)
        return task.result()

    def perform(self, job: Job, run: ActionRun) -> None:
        """See to it that this action is performed; calling it again changes nothing."""
        key = (job.id, run.stage, run.index)
        if key not in self._tasks and key not in self._outcomes:
            task = asyncio.create_task(self._perform(key, job, run))
            self._tasks[key] = task

    async def _perform(self, key: ActionKey, job: Job, run: ActionRun) -> None:
        kind = str(run.action.get("type"))
        try:
            async with self._slots:
                outcome = await self._until_ledger_answers(lambda: self._act(kind, job, run))
        except DomainError as refusal:
            outcome = Outcome(kind, refusal.description)
        except Exception as error:
            log.exception("an action failed", action="action_failed", job=job.id, type=kind)
            outcome = Outcome(kind, f"{type(error).__name__}: {error}")
        self._tasks.pop(key, None)
        self._outcomes[key] = replace(outcome, ended=self._around.clock())
        self._done(job.id)

    async def _until_ledger_answers(self, act: Callable[[], Awaitable[Outcome]]) -> Outcome:
        while True:
            try:
                return await act()
            except LedgerUnavailable as error:
                log.warning(str(error), action="action_waits_for_ledger")
                await asyncio.sleep(LEDGER_PAUSE)

    async def _act(self, kind: str, job: Job, run: ActionRun) -> Outcome:
        match kind:
            case "email":
                return await self._email(job, run)
            case "web_hook":
                return await self._around.hooks.send(self._notice(job, run))
            case "run_event":
                return await self._run_event(job, run)
            case "plugin":
                return await self._plugin(job, run)
            case _:
                return await self._change_event(kind, job, run)

    def _repeated(self, run: ActionRun) -> bool:
        """Whether an earlier term began the action, and perhaps performed it."""
        return run.by != self._actor.id

    def _notice(self, job: Job, run: ActionRun) -> Any:
        return self._around.notices.notice(job, run, self._around.clock())

    # --- the types -------------------------------------------------------------------------

    async def _email(self, job: Job, run: ActionRun) -> Outcome:
        recipients = recipients_of(run.action, self._address)
        tail = last_lines(await self._log_tail(job)) if recipients else ""
        return await self._around.mailer.send(self._notice(job, run), recipients, tail)

    def _address(self, user: str) -> str | None:
        email = self._around.access.users.get(user_id(user), {}).get("email")
        return email if isinstance(email, str) else None

    async def _log_tail(self, job: Job) -> bytes:
        """The end of the job's log; nothing if it cannot be had now."""
        try:
            if job.finished is not None and job.finished.log is not None:
                blob = job.finished.log
                offset = max(0, blob.size - LOG_TAIL)
                parts = read_range(self._around.ledger, blob, offset, LOG_TAIL)
                return b"".join([part async for part in parts])
            if job.assigned:
                asked = {"job": job.id, "offset": -LOG_TAIL, "length": LOG_TAIL}
                subject = f"live.log.{job.server}"
                return (await live.ask_raw(self._around.ledger, subject, asked, LOG_WAIT)).data
        except (LedgerUnavailable, ChunksMissing) as error:
            log.info(str(error), action="log_not_at_hand", job=job.id)
        return b""

    async def _run_event(self, job: Job, run: ActionRun) -> Outcome:
        """Launch the job whose id derives from this action: the ledger takes it once."""
        around, target = self._around, str(run.action.get("event_id"))
        id = child_id(job, run)
        done = Outcome(0, f"Launched job {id} of event {target}.", child=id)
        if self._repeated(run) and await around.ledger.last_sequence(job_subject(target, id)):
            return done
        braked = around.brake(around.clock())
        if braked is not None:
            # The brake may have been reached by this very job, if the ledger's answer was lost.
            if await around.ledger.last_sequence(job_subject(target, id)):
                return done
            raise event_rule(braked)
        made_of = around.definitions.made_of(target, overrides={})
        made = around.definitions.made(made_of) or NOTHING
        result = completion.result_of(job)
        launcher = Launcher(
            job, run, result.code if result else 0, result.description if result else ""
        )
        data = await self._data(job)
        request = launched(
            launcher,
            around.definitions,
            made,
            made_of,
            data,
            now=around.clock(),
            actor=self._actor,
            count=lambda condition: self._counted(target, condition, besides=id),
        )
        try:
            await around.ledger.append(request, id=id, expect=0)
        except WrongSequence:
            log.info("the job was launched before", action="launched_before", job=id)
        return done

    def _counted(self, event: str, condition: str, *, besides: str) -> int:
        """Today's count; `besides` may stand on the ledger already, if its answer was lost."""
        around = self._around
        live = around.jobs.by_event.get(event, ())
        number = len(live) - (besides in live)
        return around.states.counted(event, condition, around.clock(), number)

    async def _data(self, job: Job) -> Json:
        """The job's output data, wherever it is kept."""
        if job.finished is None:
            return {}
        data = job.finished.report.get("data")
        blob = job.finished.large.get("data")
        if blob is not None:
            parts = [part async for part in read_chunks(self._around.ledger, blob)]
            data = json.loads(b"".join(parts))
        if isinstance(data, list):
            return {"items": data}
        return data if isinstance(data, dict) else {}

    async def _plugin(self, job: Job, run: ActionRun) -> Outcome:
        id = str(run.action.get("plugin_id"))
        plugin = self._around.definitions.record("plugin", id)
        if plugin is None or plugin.get("type") != "action":
            return Outcome("plugin", f"Action plugin not found: {id}")
        if not plugin.get("enabled", True):
            return Outcome("plugin", f"Plugin is disabled: {plugin.get('title')}")
        if self._repeated(run) and not plugin.get("idempotent"):
            return Outcome("unknown", UNKNOWN)
        base_url = self._around.notices.settings.links_url
        try:
            secrets = self._around.secrets.of(id)
        except Unreadable as error:
            log.error(str(error), action="secret_unreadable", plugin=id)
            return Outcome("plugin", "A secret of the plugin cannot be read.")
        return await run_plugin(plugin, self._notice(job, run), base_url, secrets)

    async def _change_event(self, kind: str, job: Job, run: ActionRun) -> Outcome:
        """Disable, delete or update the job's event, on top of whatever else changes it."""
        around = self._around
        while True:
            version = around.definitions.events.get(job.event)
            fact = self._changed_event(kind, job)
            if fact is None or version is None:
                return Outcome(0, f"Nothing to {kind}: the event is so already.")
            command = f"{job.id}-{run.stage}-{run.index}-{kind}"
            try:
                await around.ledger.append(fact, id=command, expect=version.sequence)
            except WrongSequence as newer:
                await around.reached(newer.last or around.definitions.position + 1, READ_WAIT)
            else:
                return Outcome(0, f"Event {kind.removesuffix('_event')}d: {job.event}")

    def _changed_event(self, kind: str, job: Job) -> f.EventUpdated | f.EventDeleted | None:
        known, now, reason = self._around.definitions, self._around.clock(), f"job {job.id}"
        match kind:
            case "disable":
                return disable(job.event, known, self._actor, now, reason)
            case "delete":
                return delete(job.event, known, self._actor, now, reason)
            case _:
                plugin = known.record("plugin", str(job.value("plugin"))) or {}
                asked = job.finished.report.get("update_event") if job.finished else None
                if not plugin.get("may_update_event") or not isinstance(asked, dict):
                    raise event_rule("The plugin may not change its event.")
                return changed_by_child(job.event, asked, known, self._actor, now, reason)

    # --- telling of a suspension -------------------------------------------------------------

    def _notify(self, job: Job, run: ActionRun) -> None:
        task = asyncio.create_task(self._tell(job, run))
        self._notifying.add(task)
        task.add_done_callback(self._notifying.discard)

    async def _tell(self, job: Job, run: ActionRun) -> None:
        """The email and the web hook of a suspend action; their failure changes nothing."""
        try:
            if run.action.get("users") or run.action.get("email"):
                self._say(job, await self._email(job, run))
            if run.action.get("web_hook"):
                self._say(job, await self._around.hooks.send(self._notice(job, run)))
        except Exception:
            log.exception("nobody was told", action="suspension_untold", job=job.id)

    def _say(self, job: Job, outcome: Outcome) -> None:
        log.info(outcome.description, action="suspension_told", job=job.id, code=outcome.code)


def decision_id(fact: f.Fact, version: int) -> str:
    """The command id of a decision about actions: the same decision always has the same one.

    `version` is the last sequence of the job on which it was decided.
    """
    match fact:
        case f.ActionStarted() | f.ActionEnded() | f.JobSuspended() | f.JobResumed():
            return f"{fact.job}-{fact.stage}-{fact.index}-{fact.kind}"
        case f.JobAbortOrdered():
            return f"{fact.job}-{fact.order}-abort"
        case f.JobEnded():
            return f"{fact.job}-{fact.kind}"
        case _:
            return f"{getattr(fact, 'job', '')}-{version}-{fact.kind}"
