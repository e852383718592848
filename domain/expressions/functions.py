"""The named functions of the expression language (execution.md 4).

Responsible for `min max floor ceil round clamp bytes number pct integer float stringify encode
count find includes match server event`: each takes and gives plain JSON values and raises
ExpressionError on misuse. Must not know the grammar. `server` and `event` turn ids into titles
through resolvers that the caller passes in; nothing is looked up here.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from domain.expressions.values import (
    ExpressionError,
    contains,
    is_container,
    is_list,
    member,
    number_text,
    plain_text,
    tidy,
    to_json,
    to_number,
    truthy,
)
from domain.patterns import compiled

Resolver = Callable[[str], str | None]
"""Turns the id of a server, or of an event or job, into its title; None when unknown."""

MAX_PATTERN = 1000
"""Characters of the longest regular expression."""

MAX_PATH_STEPS = 16
"""Names in the longest path of `find`."""

_LEADING_INTEGER = re.compile(r"\s*([+-]?\d{1,300})", re.ASCII)
_UNITS = ("bytes", "KB", "MB", "GB", "TB")


def _numbers(values: tuple[Any, ...]) -> list[int | float]:
    """The arguments as numbers; one array stands for its elements."""
    if len(values) == 1 and is_list(values[0]):
        values = tuple(values[0])
    if not values:
        raise ExpressionError("min and max need at least one number")
    return [to_number(value) for value in values]


def smallest(*values: Any) -> int | float:
    """min(4, 5) is 4; NaN as soon as one argument is no number."""
    numbers = _numbers(values)
    return math.nan if any(map(math.isnan, numbers)) else min(numbers)


def largest(*values: Any) -> int | float:
    """max(4, 5) is 5; NaN as soon as one argument is no number."""
    numbers = _numbers(values)
    return math.nan if any(map(math.isnan, numbers)) else max(numbers)


def floor(value: Any) -> int | float:
    """The next whole number below."""
    number = to_number(value)
    return tidy(math.floor(number)) if math.isfinite(number) else number


def ceil(value: Any) -> int | float:
    """The next whole number above."""
    number = to_number(value)
    return tidy(math.ceil(number)) if math.isfinite(number) else number


def round_half_up(value: Any) -> int | float:
    """The nearest whole number; halves go up, as in JavaScript (round(-2.5) is -2)."""
    number = to_number(value)
    if isinstance(number, int) or not math.isfinite(number):
        return number
    below = math.floor(number)
    return tidy(below + (number - below >= 0.5))


def clamp(value: Any, low: Any, high: Any) -> int | float:
    """The value, kept between two bounds."""
    return smallest(largest(value, low), high)


def size_in_bytes(value: Any) -> str:
    """bytes(1048576) is "1 MB": powers of 1024, one decimal, cut and not rounded."""
    amount = to_number(integer(value))
    if not math.isfinite(amount):
        return "0 bytes"
    unit = 0
    while abs(amount) >= 1024 and unit < len(_UNITS) - 1:
        amount = math.floor(amount / 1024 * 10) / 10
        unit += 1
    return f"{number_text(amount)} {_UNITS[unit]}"


def grouped(value: Any) -> str:
    """number(1048576) is "1,048,576"; at most three decimals."""
    number = to_number(value)
    if not math.isfinite(number):
        return "0" if math.isnan(number) else number_text(number)
    text = f"{number:,.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def percentage(value: Any, maximum: Any = 100, whole: Any = False) -> str:
    """pct(0.5, 1) is "50%"; the maximum is 100 unless given; "0%" for what is no number."""
    share = to_number(value) * 100 / (to_number(maximum) or 1)
    if not math.isfinite(share) or share < 0:
        return "0%"
    return f"{number_text(floor(share) if truthy(whole) else short_float(share))}%"


def integer(value: Any) -> int | float:
    """The whole number a text starts with: integer("12 apples") is 12; NaN when there is none."""
    if isinstance(value, float):
        return tidy(math.trunc(value)) if math.isfinite(value) else math.nan
    found = _LEADING_INTEGER.match(plain_text(value))
    return tidy(int(found[1])) if found else math.nan


def short_float(value: Any) -> int | float:
    """At most two decimals, cut and not rounded: float(1.339) is 1.33."""
    number = to_number(value)
    if math.isnan(number):
        return 0
    return tidy(math.floor(number * 100) / 100) if math.isfinite(number * 100) else number


def encode(value: Any) -> str:
    """Percent-encode for one part of a URL, as encodeURIComponent does."""
    try:
        return quote(plain_text(value), safe="!~*'()")
    except UnicodeEncodeError as error:
        raise ExpressionError("encode: text is not valid Unicode") from error


def count(value: Any) -> int:
    """How many elements an array, keys an object or characters a text has; 0 for the rest."""
    return len(value) if is_list(value) or isinstance(value, (str, Mapping)) else 0


def find(elements: Any, path: Any, wanted: Any) -> list[Any]:
    """The elements of an array whose value at a dotted path contains a text."""
    if not is_list(elements):
        return []
    steps, part = plain_text(path).split("."), plain_text(wanted)
    if len(steps) > MAX_PATH_STEPS:
        raise ExpressionError("find: path is too long")
    return [element for element in elements if part in _text_at(element, steps)]


def _text_at(value: Any, steps: list[str]) -> str:
    for step in steps:
        value = member(value, step)
    return "" if is_container(value) else plain_text(value)


def includes(container: Any, wanted: Any) -> bool:
    """Whether a text contains a text, or an array an element."""
    return contains(container, wanted)


def match(value: Any, pattern: Any) -> bool:
    """Whether a regular expression is found anywhere in a text.

    Uses RE2, whose time is linear in the text; so no look-around and no back-references.
    """
    source = plain_text(pattern)
    if len(source) > MAX_PATTERN:
        raise ExpressionError("match: pattern is too long")
    machine = compiled(source)
    if machine is None:
        raise ExpressionError(f"match: bad pattern {source!r}")
    try:
        return machine.search(plain_text(value)) is not None
    except UnicodeEncodeError as error:
        raise ExpressionError("match: text is not valid Unicode") from error


PLAIN: Mapping[str, Callable[..., Any]] = {
    "min": smallest,
    "max": largest,
    "floor": floor,
    "ceil": ceil,
    "round": round_half_up,
    "clamp": clamp,
    "bytes": size_in_bytes,
    "number": grouped,
    "pct": percentage,
    "integer": integer,
    "float": short_float,
    "stringify": to_json,
    "encode": encode,
    "count": count,
    "find": find,
    "includes": includes,
    "match": match,
}
"""Functions whose result depends on their arguments alone."""

RESOLVING = frozenset({"server", "event"})
"""Functions answered by a resolver; without one, or when it knows nothing, the id is the title."""

ARITY: Mapping[str, tuple[int, int]] = {
    "min": (1, 64),
    "max": (1, 64),
    "clamp": (3, 3),
    "pct": (1, 3),
    "find": (3, 3),
    "includes": (2, 2),
    "match": (2, 2),
}
"""Least and greatest number of arguments; one argument where nothing is said."""


def call(name: str, arguments: list[Any], resolvers: Mapping[str, Resolver]) -> Any:
    """Apply a function whose name and number of arguments the parser has checked."""
    if name in RESOLVING:
        key = plain_text(arguments[0])
        resolve = resolvers.get(name)
        title = resolve(key) if resolve else None
        return key if title is None else title
    return PLAIN[name](*arguments)
