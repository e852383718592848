"""New jobs that find the slots of their scope taken, until they are looked at together.

All that can be decided about them is that they queue, which nobody waits for. The first is looked
at at once; the longer a burst of them lasts, the more go together, or with whatever else there is
to decide. So many requests for a busy event cost few writes. Knows nothing of what is decided.
"""

# Seconds between two looks at most, and how many jobs are worth one before.
PAUSE = 0.05
ENOUGH = 250
# Until then they wait for this part of the time that the burst has lasted.
SHARE = 0.25


class Crowd:
    """Jobs by id, in the order in which they came. `now` is in seconds that only ever grow."""

    def __init__(self) -> None:
        self._jobs: dict[str, int] = {}
        self._crowded: set[str] = set()
        self._began = 0.0
        self._looked = float("-inf")

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def waits_for(self, scope: str) -> bool:
        """Whether a job of this scope is in the crowd: none that comes later may pass it by."""
        return scope in self._crowded

    def holds_before(self, sequence: int) -> bool:
        """Whether a job is in the crowd that was requested before this sequence."""
        return bool(self._jobs) and next(iter(self._jobs.values())) < sequence

    def add(self, job: str, scope: str, sequence: int) -> None:
        """Let the job that was requested at this sequence wait here."""
        self._jobs[job] = sequence
        self._crowded.add(scope)

    def patience(self, now: float) -> float:
        """For how many seconds the crowd may go on waiting; 0 or less: not at all."""
        pause = min(PAUSE, SHARE * (self._looked - self._began))
        return 0.0 if len(self._jobs) >= ENOUGH else self._looked + pause - now

    def take(self, now: float) -> list[str]:
        """All of them, oldest first: they are looked at now."""
        jobs = list(self._jobs)
        if jobs:
            if now - self._looked > 2 * PAUSE:
                self._began = now
            self._looked = now
            self.clear()
        return jobs

    def clear(self) -> None:
        """Forget them."""
        self._jobs.clear()
        self._crowded.clear()
