"""Plugins and parameters: definitions, defaults, values, and what only admins may change."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadRequest
from domain.facts import Json
from domain.plugins import (
    check_param_definitions,
    check_param_keys,
    check_plugin,
    check_values,
    default_value,
    default_values,
    locked_ids,
    select_items,
    with_locked,
)
from domain.stock_plugins import STOCK_PLUGINS


def param(**keys: Any) -> Json:
    return {"id": "p", "title": "P", "type": "text"} | keys


TOOLSET = param(
    id="tool",
    type="toolset",
    data={
        "default": "zip",
        "tools": [
            {"id": "tar", "title": "Tar", "fields": [param(id="level", value="1")]},
            {
                "id": "zip",
                "title": "Zip",
                "fields": [param(id="level", value="6", required=True, regex=r"^\d$")],
            },
        ],
    },
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "type", "value", "data", "tools", "fields", "default", "locked"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


# --- records -----------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", STOCK_PLUGINS, ids=lambda plugin: plugin["id"])
def test_the_stock_plugins_follow_their_own_rules(plugin: Json) -> None:
    check_plugin(plugin)


@pytest.mark.parametrize(
    "keys",
    [
        {"type": "workflow"},
        {"type": None},
        {"type": ["event"]},
        {"command": ""},
        {"command": None},
        {"kill": "everything"},
        {"timeout": -1},
        {"timeout": "soon"},
        {"runner": "yes"},
        {"uid": 5},
        {"params": {}},
        {"params": ["x"]},
    ],
    ids=str,
)
def test_what_is_no_plugin_is_refused(keys: Json) -> None:
    with pytest.raises(BadRequest):
        check_plugin({"type": "event", "command": "/bin/x", "params": []} | keys)


@pytest.mark.parametrize(
    "definition",
    [
        param(id="9lives"),
        param(id="constructor"),
        param(id=None),
        param(id="_xy_override_command"),
        param(title=None),
        param(title="a<b>"),
        param(type="colour"),
        param(type=[]),
        param(variant="roman"),
        param(regex="("),
        param(regex="(?=look)ahead"),
        param(regex=5),
        param(range="1 to 5"),
        param(caption="<i>"),
        param(type="toolset"),
        param(type="toolset", data={"tools": [{"title": "No id"}]}),
        param(type="toolset", data={"tools": [{"id": "a", "title": "A"}] * 2}),
        param(
            type="toolset",
            data={"tools": [{"id": "a", "title": "A", "fields": [param(type="system")]}]},
        ),
    ],
    ids=str,
)
def test_a_malformed_definition_is_refused(definition: Json) -> None:
    with pytest.raises(BadRequest):
        check_param_definitions([definition], "params")


def test_ids_are_used_once_also_inside_toolsets() -> None:
    with pytest.raises(BadRequest, match="level"):
        check_param_definitions([TOOLSET, param(id="level")], "params")
    assert check_param_definitions([TOOLSET], "params") == [TOOLSET]


def test_fields_need_no_title_but_free_ids() -> None:
    untitled = {"id": "who", "type": "text"}

    assert check_param_definitions([untitled], "fields", titled=False) == [untitled]
    with pytest.raises(BadRequest, match="who"):
        check_param_definitions([untitled], "fields", titled=False, taken=["who"])


# --- defaults ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "value"),
    [
        (param(value="x"), "x"),
        (param(), ""),
        (param(variant="number", value=""), None),
        (param(variant="number", value=5), 5),
        (param(type="checkbox"), False),
        (param(type="checkbox", value=1), True),
        (param(type="json"), {}),
        (param(type="json", value={"a": 1}), {"a": 1}),
        (param(type="select", value="Success, Error"), "Success"),
        (param(type="select", value="Big One [b1], Other"), "b1"),
        (param(type="select", value=", Other"), ""),
        (param(type="select"), ""),
        (param(type="select", value="a, b", multiple=True), ["a"]),
        (param(type="hidden", value="secret"), "secret"),
        (param(type="system", multiple=True), []),
        (TOOLSET, "zip"),
    ],
    ids=str,
)
def test_a_parameter_has_a_default(definition: Json, value: Any) -> None:
    assert default_value(definition) == value


def test_a_toolset_brings_the_defaults_of_its_chosen_tool() -> None:
    assert default_values([TOOLSET, param(type="group", id="g")]) == {"tool": "zip", "level": "6"}


def test_a_selects_items_are_ids() -> None:
    assert select_items("Success, Big [b1] ,, x") == ["Success", "b1", "", "x"]


@given(anything)
def test_stored_definitions_never_break_a_reader(definitions: Any) -> None:
    values = default_values(definitions)
    locked_ids(definitions)
    with_locked(definitions, {"p": 1}, None)
    for definition in definitions if isinstance(definitions, list) else []:
        if isinstance(definition, dict):
            default_value(definition)
    assert isinstance(values, dict)


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", []])
def test_a_required_value_is_missed(value: Any) -> None:
    with pytest.raises(BadRequest, match="'p' is required"):
        check_values([param(required=True)], {"p": value})


@pytest.mark.parametrize("value", [0, False, "x", [1], {}])
def test_these_values_are_not_empty(value: Any) -> None:
    check_values([param(required=True)], {"p": value})


def test_a_regex_is_searched_for_and_only_in_what_is_there() -> None:
    definitions = [param(regex="b+")]

    check_values(definitions, {"p": "abbc"})
    check_values(definitions, {"p": ""})
    with pytest.raises(BadRequest, match="value is invalid"):
        check_values(definitions, {"p": "ac"})


@pytest.mark.parametrize(
    ("allowed", "value", "fits"),
    [
        ("1-10/1", 1, True),
        ("1-10/1", "10", True),
        ("1-10/1", 10.5, False),
        ("1-10/1", 11, False),
        ("1-10/1", "", True),
        ("1-10/1", "many", False),
        ("1-10/1", True, False),
        ("1-10/1", "nan", False),
        ("1-10/1", [5], False),
        ("0-1/0.1", 0.3, True),
        ("0-1/0.1", 0.35, False),
        ("0-1/any", 0.123, True),
        ("0-1", 0.123, True),
        ("-5--1/2", -3, True),
        ("-5--1/2", -2, False),
        ("5-10/5", 10, True),
    ],
)
def test_a_number_lies_in_its_range_and_on_a_step(allowed: str, value: Any, fits: bool) -> None:
    definitions = [param(range=allowed)]
    if fits:
        check_values(definitions, {"p": value})
        return
    with pytest.raises(BadRequest, match="value is invalid"):
        check_values(definitions, {"p": value})


def test_only_the_chosen_tools_fields_are_checked() -> None:
    check_values([TOOLSET], {"tool": "tar", "level": ""})
    with pytest.raises(BadRequest, match="level"):
        check_values([TOOLSET], {"tool": "zip", "level": "ten"})


def test_values_without_a_definition_are_fine() -> None:
    check_values([param()], {"extra": object})


@pytest.mark.parametrize("key", ["_xy_override_plugin", "_xy_override_uid", "__proto__", "0"])
def test_these_keys_are_no_parameters(key: str) -> None:
    with pytest.raises(BadRequest):
        check_param_keys({key: 1})


def test_other_job_properties_may_be_overridden() -> None:
    check_param_keys({"_xy_override_targets": "x", "_xy_override_label": "y"})


# --- locks -------------------------------------------------------------------------------------

LOCKED = [param(id="a", value="default", locked=True), param(id="b"), TOOLSET | {"locked": True}]


def test_locked_values_are_the_defaults_where_nothing_was_kept() -> None:
    assert with_locked(LOCKED, {"a": "x", "b": "y", "tool": "tar", "level": "9"}, None) == {
        "a": "default",
        "b": "y",
        "tool": "zip",
        "level": "6",
    }


def test_locked_values_stay_what_they_were_absent_ones_absent() -> None:
    assert with_locked(LOCKED, {"a": "x", "b": "y", "tool": "z"}, {"tool": "tar"}) == {
        "b": "y",
        "tool": "tar",
    }


def test_without_locks_the_values_are_free() -> None:
    values = {"b": 1, "c": 2}

    assert with_locked([param(id="b")], values, None) == values
