"""Turns due times into job requests, each exactly once (design.md 5, scheduling.md 3).

Keeps a heap of next due seconds, so that a round costs work only for events that are due. What
was fired is read from `projections/schedule.py`; this module remembers nothing that a successor
would miss. What a scheduler plugin decides is put as a question to `asking.py`; the facts of one
event are recorded in order of time all the same.
"""

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from domain import facts as f
from domain.firing import (
    Launch,
    Rules,
    day_refusal,
    launch_of_fire,
    launch_of_startup,
    rejected,
    requested,
    rules_of,
)
from domain.trigger_plugin import Answer, Question, Refused
from domain.triggers import CatchUp, Fire, Minute, catch_up, floor60, minutes_between, next_due
from projections.active_jobs import ActiveJobs
from projections.event_state import EventStates
from projections.schedule import EventSchedule, Schedule, Stretch, counter_after
from services.settings import Settings

# A round takes on about this many fires, so that the first start while others are decided.
MANY = 250
# While rounds are full, so many: each waits for NATS, where these and some jobs are one batch.
MOST = 900
# Due minutes evaluated in one round, missed ones included: some 0.1 s of work.
LOOKED_AT = 20_000
TICK_AFTER_FIRES = 60.0  # seconds; bounds what a successor evaluates again
TICK_ANYWAY = 3600.0

Decision = tuple[str, f.Fact]


@dataclass(slots=True)
class _Reached:
    """How far an event was evaluated in this term, beyond what the ledger says.

    behind: there was more than one round takes, so what comes next may be old
    """

    stretch: Stretch
    position: float
    nth: int | None
    behind: bool = False


class Firing:
    """The leader's clockwork. Times are Unix seconds."""

    def __init__(
        self, schedule: Schedule, settings: Settings, states: EventStates, jobs: ActiveJobs
    ) -> None:
        self.schedule = schedule
        self.settings = settings
        self.states = states
        self.jobs = jobs
        self.actor = f.Actor(type="scheduler", id="")
        self.term = 0  # counts the terms of this process, to know answers to an earlier one's
        self.questions: dict[str, deque[Question]] = {}
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._unarmed: list[str] = []  # evaluated in this second: launching others comes first
        self._second = 0
        self._reached: dict[str, _Reached] = {}
        self._asked: dict[str, dict[str, float]] = {}
        self._answered: deque[tuple[Question, Answer]] = deque()
        self._ticked = 0.0
        self._fired_since_tick = False
        self._room = MANY
        self._braked: Counter[int] = Counter()
        self._requested: Counter[str] = Counter()
        self._rules: dict[f.MadeOf, Rules] = {}

    def begin(self, actor: f.Actor, now: float) -> None:
        """Forget the past and start from what the ledger says: a new term."""
        self.actor = actor
        self.term += 1
        for memory in (
            self._heap, self._due, self._unarmed, self._reached, self._asked, self._answered
        ):  # fmt: skip
            memory.clear()
        self.questions.clear()
        self._ticked = now - TICK_ANYWAY
        self._fired_since_tick = True
        self._room = MANY
        for event in self.schedule.events:
            self.arm(event)

    # --- what is due when ----------------------------------------------------------------------

    def arm(self, event: str) -> None:
        """Find out when this event is due next; call it whenever its definition changed."""
        entry = self.schedule.events.get(event)
        due = None if entry is None else self._next(event, entry)
        if entry is None:
            self._reached.pop(event, None)
        if due is None:
            self._due.pop(event, None)
            return
        self._due[event] = due
        heapq.heappush(self._heap, (due, event))

    def arm_all(self) -> None:
        """A switch that concerns many events was turned (master, category, plugin, zone)."""
        for event in list(self._due.keys() | self.schedule.events.keys()):
            self.arm(event)

    def _next(self, event: str, entry: EventSchedule) -> float | None:
        """The next due second; goes on to the stretch in which it falls."""
        reached = self._reached.get(event)
        if reached is None or not _holds(entry, reached.stretch):
            reached = self._reached[event] = _Reached(*self.schedule.begin(event))
        while True:
            stretch = reached.stretch
            due = next_due(stretch.plan, reached.position) if stretch.plan.launchers else None
            if due is not None and (stretch.upto is None or due <= stretch.upto):
                return due
            if stretch is entry.current or stretch.upto is None or self._asked.get(event):
                return None
            reached = self._reached[event] = _following(entry, reached)

    def next_due(self) -> float | None:
        """When the next fire is due, in Unix seconds; 0 if something is owed from before."""
        self._arm_evaluated()
        if self._answered or self.schedule.startups:
            return 0.0
        return self._top()

    def _arm_evaluated(self) -> None:
        for event in self._unarmed:
            self.arm(event)
        self._unarmed.clear()

    def _top(self) -> float | None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    # --- one round -----------------------------------------------------------------------------

    def decide(self, now: float) -> list[Decision]:
        """What is due at `now`, oldest first, as far as one round takes it."""
        if int(now) != self._second:
            self._second = int(now)
            self._arm_evaluated()
        self._braked.clear()
        self._requested.clear()
        self._rules.clear()
        decisions = [*self._settle_answers(now), *self._startups(now)]
        looked_at = 0
        while len(decisions) < self._room and looked_at < LOOKED_AT:
            due = self._top()
            if due is None or due > now:
                break
            _, event = heapq.heappop(self._heap)
            found, minutes = self._evaluate(event, now, self._room - len(decisions))
            decisions += found
            looked_at += minutes
        self._room = MANY if len(decisions) < self._room else MOST
        self._fired_since_tick = self._fired_since_tick or bool(decisions)
        return decisions or self._tick(now)

    def settle(self, now: float) -> list[Decision]:
        """Record how far was evaluated, at the end of a term; nothing if something is due.

        Starts from the ledger: what was decided last may not stand there.
        """
        self.begin(self.actor, now)
        due = self.next_due()
        return [] if due is not None and due <= now else [self._tick_fact(now)]

    def _tick(self, now: float) -> list[Decision]:
        self._arm_evaluated()
        due = self._top()
        wait = TICK_AFTER_FIRES if self._fired_since_tick else TICK_ANYWAY
        if now - self._ticked < wait or (due is not None and due <= now):
            return []
        self._ticked, self._fired_since_tick = now, False
        return [self._tick_fact(now)]

    def _tick_fact(self, now: float) -> Decision:
        unanswered = [due for asked in self._asked.values() for due in asked.values()]
        evaluated = min([now, *(due - 1 for due in unanswered)])
        fact = f.TickFired(
            at=now, actor=self.actor, cause=self.schedule.position, evaluated=evaluated
        )
        return f"tick-{self.actor.id}-{now}", fact

    def _evaluate(self, event: str, now: float, room: int) -> tuple[list[Decision], int]:
        """The decisions about an event that is due, and how many due minutes were looked at."""
        entry, reached = self.schedule.events.get(event), self._reached.get(event)
        due = self._due.pop(event, now)
        if entry is None or reached is None or not _holds(entry, reached.stretch):
            self.arm(event)
            return [], 0
        found = self._look(reached, due, now)
        if found.missed is not None and self._asked.get(event):
            return [], 0  # armed again with the answer: facts of an event are in order of time
        decisions = self._missed(event, entry, reached, found, now)
        launches, cut = self._launches(event, entry, reached, found, now, room)
        decisions += launches
        if cut is None:
            reached.position, reached.nth = found.position, found.nth
        else:
            reached.position, reached.nth = cut
        reached.behind = cut is not None or not found.done
        if reached.behind:
            self._due[event] = now  # after everybody else who is due now
            heapq.heappush(self._heap, (now, event))
        else:
            self._unarmed.append(event)
        return decisions, len(found.minutes) + (found.missed.count if found.missed else 0)

    def _look(self, reached: _Reached, due: float, now: float) -> CatchUp:
        """What of the stretch is launched and what is given up; nothing is due before `due`.

        nth counts every due minute, missed ones too: so a counter depends on time alone.
        """
        stretch, plan = reached.stretch, reached.stretch.plan
        end = now if stretch.upto is None else min(now, stretch.upto)
        young = due > now - self.settings.misfire_grace
        if young and not reached.behind and reached.position < end:
            after = max(reached.position, due - 1)
            minutes = tuple(minutes_between(plan, after, end, nth=reached.nth))
            nth = _counter(minutes, len(minutes), reached.nth)
            return CatchUp(minutes, None, end, nth, done=True)  # in time: nothing to give up
        grace = max(0.0, self.settings.misfire_grace - (now - end))
        return catch_up(plan, reached.position, end, nth=reached.nth, grace=grace)

    def _given_up_to(self, reached: _Reached, now: float) -> float:
        """The second up to which nothing is launched any more without catch-up."""
        upto = reached.stretch.upto
        end = now if upto is None else min(now, upto)
        return min(end, max(reached.position, now - self.settings.misfire_grace))

    def _missed(
        self, event: str, entry: EventSchedule, reached: _Reached, found: CatchUp, now: float
    ) -> list[Decision]:
        missed, stretch = found.missed, reached.stretch
        if missed is None:
            return []
        known = sum(1 for _, due in entry.fired if missed.first <= due <= missed.last)
        if missed.count <= known:
            return []
        if stretch.plan.catchup is None:
            upto, reason = self._given_up_to(reached, now), "Nobody launched them in time."
        else:
            upto, reason = float(missed.last), "Catch-up launches the newest only."
        fact = f.FiresMissed(
            at=now,
            actor=self.actor,
            cause=stretch.anchor,
            event=event,
            after=reached.position,
            upto=upto,
            count=missed.count - known,
            reason=reason,
            counters=f.Counters(
                cursor=int(upto),
                nth=counter_after(stretch.plan, reached.position, upto, reached.nth)
                if stretch.plan.every
                else None,
            ),
        )
        return [(f"missed-{event}-{stretch.anchor}-{upto}", fact)]

    def _launches(
        self,
        event: str,
        entry: EventSchedule,
        reached: _Reached,
        found: CatchUp,
        now: float,
        room: int,
    ) -> tuple[list[Decision], tuple[float, int | None] | None]:
        """The launches of due minutes; and where to go on, if there was no room for all."""
        decisions: list[Decision] = []
        stretch = reached.stretch
        made_of = self.schedule.made_of(stretch)
        taken = 0
        for place, minute in enumerate(found.minutes):
            for fire in minute.fires:
                if (fire.trigger, fire.due) in entry.fired:
                    continue
                last = minute.complete and fire is minute.fires[-1]
                counters = f.Counters(cursor=fire.due, nth=minute.nth) if last else None
                launch = launch_of_fire(
                    event, stretch.definition, stretch.anchor, made_of, fire, counters
                )
                taken += 1
                if fire.plugin is None:
                    decisions.append(self._launch(launch, now))
                else:
                    self._ask(launch, stretch, fire)
            if taken >= room and minute.fires and place + 1 < len(found.minutes):
                nth = _counter(found.minutes, place + 1, reached.nth)
                return decisions, (float(minute.fires[-1].due), nth)
        return decisions, None

    # --- one launch ----------------------------------------------------------------------------

    def _launch(self, launch: Launch, now: float) -> Decision:
        """The job request, or why there is none (execution.md 3.2)."""
        reason = self._refusal(launch, now)
        minute = self._free_minute(now)
        if reason is None and minute is None:
            reason = _braked(self.settings.max_jobs_per_min)
        if reason is not None:
            refusal = rejected(launch, reason, actor=self.actor, at=now)
            return refusal.job, refusal
        assert minute is not None
        self._requested[launch.event] += 1
        self._braked[minute] += 1
        not_before = float(minute) if minute > now else 0.0
        request = requested(launch, actor=self.actor, at=now, not_before=not_before)
        return request.job, request

    def _refusal(self, launch: Launch, now: float) -> str | None:
        made_of = launch.made_of
        rules = self._rules.get(made_of)
        if rules is None:
            version = self.schedule.definitions.events.get(launch.event)
            made = self.schedule.definitions.made(made_of)
            definition = made.event if made else (version.record if version else {})
            rules = self._rules[made_of] = rules_of(launch.event, definition, made_of, made)
        if rules.refusal is not None or not rules.days:
            return rules.refusal

        def count(condition: str) -> int:
            live = len(self.jobs.by_event.get(launch.event, ())) + self._requested[launch.event]
            return self.states.counted(launch.event, condition, now, live)

        return day_refusal(rules, launch.event, count)

    def brake(self, now: float) -> str | None:
        """Why the jobs-per-minute brake lets nobody launch a job now who cannot wait (3.6)."""
        limit = self.settings.max_jobs_per_min
        if not limit or self.schedule.launched(floor60(now)) < limit:
            return None
        return _braked(limit)

    def _free_minute(self, now: float) -> int | None:
        """The minute in which the jobs-per-minute brake lets one more job start (3.6)."""
        minute, brake = floor60(now), self.settings.max_jobs_per_min
        if not brake:
            return minute
        if self._braked:
            minute = max(minute, *self._braked)
        while self.schedule.launched(minute) + self._braked[minute] >= brake:
            if self.settings.max_jobs_per_min_policy == "drop":
                return None
            minute += 60
        return minute

    def _startups(self, now: float) -> Iterator[Decision]:
        """Launches that a start of the service owes (scheduling.md 4.1)."""
        for event, owed in list(self.schedule.startups.items())[:MANY]:
            stretch = self.schedule.events[event].current
            key = f.FireKey(anchor=owed.anchor, trigger=owed.index, due=float(owed.due))
            made_of = self.schedule.made_of(stretch)
            yield self._launch(
                launch_of_startup(event, stretch.definition, key, made_of, owed.trigger, now), now
            )

    # --- scheduler plugins (scheduling.md 3.7) -------------------------------------------------

    def _ask(self, launch: Launch, stretch: Stretch, fire: Fire) -> None:
        assert fire.plugin is not None
        question = Question(
            launch=launch,
            trigger=fire.plugin,
            minute=fire.minute,
            retry=stretch.plan.catchup is not None,
        )
        self._asked.setdefault(launch.event, {})[launch.job] = launch.key.due
        self.questions.setdefault(str(launch.splugin), deque()).append(question)

    def take_questions(self, plugin: str, most: int) -> list[Question]:
        """The oldest questions for a plugin; whoever takes them must `answer` them."""
        waiting = self.questions.get(plugin)
        taken = [waiting.popleft() for _ in range(min(most, len(waiting)))] if waiting else []
        if not waiting:
            self.questions.pop(plugin, None)
        return taken

    def answer(self, term: int, answers: Sequence[tuple[Question, Answer]]) -> None:
        """Hand in what a plugin said, in the order of the questions; the next round records it."""
        if term == self.term:
            self._answered.extend(answers)

    def _settle_answers(self, now: float) -> Iterator[Decision]:
        while self._answered:
            question, answer = self._answered.popleft()
            launch = question.launch
            asked = self._asked.get(launch.event, {})
            asked.pop(launch.job, None)
            if not asked:
                self._asked.pop(launch.event, None)
                self.arm(launch.event)
            entry = self.schedule.events.get(launch.event)
            if entry is None or all(s.anchor != launch.key.anchor for s in entry.stretches):
                continue  # deleted, or its cursor set anew
            if isinstance(answer, Refused):
                yield launch.job, rejected(launch, answer.reason, actor=self.actor, at=now)
            else:
                yield self._launch(answer.launch, now)


def _braked(limit: int) -> str:
    return f"Global jobs per minute limit has been reached ({limit}/min)"


def _holds(entry: EventSchedule, stretch: Stretch) -> bool:
    return stretch in entry.stretches  # itself, not one that equals it


def _following(entry: EventSchedule, reached: _Reached) -> _Reached:
    """The beginning of the stretch after the one that was evaluated to its end."""
    place = next(i for i, s in enumerate(entry.stretches) if s is reached.stretch)
    left, stretch = reached.stretch, entry.stretches[place + 1]
    assert left.upto is not None
    nth = reached.nth
    if left.plan.every is not None and reached.position < left.upto:
        nth = counter_after(left.plan, reached.position, left.upto, nth)
    return _Reached(stretch, stretch.after, nth if stretch.nth is None else stretch.nth)


def _counter(minutes: Sequence[Minute], places: int, nth: int | None) -> int | None:
    """The counter after so many of the minutes; the last that moved it says, or else `nth`."""
    return next((m.nth for m in reversed(minutes[:places]) if m.nth is not None), nth)
