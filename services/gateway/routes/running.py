"""Running events on demand: run_event and magic links, with or without waiting (api.md 3.6, 7)."""

from typing import Any

import msgspec

from domain.checks import check_object, objects, strings
from domain.errors import BadRequest, event_rule
from domain.event import magic_token
from domain.facts import Actor, JobRequested, Json
from domain.firing import check_day
from domain.ids import RESERVED
from domain.macros import OVERRIDE
from domain.run import (
    RunEvent,
    check_gate,
    check_plugin_enabled,
    decide_run,
    overrides_of,
    request_of,
)
from domain.triggers import floor60
from services.gateway import files, waiting
from services.gateway.auth import check_guesses
from services.gateway.endpoint import Answer, Call, Routes
from services.gateway.failures import network_of
from services.gateway.form import form_page
from services.gateway.gateway import Decision
from services.gateway.params import Params, check_common, check_depth, check_numbers
from services.gateway.replies import Payload
from services.gateway.routes.events import EVENT_TYPES
from services.gateway.routes.files import published
from services.ledger.secrets import stream_token

api = Routes("Running events")

RUN_TYPES: dict[str, Any] = EVENT_TYPES | {
    "input": "object",
    "test": "flag",
    "test_actions": "flag",
    "test_limits": "flag",
    "test_conditions": "array",
    "priority": "flag",
    "invisible": "flag",
    "ephemeral": "flag",
}


def _launch(params: Params) -> Json:
    """All that a client sent, flat keys and `json` merged, each of its declared type."""
    if "post_data" in params.query:
        kept = check_common(params.query | {"post_data": params.body})
        params = Params(kept, frozenset(params.query.keys() - {"post_data"}))
    values = params.typed(RUN_TYPES)
    if isinstance(text := values.pop("json", None), str):
        values |= check_common(_json_object(text))
    for name in [name for name in values if name.startswith("params/")]:
        _unflatten(values, name)
    if "params" in values and not isinstance(values["params"], dict):
        values["params"] = {}
    flags = Params(values)
    for name in ("test", "test_actions", "test_limits", "priority"):
        values[name] = name in values and flags.flag(name)
    if "input" in values:
        _checked_input(values["input"])
    if values.get("test_conditions") is not None:
        strings(values["test_conditions"], "test_conditions")
    return values


def _checked_input(given: Any) -> Json:
    """A job's input: an object with `data`, an object, and `files`, a list of objects."""
    if not isinstance(given, dict):
        raise BadRequest("Parameter 'input' must be an object.")
    check_object(given, "data")
    objects(given.get("files"), "files")
    return given


def _json_object(text: str) -> Json:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest("Parameter 'json' is not valid JSON.") from error
    check_depth(value)
    check_numbers(value)
    if not isinstance(value, dict):
        raise BadRequest("Parameter 'json' must be an object.")
    return value


def _unflatten(values: Json, name: str) -> None:
    """`params/KEY` is the flat form of `params.KEY`."""
    key, value = name.removeprefix("params/"), values.pop(name)
    if not key or key in RESERVED:
        raise BadRequest(f"Parameter '{name}' is malformed.")
    params = values.get("params")
    values["params"] = {**(params if isinstance(params, dict) else {}), key: value}


@api.endpoint(
    "run_event",
    "Run an event now; with /wait at the end of the path, reply when the job is over.",
    parse=_launch,
    privilege="run_jobs",
    mutating=True,
    patience=None,
    tails=1,
    body_wins=True,
    uploads=True,
    fields={
        "id": "string, or title",
        "title": "string",
        "params": "object, per-key overrides",
        "input": "object, `data` and `files`",
        "test": "boolean",
        "priority": "boolean",
        "tags": "array",
    },
    example={"id": "nightly_backup", "params": {"annotate": True}},
)
async def run_event(call: Call, values: Json) -> Payload:
    """api.md 3.6."""
    if call.tail not in ([], ["wait"]):
        raise BadRequest("Only /wait may follow run_event.")
    event = _event_named(call, values)
    call.caller.require_access(event.get("category"), event.get("targets"))
    job = call.gateway.new_id("j", call.now)
    command = RunEvent(
        by=call.caller,
        actor=call.actor,
        event=event,
        job=job,
        overrides=overrides_of(values),
        input=await _input(call, job, values.get("input")),
        test=values["test"],
        test_actions=values["test_actions"],
        test_limits=values["test_limits"],
        test_conditions=values.get("test_conditions"),
        priority=values["priority"],
    )
    job = await _launched(call, command)
    if call.tail:
        return {"job": await waiting.end_of(call, job)}
    return {"id": job}


def _event_named(call: Call, values: Json) -> Json:
    """The event with this id, else the first with this title."""
    definitions = call.gateway.views.definitions
    if id := values.get("id"):
        event = definitions.event(str(id))
    elif title := values.get("title"):
        versions = definitions.events.values()
        event = next((v.record for v in versions if v.record.get("title") == title), None)
    else:
        raise event_rule("Failed to locate the event: neither id nor title was given.")
    if event is None:
        raise event_rule(f"Event not found: {values.get('id') or values.get('title')}")
    return event


async def _input(call: Call, job: str, given: Json | None) -> Json | None:
    """The input of this new job, with the files uploaded for it at the end of its files.

    Of a file that was uploaded before, or that a job left, the client knows only the path.
    """
    named = (given or {}).get("files") or []
    if not call.params.uploads and not named:
        return given
    found = [await _named_file(call, file) for file in named]
    return (given or {}) | {"files": [*found, *await published(call, job)]}


async def _named_file(call: Call, file: Json) -> Json:
    """The whole record of a file; one that is not found makes the job's setup fail.

    Neither where its bytes are nor whose it is can be told by a client.
    """
    told = {key: value for key, value in file.items() if key not in ("blob", "job")}
    path = str(file.get("path") or "").removeprefix("/")
    known = await files.find(call.gateway, path)
    return told | known if known is not None else told


async def _launched(call: Call, command: RunEvent) -> str:
    gateway = call.gateway
    definitions = gateway.views.definitions
    event = str(command.event["id"])

    def decide() -> Decision:
        if gateway.stopping.is_set():
            raise event_rule("The server is shutting down.")
        most = gateway.settings.max_jobs_per_min
        if most and gateway.views.schedule.launched(floor60(call.now)) >= most:
            raise event_rule(f"Global jobs per minute limit has been reached ({most}/min).")
        made_of = definitions.made_of(event, overrides=command.overrides)
        if command.plain and gateway.launchable.get((event, command.admin)) == made_of:
            return Decision(request_of(command, {}, made_of, call.now))
        made = definitions.made(made_of)
        if made is None or not made_of.event:
            raise event_rule(f"Event not found: {event}")
        fact = decide_run(command, definitions, made, made_of, call.now)
        if command.by is None:
            check_day(event, made, lambda name: gateway.views.counted_today(event, name, call.now))
        if command.plain and not fact.overrides:
            gateway.remember_launchable(event, command.admin, made_of)
        return Decision(fact)

    recorded = await gateway.submit(call, decide)
    assert isinstance(recorded.fact, JobRequested)
    call.stored.clear()
    return recorded.fact.job


# --- magic links -------------------------------------------------------------------------------


def _magic_values(params: Params) -> tuple[Json, Json | None]:
    """Overrides of the job's params, which is all that was sent; and its input."""
    values = dict(params.values)
    if isinstance(text := values.pop("json", None), str):
        values |= check_common(_json_object(text))
    for name in values:
        if name.startswith(OVERRIDE):
            raise BadRequest(f"Parameter '{name}' is reserved.")
    given = _checked_input(values.pop("input")) if isinstance(values.get("input"), dict) else None
    return values, given


def _known_link(call: Call) -> None:
    """Before anything of the request is read: is there an event behind this link?"""
    check_guesses(call.gateway, call.address, call.now)
    if not call.tail or (len(call.tail) == 2 and call.tail[1] != "wait"):
        raise BadRequest("The link is not valid.")
    if _event_behind(call, call.tail[0]) is None:
        call.gateway.guesses.add(network_of(call.address), call.now)
        raise BadRequest("The link is not valid.")


@api.endpoint(
    "magic",
    "Run the event behind a magic link: /api/app/magic/v1/KEY, /wait may follow.",
    parse=_magic_values,
    open=True,
    gate=_known_link,
    patience=None,
    tails=2,
    body_wins=True,
    uploads=True,
    method="GET",
    fields={"(any)": "string, becomes a parameter of the job"},
)
async def magic(call: Call, asked: tuple[Json, Json | None]) -> Payload:
    """api.md 7.2."""
    params, given = asked
    event = _event_behind(call, call.tail[0])
    if event is None:
        raise BadRequest("The link is not valid.")
    job = call.gateway.new_id("j", call.now)
    command = RunEvent(
        by=None,
        actor=Actor(type="magic", id=str(event["id"]), address=call.address),
        event=event,
        job=job,
        overrides={"params": params},
        input=await _input(call, job, given),
    )
    job = await _launched(call, command)
    if len(call.tail) == 2:
        return {"job": await waiting.end_of(call, job)}
    token = stream_token(call.gateway.secret, job)
    return {"description": "The job was launched.", "id": job, "stream": token}


@api.endpoint(
    "form",
    "A page with an event's fields that runs it through its magic link: /api/app/form/v1/KEY.",
    open=True,
    tails=1,
)
async def form(call: Call) -> Answer:
    """api.md 7.3."""
    event = _event_behind(call, call.tail[0]) if call.tail else None
    if event is None:
        raise BadRequest("The link is not valid.")
    definitions = call.gateway.views.definitions
    check_gate(event, definitions, test=False, manual=False)
    plugin = str(event.get("plugin"))
    check_plugin_enabled(definitions.record("plugin", plugin), plugin, test=False)
    return form_page(event, call.tail[0])


def _event_behind(call: Call, key: str) -> Json | None:
    """The event with an enabled magic trigger for this key."""
    found = None
    for id, version in call.gateway.views.definitions.events.items():
        for trigger in version.record.get("triggers") or []:
            is_magic = trigger.get("type") == "magic" and trigger.get("enabled")
            if is_magic and trigger.get("token") == magic_token(key, id):
                found = version.record
    return found
