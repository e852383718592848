"""Actions: what may be saved, and which fire in which order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.actions import check_actions, conditions_of, select
from domain.errors import BadRequest
from domain.facts import Json
from tests.domain.world import World


def action(type: str, condition: str = "error", **keys: Any) -> Json:
    return {"type": type, "condition": condition, "enabled": True} | keys


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.stored("other")
    required = {"id": "room", "title": "Room", "type": "text", "required": True}
    world.plugin("pager", type="action", params=[required])
    return world


# --- what may be saved -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "good",
    [
        action("email", users=["admin"]),
        action("email", users=[], email="a@example.org", body="x"),
        action("web_hook", web_hook="hook1", text="x"),
        action("web_hook", url="https://example.org/x"),
        action("run_event", event_id="other", params={"a": 1}, start_delay=5),
        action("suspend", "start", users=[], email=""),
        action("suspend", "complete", sources=["user"]),
        action("tag", tags=["flag"]),
        action("label", label="{{ data.x }}"),
        action("disable", "abort"),
        action("delete", "success"),
        action("plugin", plugin_id="pager", params={"room": "5"}),
        action("channel", "critical", channel_id="sev1"),
        action("store", bucket_id="b1", bucket_sync="data"),
        action("fetch", "start", bucket_id="b1", bucket_sync="data_and_files"),
        action("ticket", "warning", ticket_type="issue", ticket_assignees=["admin"]),
        action("snapshot", "user"),
        action("disable", "tag:important"),
        action("disable", "alert_new"),
        action("disable", enabled=False),
    ],
    ids=str,
)
def test_an_action_may_be_saved(world: World, good: Json) -> None:
    assert check_actions([good], world) == [good]


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "disable", "condition": "error"},
        action("explode"),
        action("disable", "sometimes"),
        action("disable", "instant"),
        action("disable", "continue"),
        action("disable", "tag:"),
        action("disable", condition=["error"]),
        action("email"),
        action("email", users=[]),
        action("email", users="admin"),
        action("email", users=[5]),
        action("web_hook"),
        action("web_hook", web_hook="not a word"),
        action("web_hook", url="ftp://example.org"),
        action("run_event"),
        action("run_event", event_id="no_such_event"),
        action("run_event", event_id="other", params=[]),
        action("run_event", event_id="other", start_delay=-1),
        action("tag", tags=[]),
        action("tag"),
        action("label", label=" "),
        action("label", label="<b>"),
        action("plugin", plugin_id="shellplug"),
        action("plugin", plugin_id="pager"),
        action("plugin", plugin_id="pager", params={"room": "5", "_xy_override_uid": "root"}),
        action("channel"),
        action("store", bucket_id="b1"),
        action("store", bucket_sync="data"),
        action("ticket", ticket_tags="x"),
        {"type": ["email"], "condition": "error", "enabled": True},
        "disable",
    ],
    ids=str,
)
def test_a_malformed_action_is_refused(world: World, bad: Any) -> None:
    with pytest.raises(BadRequest):
        check_actions([bad], world)


def test_a_running_job_may_push_instant_actions(world: World) -> None:
    check_actions([action("tag", "instant", tags=["x"])], world, pushed=True)


def test_the_sentence_says_which_action_is_wrong(world: World) -> None:
    with pytest.raises(BadRequest, match="entry #2 of 'actions'"):
        check_actions([action("disable"), action("explode")], world)


# --- which fire --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "conditions"),
    [
        (0, ["complete", "success"]),
        ("", ["complete", "success"]),
        (None, ["complete", "success"]),
        (1, ["complete", "error", "user"]),
        ("db_down", ["complete", "error", "user"]),
        ("warning", ["complete", "error", "warning"]),
        ("critical", ["complete", "error", "critical"]),
        ("abort", ["complete", "error", "abort"]),
    ],
)
def test_a_result_fulfils_conditions_in_this_order(code: Any, conditions: list[str]) -> None:
    assert conditions_of(code, []) == conditions
    assert conditions_of(code, ["b", "a", "b"]) == [*conditions, "tag:b", "tag:a"]


def test_actions_fire_in_the_order_of_conditions_then_of_the_list() -> None:
    actions = [
        action("tag", "tag:x"),
        action("label", "error"),
        action("disable", "complete"),
        action("delete", "success"),
        action("email", "error", users=["a"]),
    ]

    assert [index for index, _ in select(actions, "end", 5, ["x"])] == [2, 1, 4, 0]


def test_of_the_same_type_and_target_the_first_fires() -> None:
    actions = [
        action("run_event", "complete", event_id="a"),
        action("run_event", "error", event_id="a", params={"more": 1}),
        action("run_event", "error", event_id="b"),
        action("email", "error", users=["x"], email="m"),
        action("email", "abort", users=["x"], email="m"),
        action("email", "abort", users=["y"], email="m"),
        action("ticket", "error"),
        action("ticket", "abort"),
    ]

    assert [index for index, _ in select(actions, "end", "abort")] == [0, 2, 3, 6, 5]


def test_what_has_a_result_already_does_not_fire_again() -> None:
    """Nor does a later one with the same target: the first has fired."""
    actions = [action("disable", code=0), action("disable"), action("delete")]

    assert [index for index, _ in select(actions, "end", 1)] == [2]


def test_disabled_ones_and_other_stages_do_not_fire() -> None:
    actions = [action("disable", enabled=False), action("tag", "start"), action("tag", "instant")]

    assert select(actions, "end", 1) == []
    assert [index for index, _ in select(actions, "start")] == [1]
    assert [index for index, _ in select(actions, "instant")] == [2]


def test_a_test_run_may_restrict_the_conditions() -> None:
    actions = [action("disable", "complete"), action("delete", "error")]

    assert [index for index, _ in select(actions, "end", 1, only=["error"])] == [1]
    assert select(actions, "end", 1, only=[]) == []


keys = st.sampled_from(["type", "condition", "enabled", "code", "users", "event_id", "email"])
values = (
    st.none()
    | st.booleans()
    | st.sampled_from(["error", "email", "complete"])
    | st.lists(st.integers(), max_size=2)
)


@given(st.lists(st.dictionaries(keys, values)), values)
def test_selecting_never_fails_and_never_repeats(actions: list[Json], code: Any) -> None:
    chosen = [index for index, _ in select(actions, "end", code, ["x"])]

    assert len(chosen) == len(set(chosen))
