"""Running an event on demand (api.md 3.6, 7.2)."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from domain.access import Principal
from domain.assembly import Made, assemble
from domain.errors import AccessDenied, BadRequest, RuleBroken
from domain.facts import Actor, CatalogType, Json, MadeOf
from domain.run import NEVER_OVERRIDDEN, RunEvent, decide_run, overrides_of

NOW = 1_800_000_000.0
ACTOR = Actor(type="key", id="k1")
ADMIN = Principal("k1", "key", "admin", privileges=frozenset({"admin"}))
OPERATOR = Principal("k2", "key", "ops", privileges=frozenset({"run_jobs"}))
PLUGIN: Json = {
    "id": "shellplug",
    "type": "event",
    "title": "Shell",
    "enabled": True,
    "command": "sh",
    "params": [
        {"id": "script", "type": "code", "title": "Script", "required": True, "locked": True},
        {"id": "count", "type": "text", "title": "Count", "range": "1-5"},
    ],
}
CATEGORY: Json = {"id": "general", "title": "General", "enabled": True}
EVENT: Json = {
    "id": "backup",
    "title": "Backup",
    "enabled": True,
    "category": "general",
    "targets": ["main"],
    "plugin": "shellplug",
    "algo": "random",
    "username": "alice",
    "params": {"script": "true"},
    "triggers": [{"type": "manual", "enabled": True}],
}


class Records:
    """The definitions in force, as dicts."""

    def __init__(self, **records: Json) -> None:
        self._records: dict[str, Json] = {"category": CATEGORY, "plugin": PLUGIN} | records

    def event(self, id: str) -> Json | None:
        return EVENT if id == "backup" else None

    def record(self, type: CatalogType, id: str) -> Json | None:
        record = self._records.get(type)
        return record if record is not None and record["id"] == id else None

    def records(self, type: CatalogType) -> Iterable[Json]:
        return [self._records[type]] if type in self._records else []

    def category_in_use(self, id: str) -> bool:
        return True


def run(event: Json = EVENT, known: Records | None = None, **command: Any) -> Any:
    """What a wish to run the event leads to."""
    known = known or Records()
    category, plugin = known.record("category", "general"), known.record("plugin", "shellplug")
    made = Made(event=event, category=category or {}, plugin=plugin or {}, config={})
    wish = structs.replace(RunEvent(by=ADMIN, actor=ACTOR, event=event, job="j1"), **command)
    return decide_run(wish, known, made, MadeOf(event=7, category=2, plugin=3), NOW)


def test_a_launch_names_what_it_is_made_of_and_nothing_more() -> None:
    fact = run(overrides={"params": {"count": 3}})
    assert fact.made_of == MadeOf(event=7, category=2, plugin=3)
    assert (fact.job, fact.source, fact.username) == ("j1", "key", "k1")
    assert fact.overrides == {"params": {"count": 3}}
    assert fact.now == fact.at == NOW


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({"triggers": []}, None),
        ({"triggers": [{"type": "manual", "enabled": False}]}, None),
        ({"enabled": False}, None),
        ({}, Records(category=CATEGORY | {"enabled": False})),
        ({}, Records(plugin=PLUGIN | {"enabled": False})),
        ({}, Records(category=CATEGORY | {"id": "other"})),
    ],
)
def test_the_gate_refuses_and_a_test_run_passes_it(change: Json, known: Records | None) -> None:
    event = EVENT | change
    with pytest.raises(RuleBroken) as refusal:
        run(event, known)
    assert refusal.value.code == "event"
    assert run(event, known, test=True).test


def test_a_magic_link_needs_no_manual_trigger_but_an_enabled_event() -> None:
    unattended = EVENT | {"triggers": []}
    fact = run(unattended, by=None)
    assert (fact.source, fact.username) == ("magic", "alice")
    with pytest.raises(RuleBroken):
        run(unattended | {"enabled": False}, by=None)


def test_locked_params_are_for_administrators() -> None:
    sent = {"params": {"script": "rm -rf /", "count": 2}}
    assert run(overrides=sent).overrides == sent
    assert run(by=OPERATOR, overrides=sent).overrides == {"params": {"count": 2}}
    assert run(by=OPERATOR).overrides == {}


def test_a_locked_field_keeps_its_own_value() -> None:
    fields = [{"id": "zone", "type": "text", "title": "Zone", "value": "eu", "locked": True}]
    event = EVENT | {"fields": fields, "params": {"script": "true", "zone": "us"}}
    assert run(event, by=OPERATOR).overrides == {"params": {"zone": "eu"}}


def test_params_must_satisfy_the_plugin_and_the_fields() -> None:
    with pytest.raises(BadRequest):
        run(overrides={"params": {"count": 9}})
    fields = [{"id": "who", "type": "text", "title": "Who", "required": True}]
    with pytest.raises(BadRequest):
        run(EVENT | {"fields": fields})
    assert run(EVENT | {"fields": fields}, overrides={"params": {"who": "me"}})


def test_what_is_overridden_must_make_a_valid_event() -> None:
    for bad in ({"algo": "fastest"}, {"targets": []}, {"plugin": "nope"}, {"limits": [{}]}):
        with pytest.raises(BadRequest):
            run(overrides=bad)


def test_overridden_targets_must_be_within_the_callers_groups() -> None:
    limited = replace(OPERATOR, groups=frozenset({"main"}))
    assert run(by=limited, overrides={"targets": ["main"]})
    with pytest.raises(AccessDenied):
        run(by=limited, overrides={"targets": ["secret"]})


def test_a_queue_needs_a_job_limit_wherever_it_comes_from() -> None:
    queue = {"type": "queue", "enabled": True, "amount": 5}
    known = Records(category=CATEGORY | {"limits": [queue]})
    with pytest.raises(RuleBroken):
        run(known=known)
    job = {"type": "job", "enabled": True, "amount": 1}
    assert run(EVENT | {"limits": [job]}, known)


def test_runtime_keys_are_never_overrides() -> None:
    sent: Json = dict.fromkeys(NEVER_OVERRIDDEN, 1)
    assert overrides_of(sent | {"notes": "kept", "limits": []}) == {"notes": "kept", "limits": []}


LIMITED = Principal("k3", "key", "ops", frozenset({"run_jobs"}), groups=frozenset({"g2"}))
NEAR = EVENT | {"targets": ["g2"]}


@pytest.mark.parametrize(
    "overrides",
    [
        {"params": {"_xy_override_targets": ["main"]}},
        {"params": {"_xy_override_targets": "main"}},
        {"params": {"_xy_override_targets": "{{ params.where }}", "where": "main"}},
        {"fields": [{"id": "_xy_override_targets", "title": "T", "type": "text", "value": "main"}]},
        {
            "actions": [
                {
                    "type": "run_event",
                    "enabled": True,
                    "condition": "complete",
                    "event_id": "backup",
                }
            ]
        },
        {"actions": [{"type": "delete", "enabled": True, "condition": "complete"}]},
        {"actions": [{"type": "disable", "enabled": True, "condition": "complete"}]},
    ],
)
def test_an_override_reaches_no_further_than_its_author(overrides: Json) -> None:
    with pytest.raises(AccessDenied):
        run(NEAR, by=LIMITED, overrides=overrides)
    assert run(NEAR, overrides=overrides)


def test_targets_within_the_limits_may_be_overridden_by_params_too() -> None:
    assert run(NEAR, by=LIMITED, overrides={"params": {"_xy_override_targets": ["g2"]}})


@pytest.mark.parametrize("key", ["files", "username", "source", "_log", "_large", "type", "final"])
def test_what_only_its_owner_says_of_a_job_cannot_be_chosen(key: str) -> None:
    """Else a launch could name the bytes of others, or who it is of."""
    assert overrides_of({key: "x"}) == {}
    chosen = run(overrides={"params": {f"_xy_override_{key}": "forged"}})
    made = Made(event=EVENT | {key: "forged"}, category=CATEGORY, plugin=PLUGIN, config={})
    assert assemble(made, chosen).document.get(key) != "forged"
