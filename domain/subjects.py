"""Where each fact stands: one subject per aggregate (design.md 3.1).

A fact determines its own subject, so nobody can write one to a wrong place. All tokens are ids
of `[a-z0-9_]`, checked before a fact is made.
"""

from domain import facts as f

_REPORTS = "facts.report."
TERM = "facts.term"
SCHEDULE = "facts.schedule"
STATE = "facts.state"


def event_subject(event: str) -> str:
    """Where an event's definitions stand."""
    return f"facts.event.{event}"


def catalog_subject(type: str, id: str) -> str:
    """Where a supporting record's versions stand."""
    return f"facts.catalog.{type}.{id}"


def access_subject(id: str) -> str:
    """Where a key's or a user's versions and sessions stand."""
    return f"facts.access.{id}"


def job_subject(event: str, job: str) -> str:
    """Where the requests and decisions of one job stand."""
    return f"facts.job.{event}.{job}"


def order_subject(server: str) -> str:
    """Where the orders to one runner stand."""
    return f"facts.order.{server}"


def report_subject(server: str) -> str:
    """Where the reports of one runner stand."""
    return f"{_REPORTS}{server}"


def standing(subject: str, data: bytes) -> f.Fact | None:
    """The fact that stands on this subject; None for a runner's that counts for nothing.

    NATS bounds the subject on which a runner writes, and knows nothing of what it writes there:
    what is not its to say, or no fact at all, must neither be believed nor stop anybody. All other
    writers are services of ours. Raises UnreadableFact where they wrote what this release does not
    know.
    """
    if not subject.startswith(_REPORTS):
        return f.decode(data)
    try:
        fact = f.decode(data)
    except f.UnreadableFact:
        return None
    return fact if subject_of(fact) == subject else None


def subject_of(fact: f.Fact) -> str:
    """The one subject on which this fact belongs."""
    match fact:
        # Of each job, so first: the kinds that are compared in vain cost more than all else here.
        case f.JobRequested() | f.JobCompleted() | f.JobQueued():
            return job_subject(fact.event, fact.job)
        case f.JobAssigned() | f.JobAbortOrdered():
            return order_subject(fact.server)
        case (
            f.JobStarted()
            | f.JobFinishing()
            | f.JobFinished()
            | f.JobReturned()
            | f.ServerJoined()
            | f.ServerUpdated()
            | f.ServerLeft()
        ):
            return report_subject(fact.server)
        case f.EventCreated() | f.EventUpdated() | f.EventDeleted():
            return event_subject(fact.event)
        case f.CatalogCreated() | f.CatalogUpdated() | f.CatalogDeleted():
            return catalog_subject(fact.type, fact.id)
        case (
            f.AccessCreated()
            | f.AccessUpdated()
            | f.AccessDeleted()
            | f.SessionStarted()
            | f.SessionEnded()
        ):
            return access_subject(fact.id)
        case f.RunnerEnrolled():
            return access_subject(f"runner_{fact.server}")
        case f.SubscriberEnrolled():
            return access_subject(f"subscriber_{fact.name}")
        case f.QueueFlushRequested() | f.QueueFlushed():
            return f"facts.queue.{fact.event}"
        case f.FiresMissed():
            return job_subject(fact.event, "missed")
        case f.MasterSwitched():
            return STATE
        case f.TickFired():
            return SCHEDULE
        case f.TermStarted() | f.TermEnded():
            return TERM
        case f.JobDeleted():
            return "facts.tombstone"
        case f.ChainSealed():
            return "facts.checkpoint"
        case f.LedgerFounded():
            return "facts.ledger"
        case _:
            return job_subject(fact.event, fact.job)
