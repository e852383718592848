"""Who may sign in: keys, users, sessions, roles, as the ledger tells."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import facts as f
from domain.facts import Fact, Json, Recorded
from domain.subjects import subject_of
from projections.access import Access
from tests.projections.histories import (
    ACTOR,
    HISTORIES,
    assert_redelivery_changes_nothing,
    folded,
)

AT = 1.7e9


class Told:
    """Accounts that are told facts one after another."""

    def __init__(self) -> None:
        self.view = Access()

    def tell(self, fact: Fact) -> int:
        sequence = self.view.position + 1
        self.view.apply(Recorded(sequence, subject_of(fact), fact))
        return sequence

    def put(self, type: Any, id: str, record: Json) -> int:
        exists = self.view.account(type, id) is not None
        made = f.AccessUpdated if exists else f.AccessCreated
        return self.tell(made(at=AT, actor=ACTOR, type=type, id=id, record=record))

    def key(self, id: str = "k1", **record: Any) -> int:
        defaults = {"id": id, "title": "Reports", "active": 1, "key": "hash", "username": "anna"}
        return self.put("api_key", id, defaults | record)

    def user(self, id: str = "ben", **record: Any) -> int:
        return self.put("user", id, {"username": id, "active": 1} | record)

    def role(self, id: str, **record: Any) -> None:
        record = {"id": id, "enabled": True} | record
        self.tell(f.CatalogUpdated(at=AT, actor=ACTOR, type="role", id=id, record=record))

    def login(self, user: str = "ben", session: str = "n1", at: float = AT) -> None:
        self.tell(f.SessionStarted(at=at, actor=ACTOR, id=user, session=session, expires=at + 100))


@pytest.fixture
def told() -> Told:
    return Told()


# --- keys --------------------------------------------------------------------------------------


def test_a_key_is_found_by_its_hash(told: Told) -> None:
    told.key(privileges={"run_jobs": True})

    principal = told.view.principal_for_key("hash", AT)

    assert principal is not None
    assert (principal.id, principal.kind, principal.username) == ("k1", "key", "anna")
    assert principal.may("run_jobs")
    assert told.view.principal_for_key("other", AT) is None


@pytest.mark.parametrize("record", [{"active": 0}, {"active": False}, {"active": None}])
def test_an_inactive_key_is_nobody(told: Told, record: Any) -> None:
    told.key(**record)

    assert told.view.principal_for_key("hash", AT) is None


@pytest.mark.parametrize(
    ("expires", "valid"), [(None, True), (0, True), (AT + 1, True), (AT, False), (AT - 1, False)]
)
def test_a_key_is_valid_until_it_expires(told: Told, expires: Any, valid: bool) -> None:
    told.key(expires=expires)

    assert (told.view.principal_for_key("hash", AT) is not None) is valid


def test_changes_of_a_key_count_at_once(told: Told) -> None:
    told.key(privileges={"admin": True})
    assert told.view.principal_for_key("hash", AT) is not None
    told.key(privileges={}, key="rotated")

    assert told.view.principal_for_key("hash", AT) is None
    rotated = told.view.principal_for_key("rotated", AT)
    assert rotated is not None
    assert not rotated.admin


def test_a_deleted_key_is_nobody(told: Told) -> None:
    told.key()
    told.tell(f.AccessDeleted(at=AT, actor=ACTOR, type="api_key", id="k1"))

    assert told.view.principal_for_key("hash", AT) is None
    assert told.view.keys == {}


def test_a_key_may_be_limited_in_its_rate(told: Told) -> None:
    told.key(max_per_sec=5)
    told.key("k2", key="h2", max_per_sec="many")

    assert told.view.max_per_sec("k1") == 5
    assert told.view.max_per_sec("k2") == told.view.max_per_sec("k9") == 0


# --- roles -------------------------------------------------------------------------------------


def test_changes_of_a_role_count_at_once(told: Told) -> None:
    told.key(roles=["ops"])
    principals = [told.view.principal_for_key("hash", AT)]
    told.role("ops", privileges={"abort_jobs": True})
    principals.append(told.view.principal_for_key("hash", AT))
    told.role("ops", privileges={"abort_jobs": True}, enabled=False)
    principals.append(told.view.principal_for_key("hash", AT))
    told.role("ops", privileges={"abort_jobs": True})
    principals.append(told.view.principal_for_key("hash", AT))
    told.tell(f.CatalogDeleted(at=AT, actor=ACTOR, type="role", id="ops"))
    principals.append(told.view.principal_for_key("hash", AT))

    assert [p is not None and p.may("abort_jobs") for p in principals] == [
        False,
        True,
        False,
        True,
        False,
    ]


# --- users and sessions ------------------------------------------------------------------------


def test_a_user_is_found_by_any_writing_of_the_name(told: Told) -> None:
    told.user("bensmith", username="Ben.Smith")

    found = told.view.user("BEN-SMITH")

    assert found is not None
    assert found["username"] == "Ben.Smith"


def test_a_session_belongs_to_its_user_until_it_expires(told: Told) -> None:
    told.user(privileges={"run_jobs": 1})
    told.login()

    principal = told.view.principal_for_session("n1", AT + 99)

    assert principal is not None
    assert (principal.id, principal.kind) == ("ben", "user")
    assert told.view.principal_for_session("n1", AT + 100) is None
    assert told.view.principal_for_session("n2", AT) is None


def test_a_closed_session_is_nobodys(told: Told) -> None:
    told.user()
    told.login()
    told.tell(f.SessionEnded(at=AT, actor=ACTOR, id="ben", session="n1"))

    assert told.view.principal_for_session("n1", AT) is None
    assert told.view.sessions_of("ben") == []


def test_a_disabled_user_is_nobody(told: Told) -> None:
    told.user()
    told.login()
    told.user(active=0)

    assert told.view.principal_for_session("n1", AT) is None


def test_a_deleted_user_loses_all_sessions(told: Told) -> None:
    told.user()
    told.login(session="n1")
    told.login(session="n2")
    told.tell(f.AccessDeleted(at=AT, actor=ACTOR, type="user", id="ben"))
    told.user()

    assert told.view.principal_for_session("n1", AT) is None
    assert told.view.principal_for_session("n2", AT) is None


def test_expired_sessions_are_forgotten_at_the_next_login(told: Told) -> None:
    told.user()
    told.login(session="n1")
    told.login(session="n2", at=AT + 200)

    assert told.view.sessions_of("Ben") == ["n2"]


def test_the_last_sequence_of_every_account_is_known(told: Told) -> None:
    told.key()
    told.user()
    told.login()
    last = told.view.position
    told.tell(f.AccessDeleted(at=AT, actor=ACTOR, type="api_key", id="k1"))

    assert told.view.sequences == {"ben": last, "k1": last + 1}


# --- any history -------------------------------------------------------------------------------


@given(HISTORIES, st.integers(0, 40))
def test_any_history_is_taken_in_and_redelivery_changes_nothing(
    history: list[Recorded], cut: int
) -> None:
    assert_redelivery_changes_nothing(Access, history, cut, "_principals")
    view = folded(Access, history)
    for hash in ("hash1", "hash2"):
        view.principal_for_key(hash, AT)
    for session in ("n1", "n2"):
        view.principal_for_session(session, AT)
