"""Logs are data: each record says what it is about, in the chosen format (style.md 13)."""

import ast
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from services import logs

SERVICES = Path(__file__).parents[2] / "services"
LEVELS = ("debug", "info", "warning", "error", "exception")


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    """Other tests keep the logging they had."""
    root, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = root
    logging.root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged as JSON."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def calls_of_log() -> list[tuple[str, ast.Call]]:
    found = []
    for path in sorted(SERVICES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=attr)) if (
                    attr in LEVELS
                ):
                    found.append((f"{path.relative_to(SERVICES)}:{node.lineno}", node))
    return found


def test_every_record_of_the_services_names_its_action() -> None:
    calls = calls_of_log()
    assert len(calls) > 50
    unnamed = [at for at, call in calls if "action" not in {key.arg for key in call.keywords}]
    assert unnamed == []


def test_json_has_one_object_per_line_with_service_action_and_ids(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("runner", format="json")

    logs.logger("outbox").info("It runs", action="job_started", job="j1")
    try:
        raise ValueError("no")
    except ValueError:
        logs.logger().exception("It\nbroke", action="job_broke", job="j2")

    started, broke = records(capsys)
    assert started.items() >= {
        "event": "It runs", "action": "job_started", "job": "j1", "service": "runner",
        "part": "outbox", "level": "info",
    }.items()  # fmt: skip
    assert started["timestamp"].endswith("Z")
    assert "ValueError: no" in broke["exception"]


def test_what_libraries_log_has_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway", format="json")

    logging.getLogger("some.library").info("of no interest")
    logging.getLogger("some.library").warning("%d things are odd", 3)

    [record] = records(capsys)
    assert record.items() >= {
        "event": "3 things are odd", "action": "library_says", "part": "some.library",
        "service": "gateway", "level": "warning",
    }.items()  # fmt: skip


def test_less_important_records_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway", format="json", level="warning")

    logs.logger().info("fine", action="fine")
    logs.logger().warning("odd", action="odd")

    assert [record["action"] for record in records(capsys)] == ["odd"]


def test_the_console_shows_the_same_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("gateway", format="console")

    logs.logger().warning("It is odd", action="odd", job="j1")

    line = capsys.readouterr().err
    assert "It is odd" in line
    assert "action=odd" in line
    assert "job=j1" in line
