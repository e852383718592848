"""Every reason for which a command or a query is refused.

    DomainError
    ├── BadRequest      malformed or missing parameter                     api
    ├── NotSignedIn     unknown key, expired session, bad CSRF token       session
    ├── AccessDenied    privilege, category or group limit                 access
    ├── NotFound        a get_* of an unknown object                       notfound
    ├── RateExceeded    more calls than the key allows                     rate
    └── RuleBroken      a rule of one kind of object (event, job, ...)     that kind's code

The gateway has the one table that turns these codes into HTTP statuses (api.md 1.6);
nothing here knows of HTTP.
"""


class DomainError(Exception):
    """A refusal that a client may see: `code` for programs, the text for people."""

    code = "api"

    @property
    def description(self) -> str:
        """The sentence shown to the client."""
        return str(self)


class BadRequest(DomainError):
    """A parameter is missing or malformed."""

    code = "api"


class NotSignedIn(DomainError):
    """No valid credential came with the request."""

    code = "session"


class AccessDenied(DomainError):
    """The credential is valid but does not allow this."""

    code = "access"


class NotFound(DomainError):
    """A query names an object that does not exist."""

    code = "notfound"


class RateExceeded(DomainError):
    """The API key was used more often within one second than it allows."""

    code = "rate"


class RuleBroken(DomainError):
    """A rule of one kind of object forbids this (api.md 1.6: event, job, category, ...)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def event_rule(message: str) -> RuleBroken:
    """A rule of events is broken."""
    return RuleBroken("event", message)


def job_rule(message: str) -> RuleBroken:
    """A rule of jobs is broken."""
    return RuleBroken("job", message)
