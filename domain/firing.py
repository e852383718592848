"""A launch that nobody asked for: what it is, what forbids it, and the fact of it.

Pure rules of scheduling.md 3.6 and 4 and execution.md 3.2 for fires of scheduled triggers, for
startup triggers and for what a scheduler plugin lets pass; the `day` limit is that of magic links
and actions as well. Must not know when anything is due,
nor what was launched before: both are passed in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from domain import facts as f
from domain.assembly import Made
from domain.errors import event_rule
from domain.facts import Json
from domain.ids import derived_job_id
from domain.limits import first_enabled
from domain.triggers import Fire


class Launch(Struct, frozen=True, gc=False):
    """One launch that is due. Its job's id follows from `event` and `key`.

    now: the job's nominal time, Unix seconds
    counters: the event's counters once this launch is on the ledger; carried by a minute's last
    splugin: the scheduler plugin that decides, or has decided
    """

    event: str
    key: f.FireKey
    made_of: f.MadeOf
    username: str
    source: str
    now: float
    params: Json = {}
    tags: tuple[str, ...] = ()
    data: Json | list[Any] | None = None
    until: float | None = None
    stype: str | None = None
    splugin: str | None = None
    invisible: bool = False
    ephemeral: bool = False
    input_files: tuple[Json, ...] = ()
    counters: f.Counters | None = None

    @property
    def job(self) -> str:
        """The id of the job, the same whoever launches it and however often."""
        key = self.key
        due = int(key.due)
        return derived_job_id(due, "fire", self.event, key.anchor, key.trigger, due)


def launch_of_fire(
    event: str,
    definition: Json,
    anchor: int,
    made_of: f.MadeOf,
    fire: Fire,
    counters: f.Counters | None,
) -> Launch:
    """The launch of a scheduled trigger's fire; `source` becomes `plugin` where one decides."""
    plugin = fire.plugin
    return Launch(
        event=event,
        key=f.FireKey(anchor=anchor, trigger=fire.trigger, due=float(fire.due)),
        made_of=made_of,
        username=str(definition.get("username") or ""),
        source="scheduler" if plugin is None else "plugin",
        now=fire.due,
        params=fire.params,
        tags=fire.tags,
        data=fire.data,
        until=fire.until,
        stype=None if fire.type == "schedule" else fire.type,
        splugin=None if plugin is None else str(plugin.get("plugin_id")),
        invisible=fire.invisible,
        ephemeral=fire.ephemeral,
        counters=counters,
    )


def launch_of_startup(
    event: str, definition: Json, key: f.FireKey, made_of: f.MadeOf, trigger: Json, now: float
) -> Launch:
    """The launch of a startup trigger: no modifier applies to it (scheduling.md 1 and 4.1)."""
    params, tags, data = trigger.get("params"), trigger.get("tags"), trigger.get("data")
    return Launch(
        event=event,
        key=key,
        made_of=made_of,
        username=str(definition.get("username") or ""),
        source="startup",
        now=now,
        params=params if isinstance(params, dict) else {},
        tags=tuple(t for t in tags if isinstance(t, str)) if isinstance(tags, list) else (),
        data=data if isinstance(data, dict | list) else None,
    )


def requested(launch: Launch, *, actor: f.Actor, at: float, not_before: float) -> f.JobRequested:
    """The job is wanted, to start no earlier than `not_before` (Unix seconds, 0: at once)."""
    until = float(max(launch.until or 0.0, not_before)) or None
    return f.JobRequested(
        at=at,
        actor=actor,
        cause=launch.key.anchor,
        event=launch.event,
        job=launch.job,
        made_of=launch.made_of,
        source=launch.source,
        stype=launch.stype,
        splugin=launch.splugin,
        username=launch.username,
        now=float(launch.now),
        overrides={"params": launch.params} if launch.params else {},
        add_tags=list(launch.tags),
        input=_input(launch),
        until=until,
        wait=None if until is None else "start_delay",
        invisible=launch.invisible,
        ephemeral=launch.ephemeral,
        fire=launch.key,
        counters=launch.counters,
    )


def rejected(launch: Launch, reason: str, *, actor: f.Actor, at: float) -> f.LaunchRejected:
    """The launch became no job; `reason` is one sentence (scheduling.md 3.6)."""
    return f.LaunchRejected(
        at=at,
        actor=actor,
        cause=launch.key.anchor,
        event=launch.event,
        job=launch.job,
        reason=reason,
        now=float(launch.now),
        source=launch.source,
        fire=launch.key,
        counters=launch.counters,
    )


def _input(launch: Launch) -> Json | None:
    """Trigger data goes to `input.data`, an array under `items` (scheduling.md 2)."""
    if not launch.data and not launch.input_files:
        return None
    data = {"items": launch.data} if isinstance(launch.data, list) else launch.data or {}
    return {"data": data, "files": list(launch.input_files)}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the definitions say of launching an event without being asked.

    refusal: why none can be launched, or None
    days: (condition, amount) of each daily limit that applies
    """

    refusal: str | None
    days: tuple[tuple[str, float], ...] = ()


def rules_of(event: str, definition: Json, made_of: f.MadeOf, made: Made | None) -> Rules:
    """The launch checks that follow from the definitions alone (execution.md 3.2)."""
    if made is None or not made_of.event:
        return Rules(f"Event not found: {event}")
    if not made_of.category:
        return Rules(f"Category not found: {definition.get('category')}")
    if not made_of.plugin:
        return Rules(f"Plugin not found: {definition.get('plugin')}")
    limits = _limits(definition, made)
    queue = first_enabled(limits, "queue")
    if queue and queue.get("amount") and first_enabled(limits, "job") is None:
        return Rules("An enabled queue limit needs an enabled job limit.")
    return Rules(None, _days(limits))


def check_day(event: str, made: Made, count: Callable[[str], int]) -> None:
    """The `day` limit of a magic link's or an action's launch (execution.md 3.1 step 7).

    Raises RuleBroken("event") with the text that a fire's rejection has (3.2).
    """
    rules = Rules(None, _days(_limits(made.event, made)))
    if refusal := day_refusal(rules, event, count):
        raise event_rule(refusal)


def day_refusal(rules: Rules, event: str, count: Callable[[str], int]) -> str | None:
    """Why today's count forbids another launch, or None; `count` is by condition (7.4)."""
    for condition, amount in rules.days:
        if count(condition) >= amount:
            return (
                f"Maximum daily '{condition}' count of {amount:g} has been reached "
                f"for event: {event}"
            )
    return None


def _limits(definition: Json, made: Made) -> list[Json]:
    return [*_enabled(definition), *_enabled(made.category), *_enabled(made.config)]


def _days(limits: list[Json]) -> tuple[tuple[str, float], ...]:
    days = ((str(x.get("condition")), x.get("amount")) for x in limits if x.get("type") == "day")
    return tuple((name, n) for name, n in days if isinstance(n, int | float) and n > 0)


def _enabled(record: Mapping[str, Any]) -> list[Json]:
    limits = record.get("limits")
    entries = limits if isinstance(limits, list) else []
    return [limit for limit in entries if isinstance(limit, dict) and limit.get("enabled")]
