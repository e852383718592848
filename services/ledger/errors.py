"""Why the ledger could not be written or read.

    LedgerError
    ├── LedgerUnavailable   not reachable, or it refused; nothing was stored
    │   ├── NotSent         not even sent: there is no connection
    │   ├── NotServed       nobody answers on that subject now: no stream, no such service
    │   ├── Refused         the credentials are not, or no longer, accepted
    │   └── OutcomeUnknown  sent, not answered, and could not be settled in time
    ├── WrongSequence       somebody else wrote first
    ├── Deposed             the term fence refused a leader's write
    ├── StreamMismatch      a stream exists with other settings than ours
    ├── AheadOfLedger       a reader's position lies beyond the ledger's end
    ├── ChunksMissing       stored bytes are gone or damaged
    ├── WrongSecret         this ledger belongs to another server secret
    └── StartupError        the embedded nats-server cannot be started

Every text is one sentence for the person at the terminal. An unreadable fact is reported as
`domain.facts.UnreadableFact`.
"""


class LedgerError(Exception):
    """Something about the ledger; `str()` is one sentence."""


class LedgerUnavailable(LedgerError):
    """The ledger is not reachable or refused the request: nothing was stored."""


class NotSent(LedgerUnavailable):
    """There is no connection; nothing left this process."""


class NotServed(LedgerUnavailable):
    """Nobody serves this subject now: the stream or the service is missing, or still starting."""


class Refused(LedgerUnavailable):
    """NATS does not accept these credentials."""


class OutcomeUnknown(LedgerUnavailable):
    """A write was sent and may or may not be stored.

    The same call with the same id is safe for two minutes (design.md 3.1).
    """


class WrongSequence(LedgerError):
    """The subject has moved on; `last` is its last sequence as far as the server told."""

    def __init__(self, last: int | None) -> None:
        super().__init__(f"The last sequence is {last}, not the expected one.")
        self.last = last


class Deposed(LedgerError):
    """Another scheduler's term has begun: this one leads no longer (design.md 3.4)."""


class StreamMismatch(LedgerError):
    """A stream exists with settings that Jobledger cannot work with."""


class AheadOfLedger(LedgerError):
    """A reader knows more than the ledger holds: this is another or an older ledger."""

    def __init__(self, position: int, end: int) -> None:
        super().__init__(
            f"Position {position} lies beyond the ledger's end at {end}: "
            "this is another ledger, or an older copy of it."
        )
        self.position = position
        self.end = end


class ChunksMissing(LedgerError):
    """Messages of a blob are gone or are not what was written."""


class WrongSecret(LedgerError):
    """The server secret here is not the one this ledger was founded with."""


class StartupError(LedgerError):
    """The embedded nats-server cannot be started."""
