"""A final job's record as its row is stored: the columns to search by, and two halves of JSON.

Made as soon as the job's document is, since thousands of documents that wait to be stored cost
more memory than their text. Knows the columns of projections/store.py and no database.
"""

import json
from typing import Any

from msgspec import Struct

from domain.facts import Json
from projections.revisions import to_text

# What a list leaves out unless it is asked to be verbose (api.md 4.4).
PRUNED = frozenset(
    "actions activity html limits procs conns table timelines input data files output".split()
)

_TEXT_COLUMNS = ("event", "category", "plugin", "server", "source")
_NUMBER_COLUMNS = ("started", "completed", "elapsed")
_MOST_NUMBER = 1e15


class FinalRecord(Struct, frozen=True, gc=False):
    """`row` has the columns of the table `jobs`, `words` are (field, word, job) to find it by.

    An `ephemeral` job's record is not stored.
    """

    row: tuple[Any, ...]
    words: set[tuple[str, str, str]]
    ephemeral: bool

    def document(self) -> Json:
        """The document that it was made of, anew."""
        document: Json = json.loads(whole(self.row[-2], self.row[-1]))
        return document


def final_record(id: str, document: Json) -> FinalRecord:
    """The record of the job with this id; `document` is its wire document."""
    brief: Json = {}
    details: Json = {}
    for name, value in document.items():
        (details if name in PRUNED else brief)[name] = value
    brief["id"] = id
    targets = _texts(document.get("targets"))
    row = (
        id,
        *[_text(document.get(name)) for name in _TEXT_COLUMNS],
        _text(document.get("code", 0)),
        *[_number(document.get(name)) for name in _NUMBER_COLUMNS],
        not document.get("code"),
        bool(document.get("retried")),
        bool(document.get("test")),
        bool(document.get("files")),
        len(targets),
        to_text(brief),
        to_text(details),
    )
    words = {("target", word, id) for word in targets}
    words.update([("tag", word, id) for word in _texts(document.get("tags"))])
    words.update([("group", word, id) for word in _texts(document.get("groups"))])
    return FinalRecord(row, words, bool(document.get("ephemeral")))


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
