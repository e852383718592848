"""Named secrets: who may change them, what is shown, and which of several wins."""

from typing import Any

import pytest

from domain import secrets
from domain.access import SYSTEM, Principal
from domain.errors import AccessDenied, BadRequest, RuleBroken
from domain.facts import Actor
from domain.secrets import ChangeSecret, check_values

ACTOR = Actor(type="key", id="kadmin")
SOMEBODY = Principal("k2", "key", "eve", privileges=frozenset({"edit_events"}))


class Known:
    """The stored secrets."""

    def __init__(self, *records: dict[str, Any]) -> None:
        self._records = {record["id"]: record for record in records}

    def record(self, type: str, id: str) -> dict[str, Any] | None:
        return self._records.get(id)


STORED: dict[str, Any] = {
    "id": "db",
    "title": "Database",
    "ciphertext": {"USER_NAME": "k.1", "PASSWORD": "k.2"},
    "events": ["nightly"],
    "categories": [],
    "plugins": [],
    "revision": 3,
}


def change(fields: dict[str, Any], by: Principal = SYSTEM, **sealed: str | None) -> ChangeSecret:
    return ChangeSecret(by, ACTOR, "z1", fields, sealed)


def test_a_new_secret_holds_only_ciphertext() -> None:
    fields = {"title": "Database", "values": {"PASSWORD": "plain"}, "events": ["nightly"]}
    fact = secrets.decide_create_secret(change(fields, PASSWORD="k.1"), Known(), 5.0)  # type: ignore[arg-type]

    assert fact.record["ciphertext"] == {"PASSWORD": "k.1"}
    assert "plain" not in repr(fact)
    assert (fact.record["events"], fact.record["plugins"]) == (["nightly"], [])


def test_an_update_keeps_the_values_it_does_not_name() -> None:
    command = change({"id": "db", "title": "New"}, PASSWORD="k.9", USER_NAME=None)
    fact = secrets.decide_update_secret(command, Known(STORED), 5.0)  # type: ignore[arg-type]

    assert fact.record["ciphertext"] == {"PASSWORD": "k.9"}
    assert (fact.record["title"], fact.record["revision"]) == ("New", 4)
    assert fact.changed == ["title", "ciphertext"]


def test_a_deleted_secret_leaves_no_ciphertext_in_its_fact() -> None:
    fact = secrets.decide_delete_secret(SYSTEM, ACTOR, "db", Known(STORED), 5.0)  # type: ignore[arg-type]

    assert "ciphertext" not in fact.record


@pytest.mark.parametrize("fields", [{"title": " "}, {"title": "x", "events": "nightly"}, {}])
def test_a_malformed_secret_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        secrets.decide_create_secret(change(fields), Known(), 5.0)  # type: ignore[arg-type]


def test_only_administrators_touch_secrets() -> None:
    known = Known(STORED)
    with pytest.raises(AccessDenied):
        secrets.decide_create_secret(change({"title": "x"}, SOMEBODY), known, 5.0)  # type: ignore[arg-type]
    with pytest.raises(AccessDenied):
        secrets.decide_update_secret(change({"id": "db"}, SOMEBODY), known, 5.0)  # type: ignore[arg-type]
    with pytest.raises(AccessDenied):
        secrets.decide_delete_secret(SOMEBODY, ACTOR, "db", known, 5.0)  # type: ignore[arg-type]


def test_the_record_of_the_key_is_no_secret() -> None:
    known = Known({"id": "_keys", "key": "k", "revision": 1})
    with pytest.raises(RuleBroken):
        secrets.decide_delete_secret(SYSTEM, ACTOR, "_keys", known, 5.0)  # type: ignore[arg-type]
    with pytest.raises(BadRequest):
        secrets.decide_create_secret(change({"id": "_keys", "title": "x"}), Known(), 5.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"PATH": "x"},
        {"JOB_ID": "x"},
        {"LD_PRELOAD": "x"},
        {"1A": "x"},
        {"A-B": "x"},
        {"A": ""},
        {"A": 1},
        {"A": "a\x00b"},
        {"A": "x" * 65537},
        ["A"],
    ],
)
def test_variables_have_harmless_names_and_texts_for_values(values: object) -> None:
    with pytest.raises(BadRequest) as refusal:
        check_values(values)
    assert "xxxx" not in str(refusal.value)


def test_what_is_shown_has_names_and_no_values() -> None:
    shown = secrets.shown(STORED)

    assert shown["names"] == ["PASSWORD", "USER_NAME"]
    assert "ciphertext" not in shown


def test_a_plugins_secret_wins_over_a_categorys_and_that_over_an_events() -> None:
    records = [
        {"id": "p", "plugins": ["shellplug"]},
        {"id": "e", "events": ["nightly"]},
        {"id": "c", "categories": ["general"]},
        {"id": "other", "events": ["hourly"], "plugins": []},
        {"id": "_keys", "events": ["nightly"]},
    ]
    given = secrets.assigned(records, event="nightly", category="general", plugin="shellplug")

    assert [record["id"] for record in given] == ["e", "c", "p"]
