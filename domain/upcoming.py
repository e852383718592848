"""The preview of what an event will launch (scheduling.md 6.3, api.md 8.7).

Responsible for turning due minutes into rows for people. It must not know events, categories or
the caller's limits: whoever asks leaves out what is disabled or hidden and adds titles. Previews
are never stored.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice

from domain.facts import Json
from domain.triggers import Fire, Minute, Plan, minutes_between, plan_of


def upcoming(
    triggers: Sequence[Json] | Plan,
    now: float,
    until: float,
    *,
    nth: int | None = None,
    default_zone: str = "UTC",
    dst_policy: str = "literal",
    limit: int = 1000,
) -> Iterator[Json]:
    """Yield at most `limit` preview rows for launches due in (now, until], soonest first.

    A row stands for one trigger in one due minute:
    - `when`: unix seconds of its first launch, a delay included
    - `trigger`: `{type}`
    - `seconds`: for interval and precision launches, the offsets within the minute
    - `maybe`: true when a plugin trigger has the last word
    `nth` is the counter as the event's state has it now; it is simulated from there.
    """
    plan = plan_of(triggers, default_zone=default_zone, dst_policy=dst_policy)
    minutes = minutes_between(plan, now, until, nth=nth)
    yield from islice((row for minute in minutes for row in _rows(minute)), limit)


def _rows(minute: Minute) -> list[Json]:
    by_trigger = sorted(minute.fires, key=lambda fire: fire.trigger)  # stable: dues stay in order
    rows = [_row(list(fires)) for _, fires in groupby(by_trigger, key=lambda fire: fire.trigger)]
    return sorted(rows, key=lambda row: int(row["when"]))


def _row(fires: list[Fire]) -> Json:
    first = fires[0]
    row: Json = {
        "when": first.due if first.until is None else first.until,
        "trigger": {"type": first.type},
    }
    offsets = [fire.due - fire.minute for fire in fires]
    if first.type == "interval" or offsets != [0]:
        row["seconds"] = offsets
    if first.plugin is not None:
        row["maybe"] = True
    return row
