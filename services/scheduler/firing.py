"""Turns due times into job requests, each exactly once (design.md 5, scheduling.md 3).

Keeps a heap of next due seconds, so that a round costs work only for events that are due. What
was fired is read from `projections/schedule.py`; this module remembers nothing that a successor
would miss.
"""

import heapq
from collections import Counter
from collections.abc import Iterator

from domain import facts as f
from domain.facts import Json, MadeOf
from domain.ids import derived_job_id
from domain.triggers import CatchUp, Fire, Minute, catch_up, floor60, next_due
from projections.schedule import EventSchedule, OwedFire, Schedule
from services.settings import Settings

# A round takes on this many fires at most, so that dispatch is never kept waiting for long.
ROUND = 1000
TICK_AFTER_FIRES = 60.0  # seconds; bounds what a successor evaluates again
TICK_ANYWAY = 3600.0

Decision = tuple[str, f.Fact]


class Firing:
    """The leader's clockwork. Times are Unix seconds."""

    def __init__(self, schedule: Schedule, settings: Settings) -> None:
        self.schedule = schedule
        self.settings = settings
        self.actor = f.Actor(type="scheduler", id="")
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._reached: dict[str, tuple[float, int | None]] = {}
        self._anchors: dict[str, int] = {}
        self._launched: Counter[int] = Counter()
        self._ticked = 0.0
        self._fired_since_tick = False

    def begin(self, actor: f.Actor, now: float) -> None:
        """Forget the past and start from what the ledger says: a new term."""
        self.actor = actor
        self._heap.clear()
        self._due.clear()
        self._reached.clear()
        self._anchors.clear()
        self._ticked = max(self.schedule.evaluated, now - TICK_ANYWAY)
        self._fired_since_tick = True
        for event in self.schedule.events:
            self.arm(event)

    def arm(self, event: str) -> None:
        """Find out when this event is due next; call it whenever its definition changed."""
        entry = self.schedule.events.get(event)
        if entry is None or not self.schedule.gate_open(event):
            self._due.pop(event, None)
            self._reached.pop(event, None)
            self._anchors.pop(event, None)
            return
        if self._anchors.get(event) != entry.anchor or event not in self._reached:
            self._anchors[event] = entry.anchor
            self._reached[event] = self.schedule.start(event)
        after, _ = self._reached[event]
        due = next_due(entry.plan, after)
        if due is None:
            self._due.pop(event, None)
            return
        self._due[event] = due
        heapq.heappush(self._heap, (due, event))

    def arm_all(self) -> None:
        """A switch that concerns many events was turned (master, category, plugin)."""
        for event in self.schedule.events:
            self._reached.pop(event, None)
            self.arm(event)

    def next_due(self) -> float | None:
        """When the next fire is due, in Unix seconds; 0 if something is owed from before."""
        if self.schedule.owed:
            return 0.0
        return self._top()

    def _top(self) -> float | None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def decide(self, now: float) -> list[Decision]:
        """Everything that is due at `now`, oldest first, as far as one round takes it."""
        if self.schedule.owed:
            return [self._owed(owed, now) for owed in list(self.schedule.owed.values())[:ROUND]]
        decisions: list[Decision] = []
        while len(decisions) < ROUND and (due := self._top()) is not None and due <= now:
            _, event = heapq.heappop(self._heap)
            decisions += self._evaluate(event, now)
        self._fired_since_tick = self._fired_since_tick or bool(decisions)
        return decisions or self._tick(now)

    def settle(self, now: float) -> list[Decision]:
        """Record how far was evaluated, at the end of a term."""
        due = self.next_due()
        if due is not None and due <= now:
            return []
        return [(f"tick-{self.actor.id}-{now}", self._tick_fact(now))]

    def _tick(self, now: float) -> list[Decision]:
        wait = TICK_AFTER_FIRES if self._fired_since_tick else TICK_ANYWAY
        if now - self._ticked < wait:
            return []
        self._ticked, self._fired_since_tick = now, False
        return [(f"tick-{self.actor.id}-{now}", self._tick_fact(now))]

    def _tick_fact(self, now: float) -> f.TickFired:
        return f.TickFired(at=now, actor=self.actor, evaluated=now)

    def _evaluate(self, event: str, now: float) -> list[Decision]:
        entry = self.schedule.events.get(event)
        if entry is None or event not in self._reached or not self.schedule.gate_open(event):
            self._due.pop(event, None)
            return []
        after, nth = self._reached[event]
        found = catch_up(entry.plan, after, now, nth=nth, grace=self.settings.misfire_grace)
        self._reached[event] = (found.position, found.nth)
        decisions = self._missed(event, entry, found, after, now)
        decisions += self._launches(event, entry, found, now)
        if found.done:
            self.arm(event)
        else:
            self._due[event] = now
            heapq.heappush(self._heap, (now, event))
        return decisions

    def _missed(
        self, event: str, entry: EventSchedule, found: CatchUp, after: float, now: float
    ) -> list[Decision]:
        missed = found.missed
        if missed is None:
            return []
        known = sum(1 for _, due in entry.fired if missed.first <= due <= missed.last)
        if missed.count <= known:
            return []
        fact = f.FiresMissed(
            at=now,
            actor=self.actor,
            cause=entry.anchor,
            event=event,
            after=after,
            upto=missed.last,
            count=missed.count - known,
            reason="Nobody evaluated these due times in time.",
            counters=None if entry.catches_up else f.Counters(cursor=missed.last),
        )
        return [(f"missed-{event}-{entry.anchor}-{missed.last}", fact)]

    def _launches(
        self, event: str, entry: EventSchedule, found: CatchUp, now: float
    ) -> Iterator[Decision]:
        made_of = self.schedule.made_of(entry)
        author = str(entry.definition.get("username") or "")
        for minute in found.minutes:
            fires = [x for x in minute.fires if (x.trigger, x.due) not in entry.fired]
            for fire in fires:
                last = fire is fires[-1] and fire is minute.fires[-1]
                counters = _counters(minute, fire) if last else None
                yield self._launch(event, entry.anchor, made_of, author, fire, now, counters)

    def _launch(
        self,
        event: str,
        anchor: int,
        made_of: MadeOf,
        author: str,
        fire: Fire,
        now: float,
        counters: f.Counters | None,
    ) -> Decision:
        job = derived_job_id(fire.due, "fire", event, anchor, fire.trigger, fire.due)
        key = f.FireKey(anchor=anchor, trigger=fire.trigger, due=fire.due)
        if fire.plugin is not None:
            reason = "Scheduler plugins are not available."
            return job, f.LaunchRejected(
                at=now,
                actor=self.actor,
                cause=anchor,
                event=event,
                job=job,
                reason=reason,
                now=fire.due,
                source="plugin",
                fire=key,
                counters=counters,
            )
        until = self._braked(fire.until, now)
        return job, f.JobRequested(
            at=now,
            actor=self.actor,
            cause=anchor,
            event=event,
            job=job,
            made_of=made_of,
            source="scheduler",
            stype=None if fire.type == "schedule" else fire.type,
            username=author,
            now=fire.due,
            overrides={"params": fire.params} if fire.params else {},
            add_tags=list(fire.tags),
            input=_input(fire),
            until=until,
            wait="start_delay" if until is not None else None,
            invisible=fire.invisible,
            ephemeral=fire.ephemeral,
            fire=key,
            counters=counters,
        )

    def _owed(self, owed: OwedFire, now: float) -> Decision:
        entry = self.schedule.events.get(owed.event)
        author = str(entry.definition.get("username") or "") if entry else ""
        return self._launch(owed.event, owed.anchor, owed.made_of, author, owed.fire, now, None)

    def _braked(self, until: float | None, now: float) -> float | None:
        """The jobs-per-minute brake: what is too much waits for a later minute (3.6)."""
        brake = self.settings.max_jobs_per_min
        if not brake:
            return until
        first = minute = floor60(now)
        while self._launched[minute] >= brake:
            minute += 60
        self._launched[minute] += 1
        for past in [m for m in self._launched if m < first]:
            del self._launched[past]
        return until if minute == first else max(until or 0.0, float(minute))


def _counters(minute: Minute, fire: Fire) -> f.Counters | None:
    return f.Counters(cursor=fire.due, nth=minute.nth) if minute.complete else None


def _input(fire: Fire) -> Json | None:
    if not fire.data:
        return None
    data = {"items": fire.data} if isinstance(fire.data, list) else fire.data
    return {"data": data, "files": []}
