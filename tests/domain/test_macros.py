"""Macros in texts and parameters: execution.md 4, data.md 2.4."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.expressions import to_text
from domain.macros import (
    AT_DISPATCH,
    FORBIDDEN_OVERRIDES,
    MAX_EXPANDED,
    MAX_ROUNDS,
    deferred_params,
    expand_params,
    expand_text,
    forbidden_override,
    overrides_of,
    param_context,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "macro_vectors.json").read_text())


@pytest.mark.parametrize("case", VECTORS["vectors"], ids=lambda case: case["id"])
def test_vector(case: dict[str, Any]) -> None:
    assert expand_text(case["text"], param_context(VECTORS["context"])) == case["expect"]


def test_the_vector_file_is_complete() -> None:
    assert len(VECTORS["vectors"]) == VECTORS["count"] >= 60


def test_a_missing_value_shows_what_the_caller_asked_for() -> None:
    assert expand_text("-{{ nothing }}-", {}, missing="N/A") == "-N/A-"


@given(st.text(), st.text(alphabet="{} idparms.[]'\"+\\", max_size=40))
def test_text_from_a_macro_is_never_scanned_again(prefix: str, smuggled: str) -> None:
    context = {"data": {"evil": smuggled}, "id": "j1", "p": prefix}
    assert expand_text("{{ p }}{{ data.evil }}|", context) == f"{prefix}{smuggled}|"


@given(st.text())
def test_data_inside_a_quoted_literal_stays_data(value: str) -> None:
    for quote in "'\"":
        text = f"{{{{ {quote}{{{{ v }}}}{quote} }}}}"
        assert expand_text(text, {"v": value}) == value


@given(st.text(alphabet="{} }}{{id'\"\\.+[]()x1", max_size=60))
def test_expansion_of_any_text_ends_without_an_exception(text: str) -> None:
    assert isinstance(expand_text(text, {"id": "j1"}), str)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_value_can_be_inserted(value: Any) -> None:
    expanded = expand_text("{{ v }}", {"v": value})
    if not expanded.startswith("(ERROR"):
        assert expanded == to_text(value)


def test_macros_inside_macros_are_bounded() -> None:
    allowed = "{{" * MAX_ROUNDS + "1" + "}}" * MAX_ROUNDS
    assert expand_text(allowed, {}) == "1"
    assert "ERROR" in expand_text("{{" + allowed + "}}", {})


def test_output_is_bounded() -> None:
    context = {"big": "x" * 1_000_000}
    expanded = expand_text("{{ big }}" * 100, context)
    assert expanded.count("x") <= MAX_EXPANDED
    assert "(ERROR: Expanded text is too long)" in expanded


def test_work_is_bounded_for_a_whole_text() -> None:
    context = {"list": list(range(20_000))}
    expanded = expand_text("{{ count(list[.a == 1]) }};" * 1000, context)
    assert "(ERROR: Expression takes too much work)" in expanded


def test_fields_come_first_and_later_parameters_see_earlier_results() -> None:
    params = {"z": "{{ params.f2 }}!", "f2": "{{ params.f1 }}2", "f1": "{{ id }}1"}
    expanded = expand_params(params, ["f1", "f2", "absent"], {"id": "j"})
    assert expanded == {"z": "j12!", "f2": "j12", "f1": "j1"}
    assert list(expanded) == ["z", "f2", "f1"]


def test_only_top_level_texts_are_expanded() -> None:
    params = {"json": {"a": "{{ id }}"}, "list": ["{{ id }}"], "n": 1, "b": True, "t": "{{ id }}"}
    assert expand_params(params, [], {"id": "j"}) == params | {"t": "j"}


def test_parameters_share_one_output_limit() -> None:
    params = {f"p{n}": "{{ data.big }}" for n in range(10)}
    context = {"input": {"data": {"big": "x" * 1_000_000}}}
    expanded = expand_params(params, [], context)
    assert sum(map(len, expanded.values())) < MAX_EXPANDED + 1000


def test_a_parameter_that_needs_the_server_waits_for_dispatch() -> None:
    params = {"host": "{{ server }}", "who": "{{ id }}", "cmd": "{{ params.host }}:{{ id }}"}
    job = {"id": "j1"}

    at_launch = expand_params(params, [], job, defer=AT_DISPATCH)
    assert at_launch == {"host": "{{ server }}", "who": "j1", "cmd": "{{ params.host }}:{{ id }}"}

    waiting = deferred_params(params, [])
    assert waiting == {"host", "cmd"}
    at_dispatch = expand_params(at_launch, [], job | {"server": "s1"}, only=waiting)
    assert at_dispatch == {"host": "s1", "who": "j1", "cmd": "s1:j1"}


def test_text_inserted_at_launch_is_not_expanded_at_dispatch() -> None:
    params = {"a": "{{ data.evil }}", "b": "{{ params.a }} on {{ server }}"}
    job = {"input": {"data": {"evil": "{{ server }}"}}}
    waiting = deferred_params(params, [])
    at_launch = expand_params(params, [], job, defer=AT_DISPATCH)
    at_dispatch = expand_params(at_launch, [], job | {"server": "s1"}, only=waiting)
    assert at_dispatch == {"a": "{{ server }}", "b": "{{ server }} on s1"}


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        ("{{ server }}", True),
        ("{{ groups[0] }}", True),
        ("{{ id }} {{ server }}", True),
        ("{{ {{ server }} }}", True),
        ("{{ 'on ' + server }}", True),
        ("{{ params.server }}", False),
        ("{{ 'server' }}", False),
        ("{{ server('s1') }}", False),
        ("server", False),
        ("{{ server + }}", False),
    ],
)
def test_what_waits(text: str, waits: bool) -> None:
    assert deferred_params({"p": text}, []) == ({"p"} if waits else set())
    context = {"server": "s", "groups": ["g"]}
    assert (expand_text(text, context, defer=AT_DISPATCH) == text) is (waits or "{{" not in text)


@pytest.mark.parametrize(
    "text", ["{{ params['host'] }}", "{{ params }}", "{{ params[id] }}", "{{ params.{{ id }} }}"]
)
def test_every_way_to_read_a_waiting_parameter_waits(text: str) -> None:
    assert deferred_params({"host": "{{ server }}", "p": text}, []) == {"host", "p"}


def test_reading_another_parameter_does_not_wait() -> None:
    params = {"host": "{{ server }}", "other": "x", "p": "{{ params.other }}"}
    assert deferred_params(params, []) == {"host"}


def test_server_and_event_are_answered_by_resolvers() -> None:
    resolvers = {"server": {"s1": "db one"}.get, "event": {"e1": "Nightly"}.get}
    text = "{{ server('s1') }} {{ event('e1') }} {{ server('s2') }}"
    assert expand_text(text, {}, resolvers=resolvers) == "db one Nightly s2"


def test_overrides_skip_empty_and_forbidden_ones() -> None:
    params = {
        "_xy_override_targets": "main",
        "_xy_override_label": "",
        "_xy_override_algo": None,
        "_xy_override_priority": False,
        "_xy_override_": "x",
        "targets": "other",
    } | {f"_xy_override_{name}": "x" for name in FORBIDDEN_OVERRIDES}
    assert overrides_of(params) == {"targets": "main", "priority": False}


def test_forbidden_overrides_can_be_told_by_their_id() -> None:
    assert forbidden_override("_xy_override_uid")
    assert not forbidden_override("_xy_override_targets")
    assert not forbidden_override("uid")
