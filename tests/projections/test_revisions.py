"""The revisions of events and the activity log."""

import json
from pathlib import Path
from typing import Any

import pytest

from domain import facts as f
from domain.facts import KINDS, Json, decode
from projections.history import History
from projections.revisions import PASSED_OVER, Page, activity_of
from projections.search import Calendar
from tests.projections.recording import ANNA, START, Book, empty_store

CALENDAR = Calendar(now=START)
GOLDEN = Path(__file__).parent.parent / "golden"


def told(book: Book) -> History:
    history = History(empty_store())
    history.apply_batch(book.facts)
    return history


def rows(page: Page) -> list[Json]:
    return [json.loads(row) for row in page.rows]


@pytest.fixture
def history() -> History:
    """An event's life: made, changed twice, deleted, and made anew under the same id."""
    book = Book()
    book.created("backup")
    book.updated("backup", ["title", "enabled"], title="B", revision=2)
    book.updated("backup", [], title="B", revision=3)
    book.created("other")
    book.deleted("backup")
    book.created("backup", title="Again")
    return told(book)


def test_the_history_is_newest_first_and_counts_all(history: History) -> None:
    page = history.revisions.event_history("backup")

    assert page.length == 5
    assert [row["event"]["title"] for row in rows(page)] == ["Again"]


def test_a_row_tells_what_changed_when_and_by_whom(history: History) -> None:
    row = rows(history.revisions.event_history("backup", offset=3, limit=1))[0]

    assert row["action"] == "event_update"
    assert row["description"] == "Updated title, enabled"
    assert row["date"] == row["epoch"] == int(START + 60)
    assert row["username"] == "anna"
    assert row["keywords"] == ["backup", "anna"]
    assert row["event"] == {"id": "backup", "title": "B", "revision": 2}
    assert row["id"].startswith("a")
    assert len(row["id"]) == 16
    assert {"ip", "ips", "headers"}.isdisjoint(row)


def test_a_deletion_shows_the_event_as_it_was(history: History) -> None:
    row = rows(history.revisions.event_history("backup", offset=1))[0]

    assert row["action"] == "event_delete"
    assert row["event"]["revision"] == 3


def test_the_oldest_comes_first_on_request(history: History) -> None:
    page = history.revisions.event_history("backup", limit=9, sort_dir=1)

    assert [row["event"]["revision"] for row in rows(page)] == [1, 2, 3, 3, 1]


def test_an_event_can_be_seen_as_it_stood(history: History) -> None:
    revisions = history.revisions

    assert revisions.event_at("backup", sequence=2) == {"id": "backup", "title": "B", "revision": 2}
    assert revisions.event_at("backup", sequence=5) is None
    assert revisions.event_at("backup", at=START + 59)["title"] == "Backup"  # type: ignore[index]
    assert revisions.event_at("backup", at=START - 1) is None
    assert revisions.event_at("backup")["title"] == "Again"  # type: ignore[index]
    assert revisions.event_at("nobody") is None
    assert revisions.event_history("backup", sequence=2).length == 2


def test_a_revision_is_found_by_its_number(history: History) -> None:
    assert history.revisions.event_revision("backup", 1)["title"] == "Again"  # type: ignore[index]
    assert history.revisions.event_revision("backup", 2)["title"] == "B"  # type: ignore[index]
    assert history.revisions.event_revision("backup", 9) is None


def test_admins_search_all_activity_and_see_addresses(history: History) -> None:
    page = history.revisions.search_activity("backup action:event_create", CALENDAR, limit=9)

    assert page.length == 2
    assert rows(page)[0]["ip"] == "192.0.2.7"
    assert rows(page)[0]["ips"] == ["192.0.2.7"]
    assert rows(page)[0]["headers"] == {}
    assert history.revisions.search_activity("anna", CALENDAR).length == 6
    assert history.revisions.search_activity("title", CALENDAR).length == 1


def test_revisions_are_searched_by_type_without_addresses(history: History) -> None:
    page = history.revisions.search_revisions("events", "other", CALENDAR)

    assert page.length == 1
    assert "ip" not in rows(page)[0]
    assert history.revisions.search_revisions("tags", "*", CALENDAR).length == 0


def made(model: type[f.FactBase], actor: f.Actor = ANNA, **keys: Any) -> Any:
    return model(at=START, actor=actor, **keys)


@pytest.mark.parametrize(
    ("fact", "action", "details"),
    [
        (
            made(f.AccessCreated, type="api_key", id="k1", record={"title": "T", "key": "h"}),
            "apikey_create",
            {"api_key": {"title": "T"}},
        ),
        (
            made(
                f.AccessUpdated,
                type="user",
                id="bob",
                record={"username": "bob", "password": "h", "salt": "s"},
                changed=["password"],
            ),
            "user_password",
            {"user": {"username": "bob"}},
        ),
        (
            made(f.CatalogUpdated, type="category", id="general", record={"title": "G"}),
            "category_update",
            {"category": {"title": "G"}},
        ),
        (
            made(f.CatalogCreated, type="server", id="s1", record={"maxJobs": 2}),
            "server_update",
            {"server": {"maxJobs": 2}},
        ),
        (
            made(f.CatalogCreated, type="secret", id="s", record={"title": "S", "ciphertext": "c"}),
            "secret_create",
            {"secret": {"title": "S"}},
        ),
        (
            made(f.JobAbortRequested, event="e", job="j1", reason="why"),
            "job_abort",
            {"reason": "why"},
        ),
        (made(f.JobTagged, event="e", job="j1", tags=["a"]), "job_update_tags", {"tags": ["a"]}),
        (made(f.JobDeleted, event="e", job="j1"), "job_delete", {}),
        (made(f.QueueFlushRequested, event="e"), "queue_flush", {}),
        (made(f.SessionStarted, id="anna", session="h", expires=1), "user_login", {}),
        (
            made(f.MasterSwitched, enabled=False),
            "state_update",
            {"key": "scheduler.enabled", "value": False},
        ),
        (
            made(f.FiresMissed, event="e", after=0, upto=9, count=3, reason="stopped"),
            "warning",
            {},
        ),
    ],
)
def test_what_a_fact_leaves_in_the_log(fact: f.Fact, action: str, details: Json) -> None:
    """Hashes and ciphertext never do."""
    activity = activity_of(fact)

    assert activity is not None
    assert (activity.action, activity.details) == (action, details)


@pytest.mark.parametrize(
    "fact",
    [
        made(f.TickFired, evaluated=1),
        made(f.SessionEnded, id="anna", session="h"),
        made(f.JobDeleted, f.Actor(type="system", id="retention"), event="e", job="j1"),
        made(f.JobCompleted, event="e", job="j1", code=0, description=""),
    ],
)
def test_what_is_not_logged(fact: f.Fact) -> None:
    assert activity_of(fact) is None


def test_the_products_own_doings_are_named_as_such() -> None:
    book = Book()
    book.created("backup")
    book.add(
        f.EventUpdated(
            at=START,
            actor=f.Actor(type="scheduler", id="17"),
            event="backup",
            definition={"id": "backup", "enabled": False},
            changed=["enabled"],
            reason="job j1",
        )
    )
    row = rows(told(book).revisions.event_history("backup"))[0]

    assert row["username"] == "scheduler"
    assert row["description"] == "Updated enabled (job j1)"
    assert row["reason"] == "job j1"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_passed_over_leaves_no_activity(kind: str) -> None:
    fact = decode((GOLDEN / f"{kind}.v1.json").read_bytes())

    assert type(fact) not in PASSED_OVER or activity_of(fact) is None
