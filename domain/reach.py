"""What params and actions reach: no further than whoever wrote them (api.md 1.5, 3.6).

Params can name targets, an action can run another event or end the own one. Whoever has limits or
lacks a privilege must not get past that by an event, a launch or a resumption. What stood there
before, which somebody else may have put there, may stay.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from domain.access import Principal
from domain.facts import Json
from domain.known import Known
from domain.macros import OVERRIDE
from domain.plugins import default_values

_TARGETS = f"{OVERRIDE}targets"
# The actions that change the job's own event, and what it takes to do that by oneself.
_ACTS = {"disable": "edit_events", "delete": "delete_events"}


def require_reach(by: Principal, event: Json, known: Known, before: Json | None = None) -> None:
    """AccessDenied for targets and events that are out of the author's limits.

    `event` has the keys of an event that are new, its category at least; `before` is what it was.
    """
    if by.unlimited:
        return
    stood, acts = list(_targets(before or {})), _objects((before or {}).get("actions"))
    for targets in _targets(event):
        if targets not in stood:
            by.require_access(event.get("category"), targets)
    for action in _objects(event.get("actions")):
        if action.get("type") == "run_event" and action not in acts:
            target = known.event(str(action.get("event_id"))) or {}
            by.require_access(target.get("category"), target.get("targets"))


def require_acts(by: Principal, actions: Any) -> None:
    """AccessDenied for actions of one run that do what their author may not do (api.md 3.6)."""
    for action in _objects(actions):
        privilege = _ACTS.get(str(action.get("type")))
        if privilege is not None:
            by.require(privilege)


def _targets(event: Json) -> Iterator[list[str]]:
    """All that params may make of the job's targets, those of triggers and defaults included.

    A text with macros is no target that anybody has: who has limits cannot say it.
    """
    fields = _objects(event.get("fields"))
    triggers = _objects(event.get("triggers"))
    for params in (
        event.get("params"),
        default_values(fields),
        *(t.get("params") for t in triggers),
    ):
        named = params.get(_TARGETS) if isinstance(params, Mapping) else None
        if isinstance(named, str) and named:
            yield [named]
        elif isinstance(named, list) and named:
            yield [target for target in named if isinstance(target, str)] or [""]


def _objects(value: Any) -> list[Json]:
    return [x for x in value if isinstance(x, dict)] if isinstance(value, list) else []
