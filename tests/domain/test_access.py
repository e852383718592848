"""Who may do what, and what happens to accounts."""

from typing import Any

import pytest

from domain.access import PRIVILEGES, Principal, principal_of, user_id
from domain.accounts import (
    decide_create_key,
    decide_create_user,
    decide_delete_key,
    decide_delete_user,
    decide_update_key,
    decide_update_profile,
    decide_update_user,
    set_password,
    without_secrets,
)
from domain.commands import (
    CreateApiKey,
    CreateUser,
    DeleteApiKey,
    DeleteUser,
    UpdateApiKey,
    UpdateProfile,
    UpdateUser,
)
from domain.errors import AccessDenied, BadRequest, RuleBroken
from domain.facts import Json
from tests.domain.world import ACTOR, ADMIN, NOBODY, NOW, World, having

ROLES: dict[str, Json] = {
    "ops": {"enabled": True, "privileges": {"abort_jobs": 1, "tag_jobs": 0}, "groups": ["web"]},
    "off": {"enabled": False, "privileges": {"admin": True}, "categories": ["x"]},
}


@pytest.fixture
def world() -> World:
    return World()


# --- principals --------------------------------------------------------------------------------


def test_all_privileges_are_known() -> None:
    assert len(PRIVILEGES) == 47


def test_roles_add_to_a_users_own_rights_unless_they_are_disabled() -> None:
    user = {
        "username": "ben",
        "privileges": {"run_jobs": True, "edit_events": False},
        "roles": ["ops", "off", "gone"],
        "categories": ["general"],
    }

    ben = principal_of("user", user, ROLES.get)

    assert ben == Principal(
        "ben",
        "user",
        "ben",
        privileges=frozenset({"run_jobs", "abort_jobs"}),
        categories=frozenset({"general"}),
        groups=frozenset({"web"}),
    )


def test_a_key_signs_with_the_name_of_who_made_it() -> None:
    key = principal_of("key", {"id": "k1", "title": "Reports", "username": "anna"}, ROLES.get)

    assert (key.id, key.username, key.admin) == ("k1", "anna", False)
    with pytest.raises(AccessDenied, match="Reports"):
        key.require("run_jobs")


@pytest.mark.parametrize(
    "record", [{}, {"privileges": [], "roles": "x", "categories": 5}, {"roles": [None, {}]}]
)
def test_a_damaged_account_has_no_rights(record: Json) -> None:
    assert principal_of("user", record, ROLES.get).privileges == frozenset()


@pytest.mark.parametrize(
    ("limits", "category", "targets", "seen"),
    [
        ({}, "general", ["s1"], True),
        ({"categories": ["general"]}, "general", ["s1"], True),
        ({"categories": ["general"]}, "other", ["s1"], False),
        ({"categories": ["general"]}, None, [], False),
        ({"groups": ["main"]}, "other", ["s1", "main"], True),
        ({"groups": ["main"]}, "other", ["s1"], False),
        ({"groups": ["main"]}, "other", [], True),
        ({"groups": ["main"]}, "other", None, True),
        ({"groups": ["main"], "categories": ["x"]}, "other", ["main"], False),
        ({"categories": ["general"]}, ["general"], [], False),
        ({"categories": ["general"]}, {"general": 1}, [], False),
        ({"groups": ["main"]}, "other", 5, False),
        ({"groups": ["main"]}, "other", True, False),
        ({"groups": ["main"]}, "other", "main", False),
        ({"groups": ["main"]}, "other", [{}], False),
        ({"groups": ["main"]}, "other", [{}, "main"], True),
        ({}, [1], [{}], True),
    ],
)
def test_limits_decide_what_is_seen(limits: Any, category: Any, targets: Any, seen: bool) -> None:
    limited = having("run_jobs", **limits)

    assert limited.may_see(category, targets) is seen
    if seen:
        limited.require_access(category, targets)
        return
    with pytest.raises(AccessDenied):
        limited.require_access(category, targets)


def test_admins_have_every_privilege_and_no_limits() -> None:
    admin = having("admin", categories=["x"], groups=["x"])

    admin.require("delete_events")
    admin.require_access("other", ["s1"])
    assert admin.unlimited


# --- API keys ----------------------------------------------------------------------------------


def create_key(world: World, by: Principal = ADMIN, id: str = "k1", **fields: Any) -> Json:
    command = CreateApiKey(by, ACTOR, id, {"title": "Reports"} | fields, "hash", "abcd********wxyz")
    return world.take(decide_create_key(command, world, NOW)).record


def test_a_key_has_defaults_and_the_given_hash(world: World) -> None:
    record = create_key(world, key="mine", id_="x", mask="forged", username="mallory")

    assert record["key"] == "hash"
    assert record["mask"] == "abcd********wxyz"
    assert (record["active"], record["description"]) == (1, "")
    assert (record["privileges"], record["roles"]) == ({}, [])
    assert (record["username"], record["revision"]) == ("anna", 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"title": None},
        {"privileges": []},
        {"roles": "all"},
        {"categories": [5]},
        {"active": "yes"},
        {"expires": "tomorrow"},
        {"max_per_sec": -1},
    ],
)
def test_a_malformed_key_is_refused(world: World, fields: Json) -> None:
    with pytest.raises(BadRequest):
        create_key(world, **fields)


def test_a_keys_secret_cannot_be_updated(world: World) -> None:
    create_key(world)

    fields = {"id": "k1", "active": 0, "key": "stolen", "mask": "x"}
    fact = decide_update_key(UpdateApiKey(ADMIN, ACTOR, fields), world, NOW + 60)

    assert (fact.record["key"], fact.record["active"], fact.record["revision"]) == ("hash", 0, 2)
    assert fact.changed == ["active"]


def test_a_deleted_key_leaves_no_hash_behind(world: World) -> None:
    create_key(world)

    fact = decide_delete_key(DeleteApiKey(ADMIN, ACTOR, "k1"), world, NOW)

    assert fact.record["key"] == "REDACTED"


def test_keys_are_for_admins(world: World) -> None:
    create_key(world)

    with pytest.raises(AccessDenied):
        create_key(world, by=having("create_events"), id="k2")
    with pytest.raises(AccessDenied):
        decide_update_key(UpdateApiKey(NOBODY, ACTOR, {"id": "k1"}), world, NOW)
    with pytest.raises(AccessDenied):
        decide_delete_key(DeleteApiKey(NOBODY, ACTOR, "k1"), world, NOW)


def test_an_unknown_key_is_a_broken_rule(world: World) -> None:
    for decide in (
        lambda: decide_update_key(UpdateApiKey(ADMIN, ACTOR, {"id": "k9"}), world, NOW),
        lambda: decide_delete_key(DeleteApiKey(ADMIN, ACTOR, "k9"), world, NOW),
    ):
        with pytest.raises(RuleBroken) as error:
            decide()
        assert error.value.code == "api_key"


# --- users -------------------------------------------------------------------------------------


def create_user(world: World, username: Any = "Ben.Smith", **fields: Any) -> Json:
    command = CreateUser(ADMIN, ACTOR, {"username": username} | fields, "slow-hash")
    return world.take(decide_create_user(command, world, NOW)).record


def test_a_user_is_found_by_a_simplified_name(world: World) -> None:
    record = create_user(world, password="plain", salt="x")

    assert world.account("user", "bensmith") == record
    assert record["username"] == "Ben.Smith"
    assert record["password"] == "slow-hash"
    assert "salt" not in record
    assert user_id("BEN-smith") == "bensmith"


def test_new_users_may_do_the_usual_things(world: World) -> None:
    assert set(create_user(world)["privileges"]) == {
        "create_events",
        "edit_events",
        "run_jobs",
        "tag_jobs",
    }


def test_names_that_look_alike_are_one_user(world: World) -> None:
    create_user(world)

    with pytest.raises(RuleBroken) as error:
        create_user(world, "bensmith")
    assert error.value.code == "user_exists"


def test_a_user_cannot_take_the_id_of_a_key(world: World) -> None:
    """Both stand on the same subjects of the ledger."""
    create_key(world, id="kadmin")

    with pytest.raises(RuleBroken) as error:
        create_user(world, "KAdmin")
    assert error.value.code == "user_exists"


@pytest.mark.parametrize("name", [None, "", 5, "a b", "...", "__proto__", "x" * 200])
def test_not_every_name_is_a_user_name(world: World, name: Any) -> None:
    with pytest.raises(BadRequest):
        create_user(world, name)


def test_admins_have_their_limits_emptied(world: World) -> None:
    create_user(world, categories=["x"], groups=["y"])

    fields = {"username": "ben.smith", "privileges": {"admin": 1}}
    fact = decide_update_user(UpdateUser(ADMIN, ACTOR, fields), world, NOW)

    assert (fact.record["categories"], fact.record["groups"]) == ([], [])
    assert fact.record["password"] == "slow-hash"


def test_users_change_only_their_profile(world: World) -> None:
    create_user(world, force_password_reset=True)
    ben = Principal("Ben.Smith", "user", "Ben.Smith")

    fields = {"full_name": "Ben", "privileges": {"admin": 1}, "username": "admin", "active": 0}
    fact = decide_update_profile(UpdateProfile(ben, ACTOR, fields, "new-hash"), world, NOW)

    assert fact.id == "bensmith"
    assert fact.changed == ["full_name", "force_password_reset", "password"]
    assert "admin" not in fact.record["privileges"]


def test_a_key_has_no_profile(world: World) -> None:
    key = Principal("k1", "key", "anna")

    with pytest.raises(RuleBroken):
        decide_update_profile(UpdateProfile(key, ACTOR, {}), world, NOW)


def test_accounts_of_users_are_for_admins(world: World) -> None:
    for decide in (
        lambda: decide_create_user(CreateUser(NOBODY, ACTOR, {"username": "x"}), world, NOW),
        lambda: decide_update_user(UpdateUser(NOBODY, ACTOR, {"username": "admin"}), world, NOW),
        lambda: decide_delete_user(DeleteUser(NOBODY, ACTOR, "admin"), world, NOW),
    ):
        with pytest.raises(AccessDenied):
            decide()


def test_an_unknown_user_is_a_broken_rule(world: World) -> None:
    for decide in (
        lambda: decide_update_user(UpdateUser(ADMIN, ACTOR, {"username": "x"}), world, NOW),
        lambda: decide_delete_user(DeleteUser(ADMIN, ACTOR, "x"), world, NOW),
    ):
        with pytest.raises(RuleBroken) as error:
            decide()
        assert error.value.code == "user"


def test_the_first_password_is_set_on_the_server_itself(world: World) -> None:
    fact = set_password("admin", "slow-hash", world, ACTOR, NOW)

    assert fact.record["password"] == "slow-hash"
    assert fact.changed == ["force_password_reset", "password"]
    assert fact.record["force_password_reset"] is False


def test_whoever_sets_a_password_may_ask_for_another_one_to_be_chosen(world: World) -> None:
    fields = {"username": "admin", "force_password_reset": True}
    fact = decide_update_user(UpdateUser(ADMIN, ACTOR, fields, "hash"), world, NOW)

    assert fact.record["force_password_reset"] is True


def test_secrets_are_taken_out_of_what_clients_see(world: World) -> None:
    assert without_secrets({"username": "b", "password": "x", "salt": "y"}) == {"username": "b"}
    assert without_secrets({"id": "k", "key": "hash"}) == {"id": "k", "key": "REDACTED"}
    fact = decide_delete_user(DeleteUser(ADMIN, ACTOR, "admin"), world, NOW)
    assert "password" not in fact.record
