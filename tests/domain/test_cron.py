"""Cron text becomes lists, or a sentence that names the field."""

import re

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from domain.cron import expand, parse_crontab
from domain.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "lists"),
    [
        ("* * * * *", {}),
        ("5 * * * *", {"minutes": [5]}),
        ("*/15 4,16 * * *", {"minutes": [0, 15, 30, 45], "hours": [4, 16]}),
        ("0 9-17/4 * * *", {"minutes": [0], "hours": [9, 13, 17]}),
        ("0 0 1 JAN-mar *", {"minutes": [0], "hours": [0], "days": [1], "months": [1, 2, 3]}),
        ("0 0 * * Mon-Fri", {"minutes": [0], "hours": [0], "weekdays": [1, 2, 3, 4, 5]}),
        ("0 22-2 * * *", {"minutes": [0], "hours": [0, 1, 2, 22, 23]}),
        ("0 22-2/2 * * *", {"minutes": [0], "hours": [0, 2, 22]}),
        ("0 0 * * fri-mon", {"minutes": [0], "hours": [0], "weekdays": [0, 1, 5, 6]}),
        ("0 0 * nov-feb *", {"minutes": [0], "hours": [0], "months": [1, 2, 11, 12]}),
        ("0 0 28-2 * *", {"minutes": [0], "hours": [0], "days": [1, 2, 28, 29, 30, 31]}),
        ("0 24 * * *", {"minutes": [0], "hours": [0]}),
        ("60 0 * * *", {"minutes": [0], "hours": [0]}),
        ("0 0 * * 7", {"minutes": [0], "hours": [0], "weekdays": [0]}),
        ("0 0 * * 5-7", {"minutes": [0], "hours": [0], "weekdays": [0, 5, 6]}),
        ("0 0 * * 0-7", {"minutes": [0], "hours": [0]}),
        ("0 0 0 * *", {"minutes": [0], "hours": [0], "days": [1]}),
        ("0 0 * 0 *", {"minutes": [0], "hours": [0], "months": [1]}),
        ("0 10,* * * *", {"minutes": [0]}),
        ("*/99 * * * *", {"minutes": [0]}),
        ("*/100000 * * * *", {"minutes": [0]}),
        ("0-59/61 * * * *", {"minutes": [0]}),
        ("3-3 * * * *", {"minutes": [3]}),
        ("0 5-28/7 * * *", {"minutes": [0], "hours": [2, 5, 12, 19]}),
        ("0 0 0-2 * *", {"minutes": [0], "hours": [0], "days": [1, 2]}),
        ("  0   0 * *\t* ", {"minutes": [0], "hours": [0]}),
        ("@hourly", {"minutes": [0]}),
        ("@Daily", {"minutes": [0], "hours": [0]}),
        ("@midnight", {"minutes": [0], "hours": [0]}),
        ("@weekly", {"minutes": [0], "hours": [0], "weekdays": [0]}),
        ("@monthly", {"minutes": [0], "hours": [0], "days": [1]}),
        ("@annually", {"minutes": [0], "hours": [0], "days": [1], "months": [1]}),
    ],
)
def test_text_names_lists(text: str, lists: dict[str, list[int]]) -> None:
    assert expand(text) == [lists]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("*/0 * * * *", "minute"),
        ("0 1-5/0 * * *", "hour"),
        ("0 5/15 * * *", "hour"),
        ("0 0 L * *", "day"),
        ("0 0 15W * *", "day"),
        ("0 0 ? * *", "day"),
        ("0 0 * * 1#1", "weekday"),
        ("0 0 * * monday", "weekday"),
        ("0 0 * mon *", "month"),
        ("jan 0 * * *", "minute"),
        ("-5 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("1.5 * * * *", "minute"),
        ("h/5 * * * *", "minute"),
        ("99999 * * * *", "minute"),
        ("0-99999999999 * * * *", "minute"),
        ("٣ * * * *", "minute"),
        ("* * * * * *", "five fields"),
        ("0 * * * * * 2026", "seconds"),
        ("* * *", "five fields"),
        ("", "five fields"),
        ("@reboot", "startup"),
        ("@fortnightly", "alias"),
    ],
)
def test_what_is_not_read_is_refused_by_name(text: str, word: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(word)):
        expand(text)


def test_day_and_weekday_together_need_a_choice() -> None:
    with pytest.raises(BadRequest, match=r"'both'.*'either'"):
        expand("0 0 13 * fri")
    assert expand("0 0 13 * fri", days_rule="both") == [
        {"minutes": [0], "hours": [0], "days": [13], "weekdays": [5]}
    ]
    assert expand("0 0 13 * fri", days_rule="either") == [
        {"minutes": [0], "hours": [0], "days": [13]},
        {"minutes": [0], "hours": [0], "weekdays": [5]},
    ]


def test_h_is_a_stable_value_of_its_field() -> None:
    first, again, other = (expand("h h h * *", title=t)[0] for t in ("Backup", "Backup", "Report"))
    assert first == again != other
    assert 0 <= first["minutes"][0] <= 59
    assert 1 <= first["days"][0] <= 31


@given(st.integers(0, 23), st.integers(0, 23), st.integers(1, 24))
def test_a_range_is_walked_around_the_clock(first: int, last: int, step: int) -> None:
    walked = [hour % 24 for hour in range(first, last + (24 if last < first else 0) + 1, step)]
    (lists,) = expand(f"0 {first}-{last}/{step} * * *")
    assert lists.get("hours", list(range(24))) == sorted(walked)


@given(st.lists(st.integers(0, 59), min_size=1, max_size=5), st.integers(1, 12))
def test_plain_text_means_what_croniter_reads(minutes: list[int], month: int) -> None:
    text = f"{','.join(map(str, minutes))} */2 * {month} *"
    expected = croniter.expand(text)[0]
    (lists,) = expand(text)
    assert [lists["minutes"], lists["hours"], lists["months"]] == [
        sorted(expected[0]),
        expected[1],
        expected[3],
    ]


CRONTAB = """\
# nightly work
MAILTO = "ops team"
PATH=/usr/bin:/bin

30 2 * * * /bin/backup --all=yes
CRON_TZ=Europe/Berlin
@daily   report 50\\% done
0 9 * * mon-fri mail -s hello%first line%second\\%
@reboot warm-cache
61,x * * * * broken
0 0 13 * 5 friday
* * * * *
"""


def test_a_crontab_is_read_line_by_line() -> None:
    lines = {line.line_no: line for line in parse_crontab(CRONTAB)}
    assert sorted(lines) == [5, 7, 8, 9, 10, 11, 12]
    assert lines[5].triggers == (
        {"type": "schedule", "enabled": True, "minutes": [30], "hours": [2]},
    )
    assert lines[5].command == "/bin/backup --all=yes"
    assert lines[5].environment == {"MAILTO": "ops team", "PATH": "/usr/bin:/bin"}
    assert lines[7].command == "report 50% done"
    assert lines[7].triggers[0]["timezone"] == "Europe/Berlin"
    assert (lines[8].command, lines[8].stdin) == ("mail -s hello", "first line\nsecond%")
    assert lines[9].triggers == ({"type": "startup", "enabled": True},)


def test_bad_lines_carry_their_error_and_no_triggers() -> None:
    errors = {line.line_no: line.error for line in parse_crontab(CRONTAB) if line.error}
    assert sorted(errors) == [10, 11, 12]
    assert "'minute'" in (errors[10] or "")
    assert "either" in (errors[11] or "")
    assert "command" in (errors[12] or "")
    either = parse_crontab("0 0 13 * 5 friday", days_rule="either")
    assert [len(line.triggers) for line in either] == [2]


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        refused = "" if expand(text) else "no trigger"
    except BadRequest as refusal:
        refused = str(refusal)
    assert refused == "" or refused.endswith(".")
    assert all(bool(line.triggers) == (line.error is None) for line in parse_crontab(text))
