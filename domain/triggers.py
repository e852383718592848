"""The trigger evaluator: which fires of an event fall into a stretch of time?

Responsible for the order of scheduling.md 3.3 (hits, windows, nth, offsets, delay) and for the
catch-up policies of 3.5. Pure: the clock, the counter and the position are arguments. It must not
know events, jobs, or who asks, and never raises because of stored triggers.

Seconds and minutes. A *due minute* is a minute with at least one hit inside the open windows; its
fires are due at the minute plus their offsets. It is *complete* when its last due second has
passed, also when nth lets none of them launch. The counter given to any function here is the one
after every due minute that is complete at `after`. Hence any split of a stretch of time gives the
same fires and counters as the whole.

Every function takes a `Plan` (see `plan_of`) in place of triggers; the zone and the policy are then
those it was made with. Who asks often keeps the plan: reading triggers costs more than asking.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from msgspec import Struct

from domain.civil import dargs
from domain.facts import Json
from domain.trigger_plan import Launcher, Plan, floor60, hits, plan_of, unknown_zones

__all__ = [
    "CatchUp",
    "Fire",
    "Minute",
    "Missed",
    "Plan",
    "catch_up",
    "dargs",
    "evaluate",
    "fires_between",
    "floor60",
    "minutes_between",
    "next_due",
    "next_minute",
    "plan_of",
    "unknown_zones",
]

HORIZON = 10 * 366 * 86_400  # how far on a next due time is looked for; 29 February may be 8 years
MISSED_CAP = 100_000  # missed fires are counted up to here (design 5)


class Fire(Struct, frozen=True, gc=False):
    """One launch that is due. `params`, `data` and `plugin` are the stored objects: do not change.

    due: nominal time in unix seconds, minute + offset; the job's `now`
    minute: the due minute, divisible by 60
    trigger: index into the event's list of triggers
    type: schedule, interval or single
    until: earliest start when a delay modifier applies (minute + duration), else None
    params, tags, data: the trigger's own, to be merged into the job (scheduling.md 4)
    invisible, ephemeral: from the quiet modifier
    plugin: the plugin trigger that decides this launch, with its `timezone` resolved; `dargs` of
        the fire's minute in that zone completes what the plugin receives (scheduling.md 3.7)
    """

    due: int
    minute: int
    trigger: int
    type: str
    until: int | None
    params: Json
    tags: tuple[str, ...]
    data: Json | list[Any] | None
    invisible: bool
    ephemeral: bool
    plugin: Json | None


class Minute(Struct, frozen=True, gc=False):
    """The part of a due minute that falls into the stretch asked for.

    fires: by due second, then by the list order of their triggers; empty when nth skips the minute
    nth: the counter after the minute, when the minute is complete and the event counts; else None
    complete: the minute's last due second falls into the stretch
    """

    minute: int
    fires: tuple[Fire, ...]
    nth: int | None
    complete: bool


class Missed(Struct, frozen=True, gc=False):
    """Fires of a gap that will not be launched: `count` (capped) of them, due in first..last."""

    first: int
    last: int
    count: int


class CatchUp(Struct, frozen=True, gc=False):
    """What to do about a stretch of time that may be a gap.

    minutes: what to launch, oldest first
    missed: what is given up, or None
    position: the second up to which all is settled by this
    nth: the counter at that position
    done: False when the pass was cut; call again from `position`
    """

    minutes: tuple[Minute, ...]
    missed: Missed | None
    position: float
    nth: int | None
    done: bool


def evaluate(
    triggers: Sequence[Json] | Plan,
    after: int,
    upto: int,
    *,
    nth: int | None = None,
    default_zone: str = "UTC",
    dst_policy: str = "literal",
) -> Iterator[Minute]:
    """Yield the due minutes m, after < m <= upto, whole, oldest first.

    `nth` is the stored counter (None, 0 and 1: the next match launches). Minutes that nth skips are
    yielded without fires, for their counter.
    """
    plan = plan_of(triggers, default_zone=default_zone, dst_policy=dst_policy)
    yield from minutes_between(plan, floor60(after) + 59, floor60(upto) + 59, nth=nth)


def fires_between(
    triggers: Sequence[Json] | Plan,
    after: float,
    upto: float,
    *,
    nth: int | None = None,
    default_zone: str = "UTC",
    dst_policy: str = "literal",
) -> Iterator[Fire]:
    """Yield the fires due in (after, upto], unix seconds, in order of due second, then trigger."""
    plan = plan_of(triggers, default_zone=default_zone, dst_policy=dst_policy)
    for minute in minutes_between(plan, after, upto, nth=nth):
        yield from minute.fires


def minutes_between(
    triggers: Sequence[Json] | Plan,
    after: float,
    upto: float,
    *,
    nth: int | None = None,
    default_zone: str = "UTC",
    dst_policy: str = "literal",
) -> Iterator[Minute]:
    """Yield what of each due minute falls into (after, upto], unix seconds, oldest first.

    `nth` is the counter after every due minute that is complete at `after`; the next call with
    `after=upto` takes the last `Minute.nth` that was not None. A minute is yielded when it has
    fires in the stretch, or when it becomes complete there and moves the counter.
    """
    plan = plan_of(triggers, default_zone=default_zone, dst_policy=dst_policy)
    for minute, dues in _due_minutes(plan, floor60(after), floor60(upto) + 60):
        last = dues[-1][0]
        if last <= after:
            continue  # complete before this stretch: launched and counted already
        launches, counter = _count(nth, plan.every)
        complete = last <= upto
        fires = (
            tuple(_fire(plan, launcher, minute, s) for s, launcher in dues if after < s <= upto)
            if launches
            else ()
        )
        if complete:
            nth = counter
        if fires or complete:
            yield Minute(minute, fires, counter if complete and plan.every else None, complete)


def next_minute(
    triggers: Sequence[Json] | Plan,
    after: float,
    *,
    default_zone: str = "UTC",
    dst_policy: str = "literal",
    horizon: int | None = None,
) -> int | None:
    """Return the first due minute m > after, m <= horizon (unix seconds; default ten years on).

    Windows are honoured; nth is not, since a minute that it skips must be counted too.
    """
    plan = plan_of(triggers, default_zone=default_zone, dst_policy=dst_policy)
    upto = after + HORIZON if horizon is None else horizon
    found = hits(plan, floor60(after) + 60, floor60(upto) + 60)
    return next((minute for minute, _ in found), None)


def next_due(
    triggers: Sequence[Json] | Plan,
    after: float,
    *,
    default_zone: str = "UTC",
    dst_policy: str = "literal",
    horizon: int | None = None,
) -> int | None:
    """Return the first due second s > after in a minute <= horizon, as `next_minute` does."""
    plan = plan_of(triggers, default_zone=default_zone, dst_policy=dst_policy)
    upto = after + HORIZON if horizon is None else horizon
    for _, dues in _due_minutes(plan, floor60(after), floor60(upto) + 60):
        for second, _ in dues:
            if second > after:
                return second
    return None


def _due_minutes(plan: Plan, lo: int, hi: int) -> Iterator[tuple[int, list[tuple[int, Launcher]]]]:
    """Yield each due minute of [lo, hi) with its due seconds and their launchers, in order."""
    for minute, launchers in hits(plan, lo, hi):
        dues = [(minute + offset, hit) for hit in launchers for offset in hit.offsets(minute)]
        if len(launchers) > 1:
            dues.sort(key=lambda due: due[0])  # stable: the list order within a second
        yield minute, dues


def _count(counter: int | None, every: int | None) -> tuple[bool, int | None]:
    """Tell whether a due minute launches, and the counter after it (scheduling.md 3.3, nth)."""
    if every is None:
        return True, counter
    left = (counter or 0) - 1
    return (True, every) if left <= 0 else (False, left)


def _fire(plan: Plan, launcher: Launcher, minute: int, due: int) -> Fire:
    return Fire(
        due=due,
        minute=minute,
        trigger=launcher.index,
        type=launcher.type,
        until=None if launcher.delay is None else minute + launcher.delay,
        params=launcher.params,
        tags=launcher.tags,
        data=launcher.data,
        invisible=plan.invisible,
        ephemeral=plan.ephemeral,
        plugin=launcher.plugin,
    )


# --- Catch-up (scheduling.md 3.5, design 5) -----------------------------------------------------


def catch_up(
    triggers: Sequence[Json] | Plan,
    after: float,
    now: float,
    *,
    nth: int | None = None,
    default_zone: str = "UTC",
    dst_policy: str = "literal",
    grace: float = 60,
    max_minutes: int = 1440,
) -> CatchUp:
    """Decide what of (after, now], unix seconds, is launched late and what is given up.

    Fires younger than `grace` always launch. Of the older ones:
    - without a catchup trigger none
    - mode `all`: every one, or with `max_backlog` those of the newest so many due minutes
    - mode `latest`: those of the newest due minute, and only when no younger fire launches
    All due minutes move the counter, also those that are given up: nth depends on time alone,
    however often nobody was there to launch. At most `max_minutes` due minutes are
    returned at a time. A cursor at minute m means `after = m + 59`; in the future it means nothing
    is done and it stays.
    """
    plan = plan_of(triggers, default_zone=default_zone, dst_policy=dst_policy)
    if after >= now:
        return CatchUp((), None, after, nth, done=True)
    young = max(after, now - grace)
    missed = None
    if plan.catchup is None:
        missed, counter = _given_up(minutes_between(plan, after, young, nth=nth), plan, nth)
        minutes = list(minutes_between(plan, young, now, nth=counter))
        counter = _last_counter(minutes, counter)
    elif (limit := _backlog_limit(plan.catchup)) is None:
        minutes = list(islice(minutes_between(plan, after, now, nth=nth), max_minutes + 1))
        counter = _last_counter(minutes, nth)
    else:
        latest = plan.catchup.get("mode") == "latest"
        found = minutes_between(plan, after, now, nth=nth)
        minutes, missed, counter = _newest(found, young, limit, latest, nth)
    if len(minutes) <= max_minutes:
        return CatchUp(tuple(minutes), missed, now, counter, done=True)
    cut = minutes[:max_minutes]
    return CatchUp(tuple(cut), missed, cut[-1].minute + 59, _last_counter(cut, nth), done=False)


def _backlog_limit(catchup: Json) -> int | None:
    if catchup.get("mode") == "latest":
        return 1
    limit = catchup.get("max_backlog")
    return limit if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0 else None


def _last_counter(minutes: Sequence[Minute], nth: int | None) -> int | None:
    return next((m.nth for m in reversed(minutes) if m.nth is not None), nth)


def _given_up(
    minutes: Iterator[Minute], plan: Plan, nth: int | None
) -> tuple[Missed | None, int | None]:
    """What of these minutes is missed, and the counter after all of them."""
    missed: Missed | None = None
    for minute in minutes:
        nth = nth if minute.nth is None else minute.nth
        if minute.fires and (missed is None or missed.count < MISSED_CAP):
            missed = _with_missed(missed, minute)
        elif plan.every is None and missed is not None and missed.count >= MISSED_CAP:
            break
    return missed, nth


def _newest(
    found: Iterator[Minute], young: float, limit: int, latest: bool, nth: int | None
) -> tuple[list[Minute], Missed | None, int | None]:
    """Keep the newest `limit` old minutes and all young ones; count what is given up."""
    old: deque[Minute] = deque()
    recent: list[Minute] = []
    missed: Missed | None = None
    counter = nth
    for minute in found:
        counter = counter if minute.nth is None else minute.nth
        if not minute.fires:
            continue
        if minute.fires[-1].due > young:
            recent.append(minute)
        else:
            old.append(minute)
        while len(old) > (0 if latest and recent else limit):
            missed = _with_missed(missed, old.popleft())
    return [*old, *recent], missed, counter


def _with_missed(missed: Missed | None, minute: Minute) -> Missed:
    first, count = (missed.first, missed.count) if missed else (minute.fires[0].due, 0)
    return Missed(first, minute.fires[-1].due, min(count + len(minute.fires), MISSED_CAP))
