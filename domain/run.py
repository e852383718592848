"""Running an event on demand: which launches are refused, and the fact of one that is not.

Pure rules of api.md 3.6 and 7.2: the gate, the overrides a client may send, locked parameters.
What becomes of the job afterwards (limits, queue, servers) is decided by its owner.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from domain import facts as f
from domain.access import Principal
from domain.assembly import EVENT_ONLY, LAUNCH_CONTEXT, Made
from domain.checks import bounded, strings
from domain.errors import BadRequest, event_rule
from domain.event import check_references, check_shape
from domain.facts import Json
from domain.file_limit import pruned
from domain.known import Known
from domain.limits import first_enabled
from domain.macros import is_runtime
from domain.plugins import (
    check_param_keys,
    check_values,
    default_values,
    locked_ids,
    owned_keys,
    with_locked,
)
from domain.reach import require_acts, require_reach

# Keys that say how to launch, not what: none of them is an override.
OPTIONS = frozenset(
    "json test test_actions test_limits test_conditions priority input update_state".split()
)
NEVER_OVERRIDDEN = EVENT_ONLY | LAUNCH_CONTEXT | OPTIONS | {"type", "category"}


class RunEvent(msgspec.Struct, frozen=True):
    """A wish to run an event now. `overrides` are event keys for this run only.

    `by` is None for a magic link, which needs no manual trigger and no privilege.
    """

    by: Principal | None
    actor: f.Actor
    event: Json
    job: str
    overrides: Json = {}
    input: Json | None = None
    test: bool = False
    test_actions: bool = False
    test_limits: bool = False
    test_conditions: list[str] | None = None
    priority: bool = False

    @property
    def source(self) -> Literal["key", "user", "magic"]:
        """What launched the job (data.md 6.1)."""
        if self.by is None:
            return "magic"
        return "key" if self.by.kind == "key" else "user"

    @property
    def username(self) -> str:
        """Who runs the job: a user name or a key id; for a magic link the event's user."""
        return self.by.id if self.by is not None else str(self.event.get("username") or "")

    @property
    def admin(self) -> bool:
        """Whether locked parameters may be set."""
        return self.by is not None and self.by.admin

    @property
    def plain(self) -> bool:
        """Whether only a run is wanted, so that the records alone say if there may be one."""
        special = self.by is None or self.overrides or self.input is not None or self.test
        tests = self.test_actions or self.test_limits or self.test_conditions is not None
        return not (special or tests)


def overrides_of(params: Mapping[str, object]) -> Json:
    """What a client may change for one run, of all that it sent."""
    return {
        key: value
        for key, value in params.items()
        if key not in NEVER_OVERRIDDEN and not is_runtime(key)
    }


def check_gate(event: Json, known: Known, *, test: bool, manual: bool = True) -> None:
    """The event may be run by hand: trigger, event, category and plugin say so (api.md 3.6)."""
    if test:
        return
    title = event.get("title") or event.get("id")
    if manual and not _has_manual_trigger(event):
        raise event_rule(f"Event does not allow manual job runs: {title}")
    if not event.get("enabled"):
        raise event_rule(f"Event is disabled: {title}")
    category = known.record("category", str(event.get("category")))
    if category is None:
        raise event_rule(f"Category not found: {event.get('category')}")
    if not category.get("enabled", True):
        raise event_rule(f"Category is disabled: {category.get('title')}")


def check_plugin_enabled(plugin: Json | None, id: object, *, test: bool) -> None:
    """The plugin that would run is there and, unless for a test, enabled."""
    if plugin is None:
        raise event_rule(f"Plugin not found: {id}")
    if not test and not plugin.get("enabled", True):
        raise event_rule(f"Plugin is disabled: {plugin.get('title')}")


def decide_run(
    command: RunEvent, known: Known, made: Made, made_of: f.MadeOf, now: float
) -> f.JobRequested:
    """The launch, or why there is none. `made` are the records that `made_of` names.

    Raises RuleBroken("event") at the gate and for a queue without a job limit, BadRequest for
    overrides that do not make a valid event, AccessDenied for targets out of the caller's
    limits (api.md 3.6).
    """
    event = command.event
    check_gate(event, known, test=command.test, manual=command.by is not None)
    overrides = dict(command.overrides) if command.admin else _unlocked(command, known)
    _check_merged(event, overrides, known, now)
    if command.by is not None:
        if "targets" in overrides:
            command.by.require_access(event.get("category"), overrides["targets"])
        require_reach(command.by, overrides | {"category": event.get("category")}, known)
        require_acts(command.by, overrides.get("actions"))
    plugin = str(overrides.get("plugin") or event.get("plugin"))
    check_plugin_enabled(known.record("plugin", plugin), plugin, test=command.test)
    _check_queue(overrides.get("limits", event.get("limits")), made, command)
    if command.by is None:
        _check_files(command.input, event, made)
    invisible, ephemeral = overrides.pop("invisible", False), overrides.pop("ephemeral", False)
    return bounded(
        request_of(command, overrides, made_of, now, invisible=invisible, ephemeral=ephemeral)
    )


def request_of(
    command: RunEvent,
    overrides: Json,
    made_of: f.MadeOf,
    now: float,
    *,
    invisible: object = False,
    ephemeral: object = False,
) -> f.JobRequested:
    """The launch itself, for one that is known to be allowed (see `decide_run`)."""
    return f.JobRequested(
        at=now,
        actor=command.actor,
        event=str(command.event["id"]),
        job=command.job,
        made_of=made_of,
        source=command.source,
        username=command.username,
        now=now,
        overrides=overrides,
        input=command.input,
        test=command.test,
        test_actions=command.test_actions,
        test_limits=command.test_limits,
        test_conditions=command.test_conditions,
        priority=command.priority,
        invisible=bool(invisible),
        ephemeral=bool(ephemeral),
    )


def _has_manual_trigger(event: Json) -> bool:
    return any(
        trigger.get("type") == "manual" and trigger.get("enabled")
        for trigger in event.get("triggers") or []
    )


def _unlocked(command: RunEvent, known: Known) -> Json:
    """The overrides a non-administrator may send: locked parameters keep their values."""
    overrides = dict(command.overrides)
    params = overrides.get("params")
    sent: Json = params if isinstance(params, dict) else {}
    event = command.event
    stored = event.get("params") or {}
    plugin_id = str(overrides.get("plugin") or event.get("plugin"))
    plugin = known.record("plugin", plugin_id) or {}
    other = plugin_id != event.get("plugin")
    fields = event.get("fields")
    kept = with_locked(plugin.get("params"), sent, None if other else stored)
    kept = with_locked(fields, kept, default_values(fields))
    # A locked value that the job has anyway is not copied into its launch.
    anyway = default_values(plugin.get("params")) | default_values(fields) | stored
    locked = {*locked_ids(plugin.get("params")), *locked_ids(fields)}
    needed = {k: v for k, v in kept.items() if k not in locked or anyway.get(k) != v}
    if needed != sent:
        overrides["params"] = needed
    return overrides


def _check_merged(event: Json, overrides: Json, known: Known, now: float) -> None:
    """The event as it would run is valid, and its params satisfy plugin and fields."""
    sent = overrides.get("params", {})
    if not isinstance(sent, dict):
        raise BadRequest("Parameter 'params' must be an object.")
    if overrides.get("tags") is not None:
        strings(overrides["tags"], "tags")
    check_param_keys(sent)
    fields = overrides.get("fields", event.get("fields")) or []
    params = default_values(fields) | (event.get("params") or {}) | sent
    if overrides.keys() - {"params"}:
        merged = event | overrides | {"params": params}
        check_shape(merged)
        check_references(merged, known)
    elif sent:
        plugin = known.record("plugin", str(event.get("plugin"))) or {}
        owned = [key for definition in fields for key in owned_keys(definition)]
        check_values(plugin.get("params"), params, skip=owned)
    if fields:
        check_values(fields, params)


def _check_files(given: Json | None, event: Json, made: Made) -> None:
    """A magic link's files are refused where other launches would leave them out (api.md 7.2)."""
    limits = [
        limit
        for record in (event, made.category, made.config)
        for limit in record.get("limits") or []
        if isinstance(limit, dict)
    ]
    _, remarks = pruned((given or {}).get("files") or [], first_enabled(limits, "file"))
    if remarks:
        raise event_rule(remarks[0])


def _check_queue(own: object, made: Made, command: RunEvent) -> None:
    limits: list[Json] = [x for x in own if isinstance(x, dict)] if isinstance(own, list) else []
    if not command.test or command.test_limits:
        limits = limits + [
            limit
            for record in (made.category, made.config)
            for limit in record.get("limits") or []
            if isinstance(limit, dict)
        ]
    queue = first_enabled(limits, "queue")
    if queue and queue.get("amount") and first_enabled(limits, "job") is None:
        raise event_rule("An enabled queue limit needs an enabled job limit.")
