"""Limits: what may be saved, and which one counts."""

from typing import Any

import pytest

from domain.errors import BadRequest
from domain.facts import Json
from domain.limits import check_limits, first_enabled


def limit(type: str, **keys: Any) -> Json:
    return {"type": type, "enabled": True} | keys


@pytest.mark.parametrize(
    "good",
    [
        limit("time", duration=1.5, abort=True),
        limit("log", amount=1),
        limit("mem", amount=1, duration=0),
        limit("cpu", amount=50),
        limit("job", amount=1, weight=2),
        limit("queue", amount=0),
        limit("retry"),
        limit("retry", amount=3, duration=60),
        limit("file", amount=0, accept=".txt, .csv"),
        limit("file"),
        limit("day", condition="error", amount=5),
        limit("tag", amount=2),
        limit("time", duration=5, enabled=None),
        limit("time", duration=5, tags=["x"], unknown={"kept": True}),
    ],
    ids=str,
)
def test_a_limit_may_be_saved(good: Json) -> None:
    assert check_limits([good]) == [good]


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "time", "duration": 5},
        limit("speed", amount=1),
        limit("time"),
        limit("time", duration=0),
        limit("time", duration="5"),
        limit("time", duration=True),
        limit("log", amount=0),
        limit("mem", amount=-1),
        limit("mem", amount=5, duration="x"),
        limit("cpu"),
        limit("job"),
        limit("job", amount=0),
        limit("job", amount=1, weight="heavy"),
        limit("queue", amount="3"),
        limit("retry", amount=-1),
        limit("file", accept="*.txt"),
        limit("file", accept=5),
        limit("file", size=-1),
        limit("day", amount=1),
        limit("day", amount=1, condition="tag:x"),
        limit("day", amount=1, condition=["error"]),
        limit("tag", amount="x"),
        {"type": ["time"], "enabled": True, "duration": 5},
        "time",
    ],
    ids=str,
)
def test_a_malformed_limit_is_refused(bad: Any) -> None:
    with pytest.raises(BadRequest):
        check_limits([bad])


@pytest.mark.parametrize("limits", [{}, "x", 5])
def test_limits_are_a_list(limits: Any) -> None:
    with pytest.raises(BadRequest):
        check_limits(limits)


def test_no_limits_are_fine() -> None:
    assert check_limits(None) == check_limits([]) == []


def test_a_queue_needs_a_job_limit_beside_it() -> None:
    with pytest.raises(BadRequest, match="job"):
        check_limits([limit("queue", amount=3)])
    with pytest.raises(BadRequest, match="job"):
        check_limits([limit("queue", amount=3), limit("job", amount=1, enabled=False)])
    check_limits([limit("queue", amount=3, enabled=False)])
    check_limits([limit("queue", amount=3), limit("job", amount=1)])


def test_the_first_enabled_one_counts() -> None:
    limits = [limit("job", amount=1, enabled=False), limit("job", amount=2), limit("job", amount=3)]

    assert first_enabled(limits, "job") == limits[1]
    assert first_enabled(limits, "queue") is None
