"""The search language of api.md 8.5, asked of real rows."""

import json

import pytest

from domain.errors import RuleBroken
from projections.history import History
from projections.search import Calendar, activity_where, jobs_where
from tests.projections.recording import Book, empty_store

# 2023-11-15 12:30 UTC; the jobs below end in the hours around it.
NOON = 1_700_051_400.0
CALENDAR = Calendar(now=NOON, zone="UTC")


@pytest.fixture(scope="module")
def history() -> History:
    """Five jobs with all that can be searched for."""
    book = Book()
    book.completed("j1", event="backup", completed=NOON - 3600, started=10.0, tags=["blue", "big"])
    book.completed("j2", event="backup", code=1, completed=NOON, started=20.0, tags=["blue"])
    book.completed("j3", event="report", code="abort", completed=NOON + 3600, started=30.0,
                   category="sales", targets=["east"], groups=["east"], retried=True)  # fmt: skip
    book.completed("j4", event="report", code="bad_disk", completed=NOON - 86400, started=40.0,
                   targets=[], server=None, test=True, source="scheduler")  # fmt: skip
    book.completed("j5", event="other", completed=NOON + 86400, started=50.0, elapsed=0.5,
                   files=[{"id": "f"}], targets=["s1"], server="s2", plugin="testplug")  # fmt: skip
    view = History(empty_store())
    view.apply_batch(book.facts)
    return view


def found(history: History, query: str, **more: object) -> str:
    """The numbers of the jobs that a query finds, oldest first."""
    page = history.search(query, CALENDAR, limit=100, sort_dir=1, **more)  # type: ignore[arg-type]
    rows = [json.loads(row) for row in page.rows]
    assert page.length == len(rows)
    return "".join(row["id"][1:] for row in rows)


@pytest.mark.parametrize(
    ("query", "jobs"),
    [
        ("*", "12345"),
        ("", "12345"),
        ("event:backup", "12"),
        ("event:backup|other", "125"),
        ("event:backup code:1", "2"),
        ("event:!backup", "345"),
        ("-event:backup", "345"),
        ("-event:!backup", "12"),
        ("event:!backup|report", "5"),
        ("abort", "3"),
        ("!abort", "1245"),
        ("0 event:backup", "1"),
        ("code:0", "15"),
        ("code:abort|bad_disk", "34"),
        ("tags:blue", "12"),
        ("tags:blue big", "1"),
        ("tags: blue big", "1"),
        ("tags:blue !big", "2"),
        ("-tags:blue", "345"),
        ("tags:_success", "15"),
        ("tags:_error", "234"),
        ("tags:_retried", "3"),
        ("tags:_last _error", "24"),
        ("tags:_test", "4"),
        ("tags:_files|_test", "45"),
        ("groups:east", "3"),
        ("server:s2", "5"),
        ("-server:s1", "45"),
        ("plugin:testplug", "5"),
        ("source:scheduler", "4"),
        ("category:sales", "3"),
        ("date:2023-11-15", "123"),
        ("date:today", "123"),
        ("date:now", "2"),
        ("date:=now", "2"),
        ("date:>now", "35"),
        ("date:>=now", "235"),
        ("date:<now", "14"),
        ("date:<=today", "1234"),
        ("date:2023-11-14..2023-11-15", "1234"),
        (f"date:{int(NOON)}", "2"),
        (f"date:>{int(NOON) - 7200} <={int(NOON)}", "12"),
        ("date:2023-11-14|2023-11-16", "45"),
        ("date:!today", "45"),
    ],
)
def test_a_query_finds_what_it_says(history: History, query: str, jobs: str) -> None:
    assert found(history, query) == jobs


@pytest.mark.parametrize(
    "query",
    [
        "colour:red", "event:", "event:a tags:", "event:a||b", "event:!", "date:soon",
        "date:2023-13-40", "date:1..", "date:>", "tags:" + "|".join("x" * 1 for _ in range(400)),
    ],
)  # fmt: skip
def test_a_bad_query_is_refused_as_db(history: History, query: str) -> None:
    with pytest.raises(RuleBroken) as refusal:
        history.search(query, CALENDAR)

    assert refusal.value.code == "db"


def test_values_are_never_sql(history: History) -> None:
    assert found(history, "event:');DROP/**/TABLE/**/jobs;--") == ""
    assert found(history, "*") == "12345"


def test_a_day_is_a_day_of_the_zone() -> None:
    """Nine hours east of Greenwich the day begins at 15:00 UTC."""
    where = jobs_where("date:2023-11-15", Calendar(now=NOON, zone="Asia/Tokyo"))

    assert where.params == (NOON - NOON % 86400 - 9 * 3600, NOON - NOON % 86400 + 15 * 3600)


@pytest.mark.parametrize(
    ("limits", "jobs"),
    [
        ({"categories": ["sales"]}, "3"),
        ({"categories": []}, "12345"),
        ({"groups": ["east"]}, "34"),
        ({"groups": ["east", "main"]}, "1234"),
        ({"groups": ["main"], "categories": ["general"]}, "124"),
    ],
)
def test_limits_hide_what_the_caller_may_not_see(
    history: History, limits: dict[str, list[str]], jobs: str
) -> None:
    """Empty targets pass the group limit, server ids alone do not (api.md 1.5)."""
    assert found(history, "*", **limits) == jobs


@pytest.mark.parametrize(
    ("sort_by", "sort_dir", "first"),
    [("_id", -1, "j5"), ("_id", 1, "j1"), ("completed", -1, "j5"), ("completed", 1, "j4"),
     ("elapsed", 1, "j5"), ("unknown", -1, "j5")],
)  # fmt: skip
def test_pages_are_sorted(history: History, sort_by: str, sort_dir: int, first: str) -> None:
    page = history.search("*", CALENDAR, sort_by=sort_by, sort_dir=sort_dir)

    assert json.loads(page.rows[0])["id"] == first
    assert (len(page.rows), page.length) == (1, 5)


def test_offset_and_limit_cut_the_rows_and_not_the_length(history: History) -> None:
    page = history.search("*", CALENDAR, offset=1, limit=2)

    assert [json.loads(row)["id"] for row in page.rows] == ["j4", "j3"]
    assert page.length == 5


def test_activity_is_searched_by_keyword_unless_a_field_is_named() -> None:
    assert activity_where("Anna", CALENDAR).params == ("anna",)
    assert activity_where("action:event_create|event_update", CALENDAR).params == (
        "event_create",
        "event_update",
    )
