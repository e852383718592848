"""Histories of any facts in any order, also impossible ones, for testing folds."""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec import structs

from domain import facts as f
from domain.facts import KINDS, Fact, FactBase, Json, Recorded
from domain.subjects import subject_of

ACTOR = f.Actor(type="system", id="test")

_flag = st.booleans()
_small = st.integers(0, 40)
_time = st.sampled_from([0.0, 1e3, 86_399.0, 86_400.0, 1.7e9, 1.7e9 + 60, 1e18])
_text = st.sampled_from(["", "x", "main", "(", ".+", "alpha"])
_junk = st.one_of(st.none(), _flag, _small, _text, st.lists(_text, max_size=2))
_entry = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["day", "job", "catchup", 5]), "enabled": _junk}
)
_record = st.fixed_dictionaries(
    {},
    optional={
        "id": _junk,
        "title": _junk,
        "category": st.sampled_from(["c1", "c2", 5]),
        "plugin": st.sampled_from(["p1", None, []]),
        "enabled": _junk,
        "active": _junk,
        "hostname_match": _junk,
        "max_jobs_per_server": _junk,
        "maxJobs": _junk,
        "groups": _junk,
        "autoGroup": _junk,
        "roles": st.lists(st.sampled_from(["r1", "r2"]), max_size=2) | _junk,
        "privileges": st.dictionaries(st.sampled_from(["admin", "run_jobs"]), _junk) | _junk,
        "categories": _junk,
        "key": st.sampled_from(["hash1", "hash2"]) | _junk,
        "expires": _junk,
        "max_per_sec": _junk,
        "limits": st.lists(_entry | _junk, max_size=2) | _junk,
        "triggers": st.lists(_entry, max_size=2),
    },
)
_codes = st.sampled_from([0, 1, 2.5, "abort", "warning", "custom"])
_counters = st.none() | st.builds(f.Counters, cursor=st.none() | _small, nth=st.none() | _small)
_made_of = st.builds(f.MadeOf, event=_small, category=_small, plugin=_small, config=_small)
_job = st.sampled_from(["j1", "j2", "j3"])
_server = st.sampled_from(["s1", "s2"])
_blob = st.none()

_BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "event": st.sampled_from(["e1", "e2"]),
    "job": _job,
    "server": _server,
    "boot": st.sampled_from(["b1", "b2"]),
    "machine_boot": st.just("m1"),
    "hostname": st.sampled_from(["alpha", "beta"]),
    "id": st.sampled_from(["x1", "x2", "main", "config", "s1", "r1", "c1"]),
    "session": st.sampled_from(["n1", "n2"]),
    "order": _small,
    "made_of": _made_of,
    "definition": _record,
    "record": _record,
    "info": st.dictionaries(st.sampled_from(["cpu", "memory"]), _junk, max_size=2),
    "counters": _counters,
    "fire": st.none() | st.builds(f.FireKey, anchor=_small, trigger=_small, due=_time),
    "workflow": st.none() | st.fixed_dictionaries({}, optional={"job": _job}),
    "retry": st.none() | st.builds(f.Follower, job=_job),
    "code": _codes,
    "jobs": st.lists(_job, max_size=3),
    "groups": st.lists(_text, max_size=2),
    "inventory": st.just([]),
    "children": st.just([]),
    "erased": st.just([]),
    "tags": st.lists(_text, max_size=2),
    "large": st.just({}),
    "log": _blob,
    "robin": st.none() | _small,
    "ledger": st.just("ledger"),
    "wait": st.sampled_from([None, "start_delay", "retry_delay"]),
    "type": st.none(),
}
_BY_ANNOTATION: dict[Any, st.SearchStrategy[Any]] = {
    str: _text,
    int: _small,
    float: _time,
    bool: _flag,
    Json: _record,
}
_OWN_NAMES: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    **{
        (kind, "type"): st.sampled_from(
            "category tag group plugin role webhook server config".split()
        )
        for kind in ("CatalogCreated", "CatalogUpdated", "CatalogDeleted")
    },
    **{
        (kind, "type"): st.sampled_from(["api_key", "user"])
        for kind in ("AccessCreated", "AccessUpdated", "AccessDeleted")
    },
    ("JobDelayed", "wait"): st.just("start_delay"),
    ("ChainSealed", "tags"): _text,
    ("JobCompleted", "jobs"): st.just([]),
}


def _facts_of(kind: str, model: type[FactBase]) -> st.SearchStrategy[Any]:
    fields: dict[str, st.SearchStrategy[Any]] = {"actor": st.just(ACTOR), "at": _time}
    for info in structs.fields(model):
        name = info.name
        if name in ("v", "cause", "actor", "at"):
            continue
        by_annotation = _BY_ANNOTATION.get(info.type)
        strategy = _OWN_NAMES.get((kind, name), _BY_NAME.get(name, by_annotation))
        if strategy is not None:
            fields[name] = strategy
        elif info.required:
            raise AssertionError(f"no strategy for {kind}.{name}: {info.type}")
    return st.builds(model, **fields)


FACTS: st.SearchStrategy[Fact] = st.one_of(
    [_facts_of(kind, model) for kind, model in sorted(KINDS.items())]
)


def _recorded(facts: Sequence[Fact]) -> list[Recorded]:
    return [Recorded(n, subject_of(fact), fact) for n, fact in enumerate(facts, 1)]


HISTORIES = (st.lists(FACTS, max_size=10) | st.lists(FACTS, min_size=20, max_size=60)).map(
    _recorded
)


def folded(make: Callable[[], Any], history: Sequence[Recorded]) -> Any:
    """A new view that has taken in a history."""
    view = make()
    for recorded in history:
        view.apply(recorded)
    return view


def state_of(view: Any, *caches: str) -> Json:
    """All that a view holds, but what it can compute again."""
    return {name: value for name, value in vars(view).items() if name not in caches}


def assert_redelivery_changes_nothing(
    make: Callable[[], Any], history: Sequence[Recorded], cut: int, *caches: str
) -> None:
    """Reading on from any earlier place gives the same as reading once."""
    once, twice = folded(make, history), folded(make, history[:cut])
    for recorded in history[max(0, cut // 2) :]:
        twice.apply(recorded)
    assert state_of(once, *caches) == state_of(twice, *caches)
    assert twice.position == len(history)
