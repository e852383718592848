"""How long the leader's clockwork takes, without NATS: folds and decisions about fires.

    python benchmarks/firing.py [EVENTS] [--json FILE]

The begin of a term, a minute in which 2,000 events are due, a tick, the preview: facts are folded,
decisions are thrown away. fires.py measures fires through a whole installation.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from stack import machine, print_table, write_json

from domain import facts as f
from domain.subjects import subject_of
from projections.active_jobs import ActiveJobs
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.schedule import Schedule
from projections.upcoming_jobs import Preview
from services.pauses import avoid_pauses
from services.scheduler.firing import MANY, Firing
from services.settings import Settings

NOON = 1_800_014_400
DUE_TOGETHER = 2000
WHO = f.Actor(type="system", id="bench")


def measure(events: int) -> dict[str, float]:
    """Milliseconds of each step."""
    took: dict[str, float] = {}

    def step(name: str, work: Callable[[], object]) -> None:
        started = time.perf_counter()
        work()
        took[name] = 1000 * (time.perf_counter() - started)

    facts = _facts(events)
    definitions = Definitions()
    schedule = Schedule(definitions, zone="UTC", dst_policy="literal")
    states, jobs = EventStates("UTC"), ActiveJobs(definitions)
    firing = Firing(schedule, Settings(timezone="UTC"), states, jobs)

    def fold(new: list[f.Fact]) -> None:
        for fact in new:
            recorded = f.Recorded(schedule.position + 1, subject_of(fact), fact)
            for view in (definitions, schedule, states, jobs):
                view.apply(recorded)

    def due() -> list[f.Fact]:
        found = firing.decide(NOON + 0.01)
        return [fact for _, fact in found] + (due() if len(found) >= MANY else [])

    fold([f.CatalogCreated(at=0, actor=WHO, type="category", id="general", record={})])
    fold([f.CatalogCreated(at=0, actor=WHO, type="plugin", id="shellplug", record={})])
    step(f"fold {events} events", lambda: fold(facts))
    avoid_pauses()
    step("begin a term", lambda: firing.begin(WHO, NOON - 10))
    decided: list[f.Fact] = []
    step(f"decide {DUE_TOGETHER} due together", lambda: decided.extend(due()))
    assert sum(isinstance(fact, f.JobRequested) for fact in decided) == DUE_TOGETHER
    step("find out when these are due next", firing.next_due)
    step(f"fold {len(decided)} decisions", lambda: fold(decided))
    step("begin the next term", lambda: firing.begin(WHO, NOON + 1))
    tick = f.TickFired(at=NOON + 2, actor=WHO, cause=schedule.position, evaluated=NOON + 2)
    step("fold a tick", lambda: fold([tick]))
    preview = Preview(schedule)
    step("preview of 100 rows", lambda: preview.rows(NOON + 3))
    step("the same once more", lambda: preview.rows(NOON + 4))
    switches = [f.MasterSwitched(at=NOON + s, actor=WHO, enabled=s == 5) for s in (4, 5)]
    step("scheduling off and on", lambda: fold(switches))
    return took


def _facts(events: int) -> list[f.Fact]:
    return [
        f.EventCreated(
            at=NOON - 60,
            actor=WHO,
            event=f"e{number}",
            definition={
                "id": f"e{number}",
                "title": f"Event {number}",
                "enabled": True,
                "category": "general",
                "plugin": "shellplug",
                "params": {"script": "true"},
                "triggers": [
                    {
                        "type": "schedule",
                        "enabled": True,
                        "timezone": "Europe/Berlin",
                        "hours": [13] if number < DUE_TOGETHER else [number % 12],
                        "minutes": [0 if number < DUE_TOGETHER else number % 59 + 1],
                    }
                ],
            },
        )
        for number in range(events)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="The leader's clockwork.")
    parser.add_argument("events", type=int, nargs="?", default=10_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    took = measure(args.events)
    title = f"Fires, in process; {machine()}"
    print_table(title, ["", "ms"], [[name, ms] for name, ms in took.items()])
    write_json(args.json, {"firing": took})


if __name__ == "__main__":
    main()
