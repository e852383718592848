"""Asks scheduler plugins about launches, beside the deciding loop (scheduling.md 3.7).

One process per plugin at a time takes all questions that wait for it, oldest first; the answers go
back to `firing.py`, whose next round records them. Nothing here is remembered: a successor asks
again what is not on the ledger.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence

import structlog
from msgspec.structs import replace

from domain.assembly import NOTHING, assemble
from domain.facts import Json
from domain.firing import requested
from domain.trigger_plugin import (
    Answer,
    PluginFailed,
    Question,
    Refused,
    read_answers,
    request_of,
)
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from services.ledger.vault import Unreadable
from services.scheduler.firing import Firing
from services.scheduler.plugin_files import BringFiles, refuse_files
from services.scheduler.plugin_process import (
    NotStarted,
    OutOfTime,
    clean_environment,
    run_process,
)
from services.settings import Settings

TIMEOUT = 30.0  # seconds, where the plugin names none
TOGETHER = 200  # questions to one process: its input stays below a few megabytes

log = structlog.get_logger()


class Asking:
    """The scheduler plugins at work. `wake` is called when there is something to decide."""

    def __init__(
        self,
        firing: Firing,
        definitions: Definitions,
        jobs: ActiveJobs,
        settings: Settings,
        wake: Callable[[], None],
        secrets: Callable[[str], Mapping[str, str]] = lambda _: {},
        files: BringFiles = refuse_files,
    ) -> None:
        self.firing = firing
        self.definitions = definitions
        self.jobs = jobs
        self.base_url = f"http://{settings.host}:{settings.port}"
        self.wake = wake
        self.secrets = secrets
        self.files = files
        self._at_work: set[str] = set()
        self._waiting = asyncio.Event()

    def look(self) -> None:
        """Call it after a round of decisions: there may be questions."""
        if self.firing.questions.keys() - self._at_work:
            self._waiting.set()

    async def run(self) -> None:
        """Ask until cancelled; processes that run then are killed."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._waiting.wait()
                self._waiting.clear()
                for plugin in self.firing.questions.keys() - self._at_work:
                    self._at_work.add(plugin)
                    tasks.create_task(self._ask(plugin), name=f"ask {plugin}")

    async def _ask(self, plugin: str) -> None:
        term, questions = self.firing.term, self.firing.take_questions(plugin, TOGETHER)
        try:
            answers = await self._answers(plugin, questions) if questions else []
        finally:
            self._at_work.discard(plugin)
        self.firing.answer(term, list(zip(questions, answers, strict=True)))
        self.look()
        self.wake()

    async def _answers(self, id: str, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question. A failed execution is repeated once for who catches up."""
        plugin = self.definitions.record("plugin", id)
        if plugin is None or plugin.get("type") != "scheduler":
            return [Refused(f"Plugin not found: {id}")] * len(questions)
        if not plugin.get("enabled", True):
            return [Refused(f"Plugin is disabled: {plugin.get('title')}")] * len(questions)
        answers, again = await self._execute(plugin, questions)
        if again:
            retried, _ = await self._execute(plugin, [questions[place] for place in again])
            for place, answer in zip(again, retried, strict=True):
                answers[place] = answer
        return answers

    async def _execute(
        self, plugin: Json, questions: Sequence[Question]
    ) -> tuple[list[Answer], list[int]]:
        """The answers, and the places of those that another execution may change."""
        try:
            output = await self._output(plugin, questions)
            answers = read_answers(output, questions)
            return [*await self.files(plugin, answers)], []
        except PluginFailed as failure:
            log.warning(str(failure), action="trigger_plugin_failed", plugin=plugin.get("id"))
            refused: list[Answer] = [Refused(str(failure))] * len(questions)
            return refused, [place for place, question in enumerate(questions) if question.retry]

    async def _output(self, plugin: Json, questions: Sequence[Question]) -> str:
        jobs = [self._prepared(question) for question in questions]
        active = [
            job.spec.document | {"state": str(job.state), "server": job.server}
            for job in self.jobs.jobs.values()
        ]
        try:
            secrets = self.secrets(str(plugin.get("id")))
        except Unreadable as error:
            log.error(str(error), action="secret_unreadable", plugin=plugin.get("id"))
            raise PluginFailed("A secret of the plugin cannot be read.") from error
        request = request_of(questions, jobs, active, self.base_url) | {"secrets": dict(secrets)}
        timeout = plugin.get("timeout")
        seconds = float(timeout) if isinstance(timeout, int | float) and timeout > 0 else TIMEOUT
        line = json.dumps(request).encode() + b"\n"
        try:
            environment = clean_environment(self.base_url)
            ended = await run_process(plugin, line, environment, seconds, secrets)
        except NotStarted as error:
            raise PluginFailed(f"The plugin could not be started: {error}") from error
        except OutOfTime as error:
            raise PluginFailed(f"The plugin did not end within {error}.") from error
        if ended.status != 0:
            raise PluginFailed(f"The plugin ended with status {ended.status}.")
        return ended.out

    def _prepared(self, question: Question) -> Json:
        """The job as it would be, for the plugin to look at."""
        launch = replace(question.launch, counters=None)
        made = self.definitions.made(launch.made_of) or NOTHING
        request = requested(launch, actor=self.firing.actor, at=launch.now, not_before=0.0)
        return assemble(made, request).document
