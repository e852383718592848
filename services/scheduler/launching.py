"""Answers runners that ask for what they shall run, and for its input files (design.md 7, 14).

Any scheduler answers, leader or not: a job assigned to that server is enough. One that has not
read the order yet waits a little. The server is taken from the subject, which NATS permissions
guard, never from what the message claims.
"""

import asyncio
from typing import TYPE_CHECKING

import structlog
from msgspec import ValidationError
from msgspec.structs import asdict
from nats.aio.msg import Msg

from domain.acting import Outcome
from domain.dispatch import launch_of
from domain.facts import Blob, Json, from_plain
from domain.job import Job
from domain.secrets import assigned
from services.json_bytes import as_json, from_json
from services.ledger.chunks import CHUNK, read_range
from services.ledger.errors import ChunksMissing, LedgerUnavailable
from services.ledger.vault import Unreadable

if TYPE_CHECKING:
    from services.scheduler.service import Scheduler

SUBJECT = "live.launch.*"
QUEUE = "schedulers"
BEHIND = 2.0  # seconds that a scheduler may need to read the order
HOOK_TURN = 2.0  # seconds after which a runner asks again what became of a web hook
TOGETHER = 1024 * 1024  # bytes that answers in one message have; a single one may have more

log = structlog.get_logger()


async def answer_launches(scheduler: "Scheduler") -> None:
    """Subscribe to launch requests; each is answered in a task of its own."""
    tasks: set[asyncio.Task[None]] = set()

    async def receive(message: Msg) -> None:
        task = asyncio.create_task(_answer(scheduler, message))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await scheduler.ledger.nc.subscribe(SUBJECT, queue=QUEUE, cb=receive)


async def _answer(scheduler: "Scheduler", message: Msg) -> None:
    server = message.subject.rsplit(".", 1)[-1]
    headers: dict[str, str] | None = None
    try:
        asked = from_json(message.data)
        if "file" in asked:
            data, headers = await _file_part(scheduler, server, asked)
        elif "hook" in asked:
            data = as_json(await _hook(scheduler, server, asked))
        elif "orders" in asked:
            data = await _launches(scheduler, server, asked["orders"])
        else:
            await scheduler.follower.reached(int(asked["order"]), BEHIND)
            data = as_json(_launch(scheduler, server, asked))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        data = as_json({"error": f"The request is malformed: {error}"})
    except LedgerUnavailable as error:
        log.warning("A runner must ask again", action="launch_unanswered", reason=str(error))
        return
    scheduler.ledger.publish(message.reply, data, headers=headers)


async def _launches(scheduler: "Scheduler", server: str, asked: list[Json]) -> bytes:
    """The answers to the first of these requests, as many as make a message of fair size."""
    await scheduler.follower.reached(max(int(one["order"]) for one in asked), BEHIND)
    answers: list[bytes] = []
    room = TOGETHER
    for one in asked:
        answer = as_json(_launch(scheduler, server, one))
        room -= len(answer)
        if answers and room < 0:
            break
        answers.append(answer)
    return b'{"answers":[' + b",".join(answers) + b"]}"


def _launch(scheduler: "Scheduler", server: str, asked: Json) -> Json:
    job = scheduler.jobs.jobs.get(asked["job"])
    if job is None or not _owns(job, server, asked):
        return {"error": "The job is not assigned to this server."}
    try:
        reply: Json = {"secrets": _secrets(scheduler, job)}
    except Unreadable as error:
        log.error("A secret cannot be read", action="secret_unreadable", reason=str(error))
        return {"error": "A secret of this job cannot be read; the scheduler's log says why."}
    if asked.get("need_records"):
        made = scheduler.definitions.made(job.request.made_of)
        if made is None:
            return {"error": "The job's definitions are no longer known."}
        reply["records"] = asdict(made)
    if asked.get("need_launch"):
        reply["launch"] = launch_of(job, scheduler.fleet.untold_groups(server))
    return reply


def _secrets(scheduler: "Scheduler", job: Job) -> Json:
    """The variables of the secrets assigned to the job's event, category and plugin, decrypted.

    They go into this answer and nowhere else. Raises Unreadable without the key.
    """
    document = job.spec.document
    records = assigned(
        scheduler.definitions.records("secret"),
        event=job.request.event,
        category=document.get("category"),
        plugin=document.get("plugin"),
    )
    variables: Json = {}
    for record in records:
        variables |= scheduler.vault.values(record)
    return variables


async def _file_part(
    scheduler: "Scheduler", server: str, asked: Json
) -> tuple[bytes, dict[str, str]]:
    """The bytes of an input file from `offset` on, one chunk at most; none at its end."""
    await scheduler.follower.reached(int(asked["order"]), BEHIND)
    job = scheduler.jobs.jobs.get(asked["job"])
    if job is None or not _owns(job, server, asked):
        return b"", {"File-Error": "The job is not assigned to this server."}
    given = (job.spec.document.get("input") or {}).get("files") or []
    file: Json = next((one for one in given if one.get("id") == asked["file"]), {})
    try:
        blob = from_plain(Blob, file.get("blob"))
        parts = [part async for part in read_range(scheduler.ledger, blob, asked["offset"], CHUNK)]
    except (ValidationError, ChunksMissing) as error:
        missing = isinstance(error, ValidationError)
        reason = "Its bytes were never uploaded." if missing else str(error)
        return b"", {"File-Error": f"Input file not found: {file.get('filename')}. {reason}"}
    return b"".join(parts), {"File-Size": str(blob.size)}


async def _hook(scheduler: "Scheduler", server: str, asked: Json) -> Json:
    """Fire the web hook that the job is about; what became of it (plugins.md 9.5).

    A hook may take long, and who fires it may die meanwhile: so the runner is told to ask again
    before that, and the leader alone fires.
    """
    await scheduler.follower.reached(int(asked["order"]), BEHIND)
    job = scheduler.jobs.jobs.get(asked["job"])
    if job is None or not _owns(job, server, asked):
        return {"error": "The job is not assigned to this server."}
    action = _hook_action(job.value("params") or {})
    outcome: Outcome | None = None
    if not asked.get("patient"):  # a runner of the release before waits as long as it takes
        outcome = await scheduler.acting.fire_hook(job, action)
    elif scheduler.leadership.term:
        outcome = await scheduler.acting.fired_hook(job, action, HOOK_TURN)
    if outcome is None:
        return {"pending": True}
    return {
        "code": outcome.code,
        "description": outcome.description,
        "details": outcome.details,
        "answer": outcome.answer,
    }


def _hook_action(params: Json) -> Json:
    """The params of the plugin as an action; in the place of a hook's id may stand a URL."""
    hook = str(params.get("web_hook") or "")
    named = "url" if hook.lower().startswith(("http://", "https://")) else "web_hook"
    return {"type": "web_hook", named: hook, "text": params.get("text")}


def _owns(job: Job, server: str, asked: Json) -> bool:
    return job.server == server and job.order == asked["order"] and job.boot == asked["boot"]
