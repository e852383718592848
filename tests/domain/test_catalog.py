"""Supporting records, servers and the configuration: what may be made of them."""

from typing import Any

import pytest

from domain.catalog import (
    CONFIG_ID,
    RULES,
    decide_config,
    decide_create,
    decide_delete,
    decide_delete_server,
    decide_switch,
    decide_update,
    decide_update_many,
    decide_update_server,
)
from domain.commands import (
    CreateRecord,
    DeleteRecord,
    DeleteServer,
    SwitchScheduling,
    UpdateConfig,
    UpdateManyRecords,
    UpdateRecord,
    UpdateServer,
)
from domain.defaults import default_facts
from domain.errors import AccessDenied, BadRequest, RuleBroken
from domain.facts import CatalogType, CatalogUpdated, Json
from tests.domain.world import ACTOR, ADMIN, NOBODY, NOW, World, having

VALID: dict[CatalogType, Json] = {
    "category": {"title": "Reports"},
    "tag": {"title": "Red"},
    "group": {"title": "Web", "hostname_match": r"^web\d+"},
    "plugin": {"title": "Mine", "type": "event", "command": "/bin/mine"},
    "role": {"title": "Operators"},
    "webhook": {"title": "Chat", "url": "https://example.org/{{ id }}"},
}
TYPES = sorted(VALID)


@pytest.fixture
def world() -> World:
    return World()


def create(world: World, type: CatalogType, by: Any = ADMIN, **fields: Any) -> Json:
    command = CreateRecord(by, ACTOR, type, "new1", VALID[type] | fields)
    return world.take(decide_create(command, world, NOW)).record


def update(
    world: World, type: CatalogType, id: str, by: Any = ADMIN, **fields: Any
) -> CatalogUpdated:
    command = UpdateRecord(by, ACTOR, type, {"id": id} | fields)
    return world.take(decide_update(command, world, NOW + 60))


# --- the usual five calls ----------------------------------------------------------------------


def test_every_ordinary_type_has_a_valid_example() -> None:
    assert set(VALID) == set(RULES)


@pytest.mark.parametrize("type", TYPES)
def test_the_server_signs_a_new_record(world: World, type: CatalogType) -> None:
    record = create(world, type, username="mallory", revision=7, flavour="sweet")

    assert (record["id"], record["username"], record["revision"]) == ("new1", "anna", 1)
    assert record["created"] == record["modified"] == int(NOW)
    assert record["flavour"] == "sweet"


@pytest.mark.parametrize("type", TYPES)
def test_a_record_may_bring_its_id_but_not_one_in_use(world: World, type: CatalogType) -> None:
    assert create(world, type, id="mine")["id"] == "mine"
    with pytest.raises(RuleBroken) as error:
        create(world, type, id="mine")
    assert error.value.code == RULES[type].code


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(
    "fields", [{"title": None}, {"title": 5}, {"title": "<b>"}, {"icon": "a b"}, {"id": "Bad-ID"}]
)
def test_a_malformed_record_is_refused(world: World, type: CatalogType, fields: Json) -> None:
    with pytest.raises(BadRequest):
        create(world, type, **fields)


@pytest.mark.parametrize("type", TYPES)
def test_each_call_needs_its_own_privilege(world: World, type: CatalogType) -> None:
    plural = RULES[type].plural
    create(world, type, by=having(f"create_{plural}"))
    update(world, type, "new1", by=having(f"edit_{plural}"), notes="<i>n</i>")
    for by in (NOBODY, having("create_events")):
        with pytest.raises(AccessDenied):
            create(world, type, by=by, id="other")
        with pytest.raises(AccessDenied):
            update(world, type, "new1", by=by)
        with pytest.raises(AccessDenied):
            decide_delete(DeleteRecord(by, ACTOR, type, "new1"), world, NOW)
    decide_delete(DeleteRecord(having(f"delete_{plural}"), ACTOR, type, "new1"), world, NOW)


@pytest.mark.parametrize("type", TYPES)
def test_an_update_is_a_shallow_merge(world: World, type: CatalogType) -> None:
    before = create(world, type)

    fact = update(world, type, "new1", notes="<i>n</i>ew", created=1, username="x")

    assert fact.record == before | {"notes": "new", "modified": int(NOW + 60), "revision": 2}
    assert fact.changed == ["notes"]


@pytest.mark.parametrize("type", TYPES)
def test_an_unknown_record_is_a_broken_rule(world: World, type: CatalogType) -> None:
    with pytest.raises(RuleBroken) as error:
        update(world, type, "zzz", title="x")
    assert error.value.code == RULES[type].code
    with pytest.raises(RuleBroken):
        decide_delete(DeleteRecord(ADMIN, ACTOR, type, "zzz"), world, NOW)


@pytest.mark.parametrize("type", ["server", "secret", "config"])
def test_other_types_have_calls_of_their_own(world: World, type: CatalogType) -> None:
    with pytest.raises(BadRequest):
        decide_create(CreateRecord(ADMIN, ACTOR, type, "x", {"title": "x"}), world, NOW)


# --- what differs ------------------------------------------------------------------------------


def test_new_categories_and_groups_come_last(world: World) -> None:
    assert create(world, "category")["sort_order"] == 1
    assert create(world, "group")["sort_order"] == 1
    assert "sort_order" not in create(world, "tag")


@pytest.mark.parametrize("type", ["category", "group"])
def test_the_place_of_something_new_is_not_for_the_client_to_say(
    world: World, type: CatalogType
) -> None:
    assert create(world, type, sort_order=77)["sort_order"] == 1


def test_a_category_is_enabled_unless_told_otherwise(world: World) -> None:
    assert create(world, "category")["enabled"] is True
    assert create(world, "category", id="off", enabled=False)["enabled"] is False


@pytest.mark.parametrize(
    "fields",
    [
        {"limits": [{"type": "queue", "enabled": True, "amount": 1}]},
        {"actions": [{"type": "disable"}]},
        {"enabled": "yes"},
    ],
)
def test_a_categorys_rules_are_checked(world: World, fields: Json) -> None:
    with pytest.raises(BadRequest):
        create(world, "category", **fields)


def test_a_category_in_use_stays(world: World) -> None:
    world.stored("mine")

    with pytest.raises(RuleBroken) as error:
        decide_delete(DeleteRecord(ADMIN, ACTOR, "category", "general"), world, NOW)
    assert error.value.code == "category"


def test_categories_and_groups_outside_the_limits_are_out_of_reach(world: World) -> None:
    limited = having("edit_categories", "edit_groups", categories=["x"], groups=["x"])

    with pytest.raises(AccessDenied):
        update(world, "category", "general", by=limited)
    with pytest.raises(AccessDenied):
        update(world, "group", "main", by=limited)


def test_a_groups_hostnames_are_a_regular_expression(world: World) -> None:
    with pytest.raises(RuleBroken) as error:
        create(world, "group", hostname_match="(")
    assert error.value.code == "group"
    with pytest.raises(BadRequest):
        create(world, "group", hostname_match=None)


def test_tags_of_the_system_cannot_be_made(world: World) -> None:
    with pytest.raises(BadRequest):
        create(world, "tag", id="_success")


def test_nobody_hands_out_a_privilege_it_does_not_have(world: World) -> None:
    by = having("create_roles", "edit_roles", "run_jobs")

    create(world, "role", by=by, privileges={"run_jobs": True, "admin": False})
    with pytest.raises(AccessDenied):
        update(world, "role", "new1", by=by, privileges={"admin": True})


def test_only_admins_choose_a_plugins_os_account(world: World) -> None:
    with pytest.raises(AccessDenied):
        create(world, "plugin", by=having("create_plugins"), uid="root")
    create(world, "plugin", uid="daemon")
    update(world, "plugin", "new1", by=having("edit_plugins"), title="Same account")


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "ftp://x"},
        {"method": "SHOUT"},
        {"headers": [{"name": "X"}]},
        {"timeout": -1},
        {"follow": "yes"},
    ],
)
def test_a_malformed_web_hook_is_refused(world: World, fields: Json) -> None:
    with pytest.raises(BadRequest):
        create(world, "webhook", **fields)


# --- sorting -----------------------------------------------------------------------------------


def test_several_categories_are_sorted_at_once(world: World) -> None:
    create(world, "category")
    items = [{"id": "general", "sort_order": 1}, {"id": "new1", "sort_order": 0}]

    facts = decide_update_many(UpdateManyRecords(ADMIN, ACTOR, "category", items), world, NOW)

    assert [(fact.id, fact.record["sort_order"]) for fact in facts] == [("general", 1), ("new1", 0)]


@pytest.mark.parametrize(
    ("by", "items", "error"),
    [
        (ADMIN, [], BadRequest),
        (ADMIN, ["general"], BadRequest),
        (ADMIN, [{"id": "zzz"}], RuleBroken),
        (having("edit_categories", categories=["general"]), [{"id": "general"}], AccessDenied),
        (NOBODY, [{"id": "general"}], AccessDenied),
    ],
)
def test_sorting_is_refused(world: World, by: Any, items: Any, error: Any) -> None:
    with pytest.raises(error):
        decide_update_many(UpdateManyRecords(by, ACTOR, "category", items), world, NOW)


# --- servers -----------------------------------------------------------------------------------

SERVER = {"id": "s1", "hostname": "alpha.example", "groups": ["main"]}


def say(world: World, by: Any = ADMIN, **fields: Any) -> Json:
    command = UpdateServer(by, ACTOR, SERVER, {"id": "s1"} | fields)
    return world.take(decide_update_server(command, world, NOW)).record


def test_an_administrator_describes_a_server(world: World) -> None:
    say(world, title="Alpha", enabled=False, maxJobs=3, hostname="forged")
    record = say(world, userData={"rack": 5}, title="")

    assert record["title"] == ""
    assert (record["enabled"], record["maxJobs"]) == (False, 3)
    assert (record["userData"], record["revision"]) == ({"rack": 5}, 2)
    assert "hostname" not in record


def test_setting_groups_turns_the_automatic_off_and_the_automatic_forgets_them(
    world: World,
) -> None:
    assert say(world, groups=["x"])["autoGroup"] is False
    assert say(world, title="t")["groups"] == ["x"]
    automatic = say(world, autoGroup=True, groups=["y"])
    assert automatic["autoGroup"] is True
    assert "groups" not in automatic


@pytest.mark.parametrize(
    "fields", [{"enabled": "x"}, {"maxJobs": -1}, {"groups": "x"}, {"userData": []}, {"title": 5}]
)
def test_a_malformed_description_is_refused(world: World, fields: Json) -> None:
    with pytest.raises(BadRequest):
        say(world, **fields)


def test_an_unknown_server_cannot_be_described_or_deleted(world: World) -> None:
    for decide in (
        lambda: decide_update_server(UpdateServer(ADMIN, ACTOR, None, {"id": "s9"}), world, NOW),
        lambda: decide_delete_server(DeleteServer(ADMIN, ACTOR, "s9", None, True), world, NOW),
    ):
        with pytest.raises(RuleBroken) as error:
            decide()
        assert error.value.code == "server"
    with pytest.raises(AccessDenied):
        say(world, by=NOBODY)


def test_an_offline_server_is_deleted_with_its_history_only(world: World) -> None:
    with pytest.raises(RuleBroken):
        decide_delete_server(DeleteServer(ADMIN, ACTOR, "s1", SERVER, False), world, NOW)
    command = DeleteServer(ADMIN, ACTOR, "s1", SERVER, False, history=True)
    assert decide_delete_server(command, world, NOW).record == SERVER


# --- configuration and the switch --------------------------------------------------------------


def test_the_configuration_is_one_record(world: World) -> None:
    first = world.take(decide_config(UpdateConfig(ADMIN, ACTOR, {"limits": []}), world, NOW))
    command = UpdateConfig(ADMIN, ACTOR, {"timezone": "Europe/Berlin", "job_env": {"A": "1"}})
    second = world.take(decide_config(command, world, NOW))

    assert (first.id, second.id) == (CONFIG_ID, CONFIG_ID)
    assert second.record["limits"] == []
    assert second.record["timezone"] == "Europe/Berlin"
    assert second.record["revision"] == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"limits": [{"type": "x"}]},
        {"actions": "x"},
        {"timezone": "Mars/Olympus"},
        {"timezone": ["UTC"]},
        {"dst_policy": "twice"},
        {"job_env": []},
    ],
)
def test_a_malformed_configuration_is_refused(world: World, fields: Json) -> None:
    with pytest.raises(BadRequest):
        decide_config(UpdateConfig(ADMIN, ACTOR, fields), world, NOW)


def test_only_admins_configure_and_switch(world: World) -> None:
    with pytest.raises(AccessDenied):
        decide_config(UpdateConfig(NOBODY, ACTOR, {}), world, NOW)
    with pytest.raises(AccessDenied):
        decide_switch(SwitchScheduling(NOBODY, ACTOR, False), NOW)
    assert decide_switch(SwitchScheduling(ADMIN, ACTOR, False), NOW).enabled is False


# --- the default records -----------------------------------------------------------------------


def test_a_fresh_ledger_holds_these_records(world: World) -> None:
    ids = {type: set(records) for type, records in world.catalog.items()}

    assert ids == {
        "role": {"all"},
        "group": {"main"},
        "category": {"general"},
        "tag": {"important", "flag"},
        "plugin": {"shellplug", "testplug", "httpplug", "dockerplug", "hookplug"},
    }
    assert "password" not in world.accounts["user", "admin"]


def test_the_default_records_can_be_saved_as_they_are(world: World) -> None:
    for fact in default_facts(NOW, ACTOR):
        if fact.kind == "CatalogCreated":
            decide_update(UpdateRecord(ADMIN, ACTOR, fact.type, fact.record), world, NOW)
