"""A final job's record as its row is stored: the columns to search by, and two halves of JSON.

Made as soon as the job's document is, since thousands of documents that wait to be stored cost
more memory than their text. Knows the columns of projections/store.py and no database.
"""

from typing import Any

from msgspec import Struct

from domain.facts import Json
from projections.revisions import from_text, to_text

# What a list leaves out unless it is asked to be verbose (api.md 4.4).
PRUNED = tuple(
    "actions activity html limits procs conns table timelines input data files output".split()
)

_MOST_NUMBER = 1e15


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
