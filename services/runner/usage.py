"""What a job uses while it runs: processor, memory and disk (execution.md 15). Pure.

cpu: percent of one core, from the differences of processor time between two looks, so a short
spike shows and two busy cores are 200. mem: resident bytes. disk: characters read and written.
"""

from dataclasses import dataclass, field

from domain.facts import Json
from services.runner.procfs import Process


@dataclass(slots=True)
class Range:
    """Values seen so far; average = total / count."""

    min: float = 0.0
    max: float = 0.0
    total: float = 0.0
    count: int = 0
    current: float = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.min = min(self.min, value) if self.count else value
        self.max = max(self.max, value)
        self.total += value
        self.count += 1
        self.current = value

    def as_json(self) -> Json:
        """The wire form {min, max, total, count, current}."""
        return {
            "min": round(self.min, 2),
            "max": round(self.max, 2),
            "total": round(self.total, 2),
            "count": self.count,
            "current": round(self.current, 2),
        }


@dataclass(slots=True)
class Usage:
    """The usage of one job, fed with its processes about once a second."""

    cpu: Range = field(default_factory=Range)
    mem: Range = field(default_factory=Range)
    disk_total: int = 0
    processes: list[Process] = field(default_factory=list)
    _cpu_before: dict[tuple[int, int], float] = field(default_factory=dict)
    _io_before: dict[tuple[int, int], int] = field(default_factory=dict)
    _looked: float | None = None

    def look(self, found: list[Process], io: dict[int, int], now: float) -> None:
        """Take in the job's processes as seen at `now` (monotonic seconds).

        `io` are the characters each pid has read and written. The first look of all only gives
        what later ones are compared with.
        """
        before, self._looked = self._looked, now
        spent = 0.0
        for process in found:
            key = (process.pid, process.start)
            spent += max(0.0, process.cpu - self._cpu_before.get(key, 0.0))
            self.disk_total += max(0, io.get(process.pid, 0) - self._io_before.get(key, 0))
        self._cpu_before = {(p.pid, p.start): p.cpu for p in found}
        self._io_before = {(p.pid, p.start): io.get(p.pid, 0) for p in found}
        self.mem.add(float(sum(p.rss for p in found)))
        self.processes = found
        if before is not None and now > before:
            self.cpu.add(100.0 * spent / (now - before))

    def procs(self) -> Json:
        """The process rows that are shown while the job runs, by pid."""
        return {
            str(p.pid): {
                "pid": p.pid,
                "parentPid": p.parent,
                "command": p.command,
                "state": p.state,
                "memRss": p.rss,
                "cpuTime": round(p.cpu, 2),
            }
            for p in self.processes[:50]
        }

    def report(self) -> Json:
        """What the job's record keeps; nothing for a job too short to be looked at."""
        if not self.mem.count:
            return {}
        disk = {"total": self.disk_total, "count": self.mem.count}
        return {"cpu": self.cpu.as_json(), "mem": self.mem.as_json(), "disk": disk}
