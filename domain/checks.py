"""Checks and clean-ups that all records of the wire have in common (api.md 1.3).

Every function raises BadRequest, naming the parameter. Must not know any particular kind of
record.
"""

import math
import re
from collections.abc import Container, Iterable, Iterator
from typing import Any, TypeGuard, TypeVar

from domain.errors import BadRequest
from domain.facts import FactBase, Json, encode
from domain.ids import RESERVED
from domain.patterns import without_tags

MAX_FACT = 4 * 1024 * 1024
"""Bytes of an encoded fact (design.md 3.2)."""

SERVER_SET = frozenset({"username", "created", "modified", "revision"})
"""Keys that the server alone sets on every record."""

_ICON = re.compile(r"[\w\-]+", re.ASCII)
_WORD = re.compile(r"\w+", re.ASCII)
_ANGLE = re.compile(r"[<>]")
_BEYOND = 2**1024
_URL = re.compile(r"https?://\S.*", re.IGNORECASE)


def check_keys(fields: Json) -> None:
    """No top-level key is a reserved word (data.md 1.2)."""
    for key in fields:
        if key in RESERVED:
            raise BadRequest(f"Parameter name '{key}' is reserved.")


def cleaned(fields: Json, *, blank: bool = False) -> Json:
    """The fields with the rules for title, icon and the free texts applied (api.md 1.3).

    Nothing is saved with a `blank` title, but one may be sent where it names nothing.
    """
    check_keys(fields)
    if "title" in fields and not (blank and fields["title"] == ""):
        check_title(fields["title"])
    if "icon" in fields:
        check_icon(fields["icon"])
    free = {
        key: without_tags(fields[key])
        for key in ("notes", "label", "message")
        if isinstance(fields.get(key), str)
    }
    return fields | free


def check_title(title: object, name: str = "title") -> None:
    """A title is text with something in it and without angle brackets."""
    if not isinstance(title, str):
        raise BadRequest(f"Parameter '{name}' must be a string.")
    if not title.strip():
        raise BadRequest(f"Parameter '{name}' must not be blank.")
    if _ANGLE.search(title):
        raise BadRequest(f"Parameter '{name}' must not contain < or >.")


def check_icon(icon: object) -> None:
    """An icon is empty, or a name of word characters and dashes."""
    if icon is None or icon == "":
        return
    if not isinstance(icon, str) or _ICON.fullmatch(icon) is None:
        raise BadRequest("Parameter 'icon' must be a name of word characters and dashes.")


def require(fields: Json, names: Iterable[str]) -> None:
    """All these keys are there and not null."""
    for name in names:
        if fields.get(name) is None:
            raise BadRequest(f"Missing parameter: {name}")


def is_word(value: object) -> bool:
    """Whether a value can be a reference to another object: `^\\w+$`, not reserved."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None and value not in RESERVED


def check_word(value: object, name: str) -> str:
    """The value itself, if it can be a reference to another object."""
    if not isinstance(value, str) or not is_word(value):
        raise BadRequest(f"Parameter '{name}' must be an id of word characters.")
    return value


def is_url(value: object) -> bool:
    """Whether a value is an http or https address; macros in it may hold blanks."""
    return isinstance(value, str) and _URL.fullmatch(value) is not None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a JSON number (and not a boolean) that a double can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < _BEYOND


def all_in(value: Any) -> Iterator[Any]:
    """A value and all that is in it, keys included."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, dict):
            waiting += item.keys()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def has_common_numbers(value: Any) -> bool:
    """Whether a double can hold each integer in this JSON value: others could not read it."""
    return all(is_number(item) for item in all_in(value) if type(item) is int)


def is_integer(value: object) -> TypeGuard[int | float]:
    """Whether a value is a whole JSON number."""
    return is_number(value) and (isinstance(value, int) or float(value).is_integer())


def is_one_of(value: object, names: Container[str]) -> bool:
    """Whether a value is one of these words, and text at all."""
    return isinstance(value, str) and value in names


def check_flag(value: object, name: str) -> None:
    """A flag is a boolean, or a number where 0 is false (api.md 1.2)."""
    if not isinstance(value, bool) and not is_number(value):
        raise BadRequest(f"Parameter '{name}' must be true or false.")


def check_text(fields: Json, *names: str) -> None:
    """These keys, where given and not null, are strings."""
    for name in names:
        if not isinstance(fields.get(name), str | None):
            raise BadRequest(f"Parameter '{name}' must be a string.")


def check_object(fields: Json, *names: str) -> None:
    """These keys, where given and not null, are JSON objects."""
    for name in names:
        if not isinstance(fields.get(name), dict | None):
            raise BadRequest(f"Parameter '{name}' must be an object.")


def check_count(fields: Json, *names: str) -> None:
    """These keys, where given and not null, are whole numbers >= 0."""
    for name in names:
        value = fields.get(name)
        if value is not None and not (is_integer(value) and value >= 0):
            raise BadRequest(f"Parameter '{name}' must be a whole number, 0 or more.")


def objects(value: Any, name: str) -> list[Json]:
    """The value as a list of JSON objects; nothing for null."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRequest(f"Parameter '{name}' must be an array.")
    for number, entry in enumerate(value, 1):
        if not isinstance(entry, dict):
            raise BadRequest(f"Entry #{number} of '{name}' must be an object.")
    return value


def strings(value: Any, name: str) -> list[str]:
    """The value as a list of strings; nothing for null."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise BadRequest(f"Parameter '{name}' must be an array of strings.")
    return value


F = TypeVar("F", bound=FactBase)


def bounded(fact: F) -> F:
    """The fact itself, if it is small enough for the ledger (design.md 3.2)."""
    if len(encode(fact)) > MAX_FACT:  # type: ignore[arg-type]
        raise BadRequest("This is too large: a definition may have at most 4 MiB.")
    return fact


def changed_keys(before: Json, after: Json) -> list[str]:
    """The names of the keys whose values differ, in the order of the new record."""
    names = dict.fromkeys([*after, *before])
    missing = object()
    return [
        name
        for name in names
        if name not in SERVER_SET and before.get(name, missing) != after.get(name, missing)
    ]
