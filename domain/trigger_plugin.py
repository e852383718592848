"""What a scheduler plugin is asked, and how its answer is read (plugins.md 7, scheduling.md 3.7).

Pure: the process that answers is elsewhere. Must not know what becomes of a launch.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from msgspec.structs import replace

from domain.facts import Json
from domain.firing import Launch
from domain.triggers import dargs

SAID_NO = "The plugin said no."
_ACTIVE_JOB_KEYS = ("id", "event", "category", "plugin", "server", "state", "started", "tags")


@dataclass(frozen=True, slots=True)
class Question:
    """May this launch happen? `trigger` is the stored plugin trigger, its timezone filled in.

    minute: the due minute, Unix seconds
    retry: whether a failed execution is tried once more
    """

    launch: Launch
    trigger: Json
    minute: int
    retry: bool


@dataclass(frozen=True, slots=True)
class Allowed:
    """The launch happens, as the plugin changed it; `files` are paths it wants as input."""

    launch: Launch
    files: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The launch does not happen; `reason` is one sentence."""

    reason: str


Answer = Allowed | Refused


class PluginFailed(Exception):
    """The execution gave no answer; its text says why, in one sentence."""


def request_of(
    questions: Sequence[Question], jobs: Sequence[Json], active: Sequence[Json], base_url: str
) -> Json:
    """The line that the plugin reads: one item per question, `jobs` being the prepared jobs."""
    return {
        "xy": 1,
        "type": "trigger",
        "items": [_item(q, job) for q, job in zip(questions, jobs, strict=True)],
        "secrets": {},
        "base_url": base_url,
        "active_jobs": [
            {key: job[key] for key in _ACTIVE_JOB_KEYS if key in job} for job in active
        ],
    }


def _item(question: Question, job: Json) -> Json:
    zone = str(question.trigger.get("timezone") or "UTC")
    return question.trigger | {
        "timezone": zone,
        "now": question.launch.now,
        "dargs": dargs(question.minute, zone),
        "job": job,
    }


def read_answers(output: str, questions: Sequence[Question]) -> list[Answer]:
    """The answers in the last line of a plugin's output, one per question.

    Answers too many are ignored, missing ones mean no. Raises PluginFailed where the line is no
    answer at all.
    """
    lines = output.strip().splitlines()
    try:
        reply = json.loads(lines[-1]) if lines else None
    except (ValueError, RecursionError) as error:
        raise PluginFailed("The plugin's last line is not JSON.") from error
    if not isinstance(reply, dict) or not reply.get("xy"):
        raise PluginFailed("The plugin's last line is not a message.")
    items = reply.get("items")
    if not isinstance(items, list) or not items:
        raise PluginFailed("The plugin's message has no items.")
    said = [*items, *[False] * len(questions)]
    return [_answer(entry, question) for entry, question in zip(said, questions, strict=False)]


def _answer(said: Any, question: Question) -> Answer:
    if said is True:
        said = {"launch": True}
    if not isinstance(said, dict) or not said.get("launch"):
        return Refused(SAID_NO)
    launch = question.launch
    delay, data = said.get("delay"), said.get("data")
    if _is_number(delay) and delay > 0:
        launch = replace(launch, until=launch.now + delay)
    if isinstance(data, dict):
        launch = replace(launch, data=_as_object(launch.data) | data)
    files = said.get("files")
    return Allowed(
        replace(launch, invisible=said.get("invisible") is True),
        tuple(map(_file, files)) if isinstance(files, list) else (),
    )


def _as_object(data: Json | list[Any] | None) -> Json:
    return {"items": data} if isinstance(data, list) else data or {}


def _file(entry: Any) -> Json:
    return entry if isinstance(entry, dict) else {"path": str(entry)}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
