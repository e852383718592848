"""What /proc tells about processes: identity, sessions, usage, environment.

A pid alone names nothing, since it is used again; a pid with its start time does. Everything
here answers None or leaves a process out when it is gone. Knows nothing of jobs.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table.

    `cpu` is user and system time in seconds; `rss` is in bytes; `start` is in clock ticks since
    the machine's boot; `state` is the letter that /proc shows (Z: ended, not yet waited for).
    """

    pid: int
    parent: int
    session: int
    state: str
    command: str
    cpu: float
    rss: int
    start: int


def machine_boot() -> str:
    """The kernel's boot id: another one means that no earlier process lives."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_process(pid: int) -> Process | None:
    """What /proc says about this pid now; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            line = file.read(4096)
    except OSError:
        return None
    command, _, rest = line.partition(b" (")[2].rpartition(b") ")
    fields = rest.split()
    if len(fields) < 22:
        return None
    return Process(
        pid=pid,
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        command=command.decode("utf-8", "replace"),
        cpu=(int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND,
        start=int(fields[19]),
        rss=int(fields[21]) * PAGE_SIZE,
    )


def processes() -> Iterator[Process]:
    """Every process there is, one look at the table."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = read_process(int(name))
            if process is not None:
                yield process


def by_session(wanted: set[int]) -> dict[int, list[Process]]:
    """The living processes of the wanted sessions, one look at the table for all of them."""
    found: dict[int, list[Process]] = {session: [] for session in wanted}
    for process in processes():
        if process.session in wanted and process.state not in "ZX":
            found[process.session].append(process)
    return found


def age(start: int) -> float:
    """For how many seconds a process has lived that began at `start`; no clock change matters."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start / TICKS_PER_SECOND)


def is_alive(pid: int, start: int) -> bool:
    """Whether the process with this pid and this start time, give or take a tick, still runs.

    No number is used again within a tick.
    """
    process = read_process(pid)
    if process is None or process.state in "ZX":
        return False
    return abs(process.start - start) <= 1


def has_variables(pid: int, variables: set[bytes]) -> bool:
    """Whether a process was started with all these environment entries, b"NAME=value"."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return variables <= set(file.read().split(b"\0"))
    except OSError:
        return False


def find_leader(variables: set[bytes]) -> int | None:
    """The leader of a session some process of which has these environment entries."""
    for process in processes():
        if process.state not in "ZX" and has_variables(process.pid, variables):
            return process.session
    return None


def io_bytes(pid: int) -> int:
    """Characters that a process has read and written so far; 0 where that is not told."""
    try:
        with open(f"/proc/{pid}/io", "rb", buffering=0) as file:
            lines = file.read(512).split(b"\n")
        return int(lines[0].partition(b":")[2]) + int(lines[1].partition(b":")[2])
    except (OSError, ValueError, IndexError):
        return 0
