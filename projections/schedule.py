"""What was fired and what is still to be evaluated, per event (design.md 5).

The leader reads from here where its evaluation of each event must begin and which fires stand on
the ledger already, so that after any failover every due time has exactly one job. Folded from
facts alone; it must not know the clock, nor what becomes of a fire.

An event's past and present are *stretches* of time: one definition in force and switched on, from
one second to another. Whatever changes what is due (the event's triggers or counters, its own
switch, its category's, its plugin's, the master switch, the default zone) ends a stretch, and may
begin the next. The leader records the fires of one event in order of time, so a fact of a later
stretch says that the earlier ones are settled; until then they are owed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from msgspec import Struct

from domain import facts as f
from domain.catalog import CONFIG_ID
from domain.facts import Json, MadeOf, Recorded
from domain.triggers import Plan, floor60, minutes_between, plan_of
from projections.definitions import Definitions

FireId = tuple[int, float]  # trigger index, due second

# Clocks of two services may differ by this many seconds; beyond, one of them was wrong.
SKEW = 60.0
# A service start whose startup triggers nobody fired for this long is over (scheduling.md 4.1).
STARTUP_WITHIN = 300.0


@dataclass(slots=True, eq=False)
class Stretch:
    """A time in which an event's fires are due: those in (`after`, `upto`], Unix seconds.

    anchor: sequence of the fact from which the fires get their identity
    version: sequence of the definition that the fires are made of; `definition` is its record
    upto: None while the stretch lasts
    reading: default zone and daylight saving policy with which `plan` reads the triggers
    nth: the counter that a client set for its beginning; None: it goes on from before
    """

    anchor: int
    version: int
    definition: Json
    plan: Plan
    reading: tuple[str, str]
    after: float
    upto: float | None = None
    nth: int | None = None


@dataclass(slots=True)
class EventSchedule:
    """Where the evaluation of one event stands.

    stretches: oldest first, at least one; all but the first are unsettled. The last is in force,
        or, while the event is switched off, holds the cursor in its `upto`
    settled: second up to which the first stretch is on the ledger; `nth` is the counter there
    fired: fires on the ledger that are due after `settled`
    changed: sequence of the last fact that changed the stretches
    started: due minute of the last startup fire
    jumped: sequence at which the event was made, or a client last set its cursor: older fires
        say nothing any more
    """

    stretches: list[Stretch]
    settled: float
    nth: int | None
    changed: int
    fired: set[FireId] = field(default_factory=set)
    started: float = 0.0
    jumped: int = 0

    @property
    def current(self) -> Stretch:
        """The newest stretch."""
        return self.stretches[-1]

    @property
    def open(self) -> bool:
        """Whether fires become due now."""
        return self.current.upto is None


@dataclass(frozen=True, slots=True)
class Startup:
    """A launch that a start of the service owes: the trigger, its index, and the due minute."""

    anchor: int
    index: int
    trigger: Json
    due: int


class StoredStretch(Struct, gc=False):
    """A stretch in a snapshot; `definition` None: the event's record in force."""

    anchor: int
    version: int
    definition: Json | None
    reading: tuple[str, str]
    after: float
    upto: float | None
    nth: int | None


class StoredEvent(Struct, gc=False):
    """An EventSchedule in a snapshot."""

    stretches: list[StoredStretch]
    settled: float
    nth: int | None
    changed: int
    fired: set[FireId]
    started: float
    jumped: int


@dataclass(frozen=True, slots=True)
class StoredSchedule:
    """What a snapshot keeps of Schedule."""

    position: int
    events: dict[str, StoredEvent]
    startups: dict[str, Startup]
    running: bool
    reading: tuple[str, str]
    evaluated: float
    evaluated_on: int
    launched: dict[int, int]


class Schedule:
    """Fold of all facts about due times. `definitions` must have seen each fact first.

    `zone` (IANA name) and `dst_policy` serve where the configuration record names none.
    """

    def __init__(self, definitions: Definitions, *, zone: str, dst_policy: str) -> None:
        self.definitions = definitions
        self.position = 0
        self.events: dict[str, EventSchedule] = {}
        self.startups: dict[str, Startup] = {}
        self.running = True
        self._fallback = (zone, dst_policy)
        self._reading = self._fallback
        self._evaluated = 0.0
        self._evaluated_on = 0
        self._launched: dict[int, int] = {}

    # --- folding -------------------------------------------------------------------------------

    def apply(self, recorded: Recorded) -> None:
        """Fold one fact; those already folded are ignored. Never raises."""
        if recorded.sequence <= self.position:
            return
        self.position = recorded.sequence
        fold = _FOLDS.get(type(recorded.fact))
        if fold is not None:
            fold(self, recorded.fact)

    def concerns(self, kind: type[f.FactBase]) -> bool:
        """Whether facts of this kind change anything here; no other needs to be applied."""
        return kind in _FOLDS

    def _created(self, fact: f.EventCreated | f.EventUpdated) -> None:
        counters = fact.counters or f.Counters()
        stretch = self._stretch(fact)
        if stretch.plan.catchup is not None and counters.cursor is not None:
            stretch.after = counters.cursor + 59.0
        if not self.gate_open(fact.event):
            stretch.upto = stretch.after
        self.events[fact.event] = EventSchedule(
            [stretch], stretch.after, counters.nth, self.position, jumped=self.position
        )

    def _updated(self, fact: f.EventUpdated) -> None:
        entry = self.events.get(fact.event)
        if entry is None:
            self._created(fact)
        elif fact.counters or {"triggers", "enabled"} & set(fact.changed):
            self._anchor(entry, fact)
        else:
            entry.current.version, entry.current.definition = self.position, fact.definition
            self._switch(fact.event, entry, fact.at)

    def _gone(self, fact: f.EventDeleted) -> None:
        self.events.pop(fact.event, None)
        self.startups.pop(fact.event, None)

    def _anchor(self, entry: EventSchedule, fact: f.EventUpdated) -> None:
        """A new definition takes the old one's place; what the old one owes stays owed."""
        self._look(entry)
        counters = fact.counters or f.Counters()
        old, was_open = entry.current, entry.open
        new = self._stretch(fact)
        new.nth = counters.nth
        at = _boundary(entry, fact.at)
        if was_open:
            old.upto = max(at, old.after)
        new.after = at
        if new.plan.catchup is not None and old.plan.catchup is not None:
            # The cursor stands still while the event is off, and may stand in the future (3.5).
            new.after = old.upto if old.upto is not None else at
        entry.stretches.append(new)
        # Catch-up that is turned on begins here and now: nothing that is due gets lost by it.
        begins = old.plan.catchup is None and counters.cursor == floor60(fact.at)
        if new.plan.catchup is not None and counters.cursor is not None and not begins:
            new.after = counters.cursor + 59.0
            _jump(entry)
            entry.jumped = self.position
        if not self.gate_open(fact.event):
            new.upto = new.after
        entry.changed = self.position
        _drop_settled(entry)

    def _stretch(self, fact: f.EventCreated | f.EventUpdated) -> Stretch:
        plan, here = self._plan(fact.definition, self._reading), self.position
        return Stretch(here, here, fact.definition, plan, self._reading, fact.at)

    def _plan(self, definition: Json, reading: tuple[str, str]) -> Plan:
        zone, dst_policy = reading
        triggers = definition.get("triggers")
        return plan_of(
            triggers if isinstance(triggers, list) else [], default_zone=zone, dst_policy=dst_policy
        )

    # --- switches ------------------------------------------------------------------------------

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

    def _catalog(self, fact: f.CatalogCreated | f.CatalogUpdated | f.CatalogDeleted) -> None:
        if fact.type == "config" and fact.id == CONFIG_ID:
            self._read_again(fact.at)
        elif fact.type in ("category", "plugin"):
            if isinstance(fact, f.CatalogUpdated) and "enabled" not in fact.changed:
                return
            for event, entry in self.events.items():
                if entry.current.definition.get(fact.type) == fact.id:
                    self._switch(event, entry, fact.at)

    def _read_again(self, at: float) -> None:
        """Another default zone or daylight saving policy: all triggers mean something else."""
        zone, dst_policy = self._fallback
        config = self.definitions.config
        reading = (str(config.get("timezone") or zone), str(config.get("dst_policy") or dst_policy))
        if reading == self._reading:
            return
        self._reading = reading
        for entry in self.events.values():
            plan = self._plan(entry.current.definition, reading)
            if plan == entry.current.plan:
                continue
            if not entry.open:
                entry.current.plan, entry.current.reading = plan, reading
                continue
            self._look(entry)
            self._close(entry, at)
            following = _after(entry.current, entry.current.upto or at)
            following.plan, following.reading = plan, reading
            entry.stretches.append(following)
            entry.changed = self.position
            _drop_settled(entry)

    def _master(self, fact: f.MasterSwitched) -> None:
        self.running = fact.enabled
        for event, entry in self.events.items():
            self._switch(event, entry, fact.at)

    def _switch(self, event: str, entry: EventSchedule, at: float) -> None:
        """Begin or end a stretch, if a switch that concerns the event was turned."""
        is_open = self.gate_open(event)
        if is_open == entry.open:
            return
        self._look(entry)
        if is_open:
            old = entry.current
            rest = old.upto if old.plan.catchup is not None else None
            after = _boundary(entry, at) if rest is None else rest
            entry.stretches.append(_after(old, after))
        else:
            self._close(entry, at)
        entry.changed = self.position
        _drop_settled(entry)

    def _close(self, entry: EventSchedule, at: float) -> None:
        entry.current.upto = max(_boundary(entry, at), entry.current.after)

    # --- what the leader records ---------------------------------------------------------------

    def _fired(self, fact: f.JobRequested | f.LaunchRejected | f.JobDeleted) -> None:
        key, entry = fact.fire, self.events.get(fact.event)
        if key is None or entry is None:
            return
        if fact.source == "startup":
            entry.started = max(entry.started, key.due)
            owed = self.startups.get(fact.event)
            if owed is not None and owed.due <= key.due:
                del self.startups[fact.event]
            return
        if isinstance(fact, f.JobDeleted) and key.anchor < entry.jumped:
            return  # what is due again since then is launched again
        self._look(entry)
        belongs = _reach(entry, key.anchor, key.due)
        if key.due > entry.settled:
            entry.fired.add((key.trigger, key.due))
        if belongs and fact.counters is not None and fact.counters.cursor is not None:
            _settle(entry, fact.counters.cursor, fact.counters.nth)

    def _missed(self, fact: f.FiresMissed) -> None:
        entry = self.events.get(fact.event)
        if entry is None or not isinstance(fact.cause, int):
            return
        self._look(entry)
        if _reach(entry, fact.cause, fact.upto):
            _settle(entry, fact.upto, fact.counters.nth if fact.counters else None)

    def _tick(self, fact: f.TickFired) -> None:
        self._evaluated = fact.evaluated
        self._evaluated_on = fact.cause if isinstance(fact.cause, int) else self.position

    def _term(self, fact: f.TermStarted) -> None:
        """A start of the service owes each startup trigger one launch (scheduling.md 4.1)."""
        self.startups = {
            event: owed
            for event, owed in self.startups.items()
            if fact.at - owed.due < STARTUP_WITHIN + 60
        }
        if not fact.startup or not self.running:
            return
        due = floor60(fact.at)
        for event, entry in self.events.items():
            found = _startup_of(entry.current.definition)
            if found is not None and entry.open and entry.started != due:
                self.startups[event] = Startup(entry.current.anchor, *found, due)

    def _requested(self, fact: f.JobRequested) -> None:
        minute = floor60(max(fact.at, fact.until or 0.0))
        self._launched[minute] = self._launched.get(minute, 0) + 1
        if len(self._launched) > 1:
            now = floor60(fact.at)
            self._launched = {m: n for m, n in self._launched.items() if m >= now}
        self._fired(fact)

    # --- snapshots -----------------------------------------------------------------------------

    def state(self) -> StoredSchedule:
        """All that `restore` needs; not changed by what is folded later."""
        return StoredSchedule(
            position=self.position,
            events={id: self._stored(id, entry) for id, entry in self.events.items()},
            startups=dict(self.startups),
            running=self.running,
            reading=self._reading,
            evaluated=self._evaluated,
            evaluated_on=self._evaluated_on,
            launched=dict(self._launched),
        )

    def _stored(self, event: str, entry: EventSchedule) -> StoredEvent:
        known = self.definitions.events.get(event)
        in_force = known.record if known is not None else None
        stretches = [
            StoredStretch(
                s.anchor,
                s.version,
                None if s.definition is in_force else s.definition,
                s.reading,
                s.after,
                s.upto,
                s.nth,
            )
            for s in entry.stretches
        ]
        return StoredEvent(
            stretches,
            entry.settled,
            entry.nth,
            entry.changed,
            set(entry.fired),
            entry.started,
            entry.jumped,
        )

    def restore(self, state: StoredSchedule) -> None:
        """Go on from a snapshot; only for a fold that is new, after `definitions` were restored."""
        self.position = state.position
        self.events = {id: self._restored(id, stored) for id, stored in state.events.items()}
        self.startups, self.running, self._reading = state.startups, state.running, state.reading
        self._evaluated, self._evaluated_on = state.evaluated, state.evaluated_on
        self._launched = state.launched

    def _restored(self, event: str, stored: StoredEvent) -> EventSchedule:
        known = self.definitions.events.get(event)
        in_force = known.record if known is not None else {}
        stretches = []
        for s in stored.stretches:
            definition = in_force if s.definition is None else s.definition
            plan = self._plan(definition, s.reading)
            stretches.append(
                Stretch(s.anchor, s.version, definition, plan, s.reading, s.after, s.upto, s.nth)
            )
        return EventSchedule(
            stretches,
            stored.settled,
            stored.nth,
            stored.changed,
            stored.fired,
            stored.started,
            stored.jumped,
        )

    # --- what the leader asks ------------------------------------------------------------------

    def launched(self, minute: int) -> int:
        """How many jobs were requested in a minute (Unix seconds), or wait for it."""
        return self._launched.get(minute, 0)

    def begin(self, event: str) -> tuple[Stretch, float, int | None]:
        """Where evaluation goes on: the stretch, the second reached in it, the counter there."""
        entry = self.events[event]
        self._look(entry)
        return entry.stretches[0], entry.settled, entry.nth

    def made_of(self, stretch: Stretch) -> MadeOf:
        """The sequences of the definitions that a fire of this stretch is made of."""
        catalog = self.definitions.catalog

        def sequence_of(type: str, id: str) -> int:
            version = catalog[type].get(id)
            return version.sequence if version else 0

        return MadeOf(
            event=stretch.version,
            category=sequence_of("category", str(stretch.definition.get("category"))),
            plugin=sequence_of("plugin", str(stretch.definition.get("plugin"))),
            config=sequence_of("config", CONFIG_ID),
        )

    def _look(self, entry: EventSchedule) -> None:
        """Take in what the last tick says of an event that it knew."""
        if entry.changed > self._evaluated_on:
            return
        while True:
            first = entry.stretches[0]
            upto = self._evaluated if first.upto is None else min(self._evaluated, first.upto)
            _settle(entry, upto, None)
            if len(entry.stretches) == 1 or first.upto is None or first.upto > entry.settled:
                return
            _next_stretch(entry)


# What does not stand here does not concern a Schedule.
_FOLDS: Mapping[type[f.FactBase], Callable[[Schedule, Any], None]] = {
    f.EventCreated: Schedule._created,
    f.EventUpdated: Schedule._updated,
    f.EventDeleted: Schedule._gone,
    f.JobRequested: Schedule._requested,
    f.LaunchRejected: Schedule._fired,
    f.JobDeleted: Schedule._fired,
    f.FiresMissed: Schedule._missed,
    f.TickFired: Schedule._tick,
    f.TermStarted: Schedule._term,
    f.MasterSwitched: Schedule._master,
    f.CatalogCreated: Schedule._catalog,
    f.CatalogUpdated: Schedule._catalog,
    f.CatalogDeleted: Schedule._catalog,
}


def _startup_of(definition: Json) -> tuple[int, Json] | None:
    """The enabled startup trigger and its index."""
    triggers = definition.get("triggers")
    for index, trigger in enumerate(triggers if isinstance(triggers, list) else []):
        is_startup = isinstance(trigger, dict) and trigger.get("type") == "startup"
        if is_startup and trigger.get("enabled"):
            return index, trigger
    return None


def _after(old: Stretch, after: float) -> Stretch:
    return replace(old, after=after, upto=None, nth=None)


def _boundary(entry: EventSchedule, at: float) -> float:
    """The second at which a change takes effect: its own, or just after what was fired by then.

    The order on the ledger decides, as far as clocks of services may differ.
    """
    settled = entry.settled if entry.settled > entry.stretches[0].after else at  # no set cursor
    reached = max([settled, *(due for _, due in entry.fired)])
    return reached if at < reached < at + SKEW else at


def _settle(entry: EventSchedule, upto: float, nth: int | None) -> None:
    """All due in the first stretch up to this second is on the ledger."""
    if upto < entry.settled:
        return
    plan = entry.stretches[0].plan
    if nth is None and plan.every is not None:
        nth = counter_after(plan, entry.settled, upto, entry.nth)
    if nth is not None:
        entry.nth = nth
    entry.settled = upto
    if entry.fired:
        entry.fired = {key for key in entry.fired if key[1] > upto}


def counter_after(plan: Plan, after: float, upto: float, nth: int | None) -> int | None:
    """The nth counter once all due minutes of (after, upto] are complete that can be."""
    for minute in minutes_between(plan, after, upto, nth=nth):
        nth = nth if minute.nth is None else minute.nth
    return nth


def _reach(entry: EventSchedule, anchor: int, second: float) -> bool:
    """Leave the stretches before the one to which a fact belongs; False if it belongs to none."""
    for place, stretch in enumerate(entry.stretches):
        inside = stretch.after < second and (stretch.upto is None or second <= stretch.upto)
        if stretch.anchor == anchor and inside:
            for _ in range(place):
                _next_stretch(entry)
            return True
    return False


def _next_stretch(entry: EventSchedule) -> None:
    """The first stretch is settled: go on with the one after it."""
    left = entry.stretches[0]
    assert left.upto is not None
    _settle(entry, left.upto, None)
    del entry.stretches[0]
    first = entry.stretches[0]
    entry.settled = first.after
    if first.nth is not None:
        entry.nth = first.nth


def _drop_settled(entry: EventSchedule) -> None:
    while len(entry.stretches) > 1:
        upto = entry.stretches[0].upto
        if upto is None or upto > entry.settled:
            return
        _next_stretch(entry)


def _jump(entry: EventSchedule) -> None:
    """A client set the cursor: what was owed before it was set is not, whatever it was."""
    while len(entry.stretches) > 1:
        _next_stretch(entry)
    entry.fired.clear()
