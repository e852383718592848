"""Filters, sorting and paging of in-memory lists (api.md 1.7, 3.1, 4.2)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from domain.facts import Json
from services.gateway.params import Order

# Parameters that shape a list and are never filters (api.md 8.7: `at` and `seq` as well).
SHAPING = frozenset("offset limit sort_by sort_dir metrics at seq".split())
_MISSING = object()
_FLAGS = frozenset({"true", "false", "1", "0"})

T = TypeVar("T")


def filters_of(values: Json) -> Json:
    """The parameters that are filters."""
    return {name: value for name, value in values.items() if name not in SHAPING}


def matches(record: Json, filters: Json) -> bool:
    """Whether all filters match; a name may be a dotted path (D21)."""
    return all(loosely_equal(at_path(record, name), value) for name, value in filters.items())


def at_path(record: Json, name: str) -> Any:
    """The value of a key, or at a dotted path."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def loosely_equal(stored: Any, wanted: Any) -> bool:
    """Exact match with loose typing: `"1"` = 1 = true."""
    if stored is _MISSING:
        return False
    if isinstance(stored, str) and isinstance(wanted, str) and stored not in _FLAGS:
        return stored == wanted
    if isinstance(stored, list) and not isinstance(wanted, list):
        stored = stored[0] if len(stored) == 1 else _MISSING
    return bool(stored == wanted or _plain(stored) == _plain(wanted))


def _plain(value: Any) -> Any:
    match value:
        case bool():
            return "1" if value else "0"
        case "true" | "false":
            return "1" if value == "true" else "0"
        case float() if value.is_integer():
            return str(int(value))
        case int() | float():
            return str(value)
        case _:
            return value


def ordered(items: Iterable[T], order: Order, record_of: Callable[[T], Json]) -> list[T]:
    """Sorted by a key: numbers first and in order, ties by id, what lacks the key last (1.7)."""
    present: list[tuple[Any, str, T]] = []
    lacking: list[tuple[str, T]] = []
    for item in items:
        record = record_of(item)
        value, id = at_path(record, order.key), str(record.get("id", ""))
        if value is _MISSING or value is None:
            lacking.append((id, item))
        else:
            present.append((value, id, item))
    key = _text_key if _all_text([value for value, _, _ in present]) else _number_key
    present.sort(key=lambda entry: (key(entry[0]), entry[1]), reverse=order.descending)
    lacking.sort(key=lambda entry: entry[0], reverse=order.descending)
    return [item for _, _, item in present] + [item for _, item in lacking]


def _all_text(values: Sequence[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _text_key(value: Any) -> tuple[float, str]:
    return 0.0, str(value)


def _number_key(value: Any) -> tuple[float, str]:
    """Numbers by value; text that is no number counts as the smallest."""
    try:
        return float(value), ""
    except (TypeError, ValueError):
        return float("-inf"), str(value)
    except OverflowError:
        return (float("inf") if value > 0 else float("-inf")), ""
