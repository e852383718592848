"""What must change on a server so that it holds certain definitions.

The rules that the server itself applies decide what a file means there (cron text becomes lists,
a magic link's key becomes a token, defaults are filled in), so what was applied once is found
unchanged the next time, and what the server would refuse is refused before anything is sent.
Knows nothing of files or of calls.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from domain import catalog
from domain.access import SYSTEM
from domain.commands import CreateEvent, CreateRecord
from domain.errors import DomainError
from domain.event import decide_create
from domain.facts import Actor, CatalogType, Json
from domain.stock_plugins import STOCK_PLUGINS
from services.cli.definitions import KINDS, Kind, portable

STOCK = frozenset(str(plugin["id"]) for plugin in STOCK_PLUGINS)

_ACTOR = Actor(type="system", id="apply")
_EMPTY: dict[type, list[object] | Json] = {list: [], dict: {}}

Definitions = dict[Kind, dict[str, Json]]


@dataclass(frozen=True, slots=True)
class Change:
    """One definition that differs: `before` and `after` are portable records, None: not there.

    `sent` are the parameters of the call that makes it so.
    """

    kind: Kind
    id: str
    before: Json | None
    after: Json | None
    sent: Json

    @property
    def verb(self) -> str:
        """The call's verb: create, update or delete."""
        if self.before is None:
            return "create"
        return "delete" if self.after is None else "update"


@dataclass(frozen=True, slots=True)
class Problem:
    """A definition that the server would refuse, and its reason."""

    kind: Kind
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in the order in which they can be made, and how many definitions fit already."""

    changes: list[Change]
    problems: list[Problem]
    unchanged: int


class World:
    """All definitions as they will be, without the one that is being decided (domain Known)."""

    def __init__(self, present: Definitions, wanted: Definitions) -> None:
        self._records: dict[str, dict[str, Json]] = {
            kind.type: {
                id: record | {"id": id}
                for id, record in (present.get(kind, {}) | wanted.get(kind, {})).items()
            }
            for kind in KINDS
        }
        self._hidden: tuple[str, str] = ("", "")

    def hide(self, type: str, id: str) -> None:
        """Decide this one: it is not there yet."""
        self._hidden = (type, id)

    def settle(self, type: str, id: str, record: Json) -> None:
        """It was decided; others see it as it will be stored."""
        self._records[type][id] = record

    def event(self, id: str) -> Json | None:
        """See Known."""
        return None if self._hidden == ("event", id) else self._records["event"].get(id)

    def record(self, type: CatalogType, id: str) -> Json | None:
        """See Known; what is no definition here is for the server to see."""
        if type not in self._records:
            return {"id": id}
        return None if self._hidden == (type, id) else self._records[type].get(id)

    def records(self, type: CatalogType) -> Iterable[Json]:
        """See Known."""
        return self._records.get(type, {}).values()

    def category_in_use(self, id: str) -> bool:
        """See Known; never asked for what is created."""
        return True


def plan(present: Definitions, wanted: Definitions, *, prune: bool, now: float) -> Plan:
    """The way from what is on a server to what is wanted.

    With `prune`, definitions of the wanted kinds that are not wanted are deleted, but no plugin
    that came with the product.
    """
    world = World(present, wanted)
    changes: list[Change] = []
    problems: list[Problem] = []
    unchanged = 0
    for kind in KINDS:
        for id, record in wanted.get(kind, {}).items():
            world.hide(kind.type, id)
            try:
                stored = _as_stored(world, kind, id, record, now)
            except DomainError as refusal:
                problems.append(Problem(kind, id, refusal.description))
                continue
            world.settle(kind.type, id, stored)
            change = _change(kind, id, present.get(kind, {}).get(id), stored, record)
            if change is None:
                unchanged += 1
            else:
                changes.append(change)
    ordered = list(_in_order(changes, set(present.get(KINDS[-1], {}))))
    if prune:
        ordered += _pruned(present, wanted)
    return Plan(ordered, problems, unchanged)


def _as_stored(world: World, kind: Kind, id: str, record: Json, now: float) -> Json:
    """The record as the server would store it if it made it anew. Raises DomainError."""
    fields = record | {"id": id}
    if kind.type == "event":
        return decide_create(CreateEvent(SYSTEM, _ACTOR, id, fields), world, now).definition
    command = CreateRecord(SYSTEM, _ACTOR, kind.type, id, fields)
    return catalog.decide_create(command, world, now).record


def _change(kind: Kind, id: str, present: Json | None, stored: Json, given: Json) -> Change | None:
    after = portable(stored)
    if present is None:
        return Change(kind, id, None, after, given | {"id": id})
    before = portable(present)
    if before == after:
        return None
    sent = {
        key: after[key] if key in after else _EMPTY.get(type(before[key]))
        for key in [*after, *before]
        if before.get(key) != after.get(key)
    }
    return Change(kind, id, before, after, sent | {"id": id})


def _in_order(changes: list[Change], known: set[str]) -> Iterator[Change]:
    """Events whose actions run events that are not there yet get their actions afterwards."""
    later = []
    for change in changes:
        if change.kind.type == "event" and not _runs(change) <= known:
            actions = change.sent["actions"]
            later.append(
                replace(change, before=change.after, sent={"id": change.id, "actions": actions})
            )
            change = replace(change, sent={k: v for k, v in change.sent.items() if k != "actions"})
        known.add(change.id)
        yield change
    yield from later


def _runs(change: Change) -> set[str]:
    actions = change.sent.get("actions") or []
    return {str(one.get("event_id")) for one in actions if one.get("type") == "run_event"}


def _pruned(present: Definitions, wanted: Definitions) -> Iterator[Change]:
    for kind in reversed(KINDS):
        for id, record in present.get(kind, {}).items() if kind in wanted else ():
            if id not in wanted[kind] and not (kind.type == "plugin" and id in STOCK):
                yield Change(kind, id, portable(record), None, {"id": id})
