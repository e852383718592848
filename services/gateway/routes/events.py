"""The event endpoints: definitions, their history, and running them (api.md 3)."""

from collections.abc import Callable
from typing import Any

from domain import event as events
from domain.commands import CreateEvent, DeleteEvent, RevertEvent, UpdateEvent
from domain.errors import NotFound, event_rule
from domain.facts import EventCreated, EventUpdated, Json, QueueFlushed, QueueFlushRequested
from domain.job import JobState
from domain.trigger_rules import read_cron
from services.gateway import jobs, lists
from services.gateway.endpoint import Call, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Page, Params, order, page
from services.gateway.past import Moment, moment
from services.gateway.replies import Encoded, Payload, Rows

api = Routes("Events")

# How values of these keys look when they come as text (api.md 1.2).
EVENT_TYPES: dict[str, Any] = {
    "enabled": "flag",
    "targets": "array",
    "tags": "array",
    "triggers": "array",
    "limits": "array",
    "actions": "array",
    "fields": "array",
    "params": "object",
    "update_state": "object",
    "revision": "integer",
}
EXAMPLE: Json = {
    "id": "nightly_backup",
    "title": "Nightly backup",
    "enabled": True,
    "category": "general",
    "targets": ["main"],
    "plugin": "shellplug",
    "algo": "random",
    "params": {"script": "#!/bin/sh\ndate\n"},
    "triggers": [
        {"type": "manual", "enabled": True},
        {"type": "schedule", "enabled": True, "hours": [2], "minutes": [0]},
    ],
}


def _listing(params: Params) -> tuple[Json, Page]:
    return lists.filters_of(params.values), page(params)


@api.endpoint(
    "get_events",
    "List events, oldest first. Any event key filters.",
    parse=_listing,
    fields={"offset": "integer", "limit": "integer, 0 = all"},
)
async def get_events(call: Call, asked: tuple[Json, Page]) -> Payload:
    """api.md 3.1."""
    filters, part = asked
    views = call.gateway.views
    versions = views.definitions.events
    rows = call.gateway.event_rows
    if not filters and call.caller.unlimited:
        if part == Page():
            return Encoded(rows.all(views.events_changed, versions))
        chosen = part.of_some(versions.items())
        return Rows([rows.of(id, version) for id, version in chosen], len(versions))
    found = [
        (id, version)
        for id, version in versions.items()
        if call.caller.may_see(version.record.get("category"), version.record.get("targets"))
        and lists.matches(version.record, filters)
    ]
    return Rows([rows.of(id, version) for id, version in part.of(found)], len(found))


def _one_event(params: Params) -> tuple[str, Moment | None]:
    return params.id(), moment(params)


@api.endpoint(
    "get_event",
    "One event, its active jobs and the number of queued ones.",
    parse=_one_event,
    fields={
        "id": "string!",
        "metrics": "string, `full` for whole cpu and mem objects",
        "at": "number, the event as it was at this time (Unix seconds)",
        "seq": "integer, the event as it was at this ledger sequence",
    },
)
async def get_event(call: Call, asked: tuple[str, Moment | None]) -> Payload:
    """api.md 3.2; with `at` or `seq` as it stood then, without jobs (8.7)."""
    id, then = asked
    views = call.gateway.views
    event = await _event_at(call, id, then)
    if event is None:
        raise NotFound(f"Event not found: {id}")
    call.caller.require_access(event.get("category"), event.get("targets"))
    if then is not None:
        return {"event": event, "jobs": [], "queued": 0}
    plain = call.params.text("metrics") != "full"
    live = views.active.of_event(id)
    active = [
        jobs.live_document(call.gateway.seen, job, plain=plain)
        for job in live
        if job.state is JobState.ACTIVE
        and not job.value("invisible")
        and call.caller.may_see(*jobs.category_and_targets(job))
    ]
    queued = sum(job.state is JobState.QUEUED for job in live)
    return {"event": event, "jobs": active, "queued": queued}


async def _event_at(call: Call, id: str, then: Moment | None) -> Json | None:
    """The event as it stands, or as it stood then; None if it does not or did not exist."""
    if then is None:
        return call.gateway.views.definitions.event(id)
    sequence, at = then.sequence, then.at
    return await call.gateway.views.history(
        lambda history: history.revisions.event_at(id, sequence=sequence, at=at)
    )


def _fields(params: Params) -> Json:
    return params.typed(EVENT_TYPES)


@api.endpoint(
    "create_event",
    "Define an event.",
    parse=_fields,
    mutating=True,
    fields={
        "title": "string!",
        "enabled": "boolean!",
        "category": "string!",
        "targets": "array!, of server ids, group ids or hostnames",
        "plugin": "string!",
        "algo": "string!",
        "id": "string",
        "params": "object",
        "triggers": "array",
        "limits": "array",
        "actions": "array",
        "fields": "array",
        "tags": "array",
        "update_state": "object",
    },
    example=EXAMPLE,
)
async def create_event(call: Call, fields: Json) -> Payload:
    """api.md 3.3."""
    known = call.gateway.views.definitions
    id = call.gateway.new_id("e", call.now)
    command = CreateEvent(call.caller, call.actor, id, fields)

    def decide() -> Decision:
        fact = events.decide_create(command, known, call.now)
        return Decision(fact, _expected(call, fact.event))

    return await _stored_event(call, decide)


@api.endpoint(
    "update_event",
    "Change an event: each given key replaces the stored one.",
    parse=_fields,
    mutating=True,
    fields={
        "id": "string!",
        "revision": "integer, refused unless it is the stored one",
        "update_state": "object, `cursor` and `nth`",
    },
    example={"id": "nightly_backup", "enabled": False},
)
async def update_event(call: Call, fields: Json) -> Payload:
    """api.md 3.4."""
    known = call.gateway.views.definitions
    command = UpdateEvent(call.caller, call.actor, fields)

    def decide() -> Decision:
        fact = events.decide_update(command, known, call.now)
        return Decision(fact, _expected(call, fact.event))

    return await _stored_event(call, decide)


def _revert(params: Params) -> tuple[str, int]:
    params.required_text("id")
    return params.id(), params.integer("revision", 0, minimum=1)


@api.endpoint(
    "revert_event",
    "Make a new revision with the content of an old one.",
    parse=_revert,
    mutating=True,
    fields={"id": "string!", "revision": "integer!"},
    example={"id": "nightly_backup", "revision": 1},
)
async def revert_event(call: Call, asked: tuple[str, int]) -> Payload:
    """api.md 8.7."""
    id, revision = asked
    call.caller.require("edit_events")
    views = call.gateway.views
    content = await views.history(lambda history: history.revisions.event_revision(id, revision))
    if content is None:
        raise event_rule(f"Event {id} has no revision {revision}.")
    command = RevertEvent(call.caller, call.actor, id, content)

    def decide() -> Decision:
        fact = events.decide_revert(command, views.definitions, call.now)
        return Decision(fact, _expected(call, fact.event))

    return await _stored_event(call, decide)


async def _stored_event(call: Call, decide: Callable[[], Decision]) -> Payload:
    recorded = await call.gateway.submit(call, decide)
    assert isinstance(recorded.fact, EventCreated | EventUpdated)
    return {"event": recorded.fact.definition}


def _deletion(params: Params) -> tuple[str, bool]:
    return params.id(), params.flag("delete_jobs")


@api.endpoint(
    "delete_event",
    "Delete an event without unfinished jobs.",
    parse=_deletion,
    mutating=True,
    fields={"id": "string!", "delete_jobs": "boolean, its finished jobs as well"},
    example={"id": "nightly_backup"},
)
async def delete_event(call: Call, asked: tuple[str, bool]) -> Payload:
    """api.md 3.5."""
    id, delete_jobs = asked
    views = call.gateway.views

    def decide() -> Decision:
        command = DeleteEvent(
            call.caller, call.actor, id, views.unfinished(id), delete_jobs=delete_jobs
        )
        fact = events.decide_delete(command, views.definitions, call.now)
        return Decision(fact, _expected(call, id))

    await call.gateway.submit(call, decide)
    return {}


def _cron(params: Params) -> Json:
    cron = {"cron": params.required_text("cron"), "days_rule": params.text("days_rule")}
    zone = {"timezone": params.text("timezone")} if params.text("timezone") else {}
    return {"title": params.text("title") or "", "trigger": cron | zone}


@api.endpoint(
    "cron_to_trigger",
    "Read cron text: the schedule triggers that it means, as they would be stored.",
    parse=_cron,
    fields={
        "cron": "string!, five fields or an alias such as @daily",
        "title": "string, the event's, which spreads `h`",
        "timezone": "string",
        "days_rule": "string, both or either, where day and weekday are restricted",
    },
)
async def cron_to_trigger(call: Call, asked: Json) -> Payload:
    """scheduling.md 6; nothing is stored."""
    trigger = {"type": "schedule", "enabled": True} | asked["trigger"]
    return {"triggers": read_cron(trigger, title=asked["title"])}


def _expected(call: Call, id: str) -> int:
    version = call.gateway.views.definitions.events.get(id)
    return version.sequence if version is not None else 0


def _history(params: Params) -> tuple[str, Page, int, Moment | None]:
    direction = -1 if order(params, "_id", -1).descending else 1
    return params.id(), page(params, 1), direction, moment(params)


@api.endpoint(
    "get_event_history",
    "The revisions of an event, newest first.",
    parse=_history,
    fields={
        "id": "string!",
        "offset": "integer",
        "limit": "integer, default 1",
        "sort_dir": "integer, 1 or -1",
        "at": "number, the history as it was at this time (Unix seconds)",
        "seq": "integer, the history as it was at this ledger sequence",
    },
)
async def get_event_history(call: Call, asked: tuple[str, Page, int, Moment | None]) -> Payload:
    """api.md 3.7; with `at` or `seq` as it stood then (8.7)."""
    id, part, direction, then = asked
    event = await _event_at(call, id, then)
    if event is None:
        raise event_rule(f"Event not found: {id}")
    call.caller.require_access(event.get("category"), event.get("targets"))
    upto = then or Moment()
    found = await call.gateway.views.history(
        lambda history: history.revisions.event_history(
            id,
            offset=part.offset,
            limit=part.limit or 0,
            sort_dir=direction,
            sequence=upto.sequence,
            at=upto.at,
        )
    )
    return Rows([row.encode() for row in found.rows], found.length)


@api.endpoint(
    "flush_event_queue",
    "Drop the queued jobs of an event.",
    parse=Params.id,
    privilege="abort_jobs",
    mutating=True,
    fields={"id": "string!"},
    example={"id": "nightly_backup"},
)
async def flush_event_queue(call: Call, id: str) -> Payload:
    """api.md 4.10: the count is the owner's answer."""
    event = call.gateway.views.definitions.event(id)
    if event is None:
        raise event_rule(f"Event not found: {id}")
    call.caller.require_access(event.get("category"), event.get("targets"))
    request = QueueFlushRequested(at=call.now, actor=call.actor, event=id)
    recorded = await call.gateway.submit(call, lambda: Decision(request))
    answer = await call.gateway.answer_to(recorded.sequence)
    assert isinstance(answer.fact, QueueFlushed)
    return {"count": len(answer.fact.jobs)}
