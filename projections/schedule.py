"""What was fired and what is still to be evaluated, per event (design.md 5).

The leader reads from here where its evaluation of each event must begin and which fires stand on
the ledger already, so that after any failover every due time has exactly one job. Folded from
facts alone; evaluates only what an old definition still owes when a new one takes its place.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from domain import facts as f
from domain.facts import Json, MadeOf, Recorded
from domain.triggers import Fire, Plan, catch_up, minutes_between, plan_of
from projections.definitions import Definitions

FireId = tuple[int, float]  # trigger index, due second

# What an old definition owed may be launched late by as much as any fire (scheduling.md 3.1).
OWED_GRACE = 60.0


@dataclass(slots=True)
class EventSchedule:
    """Where the evaluation of one event stands.

    anchor: sequence of the fact from which fires get their identity
    version: sequence of the definition in force; `definition` is its record
    settled: Unix seconds up to which all is on the ledger and `nth` is the counter
    fired: fires on the ledger that are due after `settled`
    """

    anchor: int
    version: int
    definition: Json
    plan: Plan
    settled: float
    nth: int | None
    fired: set[FireId] = field(default_factory=set)

    @property
    def enabled(self) -> bool:
        """Whether the event itself is switched on."""
        return bool(self.definition.get("enabled"))

    @property
    def catches_up(self) -> bool:
        """Whether missed minutes are replayed."""
        return self.plan.catchup is not None

    @property
    def counts(self) -> bool:
        """Whether an nth modifier counts this event's minutes."""
        return self.plan.every is not None


@dataclass(frozen=True, slots=True)
class OwedFire:
    """A fire that an earlier definition left behind."""

    event: str
    made_of: MadeOf
    anchor: int
    fire: Fire


class Schedule:
    """Fold of all facts about due times. `definitions` must have seen each fact first."""

    def __init__(self, definitions: Definitions, *, zone: str, dst_policy: str) -> None:
        self.definitions = definitions
        self.zone = zone
        self.dst_policy = dst_policy
        self.position = 0
        self.evaluated = 0.0
        self.resumed = 0.0
        self.events: dict[str, EventSchedule] = {}
        self.owed: dict[tuple[str, int, int, float], OwedFire] = {}
        self.running = True

    def apply(self, recorded: Recorded) -> None:
        """Fold one fact."""
        if recorded.sequence <= self.position:
            return
        self.position = recorded.sequence
        fact = recorded.fact
        match fact:
            case f.EventCreated():
                self.events[fact.event] = self._anchored(fact, recorded.sequence, None)
            case f.EventUpdated():
                self._updated(fact, recorded.sequence)
            case f.EventDeleted():
                self.events.pop(fact.event, None)
                self.owed = {k: v for k, v in self.owed.items() if v.event != fact.event}
            case f.JobRequested() | f.LaunchRejected():
                self._fired(fact)
            case f.FiresMissed():
                self._settle(fact.event, fact.upto, fact.counters)
            case f.TickFired():
                self._ticked(fact.evaluated)
            case f.MasterSwitched():
                if fact.enabled and not self.running:
                    self.resumed = fact.at
                self.running = fact.enabled
            case f.CatalogUpdated(type="category" | "plugin"):
                self._reopened(fact)
            case _:
                pass

    def gate_open(self, event: str) -> bool:
        """Whether the event's own, its category's and its plugin's switches are on (3.2)."""
        version = self.definitions.events.get(event)
        if version is None or not self.running or not version.record.get("enabled"):
            return False
        catalog = self.definitions.catalog
        category = catalog["category"].get(str(version.record.get("category")))
        plugin = catalog["plugin"].get(str(version.record.get("plugin")))
        return (
            category is not None
            and bool(category.record.get("enabled", True))
            and (plugin is None or bool(plugin.record.get("enabled", True)))
        )

    def start(self, event: str) -> tuple[float, int | None]:
        """From which second on a new leader evaluates this event, and the counter there."""
        entry = self.events[event]
        if entry.catches_up:
            return entry.settled, entry.nth
        after = max(entry.settled, self.evaluated, self.resumed)
        nth = entry.nth
        if entry.counts and after > entry.settled:
            for minute in minutes_between(entry.plan, entry.settled, after, nth=nth):
                nth = nth if minute.nth is None else minute.nth
        return after, nth

    def made_of(self, entry: EventSchedule) -> MadeOf:
        """The sequences of the definitions that a fire of this event is made of."""
        catalog = self.definitions.catalog

        def sequence_of(type: str, id: str) -> int:
            version = catalog[type].get(id)
            return version.sequence if version else 0

        return MadeOf(
            event=entry.version,
            category=sequence_of("category", str(entry.definition.get("category"))),
            plugin=sequence_of("plugin", str(entry.definition.get("plugin"))),
            config=sequence_of("config", "config"),
        )

    def _updated(self, fact: f.EventUpdated, sequence: int) -> None:
        old = self.events.get(fact.event)
        reanchors = old is None or fact.counters or {"triggers", "enabled"} & set(fact.changed)
        if reanchors:
            if old is not None:
                self._keep_owed(fact, old)
            self.events[fact.event] = self._anchored(fact, sequence, old)
        elif old is not None:
            old.version, old.definition = sequence, fact.definition

    def _anchored(
        self, fact: f.EventCreated | f.EventUpdated, sequence: int, old: EventSchedule | None
    ) -> EventSchedule:
        triggers: list[Json] = fact.definition.get("triggers") or []
        plan = plan_of(triggers, default_zone=self.zone, dst_policy=self.dst_policy)
        counters = fact.counters or f.Counters()
        nth = counters.nth if counters.nth is not None else (old.nth if old else None)
        settled = fact.at
        if plan.catchup is not None and counters.cursor is not None:
            settled = counters.cursor + 59.0
        elif old is not None and old.catches_up and plan.catchup is not None and not old.enabled:
            settled = old.settled  # while it was off, the cursor stood still (scheduling.md 3.2)
        return EventSchedule(sequence, sequence, fact.definition, plan, settled, nth)

    def _keep_owed(self, fact: f.EventUpdated, old: EventSchedule) -> None:
        """Fires of the old definition, due before its end, that are not on the ledger yet."""
        if not old.enabled or not self.running:
            return
        after, nth = self.start(fact.event)
        found = catch_up(old.plan, after, fact.at, nth=nth, grace=OWED_GRACE)
        made_of = self.made_of(old)
        for fire in (fire for minute in found.minutes for fire in minute.fires):
            if (fire.trigger, fire.due) not in old.fired:
                key = (fact.event, old.anchor, fire.trigger, float(fire.due))
                self.owed[key] = OwedFire(fact.event, made_of, old.anchor, fire)

    def _fired(self, fact: f.JobRequested | f.LaunchRejected) -> None:
        key = fact.fire
        if key is None:
            return
        self.owed.pop((fact.event, key.anchor, key.trigger, key.due), None)
        entry = self.events.get(fact.event)
        if entry is None or entry.anchor != key.anchor:
            return
        if key.due > entry.settled:
            entry.fired.add((key.trigger, key.due))
        if fact.counters is not None and fact.counters.cursor is not None:
            self._settle(fact.event, fact.counters.cursor, fact.counters)

    def _settle(self, event: str, upto: float, counters: f.Counters | None) -> None:
        entry = self.events.get(event)
        if entry is None or upto < entry.settled:
            return
        entry.settled = upto
        if counters is not None and counters.nth is not None:
            entry.nth = counters.nth
        entry.fired = {key for key in entry.fired if key[1] > upto}

    def _ticked(self, evaluated: float) -> None:
        self.evaluated = max(self.evaluated, evaluated)
        for event, entry in self.events.items():
            if entry.counts or evaluated <= entry.settled:
                continue  # a counter moves only with a fact that says so
            if not entry.catches_up or self.gate_open(event):
                self._settle(event, evaluated, None)

    def _reopened(self, fact: f.CatalogUpdated) -> None:
        """A category or plugin was switched on: without catch-up nothing before it is due."""
        if "enabled" not in fact.changed or not fact.record.get("enabled"):
            return
        for event in self._events_of(fact.type, fact.id):
            entry = self.events.get(event)
            if entry is not None and not entry.catches_up:
                self._settle(event, fact.at, None)

    def _events_of(self, key: str, id: str) -> Iterable[str]:
        events = self.definitions.events.items()
        return [event for event, version in events if version.record.get(key) == id]
