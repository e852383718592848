"""How the expression language sees a JSON value: as truth, number, text, and path step.

Responsible for the conversions and comparisons of a JavaScript-like language over plain JSON
data (execution.md 4). Must not know the grammar, and never touches a Python attribute: only
mappings and lists can be walked.

Where this differs from JavaScript, on purpose:
- `null` and a missing value are one thing; as a number it is NaN, as text it is empty;
- objects and arrays become JSON text, never `[object Object]`.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

MAX_TEXT = 1024 * 1024
"""Characters of the longest text that an expression may build."""

MAX_JSON_DEPTH = 100
"""Nesting beyond which a value is not turned into text (the encoder recurses)."""

MAX_NUMBER_TEXT = 400
"""Characters of the longest text that is looked at as a number."""

_EXACT = 2**53
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INDEX = re.compile(r"0|[1-9]\d{0,9}", re.ASCII)


class ExpressionError(Exception):
    """An expression could not be evaluated; the text says why, for people."""


def truthy(value: Any) -> bool:
    """JavaScript's truth: null, false, 0, NaN and "" are false; every array and object is true."""
    match value:
        case None | False | "":
            return False
        case float():
            return value != 0 and not math.isnan(value)
        case int():
            return value != 0
        case _:
            return True


def to_number(value: Any) -> int | float:
    """The value as a number; NaN when it has none (missing, array, object, other text)."""
    match value:
        case bool():
            return int(value)
        case int() | float():
            return tidy(value)
        case str() if len(value) <= MAX_NUMBER_TEXT:
            return _text_to_number(value.strip())
        case _:
            return math.nan


def _text_to_number(text: str) -> int | float:
    if not text:
        return 0
    return tidy(float(text)) if _NUMBER.fullmatch(text) else math.nan


def tidy(number: int | float) -> int | float:
    """Whole numbers as int, and no integer beyond what a double can hold exactly."""
    if isinstance(number, int):
        return number if abs(number) <= _EXACT else _as_float(number)
    if number.is_integer() and abs(number) <= _EXACT:
        return int(number)
    return number


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def to_text(value: Any) -> str:
    """The value as inserted into text: nothing for null, JSON for arrays and objects.

    Raises ExpressionError when the text would exceed MAX_TEXT.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return number_text(value)
        case _:
            return to_json(value)


def number_text(number: int | float) -> str:
    """A number as JavaScript writes it: `1`, `0.5`, `1e+21`, `NaN`, `Infinity`."""
    if isinstance(number, int):
        if abs(number) < 10**21:
            return str(number)
        number = _as_float(number)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number.is_integer() and abs(number) < 1e21:
        return str(int(number))
    if 1e-6 <= abs(number) < 1e21:
        return format(Decimal(repr(number)), "f")
    mantissa, _, exponent = repr(number).partition("e")
    return f"{mantissa}e{int(exponent):+d}"


def to_json(value: Any) -> str:
    """Compact JSON text of a value. Raises ExpressionError beyond MAX_TEXT or MAX_JSON_DEPTH."""
    _check_size(value)
    try:
        return json.dumps(
            value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=dict
        )
    except (TypeError, ValueError) as error:
        raise ExpressionError(f"Value has no JSON form: {error}") from error


def _check_size(value: Any) -> None:
    """Refuse large or deep values before any text is built from them."""
    room = MAX_TEXT
    pending: list[tuple[Any, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        match item:
            case str():
                room -= len(item) + 2
            case Mapping():
                room -= sum(len(key) + 4 for key in item)
                pending.extend((child, depth + 1) for child in item.values())
            case Sequence():
                room -= len(item) + 2
                pending.extend((child, depth + 1) for child in item)
            case _:
                room -= 1
        if room < 0:
            raise ExpressionError("Text is too long")
        if depth > MAX_JSON_DEPTH:
            raise ExpressionError("Value is nested too deeply")


def plain_text(value: Any) -> str:
    """Text where an array or object makes no sense. Raises ExpressionError for those."""
    if is_container(value):
        raise ExpressionError("Expected a text or a number, not an array or object")
    return to_text(value)


def joined(left: str, right: str) -> str:
    """Both texts in a row. Raises ExpressionError beyond MAX_TEXT."""
    if len(left) + len(right) > MAX_TEXT:
        raise ExpressionError("Text is too long")
    return left + right


def is_list(value: Any) -> bool:
    """A JSON array."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def is_container(value: Any) -> bool:
    """A JSON array or object."""
    return is_list(value) or isinstance(value, Mapping)


def loosely_equal(left: Any, right: Any) -> bool:
    """JavaScript's `==` for JSON: numbers equal numeric texts, null equals only null.

    Arrays and objects equal only themselves.
    """
    if left is None or right is None:
        return left is right
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    if isinstance(left, (str, int, float)) and isinstance(right, (str, int, float)):
        return to_number(left) == to_number(right)
    return left is right


def less(left: Any, right: Any) -> bool:
    """`left < right`: two texts by character, anything else as numbers (NaN is never less)."""
    if isinstance(left, str) and isinstance(right, str):
        return left < right
    return to_number(left) < to_number(right)


def less_or_equal(left: Any, right: Any) -> bool:
    """`left <= right`, by the rules of `less`."""
    if isinstance(left, str) and isinstance(right, str):
        return left <= right
    return to_number(left) <= to_number(right)


def member(value: Any, name: str) -> Any:
    """`value.name`: of an array, the member of its first element (so filters can be followed)."""
    if is_list(value):
        value = value[0] if value else None
    return value.get(name) if isinstance(value, Mapping) else None


def item(value: Any, key: Any) -> Any:
    """`value[key]`: an array by position, an object by name; None for whatever is not there."""
    if is_container(key):
        return None
    if isinstance(value, Mapping):
        return value.get(to_text(key))
    if is_list(value) and _INDEX.fullmatch(position := to_text(key)):
        index = int(position)
        return value[index] if index < len(value) else None
    return None


def contains(container: Any, wanted: Any) -> bool:
    """`wanted in container`: part of a text, element of an array, or key of an object."""
    if is_list(container):
        return any(loosely_equal(element, wanted) for element in container)
    if isinstance(container, (str, Mapping)) and not is_container(wanted):
        return to_text(wanted) in container
    return False
