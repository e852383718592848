"""Events: what may be created, changed and deleted, and what the facts then say."""

import hashlib
from typing import Any

import pytest

from domain.access import Principal
from domain.checks import MAX_FACT
from domain.commands import CreateEvent, DeleteEvent, RevertEvent, UpdateEvent
from domain.errors import AccessDenied, BadRequest, DomainError, RuleBroken
from domain.event import (
    change_summary,
    changed_by_child,
    decide_create,
    decide_delete,
    decide_revert,
    decide_update,
    disable,
)
from domain.facts import Counters, EventUpdated, Json
from tests.domain.world import ACTOR, ADMIN, NOBODY, NOW, World, event_fields, having, new_id

MANUAL = {"type": "manual", "enabled": True}
CATCHUP = {"type": "catchup", "enabled": True}
HOURLY = {"type": "schedule", "enabled": True, "minutes": [0]}


@pytest.fixture
def world() -> World:
    return World()


def create(world: World, by: Any = ADMIN, **keys: Any) -> Json:
    command = CreateEvent(by, ACTOR, new_id(), event_fields(**keys))
    return world.take(decide_create(command, world, NOW)).definition


def update(world: World, by: Any = ADMIN, now: float = NOW + 60, **fields: Any) -> EventUpdated:
    return world.take(decide_update(UpdateEvent(by, ACTOR, fields), world, now))


def code_of(error: pytest.ExceptionInfo[DomainError]) -> str:
    return error.value.code


# --- create ------------------------------------------------------------------------------------


def test_the_server_signs_a_new_event(world: World) -> None:
    event = create(world, username="mallory", created=1, modified=2, revision=99)

    assert event["username"] == "anna"
    assert (event["created"], event["modified"], event["revision"]) == (int(NOW), int(NOW), 1)
    assert event["id"] == new_id()


def test_an_event_made_with_a_key_belongs_to_the_keys_creator(world: World) -> None:
    key = Principal("k1", "key", "carl", privileges=frozenset({"create_events"}))

    assert create(world, by=key)["username"] == "carl"


def test_lists_and_params_are_there_even_if_nobody_sent_them(world: World) -> None:
    world.plugin("bare")

    event = create(world, plugin="bare", params=None)

    assert event["params"] == {}
    assert event["fields"] == event["triggers"] == event["limits"] == event["actions"] == []
    assert "tags" not in event


def test_launch_context_and_state_are_not_stored(world: World) -> None:
    sent = dict.fromkeys("command script uid gid cwd env kill runner".split(), "x")

    event = create(world, **sent, update_state={"nth": 2})

    assert event.keys().isdisjoint([*sent, "update_state"])


def test_unknown_keys_are_kept(world: World) -> None:
    assert create(world, flavour={"of": ["the", "day"]})["flavour"] == {"of": ["the", "day"]}


def test_tags_of_html_are_taken_out_of_notes(world: World) -> None:
    assert create(world, notes="<b>x</b> y, 1 < 2")["notes"] == "x y, 1 < 2"


@pytest.mark.parametrize("name", ["title", "enabled", "category", "targets", "plugin", "algo"])
def test_a_required_key_is_missed(world: World, name: str) -> None:
    with pytest.raises(BadRequest, match=name):
        create(world, **{name: None})


@pytest.mark.parametrize(
    "keys",
    [
        {"id": "Bad-ID"},
        {"id": "constructor"},
        {"id": 5},
        {"id": "x" * 129},
        {"__proto__": 1},
        {"title": 5},
        {"title": "   "},
        {"title": "a <b>"},
        {"icon": 5},
        {"icon": "a b"},
        {"enabled": "true"},
        {"enabled": []},
        {"category": "no such category!"},
        {"category": "nope"},
        {"plugin": "nope"},
        {"plugin": ["shellplug"]},
        {"targets": []},
        {"targets": "main"},
        {"targets": ["main", 5]},
        {"algo": "fastest"},
        {"algo": "monitor:load"},
        {"algo": ["random"]},
        {"params": []},
        {"params": {}},
        {"params": {"script": ""}},
        {"params": {"script": "x", "_xy_override_command": "evil"}},
        {"fields": {}},
        {"fields": [{"id": "script", "type": "text"}]},
        {"fields": [{"id": "a", "type": "text"}, {"id": "a", "type": "text"}]},
        {"limits": [{"type": "time", "enabled": True}]},
        {"actions": [{"type": "disable", "condition": "error"}]},
        {"triggers": [{"type": "schedule", "enabled": True, "hours": [24]}]},
        {"tags": ["no_such_tag"]},
        {"tags": "important"},
        {"tags": ["not a word"]},
        {"expression": "1 +"},
        {"expression": 5},
        {"type": "workflow"},
        {"update_state": {"robin": 1}},
        {"update_state": {"cursor": "now"}},
        {"update_state": {"nth": -1}},
        {"update_state": {"cursor": 1.5}},
        {"update_state": {"nth": True}},
        {"update_state": []},
        {"notes": "n" * MAX_FACT},
    ],
    ids=lambda keys: str(keys)[:60],
)
def test_what_does_not_make_an_event_is_refused(world: World, keys: Json) -> None:
    with pytest.raises(BadRequest):
        create(world, **keys)


def test_a_plugin_that_is_not_for_events_is_refused(world: World) -> None:
    world.plugin("decider", type="scheduler")

    with pytest.raises(BadRequest, match="Plugin not found"):
        create(world, plugin="decider")


def test_targets_need_not_exist(world: World) -> None:
    assert create(world, targets=["not.there.yet"])["targets"] == ["not.there.yet"]


def test_an_id_is_taken_once(world: World) -> None:
    create(world, id="mine")

    with pytest.raises(RuleBroken) as error:
        create(world, id="mine")
    assert code_of(error) == "event"


def test_a_magic_key_is_stored_as_its_token_only(world: World) -> None:
    trigger = {"type": "magic", "enabled": True, "key": "contractmagickey0001"}

    event = create(world, id="ct_magic", triggers=[trigger])

    token = hashlib.sha256(b"contractmagickey0001" + b"ct_magic").hexdigest()
    assert event["triggers"] == [{"type": "magic", "enabled": True, "token": token}]


def test_a_field_replaces_the_plugins_parameter_of_the_same_id(world: World) -> None:
    """Its value comes with each run, so it need not stand in the event."""
    world.plugin("asks", params=[{"id": "who", "title": "Who", "type": "text", "required": True}])
    fields = [{"id": "who", "title": "Who", "type": "text", "value": "you"}]

    assert create(world, plugin="asks", params={}, fields=fields)["fields"] == fields


def test_the_first_state_is_told_with_the_event(world: World) -> None:
    fields = event_fields(update_state={"cursor": 1_700_000_039, "nth": 3})

    fact = decide_create(CreateEvent(ADMIN, ACTOR, "e1", fields), world, NOW)

    assert fact.counters == Counters(cursor=1_700_000_000 // 60 * 60, nth=3)


# --- who may -----------------------------------------------------------------------------------


def test_without_the_privilege_nothing_is_created(world: World) -> None:
    with pytest.raises(AccessDenied):
        create(world, by=NOBODY)


def test_the_format_is_looked_at_before_the_privilege(world: World) -> None:
    with pytest.raises(BadRequest):
        create(world, by=NOBODY, title=None)


def test_the_privilege_is_looked_at_before_whether_the_event_exists(world: World) -> None:
    with pytest.raises(AccessDenied):
        update(world, by=NOBODY, id="no_such_event")


def test_a_category_outside_the_limits_is_out_of_reach(world: World) -> None:
    world.category("other")
    limited = having("create_events", "edit_events", categories=["other"])
    world.stored("general_one")

    with pytest.raises(AccessDenied):
        create(world, by=limited)
    with pytest.raises(AccessDenied):
        update(world, by=limited, id="general_one", category="other")


def test_an_event_cannot_be_moved_out_of_ones_own_limits(world: World) -> None:
    world.category("other")
    world.stored("mine")

    with pytest.raises(AccessDenied):
        update(world, by=having("edit_events", categories=["general"]), id="mine", category="other")


def test_one_allowed_group_among_the_targets_is_enough(world: World) -> None:
    limited = having("create_events", groups=["main"])

    assert create(world, by=limited, id="one", targets=["alpha.example", "main"])
    with pytest.raises(AccessDenied):
        create(world, by=limited, targets=["alpha.example"])


# --- locked parameters -------------------------------------------------------------------------


def test_others_than_admins_get_the_default_of_a_locked_parameter(world: World) -> None:
    event = create(world, by=having("create_events"), params={"script": "mine", "annotate": True})

    assert event["params"]["script"].startswith("#!/bin/sh")
    assert event["params"]["script"] != "mine"
    assert event["params"]["annotate"] is True


def test_a_locked_parameter_keeps_its_value_in_an_update(world: World) -> None:
    world.stored("mine", params={"script": "admins", "annotate": False})

    fact = update(world, by=having("edit_events"), id="mine", params={"script": "x", "annotate": 1})

    assert fact.definition["params"] == {"script": "admins", "annotate": 1}


def test_an_update_without_params_keeps_them(world: World) -> None:
    world.stored("mine", params={"script": "admins"})

    fact = update(world, by=having("edit_events"), id="mine", title="New")

    assert fact.definition["params"] == {"script": "admins"}
    assert fact.changed == ["title"]


def test_another_plugin_brings_its_own_locked_defaults(world: World) -> None:
    locked = {"id": "script", "title": "S", "type": "text", "value": "safe", "locked": True}
    world.plugin("other", params=[locked])
    world.stored("mine", params={"script": "admins"})

    fact = update(world, by=having("edit_events"), id="mine", plugin="other")

    assert fact.definition["params"] == {"script": "safe"}


# --- update ------------------------------------------------------------------------------------


def test_each_given_key_replaces_the_stored_one(world: World) -> None:
    world.stored("mine", tags=["important"], params={"script": "a", "annotate": True})

    fact = update(world, id="mine", params={"script": "b"}, tags=None)

    assert fact.definition["params"] == {"script": "b"}
    assert fact.definition["tags"] is None
    assert fact.definition["title"] == "Nightly backup"
    assert (fact.definition["revision"], fact.definition["modified"]) == (2, int(NOW + 60))


def test_what_the_server_sets_cannot_be_updated(world: World) -> None:
    before = world.stored("mine")

    event = update(world, id="mine", type="x", username="mallory", created=1, modified=2).definition

    assert "type" not in event
    assert (event["username"], event["created"]) == (before["username"], before["created"])


def test_an_empty_update_is_a_revision_too(world: World) -> None:
    world.stored("mine")

    fact = update(world, id="mine")

    assert fact.definition["revision"] == 2
    assert fact.changed == []
    assert change_summary(fact) == "Saved without changes"


def test_the_summary_names_what_changed(world: World) -> None:
    world.stored("mine")

    fact = update(
        world, id="mine", title="New", enabled=False, algo="random", update_state={"nth": 1}
    )

    assert change_summary(fact) == "Updated title, enabled, nth"


def test_a_stale_revision_is_refused(world: World) -> None:
    world.stored("mine")
    update(world, id="mine", title="Two", revision=1)

    with pytest.raises(RuleBroken) as error:
        update(world, id="mine", title="Three", revision=1)
    assert code_of(error) == "event"


def test_an_unknown_event_is_a_broken_rule(world: World) -> None:
    with pytest.raises(RuleBroken) as error:
        update(world, id="zzz", title="x")
    assert code_of(error) == "event"


@pytest.mark.parametrize("fields", [{}, {"id": 5}, {"id": "mine", "revision": "one"}])
def test_a_malformed_update_is_refused(world: World, fields: Json) -> None:
    world.stored("mine")

    with pytest.raises(BadRequest):
        update(world, **fields)


def test_the_merged_event_is_checked_as_a_whole(world: World) -> None:
    """The category went away: an unrelated change is refused until that is put right."""
    world.category("gone")
    world.stored("mine", category="gone")
    del world.catalog["category"]["gone"]

    with pytest.raises(BadRequest, match="Category"):
        update(world, id="mine", title="New")
    assert update(world, id="mine", category="general").definition["category"] == "general"


def test_a_required_key_cannot_be_set_to_null(world: World) -> None:
    world.stored("mine")

    with pytest.raises(BadRequest):
        update(world, id="mine", title=None)


def test_triggers_of_a_magic_link_survive_an_update_without_triggers(world: World) -> None:
    before = world.stored("mine", triggers=[{"type": "magic", "enabled": True, "key": "abc"}])

    assert update(world, id="mine", title="x").definition["triggers"] == before["triggers"]


def test_new_fields_fill_the_triggers_params(world: World) -> None:
    world.stored("mine", triggers=[HOURLY])
    fields = [{"id": "depth", "title": "Depth", "type": "text", "value": "3"}]

    event = update(world, id="mine", fields=fields).definition

    assert event["triggers"] == [HOURLY | {"params": {"depth": "3"}}]


# --- catch-up ----------------------------------------------------------------------------------


def test_turning_catch_up_on_begins_at_this_minute(world: World) -> None:
    world.stored("mine", triggers=[HOURLY])

    fact = update(world, id="mine", triggers=[HOURLY, CATCHUP], now=NOW + 61)

    assert fact.counters == Counters(cursor=int((NOW + 61) // 60) * 60)


def test_a_given_cursor_wins(world: World) -> None:
    world.stored("mine", triggers=[HOURLY])

    fact = update(
        world, id="mine", triggers=[HOURLY, CATCHUP], update_state={"cursor": 1_789_000_001}
    )

    assert fact.counters == Counters(cursor=1_789_000_001 // 60 * 60)


def test_with_catch_up_on_already_the_cursor_stays(world: World) -> None:
    world.stored("mine", triggers=[HOURLY, CATCHUP])

    assert update(world, id="mine", triggers=[CATCHUP, HOURLY]).counters is None


# --- revert, delete, and what jobs do ----------------------------------------------------------


def test_reverting_brings_back_the_whole_old_content_as_a_new_revision(world: World) -> None:
    old = dict(world.stored("mine"))
    update(world, id="mine", title="New", flavour="sweet")

    command = RevertEvent(ADMIN, ACTOR, "mine", old)
    fact = decide_revert(command, world, NOW + 120)

    assert fact.definition["title"] == old["title"]
    assert "flavour" not in fact.definition
    assert fact.definition["revision"] == 3


def test_an_event_with_unfinished_jobs_stays(world: World) -> None:
    world.stored("mine")

    with pytest.raises(RuleBroken) as error:
        decide_delete(DeleteEvent(ADMIN, ACTOR, "mine", live_jobs=1), world, NOW)
    assert code_of(error) == "event"


def test_deleting_says_whether_jobs_go_too(world: World) -> None:
    world.stored("mine")

    fact = decide_delete(DeleteEvent(ADMIN, ACTOR, "mine", 0, delete_jobs=True), world, NOW)

    assert (fact.event, fact.delete_jobs) == ("mine", True)


@pytest.mark.parametrize(
    ("by", "error"), [(NOBODY, AccessDenied), (having("delete_events", groups=["x"]), AccessDenied)]
)
def test_deleting_needs_privilege_and_access(world: World, by: Any, error: Any) -> None:
    world.stored("mine")

    with pytest.raises(error):
        decide_delete(DeleteEvent(by, ACTOR, "mine", 0), world, NOW)


def test_an_action_disables_an_event_once(world: World) -> None:
    world.stored("mine")

    fact = world.take(disable("mine", world, ACTOR, NOW, "job j1"))

    assert (fact.definition["enabled"], fact.definition["revision"]) == (False, 2)
    assert (fact.changed, fact.reason) == (["enabled"], "job j1")
    assert disable("mine", world, ACTOR, NOW, "job j2") is None
    assert disable("gone", world, ACTOR, NOW, "job j2") is None


def test_a_child_changes_only_what_it_may(world: World) -> None:
    world.stored("mine")

    fact = changed_by_child(
        "mine", {"enabled": False, "plugin": "testplug", "id": "x"}, world, ACTOR, NOW, "job"
    )

    assert fact is not None
    assert fact.changed == ["enabled"]
    assert changed_by_child("mine", {"plugin": "testplug"}, world, ACTOR, NOW, "job") is None


def test_a_child_cannot_change_locked_parameters(world: World) -> None:
    world.stored("mine", params={"script": "admins", "annotate": False})

    changes = {"params": {"script": "evil", "annotate": True}}
    fact = changed_by_child("mine", changes, world, ACTOR, NOW, "job")

    assert fact is not None
    assert fact.definition["params"] == {"script": "admins", "annotate": True}


def test_a_childs_change_must_make_a_valid_event(world: World) -> None:
    world.stored("mine")

    with pytest.raises(BadRequest):
        changed_by_child("mine", {"tags": ["no_such_tag"]}, world, ACTOR, NOW, "job")
