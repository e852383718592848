"""What a scheduler measures of itself when Prometheus asks (docs/metrics.md)."""

from collections import Counter
from typing import TYPE_CHECKING

from domain.job import JobState
from services import metrics

if TYPE_CHECKING:
    from services.scheduler.service import Scheduler


async def page(scheduler: "Scheduler") -> bytes:
    """The scheduler's metrics as they are now; costs a look at each live job."""
    states = Counter(job.state for job in scheduler.jobs.jobs.values())
    for state in JobState:
        if state is not JobState.COMPLETE:
            metrics.JOBS.labels(state.value).set(states[state])
    queues = [scope.queued for scope in scheduler.jobs.scopes.values()]
    metrics.QUEUE_DEPTH.set(sum(queues))
    metrics.QUEUE_LONGEST.set(max(queues, default=0))
    present = scheduler.dispatching.chooser.present
    online = Counter(
        present(server.id) for server in scheduler.fleet.servers.values() if not server.left
    )
    for value in (True, False):
        metrics.SERVERS.labels(str(value).lower()).set(online[value])
    metrics.LEADING.set(scheduler.leadership.term != 0)
    metrics.TERM.set(scheduler.leadership.last)
    await metrics.measure_ledger("scheduler", scheduler.ledger, scheduler.follower.position)
    return metrics.page("scheduler")
