"""The definitions in force: events, supporting records, the master switch.

Also remembers old versions as long as a live job is made of them, and a while longer, so that a
job never changes under a later edit (design.md 3.2). Every step costs the same whatever is
defined. Must not know how jobs run: of a job it keeps what it is made of, until it is final.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from domain import facts as f
from domain.assembly import Made
from domain.catalog import CONFIG_ID
from domain.facts import CatalogType, Json, MadeOf, Recorded

KEPT_AFTER = 50_000
"""For how many sequences a superseded version is kept although no job needs it."""


@dataclass(frozen=True, slots=True)
class Version:
    """A definition as one fact made it: that fact's sequence and time (Unix seconds)."""

    sequence: int
    at: float
    record: Json


@dataclass(frozen=True, slots=True)
class StoredDefinitions:
    """What a snapshot keeps of Definitions; `old` are records no longer in force, by sequence."""

    position: int
    events: dict[str, Version]
    catalog: dict[str, dict[str, Version]]
    scheduling: bool
    ledger: str
    fingerprint: str
    old: dict[int, Json]
    superseded: list[tuple[int, int]]
    expired: set[int]
    live: dict[str, MadeOf]


class Definitions:
    """Fold of all definitions; answers what deciders ask (`domain.known.Known`).

    `events` are in creation order; `ledger` and `fingerprint` come from fact 1.
    """

    def __init__(self) -> None:
        self.position = 0
        self.events: dict[str, Version] = {}
        self.catalog: dict[str, dict[str, Version]] = {type: {} for type in get_args(CatalogType)}
        self.scheduling = True
        self.ledger = ""
        self.fingerprint = ""
        self._tag_names: dict[str, str] | None = None
        self._records: dict[int, Json] = {}
        self._superseded: deque[tuple[int, int]] = deque()
        self._expired: set[int] = set()
        self._pins: dict[int, int] = {}
        self._live: dict[str, MadeOf] = {}

    # --- folding -------------------------------------------------------------------------------

    def apply(self, recorded: Recorded) -> None:
        """Take in one fact; those already taken in are ignored. Never raises."""
        if recorded.sequence <= self.position:
            return
        self.position = recorded.sequence
        fold = _FOLDS.get(type(recorded.fact))
        if fold is not None:
            fold(self, recorded.fact)
        if self._superseded:
            self._expire()

    def _define(self, fact: f.EventCreated | f.EventUpdated) -> None:
        self._put(self.events, fact.event, fact.at, fact.definition)

    def _undefine(self, fact: f.EventDeleted) -> None:
        self._drop(self.events, fact.event)

    def _enter(self, fact: f.CatalogCreated | f.CatalogUpdated) -> None:
        self._put(self.catalog[fact.type], fact.id, fact.at, fact.record)
        self._forget_tag_names(fact.type)

    def _remove(self, fact: f.CatalogDeleted) -> None:
        self._drop(self.catalog[fact.type], fact.id)
        self._forget_tag_names(fact.type)

    def _switch(self, fact: f.MasterSwitched) -> None:
        self.scheduling = fact.enabled

    def _found(self, fact: f.LedgerFounded) -> None:
        self.ledger, self.fingerprint = fact.ledger, fact.fingerprint

    def _launch(self, fact: f.JobRequested) -> None:
        self._pin(fact.job, fact.made_of)

    def _end(self, fact: f.JobCompleted | f.JobDeleted | f.LaunchRejected) -> None:
        self._unpin(fact.job)

    def _flush(self, fact: f.QueueFlushed) -> None:
        for job in fact.jobs:
            self._unpin(job)

    def _put(self, place: dict[str, Version], id: str, at: float, record: Json) -> None:
        self._retire(place.get(id))
        place[id] = Version(self.position, at, record)
        self._records[self.position] = record

    def _drop(self, place: dict[str, Version], id: str) -> None:
        self._retire(place.pop(id, None))

    def _retire(self, version: Version | None) -> None:
        if version is not None:
            self._superseded.append((self.position, version.sequence))

    def _expire(self) -> None:
        while self._superseded and self._superseded[0][0] + KEPT_AFTER < self.position:
            _, sequence = self._superseded.popleft()
            if self._pins.get(sequence):
                self._expired.add(sequence)
            else:
                self._records.pop(sequence, None)

    def _pin(self, job: str, made_of: MadeOf) -> None:
        if job in self._live:
            return
        self._live[job] = made_of
        for sequence in _sequences(made_of):
            self._pins[sequence] = self._pins.get(sequence, 0) + 1

    def _unpin(self, job: str) -> None:
        made_of = self._live.pop(job, None)
        if made_of is None:
            return
        for sequence in _sequences(made_of):
            left = self._pins.pop(sequence, 1) - 1
            if left > 0:
                self._pins[sequence] = left
            elif sequence in self._expired:
                self._expired.discard(sequence)
                self._records.pop(sequence, None)

    def _forget_tag_names(self, type: str) -> None:
        if type == "tag":
            self._tag_names = None

    # --- snapshots -----------------------------------------------------------------------------

    def state(self) -> StoredDefinitions:
        """All that `restore` needs; not changed by what is folded later."""
        in_force = {version.sequence for version in self._in_force()}
        return StoredDefinitions(
            position=self.position,
            events=dict(self.events),
            catalog={type: dict(records) for type, records in self.catalog.items()},
            scheduling=self.scheduling,
            ledger=self.ledger,
            fingerprint=self.fingerprint,
            old={s: record for s, record in self._records.items() if s not in in_force},
            superseded=list(self._superseded),
            expired=set(self._expired),
            live=dict(self._live),
        )

    def restore(self, state: StoredDefinitions) -> None:
        """Go on from a snapshot; only for a fold that has seen nothing yet."""
        self.position = state.position
        self.events, self.catalog = state.events, state.catalog
        self.scheduling = state.scheduling
        self.ledger, self.fingerprint = state.ledger, state.fingerprint
        self._records = state.old | {v.sequence: v.record for v in self._in_force()}
        self._superseded, self._expired = deque(state.superseded), state.expired
        for job, made_of in state.live.items():
            self._pin(job, made_of)

    def _in_force(self) -> Iterator[Version]:
        for place in (self.events, *self.catalog.values()):
            yield from place.values()

    # --- what deciders ask ---------------------------------------------------------------------

    def event(self, id: str) -> Json | None:
        """The event with this id."""
        version = self.events.get(id)
        return version.record if version else None

    def record(self, type: CatalogType, id: str) -> Json | None:
        """The supporting record with this id."""
        version = self.catalog[type].get(id)
        return version.record if version else None

    def records(self, type: CatalogType) -> Iterable[Json]:
        """All supporting records of one type, in creation order."""
        return [version.record for version in self.catalog[type].values()]

    def category_in_use(self, id: str) -> bool:
        """Whether any event is in this category."""
        return any(version.record.get("category") == id for version in self.events.values())

    @property
    def config(self) -> Json:
        """The configuration in force; empty when nothing was configured."""
        return self.record("config", CONFIG_ID) or {}

    @property
    def tag_names(self) -> dict[str, str]:
        """Tag ids and titles to ids; an id wins over another tag's title."""
        if self._tag_names is None:
            tags = self.catalog["tag"]
            titles = {str(v.record.get("title")): id for id, v in reversed(tags.items())}
            self._tag_names = titles | {id: id for id in tags}
        return self._tag_names

    # --- what jobs are made of -----------------------------------------------------------------

    def made_of(self, event_id: str, *, overrides: Json) -> MadeOf:
        """The sequences in force now for a launch; 0 for what does not exist.

        `overrides` may name another plugin; the category is always the event's own.
        """
        version = self.events.get(event_id)
        if version is None:
            return MadeOf(event=0)
        plugin = overrides.get("plugin") or version.record.get("plugin")
        return MadeOf(
            event=version.sequence,
            category=self._sequence("category", version.record.get("category")),
            plugin=self._sequence("plugin", plugin),
            config=self._sequence("config", CONFIG_ID),
        )

    def retry_made_of(self, made_of: MadeOf, document: Json) -> MadeOf:
        """For a retry: event and plugin as before, category and configuration as now (D22)."""
        return MadeOf(
            event=made_of.event,
            plugin=made_of.plugin,
            category=self._sequence("category", document.get("category")),
            config=self._sequence("config", CONFIG_ID),
        )

    def made(self, made_of: MadeOf) -> Made | None:
        """The records at these sequences; None if one of them is not kept (any more)."""
        records = []
        for sequence in (made_of.event, made_of.category, made_of.plugin, made_of.config):
            record = self._records.get(sequence) if sequence else {}
            if record is None:
                return None
            records.append(record)
        event, category, plugin, config = records
        return Made(event=event, category=category, plugin=plugin, config=config)

    def _sequence(self, type: str, id: object) -> int:
        version = self.catalog[type].get(id) if isinstance(id, str) else None
        return version.sequence if version else 0


# What does not stand here does not concern a Definitions.
_FOLDS: Mapping[type[f.FactBase], Callable[[Definitions, Any], None]] = {
    f.EventCreated: Definitions._define,
    f.EventUpdated: Definitions._define,
    f.EventDeleted: Definitions._undefine,
    f.CatalogCreated: Definitions._enter,
    f.CatalogUpdated: Definitions._enter,
    f.CatalogDeleted: Definitions._remove,
    f.MasterSwitched: Definitions._switch,
    f.LedgerFounded: Definitions._found,
    f.JobRequested: Definitions._launch,
    f.JobCompleted: Definitions._end,
    f.JobDeleted: Definitions._end,
    f.LaunchRejected: Definitions._end,
    f.QueueFlushed: Definitions._flush,
}


def _sequences(made_of: MadeOf) -> Iterator[int]:
    named = (made_of.event, made_of.category, made_of.plugin, made_of.config)
    return filter(None, named)
