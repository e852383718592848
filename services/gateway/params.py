"""The parameters of a request: typed readers over what came as text or as JSON (api.md 1.2, 1.3).

Query and form values arrive as text and are coerced to the type a reader asks for; values of a
JSON body must already have it. Credentials and the other reserved keys (D3) are kept apart, so
that no handler can mistake one for a filter, an override or a payload. How the bytes are read
is the business of body.py; what a parameter means, that of the endpoint.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar

import msgspec

from domain.checks import all_in, cleaned, has_common_numbers
from domain.errors import BadRequest
from domain.facts import Blob, Json
from domain.ids import RESERVED as RESERVED_NAMES
from domain.ids import check_id

RESERVED = frozenset("api_key session_id csrf_token cachebust pretty format callback ttl".split())
MAX_DEPTH = 100

_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)
_LARGEST = 10**18
_DECIMAL = re.compile(r"-?\d{1,18}(\.\d{1,18})?", re.ASCII)
_FLAGS = {"1": True, "true": True, "0": False, "false": False, "": False}
_ABSENT: Any = object()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Upload:
    """A file part of a multipart request, already kept in CHUNKS."""

    id: str
    field: str
    filename: str
    content_type: str
    blob: Blob


class Params(msgspec.Struct):
    """The merged parameters of one request.

    `textual` names those that came as text; `reserved` holds credentials and the like; `query`
    and `body` are what came each way, without them.
    """

    values: Json
    textual: frozenset[str] = frozenset()
    reserved: Json = {}  # each gets its own
    query: Json = {}
    body: Json = {}
    uploads: list[Upload] = []

    def given(self, name: str) -> bool:
        """Whether the parameter is there, whatever its value."""
        return name in self.values

    def id(self, name: str = "id") -> str:
        """A required id of an object."""
        return check_id(self._required(name), name)

    def text(self, name: str, default: str | None = None) -> str | None:
        """A string."""
        value = self.values.get(name, default)
        if value is not None and not isinstance(value, str):
            raise BadRequest(f"Parameter '{name}' must be a string.")
        return value

    def required_text(self, name: str, pattern: str = r"\S") -> str:
        """A string that must be there and in which `pattern` is found."""
        self._required(name)
        value = self.text(name)
        if value is None or re.search(pattern, value, re.ASCII) is None:
            raise BadRequest(f"Parameter '{name}' is malformed.")
        return value

    def integer(
        self, name: str, default: int, *, minimum: int | None = None, maximum: int | None = None
    ) -> int:
        """A whole number within the bounds (both included)."""
        value = self.values.get(name, default)
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadRequest(f"Parameter '{name}' must be an integer.")
        if abs(value) > _LARGEST:
            raise BadRequest(f"Parameter '{name}' is out of range.")
        if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
            raise BadRequest(f"Parameter '{name}' is out of range.")
        return value

    def number(self, name: str) -> float | None:
        """A number, with or without a fraction; None when absent."""
        value = self.values.get(name)
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            value = float(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadRequest(f"Parameter '{name}' must be a number.")
        if value is not None and abs(value) > _LARGEST:
            raise BadRequest(f"Parameter '{name}' is out of range.")
        return None if value is None else float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean: `1 0 true false` or empty as text; a boolean or a number in JSON (D12)."""
        value = self.values.get(name, default)
        if name in self.textual and isinstance(value, str) and value in _FLAGS:
            return _FLAGS[value]
        if isinstance(value, bool | int | float):
            return bool(value)
        raise BadRequest(f"Parameter '{name}' must be a boolean.")

    def array(self, name: str) -> list[Any] | None:
        """A list; text is a JSON array or values separated by commas. None when absent."""
        if name not in self.values:
            return None
        return self.as_array(name, self.values[name])

    def as_array(self, name: str, value: Any) -> list[Any]:
        """`value` as a list; see `array`."""
        if isinstance(value, list):
            return value
        if isinstance(value, str) and name in self.textual:
            if value.lstrip().startswith("["):
                value = _json_text(name, value)
            else:
                value = [item.strip() for item in value.split(",")] if value.strip() else []
        if not isinstance(value, list):
            raise BadRequest(f"Parameter '{name}' must be an array.")
        return value

    def words(self, name: str) -> list[str] | None:
        """The words of a list; text is a JSON array or has commas, in a JSON body as well (D12).

        None when absent, or no list.
        """
        value = self.values.get(name)
        if isinstance(value, str):
            value = _json_text(name, value) if value.lstrip().startswith("[") else value.split(",")
        if not isinstance(value, list):
            return None
        return [word.strip() for word in value if isinstance(word, str) and word.strip()]

    def object(self, name: str) -> Json | None:
        """A JSON object; text must be the text of one. None when absent."""
        value = self.values.get(name, _ABSENT)
        if value is _ABSENT:
            return None
        if isinstance(value, str) and name in self.textual:
            value = _json_text(name, value)
        if not isinstance(value, dict):
            raise BadRequest(f"Parameter '{name}' must be an object.")
        return value

    def typed(self, types: dict[str, Literal["flag", "array", "object", "integer"]]) -> Json:
        """All values, with those that came as text brought to the declared type of their name."""
        record = dict(self.values)
        for name in self.textual & types.keys() & record.keys():
            match types[name]:
                case "flag":
                    record[name] = self.flag(name)
                case "array":
                    record[name] = self.array(name)
                case "object":
                    record[name] = self.object(name)
                case "integer":
                    record[name] = self.integer(name, 0)
        return record

    def _required(self, name: str) -> Any:
        value = self.values.get(name)
        if value is None:
            raise BadRequest(f"Missing required parameter '{name}'.")
        return value


def _json_text(name: str, text: str) -> Any:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"Parameter '{name}' is not valid JSON.") from error
    check_depth(value)
    check_numbers(value)
    return value


def check_common(values: Json) -> Json:
    """The values, if they pass what every request must pass (api.md 1.3), HTML tags stripped."""
    if "id" in values:
        id = values["id"]
        if not isinstance(id, str) or id in RESERVED_NAMES:
            raise BadRequest("Parameter 'id' must be a string, and not a reserved word.")
    return cleaned(values, blank=True)


def check_depth(value: Any) -> None:
    """BadRequest for JSON nested deeper than MAX_DEPTH."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise BadRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.")


def check_no_nul(value: Any) -> None:
    """BadRequest for text that holds a NUL character, which no process could be given."""
    if any(isinstance(item, str) and "\0" in item for item in all_in(value)):
        raise BadRequest("Text must not hold NUL characters.")


def check_numbers(value: Any) -> None:
    """BadRequest for an integer that no double can hold: others could not read it."""
    if not has_common_numbers(value):
        raise BadRequest("The JSON holds a number that is too large.")


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted; `limit` None means all (api.md 1.7)."""

    offset: int = 0
    limit: int | None = None

    def of(self, rows: list[Any]) -> list[Any]:
        """That part of `rows`."""
        end = None if self.limit is None else self.offset + self.limit
        return rows[self.offset : end]

    def of_some(self, rows: Iterable[T]) -> Iterator[T]:
        """As `of`, without a list of all."""
        return islice(rows, self.offset, None if self.limit is None else self.offset + self.limit)


def page(params: Params, default: int | None = None) -> Page:
    """The paging parameters; without a `default` limit, 0 means all as well."""
    offset = params.integer("offset", 0, minimum=0)
    limit = params.integer("limit", default or 0, minimum=0)
    return Page(offset, None if default is None and limit == 0 else limit)


@dataclass(frozen=True, slots=True)
class Order:
    """By which key a list is sorted, and whether downwards."""

    key: str
    descending: bool


def order(params: Params, key: str, direction: int) -> Order:
    """The sorting parameters; `sort_dir` is 1 or -1."""
    chosen = params.integer("sort_dir", direction)
    if chosen not in (1, -1):
        raise BadRequest("Parameter 'sort_dir' must be 1 or -1.")
    return Order(params.text("sort_by", key) or key, chosen == -1)
