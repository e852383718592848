"""Answers runners that ask for what they shall run (design.md 7).

Any scheduler answers, leader or not: a job assigned to that server is enough. One that has not
read the order yet waits a little. The server is taken from the subject, which NATS permissions
guard, never from what the message claims.
"""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from nats.aio.msg import Msg

from domain.dispatch import launch_of
from domain.facts import Json
from domain.job import Job

if TYPE_CHECKING:
    from services.scheduler.service import Scheduler

SUBJECT = "live.launch.*"
QUEUE = "schedulers"
BEHIND = 2.0  # seconds that a scheduler may need to read the order


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
    try:
        asked = json.loads(message.data)
        reply = await _launch(scheduler, server, asked)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reply = {"error": f"The request is malformed: {error}"}
    await scheduler.ledger.publish(message.reply, json.dumps(reply).encode())


async def _launch(scheduler: "Scheduler", server: str, asked: Json) -> Json:
    await scheduler.follower.reached(int(asked["order"]), BEHIND)
    job = scheduler.jobs.jobs.get(asked["job"])
    if job is None or not _owns(job, server, asked):
        return {"error": "The job is not assigned to this server."}
    reply: Json = {"secrets": {}}
    if asked.get("need_records"):
        made = scheduler.definitions.made(job.request.made_of)
        if made is None:
            return {"error": "The job's definitions are no longer known."}
        reply["records"] = asdict(made)
    if asked.get("need_launch"):
        reply["launch"] = launch_of(job)
    return reply


def _owns(job: Job, server: str, asked: Json) -> bool:
    return job.server == server and job.order == asked["order"] and job.boot == asked["boot"]
