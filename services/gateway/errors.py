"""How refusals look on the wire: the one table from codes to HTTP statuses (api.md 1.6).

With a version in the path an error has its own status; without one, nearly everything is 200.
`db` is 503 in both cases when the ledger is the reason, and 500 for a bad search query.
Turns exceptions into (code, status, sentence); building the reply is the business of replies.py.
"""

from dataclasses import dataclass

from domain.errors import DomainError
from services.ledger.connection import LedgerUnavailable

UNKNOWN_API = 1

_VERSIONED: dict[str | int, int] = {
    "api": 400,
    "session": 403,
    "access": 403,
    "notfound": 404,
    "rate": 429,
    UNKNOWN_API: 200,
}
_UNVERSIONED: dict[str | int, int] = {"master": 500, "internal": 500}


class BodyTooLarge(DomainError):
    """The request's body is larger than `max_body` (HTTP 413)."""

    code = "api"


class BodyTooSlow(DomainError):
    """The request's body did not come in time (HTTP 408)."""

    code = "api"


class NotYet(DomainError):
    """Something was recorded, but its owner did not answer in time (design.md 4)."""

    code = "db"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as the client sees it."""

    code: str | int
    description: str
    status: int


def http_status(code: str | int, versioned: bool) -> int:
    """The HTTP status of an error code; every code that is not listed is 500 under /vN."""
    return _VERSIONED.get(code, 500) if versioned else _UNVERSIONED.get(code, 200)


def refusal(error: Exception, versioned: bool) -> Refusal | None:
    """How this exception is told to a client; None for one that is a defect of ours."""
    match error:
        case BodyTooLarge():
            return Refusal(error.code, error.description, 413)
        case BodyTooSlow():
            return Refusal(error.code, error.description, 408)
        case NotYet():
            return Refusal(error.code, error.description, 503)
        case DomainError():
            return Refusal(error.code, error.description, http_status(error.code, versioned))
        case LedgerUnavailable():
            return Refusal("db", str(error) or "The ledger cannot be reached.", 503)
        case _:
            return None
