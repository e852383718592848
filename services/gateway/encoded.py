"""Rows of hot lists, encoded once (design.md 4)."""

from projections.definitions import Version
from services.gateway.replies import Rows, encode


class EventRows:
    """Every event's JSON text, encoded once per version."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[int, bytes]] = {}
        self._whole: tuple[int, bytes] = (-1, b"")

    def of(self, id: str, version: Version) -> bytes:
        """The JSON text of one event."""
        known = self._texts.get(id)
        if known is None or known[0] != version.sequence:
            known = self._texts[id] = (version.sequence, encode(version.record))
        return known[1]

    def all(self, changed: int, versions: dict[str, Version]) -> bytes:
        """The reply that lists every event; `changed` is the sequence of the last change."""
        if self._whole[0] != changed:
            for id in self._texts.keys() - versions.keys():
                del self._texts[id]
            rows = [self.of(id, version) for id, version in versions.items()]
            self._whole = (changed, Rows(rows, len(rows)).body())
        return self._whole[1]
