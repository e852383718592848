"""A job made by a template is the one that would be made without."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.assembly import Made, assemble, assemble_alike, template_of
from domain.facts import Actor, JobRequested, MadeOf

_text = st.sampled_from(["", "x", "5", "{{ id }}", "{{ params.a }} {{ server.id }}", "{{"])
_value = st.one_of(_text, st.integers(0, 3), st.booleans(), st.none())
_entry = st.fixed_dictionaries(
    {"type": st.sampled_from(["job", "queue", "retry", "file", "email"])},
    optional={"enabled": st.booleans(), "amount": st.integers(0, 3), "code": st.just(1)},
)
_entries = st.lists(_entry, max_size=2)
_names = st.sampled_from(["a", "b", "uid", "_xy_override_notes", "_xy_override_priority"])
_params = st.dictionaries(_names, _value, max_size=3)
_fields = st.lists(
    st.fixed_dictionaries(
        {"id": _names}, optional={"value": _value, "type": st.just("checkbox"), "locked": _value}
    ),
    max_size=2,
)
_records = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("e1"),
        "title": _value,
        "type": _text,
        "now": _value,
        "priority": _value,
        "unknown": _value,
        "algo": st.sampled_from(["random", "multiplex"]),
        "limits": _entries,
        "actions": _entries,
        "tags": st.lists(_value, max_size=2),
        "fields": _fields,
        "params": _params,
        "revision": st.integers(0, 3),
        "env": st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
    },
)
_plugins = st.fixed_dictionaries(
    {},
    optional={
        "command": _text,
        "script": _text,
        "uid": _value,
        "kill": _text,
        "runner": st.booleans(),
        "params": _fields,
    },
)
_configs = st.fixed_dictionaries(
    {},
    optional={
        "job_env": st.dictionaries(_text, _text, max_size=1),
        "limits": _entries,
        "actions": _entries,
    },
)
_made = st.builds(Made, event=_records, category=_configs, plugin=_plugins, config=_configs)
_requests = st.builds(
    JobRequested,
    at=st.just(5.0),
    actor=st.just(Actor(type="user", id="anna")),
    event=st.just("e1"),
    job=st.sampled_from(["j1", "j2"]),
    made_of=st.just(MadeOf(event=1)),
    source=st.just("user"),
    username=st.just("anna"),
    now=st.just(5.0),
    type=st.none() | st.just("schedule"),
    stype=st.none() | st.just("interval"),
    splugin=st.none() | st.just("p1"),
    parent=st.none() | st.just({"job": "j0"}),
    retry_prev=st.none() | st.just("j0"),
    retry_count=st.integers(0, 2),
    first_attempt=st.none() | st.just("j0"),
    priority=st.booleans(),
    invisible=st.booleans(),
    ephemeral=st.booleans(),
    add_tags=st.lists(_text, max_size=2),
    test=st.booleans(),
    workflow=st.none() | st.just({"job": "jp"}),
    overrides=st.just({}) | st.just({"params": {"a": 1}}),
    input=st.none() | st.just({"data": {"x": 1}}),
)


def _ordered(value: Any) -> Any:
    """As it is written: dictionaries are equal whatever their order, documents are not."""
    if isinstance(value, dict):
        return [(key, _ordered(entry)) for key, entry in value.items()]
    return [_ordered(entry) for entry in value] if isinstance(value, list) else value


@settings(max_examples=500)
@given(_made, _requests)
def test_a_job_by_a_template_is_the_job_without(made: Made, request: JobRequested) -> None:
    template = template_of(made)
    alike = assemble_alike(template, request) if template is not None else None
    if alike is None:
        return
    whole = assemble(made, request)

    assert alike == whole
    assert _ordered(alike.document) == _ordered(whole.document)


def test_a_plain_event_has_a_template() -> None:
    made = Made({"id": "e1", "params": {"a": "x"}}, {}, {"command": "run"}, {})

    assert template_of(made) is not None


def test_what_a_job_is_given_is_its_own() -> None:
    """A job whose document somebody changes leaves the next one alone."""
    made = Made({"id": "e1", "params": {"a": "x"}, "limits": [], "tags": []}, {}, {}, {})
    request = _request()
    template = template_of(made)
    assert template is not None
    first = assemble_alike(template, request)
    assert first is not None

    first.document["params"]["a"] = "changed"
    first.document["limits"].append({})
    first.document["tags"].append("changed")

    assert assemble_alike(template, request) == assemble(made, request)


def _request() -> JobRequested:
    return JobRequested(
        at=5.0,
        actor=Actor(type="user", id="anna"),
        event="e1",
        job="j1",
        made_of=MadeOf(event=1),
        source="user",
        username="anna",
        now=5.0,
    )
