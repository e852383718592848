"""A final job's record as its row is stored: the columns to search by, and two halves of JSON.

Made as soon as the job's document is, since thousands of documents that wait to be stored cost
more memory than their text. Knows the columns of projections/store.py and no database.
"""

import re
from typing import Any

from msgspec import Struct

from domain import facts as f
from domain.facts import Json, Recorded
from projections.revisions import actor_name, from_text, row_id, to_text

# What a list leaves out unless it is asked to be verbose (api.md 4.4).
PRUNED = tuple(
    "actions activity html limits procs conns table timelines input data files output".split()
)

# The meta log keeps this many lines per job (execution.md 18).
MOST_ACTIVITY = 1000

_MOST_NUMBER = 1e15
_STEP = re.compile(r"[+-]\d+(?:\.\d+)?", re.ASCII)


class FinalRecord(Struct, frozen=True, gc=False):
    """`row` has the columns of the table `jobs`, `words` are (field, word, job) to find it by.

    An `ephemeral` job's record is not stored. `orders` are the sequences of the job's orders and
    reports, where these are not stored one by one.
    """

    row: tuple[Any, ...]
    words: set[tuple[str, str, str]]
    ephemeral: bool
    orders: tuple[int, ...] = ()

    def document(self) -> Json:
        """The document that it was made of, anew."""
        return from_text(whole(self.row[-2], self.row[-1]))


def final_record(id: str, document: Json) -> FinalRecord:
    """The record of the job with this id; `document` is its wire document."""
    brief = document | {"id": id}
    details = {name: brief.pop(name) for name in PRUNED if name in brief}
    return record_in_parts(id, brief, details)


def record_in_parts(
    id: str, brief: Json, details: Json, orders: tuple[int, ...] = ()
) -> FinalRecord:
    """As `final_record`, where `details` are what stands in PRUNED and `brief` is the rest."""
    said = brief.get
    targets = _texts(said("targets"))
    row = (
        id,
        _text(said("event")),
        _text(said("category")),
        _text(said("plugin")),
        _text(said("server")),
        _text(said("source")),
        _text(said("code", 0)),
        _number(said("started")),
        _number(said("completed")),
        _number(said("elapsed")),
        not said("code"),
        bool(said("retried")),
        bool(said("test")),
        bool(details.get("files")),
        len(targets),
        to_text(brief),
        to_text(details),
    )
    listed = (("target", targets), ("tag", _texts(said("tags"))), ("group", _texts(said("groups"))))
    words = {(field, word, id) for field, found in listed for word in found}
    return FinalRecord(row, words, bool(said("ephemeral")), orders)


def whole(brief: str, details: str) -> str:
    """The two halves of a record as one JSON object."""
    return brief if details == "{}" else f"{brief[:-1]},{details[1:]}"


def changed(record: Json, recorded: Recorded) -> Json:
    """The record after somebody changed the final job: its tags, or anything (api.md 4.8, 4.9)."""
    match fact := recorded.fact:
        case f.JobTagged():
            lines = record.get("activity")
            kept = [*(lines if isinstance(lines, list) else []), _retagged(recorded, fact)]
            return record | {"tags": fact.tags, "activity": kept[-MOST_ACTIVITY:]}
        case f.JobUpdated(changes=changes):
            new = {k: _stepped(record.get(k), v) for k, v in changes.items() if k != "id"}
            return record | new
        case _:
            return record


def _retagged(recorded: Recorded, fact: f.JobTagged) -> Json:
    """The line that replacing the tags leaves in the job's meta log (api.md 4.9)."""
    return {
        "id": row_id("m", fact.at, recorded.sequence),
        "epoch": fact.at,
        "msg": f"Tags changed to: {', '.join(fact.tags) or '(none)'}",
        "username": actor_name(fact.actor),
    }


def _stepped(stored: Any, value: Any) -> Any:
    """`"+1"` and `"-1"` count a stored number up and down (api.md 4.8); all else replaces it."""
    is_number = isinstance(stored, int | float) and not isinstance(stored, bool)
    if is_number and isinstance(value, str) and _STEP.fullmatch(value):
        return stored + (float(value) if "." in value else int(value))
    return value


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _number(value: Any) -> float:
    """A value to sort by; whatever an admin may have written there, SQLite must hold it."""
    if type(value) is float and -_MOST_NUMBER <= value <= _MOST_NUMBER:
        return value
    if not isinstance(value, int | float) or value != value:
        return 0.0
    return float(min(max(value, -_MOST_NUMBER), _MOST_NUMBER))
