"""The audit chain: how it is shown that no fact was altered, removed or inserted (design.md 8).

Every fact has a hash over its place and its stored bytes. From time to time the leading scheduler
seals the facts since the last seal with a keyed hash over their hashes (ChainSealed); the seal
is itself a fact that the next one covers. An erased fact counts by the hash that its JobDeleted
names. Pure: knows neither NATS nor where the key comes from.
"""

import hmac
import re
from array import array
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from domain import facts as f

CHECKPOINT = "facts.checkpoint"
# What stands for a fact that is neither there nor named in a recorded deletion.
NO_HASH = bytes(32)
# Bytes of the keyed tag of each fact in a seal: they say which fact was altered.
_TAG = 3
_MOST_PROBLEMS = 1000
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RawFact:
    """A fact as it is stored: headers and payload are its very bytes.

    `at` is when the ledger stored it, in Unix seconds (0 where that is not known).
    """

    sequence: int
    subject: str
    headers: bytes
    data: bytes
    at: float = 0.0


def fact_hash(fact: RawFact) -> bytes:
    """SHA-256 over sequence, subject, headers and payload, each with its length."""
    digest = sha256(fact.sequence.to_bytes(8, "big"))
    for part in (fact.subject.encode(), fact.headers, fact.data):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return digest.digest()


def seal(key: bytes, first: int, hashes: Sequence[bytes]) -> tuple[str, str]:
    """The keyed digest (hex) over the facts from `first` on, and their tags (base64)."""
    last = first + len(hashes) - 1
    message = b"".join([f"{first}-{last}:".encode(), *hashes])
    tags = b"".join(_tag(key, one) for one in hashes)
    return hmac.digest(key, message, "sha256").hex(), b64encode(tags).decode()


def _tag(key: bytes, one: bytes) -> bytes:
    return hmac.digest(key, b"tag" + one, "sha256")[:_TAG]


class Erased:
    """The hashes of erased facts by sequence: 40 bytes each, however many there are."""

    def __init__(self, tombstones: Iterable[f.JobDeleted] = ()) -> None:
        self._sequences = array("Q")
        self._hashes = bytearray()
        for tombstone in tombstones:
            self.add(tombstone)
        self.sort()

    def add(self, tombstone: f.JobDeleted) -> None:
        """Take in a recorded deletion; `sort` must follow before anything is asked."""
        for sequence, digest in tombstone.erased:
            if _HEX.fullmatch(digest) and bytes.fromhex(digest) != NO_HASH:
                self._sequences.append(sequence)
                self._hashes += bytes.fromhex(digest)

    def sort(self) -> None:
        """Bring what was added into order."""
        order = sorted(range(len(self._sequences)), key=self._sequences.__getitem__)
        hashes = self._hashes
        self._hashes = bytearray(b"".join(hashes[32 * n : 32 * n + 32] for n in order))
        self._sequences = array("Q", (self._sequences[n] for n in order))

    def of(self, sequence: int) -> list[bytes]:
        """The hashes that recorded deletions name for this fact; usually one or none."""
        found = []
        place = bisect_left(self._sequences, sequence)
        while place < len(self._sequences) and self._sequences[place] == sequence:
            found.append(bytes(self._hashes[32 * place : 32 * place + 32]))
            place += 1
        return found


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the facts from `first` to `last`."""

    first: int
    last: int
    text: str

    def __str__(self) -> str:
        where = f"fact {self.first}"
        if self.last != self.first:
            where = f"facts {self.first} to {self.last}"
        return f"{where}: {self.text}"


@dataclass(slots=True)
class Findings:
    """What an audit found. `problems` holds the first thousand of `problem_count`."""

    facts: int = 0
    seals: int = 0
    sealed: int = 0
    erased: int = 0
    unsealed: int = 0
    end: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0


class Auditor:
    """Takes every fact of a ledger in order and checks the whole chain.

    Keeps only what is not sealed yet, so its memory does not grow with the ledger.
    """

    def __init__(self, key: bytes, erased: Erased) -> None:
        self._key = key
        self._erased = erased
        self._next = 1
        self._open: deque[bytes] = deque()
        """The hashes of the facts after the last seal."""
        self.findings = Findings()

    def take(self, fact: RawFact) -> None:
        """Look at one more fact."""
        if fact.sequence < self._next:
            self._report(fact.sequence, fact.sequence, "stands there a second time")
            return
        self._skip(fact.sequence)
        own = fact_hash(fact)
        named = self._erased.of(fact.sequence)
        if named and own not in named:
            self._report(fact.sequence, fact.sequence, "is not what its recorded deletion names")
        self._open.append(own)
        self._next = fact.sequence + 1
        self.findings.facts += 1
        if fact.subject == CHECKPOINT:
            self._check_seal(fact)

    def finish(self, end: int) -> Findings:
        """The findings, once every fact up to the ledger's `end` was taken."""
        self._skip(end + 1)
        self.findings.unsealed = len(self._open)
        self.findings.end = max(end, self._next - 1)
        return self.findings

    def _skip(self, upto: int) -> None:
        """Account for the facts that are not there."""
        missing: list[int] = []
        for sequence in range(self._next, upto):
            named = self._erased.of(sequence)
            if named:
                self.findings.erased += 1
                self._tell_missing(missing)
            else:
                missing.append(sequence)
            self._open.append(named[0] if named else NO_HASH)
        self._tell_missing(missing)
        self._next = max(self._next, upto)

    def _tell_missing(self, missing: list[int]) -> None:
        if missing:
            text = "missing, and no recorded deletion names it"
            self._report(missing[0], missing[-1], text)
            missing.clear()

    def _check_seal(self, fact: RawFact) -> None:
        try:
            sealed = f.decode(fact.data)
        except f.UnreadableFact:
            self._report(fact.sequence, fact.sequence, "is no seal that can be read")
            return
        if not isinstance(sealed, f.ChainSealed):
            self._report(fact.sequence, fact.sequence, "stands where only seals belong")
            return
        done = self.findings.sealed
        if not done < sealed.first <= sealed.last < fact.sequence:
            self._report(fact.sequence, fact.sequence, "is a seal over facts it cannot cover")
            return
        for _ in range(sealed.first - done - 1):
            self._open.popleft()
        if sealed.first > done + 1:
            self._report(done + 1, sealed.first - 1, "not covered by any seal")
        hashes = [self._open.popleft() for _ in range(sealed.last - sealed.first + 1)]
        self.findings.sealed = sealed.last
        self.findings.seals += 1
        if not self._matches(sealed, hashes):
            for first, last in _altered(self._key, sealed, hashes):
                self._report(first, last, f"not what seal {fact.sequence} says was recorded")

    def _matches(self, sealed: f.ChainSealed, hashes: list[bytes]) -> bool:
        """Whether the seal fits; a fact that was named twice counts by any of its hashes."""
        if _fits(self._key, sealed, hashes):
            return True
        for place, one in enumerate(hashes):
            for other in self._erased.of(sealed.first + place):
                if other != one and _has_tag(self._key, sealed, place, other):
                    hashes[place] = other
        return _fits(self._key, sealed, hashes)

    def _report(self, first: int, last: int, text: str) -> None:
        self.findings.problem_count += 1
        if len(self.findings.problems) < _MOST_PROBLEMS:
            self.findings.problems.append(Problem(first, last, text))


def _fits(key: bytes, sealed: f.ChainSealed, hashes: Sequence[bytes]) -> bool:
    return hmac.compare_digest(seal(key, sealed.first, hashes)[0], sealed.digest)


def _has_tag(key: bytes, sealed: f.ChainSealed, place: int, one: bytes) -> bool:
    return b64decode(sealed.tags)[place * _TAG : (place + 1) * _TAG] == _tag(key, one)


def _altered(
    key: bytes, sealed: f.ChainSealed, hashes: Sequence[bytes]
) -> Iterator[tuple[int, int]]:
    """The facts whose tags differ; the whole range if the tags themselves tell nothing.

    What is missing was told already.
    """
    try:
        tags = b64decode(sealed.tags, validate=True)
    except ValueError:
        tags = b""
    wrong = [
        sealed.first + place
        for place, one in enumerate(hashes)
        if tags[place * _TAG : (place + 1) * _TAG] != _tag(key, one)
    ]
    if not wrong or len(wrong) == len(hashes):
        yield sealed.first, sealed.last
        return
    for sequence in wrong:
        if hashes[sequence - sealed.first] != NO_HASH:
            yield sequence, sequence
