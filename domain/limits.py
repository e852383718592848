"""Limits of events and categories: what may be saved, and which one counts (data.md 4).

Must not know jobs: when a limit fires is decided elsewhere.
"""

import re
from collections.abc import Iterable
from typing import Any

from domain.checks import is_number, is_one_of, objects
from domain.errors import BadRequest
from domain.facts import Json

TYPES = frozenset("time log mem cpu job queue retry file day tag".split())
DAY_CONDITIONS = frozenset(
    "start complete continue success error user warning critical abort".split()
)

_POSITIVE = {"time": "duration", "log": "amount", "mem": "amount", "cpu": "amount", "job": "amount"}
_NOT_ACCEPTED = re.compile(r"[^\w\s\-.,]", re.ASCII)


def check_limits(limits: Any, name: str = "limits") -> list[Json]:
    """The list itself, if every limit is well-formed and they fit together.

    Raises BadRequest (data.md 4, execution.md 7).
    """
    entries = objects(limits, name)
    for number, limit in enumerate(entries, 1):
        _check_limit(limit, f"Malformed entry #{number} of '{name}'")
    check_queue(entries)
    return entries


def check_queue(limits: Iterable[Json]) -> None:
    """An enabled queue needs an enabled `job` limit in the same list (data.md 4)."""
    limits = list(limits)
    queues = [x for x in limits if x.get("type") == "queue" and x.get("enabled")]
    if any(queue.get("amount") for queue in queues) and not first_enabled(limits, "job"):
        raise BadRequest("An enabled 'queue' limit needs an enabled 'job' limit.")


def first_enabled(limits: Iterable[Json], type: str) -> Json | None:
    """The first enabled limit of this type: the one that counts (execution.md 7)."""
    return next((x for x in limits if x.get("type") == type and x.get("enabled")), None)


def _check_limit(limit: Json, where: str) -> None:
    kind = limit.get("type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise BadRequest(f"{where}: unknown type.")
    if "enabled" not in limit:
        raise BadRequest(f"{where}: missing 'enabled'.")
    for key in ("amount", "duration", "size", "weight"):
        _check_number(limit, key, where)
    must = _POSITIVE.get(kind)
    if must and not limit.get(must):
        raise BadRequest(f"{where}: '{must}' must be a number above 0.")
    if kind == "day" and not is_one_of(limit.get("condition"), DAY_CONDITIONS):
        raise BadRequest(f"{where}: unknown condition.")
    if kind == "file":
        _check_accept(limit.get("accept"), where)


def _check_number(limit: Json, key: str, where: str) -> None:
    value = limit.get(key)
    if value is None:
        return
    if not is_number(value) or value < 0:
        raise BadRequest(f"{where}: '{key}' must be a number, 0 or more.")


def _check_accept(accept: object, where: str) -> None:
    if accept is None:
        return
    if not isinstance(accept, str) or _NOT_ACCEPTED.search(accept):
        raise BadRequest(f"{where}: 'accept' must be a list of file extensions.")
