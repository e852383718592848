"""What a gateway hands to its scribe, as bytes, and how these are read.

A plain job is handed over with its facts, and its record is made by who reads them. What many jobs
have in common is a number there, and spelt out once for all. Bytes take less room than what they
say, while they wait to be stored. Knows neither processes nor databases.
"""

from collections.abc import Mapping, Sequence
from itertools import count

import msgspec

from projections.history import Entry
from projections.plain_jobs import Outline, PlainJob, plain_record

# So many outlines are remembered; each takes about 4 KB.
_MOST_OUTLINES = 2000

Handed = Entry | PlainJob
"""A fact as History takes it, or all facts of a plain job at the place of the last."""


class Dictated(msgspec.Struct, frozen=True, gc=False):
    """Entries as bytes, and the outlines that are mentioned there, by their numbers."""

    data: bytes
    outlines: dict[int, Outline]


class Dictation:
    """Writes entries down; no number is given twice."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._number)
        self._numbers: dict[Outline, int] = {}
        self._unused = count()
        self._mentioned: dict[int, Outline] = {}

    def write(self, entries: Sequence[Handed]) -> Dictated:
        """These entries. Raises OverflowError if there are numbers that only JSON knows."""
        if len(self._numbers) > _MOST_OUTLINES:
            self._numbers.clear()
        self._mentioned = {}
        return Dictated(self._encoder.encode(entries), self._mentioned)

    def _number(self, value: object) -> int:
        if not isinstance(value, Outline):
            raise TypeError(f"{type(value)} is no part of what is stored")
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = next(self._unused)
        self._mentioned[number] = value
        return number


class Reading:
    """Reads what was written."""

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(list[Handed], dec_hook=self._outline)
        self._outlines: Mapping[int, Outline] = {}

    def entries(self, data: bytes | msgspec.Raw, outlines: Mapping[int, Outline]) -> list[Entry]:
        """The entries in these bytes; `outlines` must have those that they mention."""
        self._outlines = outlines
        return with_records(self._decoder.decode(data))

    def _outline(self, _: type, number: int) -> Outline:
        return self._outlines[number]


def with_records(entries: Sequence[Handed]) -> list[Entry]:
    """The entries, with the records of plain jobs."""
    return [
        (entry.completed, plain_record(entry)) if isinstance(entry, PlainJob) else entry
        for entry in entries
    ]
