"""What a job is made of: definitions + one request -> the job's document (execution.md 3.1).

The gateway, the scheduler and the runner all call `assemble` with the same records and the same
request, so a job looks the same everywhere although only its request stands on the ledger.
Knows nothing of what happens to the job afterwards.
"""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from domain.facts import Actor, JobRequested, Json, MadeOf
from domain.file_limit import pruned
from domain.limits import first_enabled
from domain.macros import (
    OVERRIDE,
    deferred_params,
    expand_params,
    expand_text,
    is_runtime,
    overrides_of,
    param_context,
)
from domain.plugins import default_values

# Event keys that a job does not take over (data.md 6). `input` comes with a launch alone: its
# files name bytes in CHUNKS, which the gateway looks up and nobody else may choose.
EVENT_ONLY = frozenset(
    {"id", "title", "enabled", "triggers", "created", "modified", "revision", "username", "input"}
)
# Keys that only the server may set (execution.md 3.1 step 1).
LAUNCH_CONTEXT = frozenset({"command", "script", "uid", "gid", "cwd", "env", "kill", "runner"})
# The keys that name a job and say where it came from; those that are there when they say something.
_ORIGIN = ("type", "stype", "splugin", "parent", "workflow", "retry_prev")
# What tells a retry from the first attempt, whose params it has (execution.md 8, trap 6).
_OF_RETRIES = frozenset({"retry_count", "retry_prev"})
_MARKS = ("retry_count", "test", "priority", "invisible", "ephemeral")
_NAMING = frozenset({"id", "event", "source", "username", "now", *_ORIGIN, *_MARKS})
# What a limit or an action carries after it was used; never inherited by a new job.
_RUNTIME = frozenset({"date", "msg", "code", "description", "details", "elapsed_ms", "active"})
_MOST_TEMPLATES = 2000
T = TypeVar("T")
# Macros that mention these wait until a server is chosen (execution.md 4).
DEFERRED = frozenset({"server", "groups"})


class Made(Struct, frozen=True, gc=False):
    """The records named by a job's `made_of`; empty objects where there was none."""

    event: Json
    category: Json
    plugin: Json
    config: Json


class JobSpec(Struct, frozen=True, gc=False):
    """A job before it runs: its wire document and what the start decisions read from it.

    `job_limit` and `queue_limit` are counts, 0 = no such limit; `weight` counts against a
    server's `maxJobs`; `retry` is the retry limit in force, if any. `deferred` names the params
    that stay raw until a server is chosen; `remarks` are lines for the meta log.
    """

    document: Json
    deferred: frozenset[str]
    title: str
    revision: int
    job_limit: int
    queue_limit: int
    weight: float
    retry: Json | None
    multiplex: bool
    remarks: tuple[str, ...] = ()


class Template(Struct, frozen=True, eq=False, gc=False):
    """What the jobs have in common whose requests say nothing of their own; equal to itself alone.

    In the document `head` comes first, then what names the job, then the document of `spec`.
    """

    head: Json
    spec: JobSpec


class Assembly:
    """Assembles jobs one after the other, and keeps what they have in common."""

    def __init__(self) -> None:
        self._templates: dict[MadeOf, Template | None] = {}
        self._met: dict[MadeOf, None] = {}

    def spec(self, made: Made, request: JobRequested) -> JobSpec:
        """As `assemble`; `made` are the records that the request's `made_of` names."""
        template = self.template(request.made_of, made)
        alike = assemble_alike(template, request) if template is not None else None
        return alike or assemble(made, request)

    def template(self, made_of: MadeOf, made: Made) -> Template | None:
        """The template of the records at these sequences, which never change.

        It costs more than a job without one: their first job does not make it.
        """
        if made_of in self._templates:
            return self._templates[made_of]
        if made_of not in self._met:
            _keep(self._met, made_of, None)
            return None
        del self._met[made_of]
        return _keep(self._templates, made_of, template_of(made))


def _keep(memory: dict[MadeOf, T], made_of: MadeOf, value: T) -> T:
    if len(memory) >= _MOST_TEMPLATES:
        del memory[next(iter(memory))]
    memory[made_of] = value
    return value


def template_of(made: Made) -> Template | None:
    """What jobs of these records have in common; None if it takes the job itself to know.

    That is so where macros are to be expanded.
    """
    head = _head(made)
    params = _given_params(head, made, _NOBODY)
    if (
        made.event.get("algo") == "multiplex"
        or _with_macros((str(made.plugin.get("command")), *params.values()))
        or any(name.startswith(OVERRIDE) for name in params)
    ):
        return None
    spec = assemble(made, _NOBODY)
    rest = {key: value for key, value in spec.document.items() if key not in _NAMING}
    return Template(head, replace(spec, document=rest))


def assemble_alike(template: Template, request: JobRequested) -> JobSpec | None:
    """As `assemble`, for a tenth of the work; None if the request says something of its own."""
    if request.overrides or request.input or request.test or request.workflow:
        return None
    spec = template.spec
    document = template.head | identity(request)
    document |= spec.document
    for key in ("limits", "actions", "params", "env"):
        document[key] = document[key].copy()
    document["tags"] = document["tags"] + request.add_tags
    return replace(spec, document=document, title=spec.title or request.event)


def assemble(made: Made, request: JobRequested) -> JobSpec:
    """The job that `request` asks for, made of these records. Pure and total."""
    document = _head(made)
    document.update(
        {
            key: value
            for key, value in request.overrides.items()
            if key not in ("params", "input", *LAUNCH_CONTEXT) and not is_runtime(key)
        }
    )
    document |= identity(request)
    multiplex = document.get("algo") == "multiplex" and request.workflow is None
    if multiplex:
        document["type"] = "workflow"
    document["limits"] = _limits(made, request, document)
    document["actions"] = _actions(made, request, document)
    document["tags"] = _tags(request, document)
    remarks = _take_input(document, request)
    document |= _launch_context(made)
    deferred = _fill_params(document, made, request)
    return JobSpec(
        document=document,
        deferred=deferred,
        title=str(made.event.get("title") or request.event),
        revision=int(made.event.get("revision") or 0),
        job_limit=_amount(first_enabled(document["limits"], "job")),
        queue_limit=_amount(first_enabled(document["limits"], "queue")),
        weight=_weight(document["limits"]),
        retry=first_enabled(document["limits"], "retry"),
        multiplex=multiplex,
        remarks=tuple(remarks),
    )


def _head(made: Made) -> Json:
    return {k: v for k, v in made.event.items() if k not in EVENT_ONLY and not is_runtime(k)}


def identity(request: JobRequested) -> Json:
    """The keys that name the job and say where it came from; absent ones stay absent."""
    keys: Json = {
        "id": request.job,
        "event": request.event,
        "source": request.source,
        "username": request.username,
        "now": request.now,
    }
    for key in _ORIGIN:
        value = getattr(request, key)
        if value is not None:
            keys[key] = value
    for key in _MARKS:
        if value := getattr(request, key):
            keys[key] = value
    return keys


def _limits(made: Made, request: JobRequested, document: Json) -> list[Json]:
    own = [_fresh(limit) for limit in _objects(document.get("limits"))]
    if request.test and not request.test_limits:
        return own
    return own + _inherited(made, "limits")


def _actions(made: Made, request: JobRequested, document: Json) -> list[Json]:
    actions = [_fresh(action) for action in _objects(document.get("actions"))]
    if not request.test or request.test_actions:
        actions += _inherited(made, "actions")
    if request.test and request.test_conditions is not None:
        actions = [a for a in actions if a.get("condition") in request.test_conditions]
    return actions


def _inherited(made: Made, key: str) -> list[Json]:
    """Enabled ones of the category, then of the configuration, marked with their source."""
    return [
        _fresh(entry) | {"source": source}
        for source, record in (("category", made.category), ("universal", made.config))
        for entry in _objects(record.get(key))
        if entry.get("enabled")
    ]


def _fresh(entry: Json) -> Json:
    return {k: v for k, v in entry.items() if k not in _RUNTIME}


def _objects(value: Any) -> list[Json]:
    return [x for x in value if isinstance(x, dict)] if isinstance(value, list) else []


def _tags(request: JobRequested, document: Json) -> list[str]:
    tags = document.get("tags")
    own = [t for t in tags if isinstance(t, str)] if isinstance(tags, list) else []
    return own + request.add_tags + (["_test"] if request.test else [])


def _take_input(document: Json, request: JobRequested) -> list[str]:
    """The job's input, its files pruned by the file limit; what there is to say about that."""
    if not request.input:
        return []
    limit = first_enabled(document["limits"], "file")
    files, remarks = pruned(_objects(request.input.get("files")), limit)
    document["input"] = request.input | {"files": files} if remarks else request.input
    return remarks


def _launch_context(made: Made) -> Json:
    plugin = made.plugin
    return {
        "env": dict(made.config.get("job_env") or {}),
        "command": str(plugin.get("command") or ""),
        "script": "(File)" if plugin.get("script") else "",
        "uid": plugin.get("uid") or "",
        "gid": plugin.get("gid") or "",
        "kill": plugin.get("kill") or "parent",
        "runner": bool(plugin.get("runner")),
    }


def on_server(spec: JobSpec, server: Json, groups: Sequence[str]) -> Json:
    """The document once a server is chosen: params that mention it are expanded (4).

    `server` is the server's record as macros see it.
    """
    if not spec.deferred:
        return spec.document
    document = dict(spec.document)
    context = param_context(document | {"server": server, "groups": list(groups)})
    fields = [str(f.get("id")) for f in _objects(document.get("fields"))]
    params = document["params"]
    document["params"] = expand_params(
        params, fields, context, defer=frozenset(), only=spec.deferred
    )
    document.update(sound(overrides_of({k: document["params"][k] for k in spec.deferred})))
    return document


_TEXTS = frozenset({"tags", "targets"})
_OBJECTS = frozenset({"actions", "limits", "jobs"})


def sound(changes: Json) -> Json:
    """The changes to a job without its input and those of a wrong type, which nobody could read.

    What an event says is checked when it is saved; params that override and administrators'
    changes of a live job are not.
    """
    return {key: value for key, value in changes.items() if _is_sound(key, value)}


def _is_sound(key: str, value: Any) -> bool:
    if key in _TEXTS:
        text = key == "targets" and isinstance(value, str)
        return text or (isinstance(value, list) and all(isinstance(x, str) for x in value))
    if key in _OBJECTS:
        return isinstance(value, list) and all(isinstance(x, dict) for x in value)
    return key != "input" and (key != "params" or isinstance(value, dict))


def _fill_params(document: Json, made: Made, request: JobRequested) -> frozenset[str]:
    """Params: plugin and field defaults, the event's, the request's; then macros, overrides.

    Returns the names of those that wait for a server.
    """
    params = _given_params(document, made, request)
    deferred: frozenset[str] = frozenset()
    if _with_macros((document["command"], *params.values())):
        first = {"id": request.first_attempt or request.job, "params": params}
        context = param_context({k: v for k, v in document.items() if k not in _OF_RETRIES} | first)
        field_ids = [str(f.get("id")) for f in _objects(document.get("fields"))]
        deferred = deferred_params(params, field_ids, DEFERRED)
        params = expand_params(params, field_ids, context, defer=DEFERRED)
        document["command"] = expand_text(document["command"], context | {"params": params})
    document["params"] = params
    document.update(sound(overrides_of({k: v for k, v in params.items() if k not in deferred})))
    for definition in _plugin_params(made):
        key = definition.get("id")
        if key in ("uid", "gid") and definition.get("locked") and params.get(key):
            document[key] = params[key]
    return deferred


def _with_macros(values: Iterable[object]) -> bool:
    return any(isinstance(value, str) and "{{" in value for value in values)


def _given_params(document: Json, made: Made, request: JobRequested) -> Json:
    params = default_values([*_plugin_params(made), *_objects(document.get("fields"))])
    asked = request.overrides.get("params")
    params |= made.event.get("params") or {}
    params |= asked if isinstance(asked, dict) else {}
    return params


def _plugin_params(made: Made) -> list[Json]:
    return _objects(made.plugin.get("params"))


def _amount(limit: Json | None) -> int:
    amount = limit.get("amount") if limit else 0
    return int(amount) if isinstance(amount, int | float) and not isinstance(amount, bool) else 0


def _weight(limits: Iterable[Json]) -> float:
    limit = first_enabled(limits, "job")
    weight = limit.get("weight") if limit else None
    return float(weight) if isinstance(weight, int | float) and weight > 0 else 1.0


# A job whose definitions are lost (a damaged view) still has an identity.
NOTHING = Made(event={}, category={}, plugin={}, config={})
UNMADE = MadeOf(event=0)

_NOBODY = JobRequested(
    at=0,
    actor=Actor(type="system", id=""),
    event="",
    job="",
    made_of=UNMADE,
    source="",
    username="",
    now=0,
)
