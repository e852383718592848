"""What a job uses while it runs: processor, memory, disk, network (execution.md 15). Pure.

cpu: percent of one core, from the differences of processor time between two looks, so a short
spike shows and two busy cores are 200. mem: resident bytes. disk: characters read and written.
net: bytes sent and received over TCP, where the kernel tells.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from domain.facts import Json
from services.runner.procfs import TICKS_PER_SECOND, Process
from services.runner.sockets import Connection

SECONDS = 300
"""Samples of the timeline of seconds."""
MINUTES = 1440
"""Samples of the timeline of minutes."""
MINUTE = 60.0
MOST_ROWS = 50
"""Processes and connections that are shown at a time."""
MOST_KEPT = 10
"""Processes in a sample of a timeline: those that use most."""


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
        if not self.count:
            return {"min": 0.0, "max": 0.0, "total": 0.0, "count": 0, "current": 0.0}
        return {
            "min": round(self.min, 2),
            "max": round(self.max, 2),
            "total": round(self.total, 2),
            "count": self.count,
            "current": round(self.current, 2),
        }


@dataclass(frozen=True, slots=True)
class Look:
    """The job's processes at one moment.

    `epoch` is Unix seconds, `now` monotonic, `booted` when the machine began in Unix seconds;
    `io` are the characters that each pid has read and written, `sockets` its connections.
    """

    epoch: float
    now: float
    booted: float
    processes: Sequence[Process]
    io: Mapping[int, int]
    sockets: Mapping[int, Sequence[Connection]]


@dataclass(frozen=True, slots=True)
class Row:
    """One process in one look: percent of a core, and the bytes since the look before."""

    process: Process
    cpu: float
    disk: int
    net: int
    conns: int
    started: float

    def brief(self) -> Json:
        """What the timeline of seconds keeps."""
        return {
            "cpu": round(self.cpu, 2),
            "memRss": self.process.rss,
            "command": self.process.command,
            "disk": self.disk,
            "net": self.net,
        }

    def as_json(self, epoch: float) -> Json:
        """The row of a process as it is shown at `epoch`."""
        return self.brief() | {
            "pid": self.process.pid,
            "parentPid": self.process.parent,
            "state": self.process.state,
            "cpuTime": round(self.process.cpu, 2),
            "conns": self.conns,
            "started": round(self.started, 2),
            "age": max(0, int(epoch - self.started)),
        }


_Sample = tuple[float, tuple[Row, ...]]


@dataclass(slots=True)
class Usage:
    """The usage of one job, fed with its processes about once a second."""

    cpu: Range = field(default_factory=Range)
    mem: Range = field(default_factory=Range)
    disk_total: int = 0
    net_total: int = 0
    _rows: list[Row] = field(default_factory=list)
    _conns: list[Json] = field(default_factory=list)
    _seconds: deque[_Sample] = field(default_factory=lambda: deque(maxlen=SECONDS))
    _minutes: deque[Json] = field(default_factory=lambda: deque(maxlen=MINUTES))
    _minute: float | None = None
    _epoch: float = 0.0
    _cpu_before: dict[tuple[int, int], float] = field(default_factory=dict)
    _io_before: dict[tuple[int, int], int] = field(default_factory=dict)
    _net_before: dict[int, tuple[int, float]] = field(default_factory=dict)
    _looked: float | None = None

    def look(self, seen: Look) -> None:
        """Take in the job's processes.

        The first look of all only gives what later ones are compared with.
        """
        before, self._looked = self._looked, seen.now
        elapsed = seen.now - before if before is not None else 0.0
        moved = self._connected(seen)
        self._rows = [self._row(seen, process, elapsed, moved) for process in seen.processes]
        spent = sum(max(0.0, p.cpu - self._cpu_before.get(_key(p), 0.0)) for p in seen.processes)
        self._cpu_before = {_key(p): p.cpu for p in seen.processes}
        self._io_before = {_key(p): seen.io.get(p.pid, 0) for p in seen.processes}
        self.disk_total += sum(row.disk for row in self._rows)
        self.net_total += sum(moved.values())
        self.mem.add(float(sum(p.rss for p in seen.processes)))
        if elapsed > 0:
            self.cpu.add(100.0 * spent / elapsed)
        self._keep(seen)

    def _row(self, seen: Look, process: Process, elapsed: float, moved: Mapping[int, int]) -> Row:
        key, pid = _key(process), process.pid
        spent = max(0.0, process.cpu - self._cpu_before.get(key, 0.0))
        return Row(
            process=process,
            cpu=100.0 * spent / elapsed if elapsed > 0 else 0.0,
            disk=max(0, seen.io.get(pid, 0) - self._io_before.get(key, 0)),
            net=moved.get(pid, 0),
            conns=len(seen.sockets.get(pid, ())),
            started=seen.booted + process.start / TICKS_PER_SECOND,
        )

    def _connected(self, seen: Look) -> dict[int, int]:
        """The bytes that each process moved since the last look."""
        moved: dict[int, int] = {}
        known: dict[int, tuple[int, float]] = {}
        rows: list[Json] = []
        for pid, connections in seen.sockets.items():
            for one in connections:
                count, started = self._net_before.get(one.inode, (0, seen.epoch))
                delta = max(0, one.bytes - count)
                known[one.inode] = (one.bytes, started)
                moved[pid] = moved.get(pid, 0) + delta
                rows.append(_shown(one, delta, started))
        self._net_before = known
        self._conns = rows
        return moved

    def _keep(self, seen: Look) -> None:
        """One more sample for the timelines."""
        self._epoch = seen.epoch
        heaviest = sorted(self._rows, key=lambda row: (-row.cpu, -row.process.rss))[:MOST_KEPT]
        self._seconds.append((seen.epoch, tuple(heaviest)))
        if self._minute is None:
            self._minute = seen.now
        elif seen.now - self._minute >= MINUTE:
            self._minute += MINUTE
            procs = {str(row.process.pid): row.as_json(seen.epoch) for row in heaviest}
            sample: Json = {"epoch": int(seen.epoch), "procs": procs}
            self._minutes.append(sample | {"conns": self._conns[:MOST_KEPT]})

    def procs(self) -> Json:
        """The process rows that are shown while the job runs, by pid."""
        rows = self._rows[:MOST_ROWS]
        return {str(row.process.pid): row.as_json(self._epoch) for row in rows}

    def conns(self) -> list[Json]:
        """The connections that are shown while the job runs."""
        return self._conns[:MOST_ROWS]

    def timelines(self) -> Json:
        """Both timelines, oldest sample first; nothing before the second look."""
        if len(self._seconds) < 2:
            return {}
        seconds = [
            {
                "epoch": round(epoch, 3),
                "procs": {str(row.process.pid): row.brief() for row in rows},
            }
            for epoch, rows in self._seconds
        ]
        return {"second": seconds, "minute": list(self._minutes)}

    def report(self) -> Json:
        """What the job's record keeps; nothing for a job too short to be looked at."""
        if not self.mem.count:
            return {}
        report: Json = {
            "cpu": self.cpu.as_json(),
            "mem": self.mem.as_json(),
            "disk": {"total": self.disk_total, "count": self.mem.count},
            "net": {"total": self.net_total, "count": self.mem.count},
        }
        timelines = self.timelines()
        return report | {"timelines": timelines} if timelines else report


def _key(process: Process) -> tuple[int, int]:
    """A pid alone names nothing: it is used again."""
    return process.pid, process.start


def _shown(one: Connection, delta: int, started: float) -> Json:
    return {
        "type": "tcp",
        "state": one.state,
        "local_addr": one.local,
        "remote_addr": one.remote,
        "pid": one.pid,
        "bytes": one.bytes,
        "delta": delta,
        "started": round(started, 2),
    }
