"""Reading parameters: coercion, bounds, filters and sorting (api.md 1.2, 1.7)."""

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadRequest
from services.gateway import body, lists
from services.gateway.params import Order, Page, Params, order, page
from services.gateway.replies import wants_gzip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


def text(**values: str) -> Params:
    """Parameters that came as text."""
    return Params(dict(values), frozenset(values))


@pytest.mark.parametrize(
    ("sent", "meant"), [("1", True), ("true", True), ("0", False), ("false", False), ("", False)]
)
def test_text_says_a_flag_in_five_ways(sent: str, meant: bool) -> None:
    assert text(x=sent).flag("x") is meant


@pytest.mark.parametrize("sent", ["yes", "TRUE", "2", " 1"])
def test_other_text_is_no_flag(sent: str) -> None:
    with pytest.raises(BadRequest):
        text(x=sent).flag("x")


def test_in_json_a_flag_is_a_boolean_or_a_number() -> None:
    assert Params({"x": 0}).flag("x") is False
    assert Params({"x": 2.5}).flag("x") is True
    for bad in ("true", None, [], {}):
        with pytest.raises(BadRequest):
            Params({"x": bad}).flag("x")


@pytest.mark.parametrize("sent", ["1.5", "1e3", "0x1", "", " 1", "٣", "9" * 30])
def test_what_is_no_integer_is_refused(sent: str) -> None:
    with pytest.raises(BadRequest):
        text(x=sent).integer("x", 0)


def test_lists_come_as_json_or_between_commas() -> None:
    assert text(x="a, b,c").array("x") == ["a", "b", "c"]
    assert text(x='["a,b"]').array("x") == ["a,b"]
    assert text(x="").array("x") == []
    assert Params({"x": ["a"]}, frozenset({"x"})).array("x") == ["a"]
    with pytest.raises(BadRequest):
        Params({"x": "a,b"}).array("x")


@pytest.mark.parametrize("sent", ["-1", "abc", "1.0"])
def test_a_bad_page_is_refused(sent: str) -> None:
    for name in ("limit", "offset"):
        with pytest.raises(BadRequest):
            page(text(**{name: sent}))


def test_zero_means_all_only_where_all_is_the_default() -> None:
    assert page(text(limit="0")) == Page(0, None)
    assert page(text(limit="0"), 1) == Page(0, 0)
    assert page(Params({}), 50) == Page(0, 50)


def test_a_direction_is_up_or_down() -> None:
    assert order(text(sort_dir="1"), "started", -1) == Order("started", descending=False)
    with pytest.raises(BadRequest):
        order(text(sort_dir="0"), "started", -1)


@given(st.binary(max_size=200))
def test_any_query_is_read_or_refused(query: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(body.query_values(query), dict)


def test_a_forms_text_is_utf8_also_where_it_is_not_escaped() -> None:
    form = body.whole("application/x-www-form-urlencoded", "a=Tür&b=T%C3%BCr".encode())
    assert form.values == {"a": "Tür", "b": "Tür"}
    with pytest.raises(BadRequest):
        body.whole("application/x-www-form-urlencoded", "a=Tür".encode("latin-1"))


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        (b"gzip", True),
        (b"br, GZIP;q=0.5", True),
        (b"*", True),
        (b"gzip;q=0", False),
        (b"*, gzip; q=0", False),
        (b"*;q=0, gzip", True),
        (b"identity", False),
    ],
)
def test_a_reply_is_packed_if_the_client_takes_that(asked: bytes, taken: bool) -> None:
    assert wants_gzip(asked) is taken


@given(st.binary(max_size=200) | json_values.map(lambda value: body.msgspec.json.encode(value)))
def test_any_json_body_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(body.json_body(data), dict)


@pytest.mark.parametrize(
    ("stored", "wanted", "equal"),
    [
        (1, "1", True),
        (True, "1", True),
        (True, 1, True),
        ("1", 1, True),
        (True, "true", True),
        (False, "0", True),
        (1.0, "1", True),
        (["main"], "main", True),
        (["main", "b"], "main", False),
        ("main", "Main", False),
        (None, "", False),
        (0, "", False),
    ],
)
def test_filters_compare_loosely(stored: Any, wanted: Any, equal: bool) -> None:
    assert lists.matches({"x": stored}, {"x": wanted}) is equal


def test_filters_follow_dotted_paths_and_miss_what_is_absent() -> None:
    record = {"workflow": {"job": "j1"}, "a.b": 2}
    assert lists.matches(record, {"workflow.job": "j1", "a.b": "2"})
    assert not lists.matches(record, {"workflow.node": ""})


def test_rows_without_the_field_come_last_in_both_directions() -> None:
    rows: list[dict[str, Any]] = [{"id": "c"}, {"id": "b", "x": 10}, {"id": "a", "x": 9}]
    rows += [{"id": "d", "x": 9}]
    random.Random(5).shuffle(rows)
    up = lists.ordered(rows, Order("x", descending=False), lambda row: row)
    down = lists.ordered(rows, Order("x", descending=True), lambda row: row)
    assert [row["id"] for row in up] == ["a", "d", "b", "c"]
    assert [row["id"] for row in down] == ["b", "d", "a", "c"]


def test_texts_are_sorted_as_texts() -> None:
    rows = [{"id": "1", "x": "b"}, {"id": "2", "x": "a"}]
    found = lists.ordered(rows, Order("x", descending=False), lambda row: row)
    assert [row["x"] for row in found] == ["a", "b"]
