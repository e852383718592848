"""What a decider may ask about the definitions in force.

The gateway passes its projection; a test passes a handful of dicts. Must not know where the
records come from.
"""

from collections.abc import Iterable
from typing import Protocol

from domain.facts import CatalogType, Json


class Known(Protocol):
    """The current definitions, by id. Records must not be changed by who asks."""

    def event(self, id: str) -> Json | None:
        """The event with this id."""
        ...

    def record(self, type: CatalogType, id: str) -> Json | None:
        """The supporting record with this id."""
        ...

    def records(self, type: CatalogType) -> Iterable[Json]:
        """All supporting records of one type."""
        ...

    def category_in_use(self, id: str) -> bool:
        """Whether any event is in this category."""
        ...
