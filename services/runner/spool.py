"""The runner's memory on disk: which orders it holds and how far each one got (design.md 7).

    DIR/runner/lock      held while a runner uses this directory
    DIR/runner/keeper    locked by the newest keeper for as long as it starts commands (keeping.py)
    DIR/runner/id        the generated server id
    DIR/runner/journal   one line of JSON per step of any job; `Entry` is folded from it
    DIR/runner/exits     appended to by the keepers (keeper.py): begin and end of each command
    and the files of the jobs (job_files.py)

An order and its start are on the disk before the process exists, so nothing runs twice. All
other lines may be lost with the machine, whose processes are lost as well; and those whose loss
only repeats a report may be lost with this process: they wait for the next line. Knows no NATS
and starts nothing.
"""

import fcntl
import functools
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field, structs

from domain.facts import JobAssigned, JobFinished, Json, UnreadableFact, decode, encode
from services.errors import ConfigError
from services.logs import logger
from services.runner.job_files import Folder, JobFiles, Stream

log = logger("spool")

COMPACT_ABOVE = 4 * 1024 * 1024
ROTATE_EXITS_ABOVE = 1024 * 1024

Kill = Literal["none", "parent", "all"]


class Phase(StrEnum):
    """How far an order got on this machine."""

    ORDERED = "ordered"
    STARTING = "starting"
    STARTED = "started"
    ENDED = "ended"


class Mode(Struct, frozen=True):
    """How a job is to be treated once it runs; known before it starts, and after a restart.

    `shell`: the rules of the shell plugin apply, with its params `annotate` and `passes`.
    `kill` is the kill policy, `sampled` whether its processes are looked at, `may_update`
    whether it may change its own event, `secret` whether secrets must be masked in its output.
    """

    shell: bool = False
    annotate: bool = False
    passes: bool = False
    kill: Kill = "parent"
    sampled: bool = True
    may_update: bool = False
    secret: bool = False


class Read(Struct, frozen=True):
    """The runner has read a stream up to `upto` bytes, at Unix time `at`."""

    stream: Stream
    upto: int
    at: float


class Entry(Struct):
    """What is remembered about one order that is not yet reported.

    `folder` is where its files are, the same for every runner. `start_ticks` makes the pid unique
    within `machine`, the kernel's boot id. `told` means that JobStarted is on the ledger. `status`
    is the exit status, -N for signal N, None if nobody can know it. `report` is the JobFinished
    that only waits for the ledger.
    """

    order: int
    assigned: JobAssigned
    folder: Folder
    phase: Phase = Phase.ORDERED
    machine: str = ""
    mode: Mode = Mode()
    pid: int = 0
    start_ticks: int = 0
    started: float = 0.0
    told: bool = False
    reads: list[Read] = field(default_factory=list)
    status: int | None = None
    ended: float = 0.0
    abort: str | None = None
    report: JobFinished | None = None

    @property
    def job(self) -> str:
        """The job's id."""
        return self.assigned.job


class Exit(Struct, frozen=True):
    """What a keeper wrote of one order: its pid, 0 before it had one, and the status at its end."""

    pid: int
    status: int | None = None


class Spool:
    """The journal, and `files`, those of the jobs; one runner at a time. Close it when done."""

    def __init__(self, directory: Path, machine: str) -> None:
        """Lock and read the spool in `directory`; `machine` is the kernel's boot id.

        Raises ConfigError if another runner uses the directory.
        """
        self.directory = directory
        self.machine = machine
        self.entries: dict[int, Entry] = {}
        self.position = 0
        self.ledger: str | None = None
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)  # a job under another account reaches its own directory
        self._lock = self._take_lock()
        self.files = JobFiles(directory)
        self._journal_path = directory / "journal"
        for record in self._lines():
            self._fold(record)
        self._journal = -1
        self._end = 0
        self._size = 0
        self._late = b""
        self._broken = False
        self._compact()
        self.exits = self._open_exits()
        self._seen_exits: dict[int, Exit] = {}
        self._exits_read = {"exits.old": 0, "exits": 0}

    # --- steps of an order, in the order in which they happen --------------------------------

    def take(self, orders: Iterable[tuple[int, JobAssigned, Mode | None]], position: int) -> None:
        """Put orders and the reader's position on the disk, before any of them starts.

        Each order is (sequence, fact, mode); without a mode it is not started yet. Each gets the
        name of its folder.
        """
        records: list[Json] = []
        try:
            for order, assigned, mode in orders:
                starts = {"m": self.machine, "mode": _as_json(mode)} if mode else {}
                head = {"t": "ordered", "o": order, "d": self.files.take()}
                records.append({**head, **starts, "fact": assigned})
            self._write([*records, {"t": "position", "at": position}], sync=bool(records))
        except OSError:
            for record in records:
                self.files.leave(self.files.folder(record["d"], record["fact"].job))
            raise

    def starting(self, orders: Iterable[tuple[int, Mode]]) -> None:
        """These orders will be started now; on the disk before this returns."""
        records: list[Json] = [
            {"t": "starting", "o": order, "m": self.machine, "mode": _as_json(mode)}
            for order, mode in orders
        ]
        if records:
            self._write(records, sync=True)

    def started(self, order: int, pid: int, start_ticks: int, at: float) -> None:
        """The order's process runs since `at` (Unix seconds)."""
        self._write([{"t": "started", "o": order, "pid": pid, "ticks": start_ticks, "at": at}])

    def told(self, order: int) -> None:
        """JobStarted is on the ledger. If this is lost, it is told again."""
        self._write([{"t": "told", "o": order}], late=True)

    def read(self, order: int, stream: Stream, upto: int, at: float) -> None:
        """A stream was read up to `upto` bytes; this fixes the order of the job's log."""
        self._write([{"t": "read", "o": order, "s": stream, "n": upto, "at": at}])

    def abort(self, order: int, reason: str) -> None:
        """The order is to be ended, for this reason."""
        self._write([{"t": "abort", "o": order, "why": reason}])

    def ended(self, order: int, status: int | None, at: float) -> None:
        """The order's process is over; this is written with its report, or by `flush`."""
        self._write([{"t": "ended", "o": order, "status": status, "at": at}], late=True)

    def finished(self, order: int, report: JobFinished) -> None:
        """What will be reported; a repeated report says the same."""
        self._write([{"t": "report", "o": order, "fact": report}])

    def reported(self, order: int) -> None:
        """The ledger has the end of this order: forget it. If this is lost, it is told again."""
        self._write([{"t": "reported", "o": order}], late=True)
        if self._size + len(self._late) > self._room:
            self._tidy()

    def _tidy(self) -> None:
        """Write the journal anew, if there is room; else it is tried with the next line."""
        try:
            self._compact()
            self._rotate_exits()
        except OSError as error:
            self._broken = True
            log.error("The spool cannot be written", action="spool_broken", reason=str(error))

    def belongs_to(self, ledger: str) -> None:
        """Bind a new spool to this ledger; ConfigError if it is bound to another one."""
        if self.ledger is None:
            self._write([{"t": "ledger", "id": ledger}], sync=True)
        elif self.ledger != ledger:
            raise ConfigError(
                f"The spool in {self.directory} belongs to another ledger: "
                "use the right --nats, or another --data-dir."
            )

    def read_exits(self) -> Mapping[int, Exit]:
        """What the keepers wrote, by order; only what came since the last call is read."""
        for name, offset in self._exits_read.items():
            try:
                with (self.directory / name).open("rb") as file:
                    file.seek(offset)
                    lines = file.read().rpartition(b"\n")[0]
            except FileNotFoundError:
                continue
            if lines:
                self._exits_read[name] = offset + len(lines) + 1
            for line in lines.decode("utf-8", "replace").splitlines():
                _note_exit(self._seen_exits, line.split())
        return self._seen_exits

    def flush(self) -> None:
        """Write what waits for the next line; to be called now and then."""
        if self._late:
            self._write([])

    def close(self) -> None:
        """Let go of the files and the lock; fine to call twice."""
        if self._journal >= 0:
            self.flush()
            os.ftruncate(self._journal, self._end)
        for descriptor in (self._journal, self.exits, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._journal = self.exits = self._lock = -1

    # --- the journal ---------------------------------------------------------------------------

    def _write(self, records: list[Json], *, sync: bool = False, late: bool = False) -> None:
        """Append records and fold them; `late` ones are written with the next that are not.

        What must be on the disk raises OSError if it cannot be, and nothing is folded. Any other
        record is folded all the same; the journal is made anew once there is room again.
        """
        data = self._late + b"".join(map(_line, records))
        if late:
            self._late = data
        else:
            self._late = b""
            self._append(data, sync=sync)
        for record in records:
            self._fold(record)

    def _append(self, data: bytes, *, sync: bool) -> None:
        try:
            if self._broken:
                self._compact()
                self._broken = False
            _write_at(self._journal, data, self._end)
            if sync:
                os.fdatasync(self._journal)
        except OSError as error:
            self._broken = True
            if sync:
                raise
            log.error("The spool cannot be written", action="spool_broken", reason=str(error))
        self._end += len(data)
        self._size += len(data)

    def _lines(self) -> Iterable[Json]:
        """The readable lines; a torn one (the machine died while writing) tells nothing."""
        if not self._journal_path.exists():
            return
        with self._journal_path.open("rb") as file:
            for line in file:
                record = _record(line) if line[0] else None  # zeros: room that was not used
                if record is not None:
                    yield record

    def _fold(self, record: Json) -> None:
        kind = record.get("t")
        order = record.get("o", 0)
        if kind == "ordered":
            folder = self.files.folder(record.get("d", ""), record["fact"].job)
            self.entries[order] = Entry(order, record["fact"], folder)
            if "m" in record:
                _fold_start(self.entries[order], record)
        elif kind == "position":
            self.position = record["at"]
        elif kind == "ledger":
            self.ledger = record["id"]
        elif order in self.entries:
            self._fold_step(self.entries[order], record)

    def _fold_step(self, entry: Entry, record: Json) -> None:
        match record["t"]:
            case "starting":
                _fold_start(entry, record)
            case "started":
                entry.phase = Phase.STARTED
                entry.pid, entry.start_ticks = record["pid"], record["ticks"]
                entry.started = record["at"]
            case "told":
                entry.told = True
            case "read":
                _add_read(entry.reads, Read(record["s"], record["n"], record["at"]))
            case "abort":
                entry.abort = record["why"]
            case "ended":
                entry.phase = Phase.ENDED
                entry.status, entry.ended = record["status"], record["at"]
            case "report":
                entry.report = record["fact"]
            case "reported":
                del self.entries[entry.order]

    def _compact(self) -> None:
        """Write the journal anew with what is still needed; kill-safe by a rename.

        It gets its room at once: to lengthen a file is a second write to the disk for each sync.
        There is as much of it as was written now, so that much is not written anew often.
        """
        fresh = self.directory / "journal.new"
        data = b"".join(map(_line, self._remembered()))
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, data)
            with suppress(OSError):
                os.posix_fallocate(descriptor, 0, len(data) + max(COMPACT_ABOVE, len(data)))
            os.fsync(descriptor)
            fresh.rename(self._journal_path)
        except OSError:
            os.close(descriptor)
            raise
        self._room = max(COMPACT_ABOVE, len(data))
        _sync_directory(self.directory)
        if self._journal >= 0:
            os.close(self._journal)
        self._journal, self._end, self._size, self._late = descriptor, len(data), 0, b""

    def _remembered(self) -> Iterable[Json]:
        if self.ledger is not None:
            yield {"t": "ledger", "id": self.ledger}
        yield {"t": "position", "at": self.position}
        for entry in self.entries.values():
            yield from _lines_of(entry)

    # --- lock and exits --------------------------------------------------------------------------

    def _take_lock(self) -> int:
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(f"Another runner uses {self.directory} already.") from None
        return descriptor

    def _open_exits(self) -> int:
        path = self.directory / "exits"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _rotate_exits(self) -> None:
        """Begin a new file; the old one goes once no order that began in it is left."""
        old = self.directory / "exits.old"
        if old.exists():
            if any(order <= self._rotated_at for order in self.entries):
                return
            old.unlink()
            self._exits_read["exits.old"] = 0
        if os.fstat(self.exits).st_size > ROTATE_EXITS_ABOVE:
            self._rotated_at = max(self.entries, default=0)
            os.rename(self.directory / "exits", old)
            self._exits_read = {"exits.old": self._exits_read["exits"], "exits": 0}
            self._seen_exits = {
                o: exit for o, exit in self._seen_exits.items() if o in self.entries
            }
            os.close(self.exits)
            self.exits = self._open_exits()

    _rotated_at = 1 << 62


def _fold_start(entry: Entry, record: Json) -> None:
    entry.phase, entry.machine = Phase.STARTING, record["m"]
    entry.mode = Mode(**record["mode"])


def _lines_of(entry: Entry) -> Iterable[Json]:
    """The journal's lines from which this entry folds again."""
    order = entry.order
    yield {"t": "ordered", "o": order, "d": entry.folder.name, "fact": entry.assigned}
    if entry.machine:
        yield {"t": "starting", "o": order, "m": entry.machine, "mode": _as_json(entry.mode)}
    if entry.pid:
        pid, ticks = entry.pid, entry.start_ticks
        yield {"t": "started", "o": order, "pid": pid, "ticks": ticks, "at": entry.started}
    if entry.told:
        yield {"t": "told", "o": order}
    for read in entry.reads:
        yield {"t": "read", "o": order, "s": read.stream, "n": read.upto, "at": read.at}
    if entry.abort is not None:
        yield {"t": "abort", "o": order, "why": entry.abort}
    if entry.phase is Phase.ENDED:
        yield {"t": "ended", "o": order, "status": entry.status, "at": entry.ended}
    if entry.report is not None:
        yield {"t": "report", "o": order, "fact": entry.report}


def _line(record: Json) -> bytes:
    """A record as one line; a fact in it keeps the bytes it has on the ledger."""
    if "fact" in record:
        record = record | {"fact": msgspec.Raw(encode(record["fact"]))}
    return msgspec.json.encode(record) + b"\n"


@functools.cache
def _as_json(mode: Mode) -> Json:
    """There are few modes; not to be changed."""
    return structs.asdict(mode)


def _record(line: bytes) -> Json | None:
    """The record in a line, or None: a torn line (the machine died while writing) tells nothing."""
    try:
        record = json.loads(line)
        if "fact" in record:
            record["fact"] = decode(json.dumps(record["fact"], separators=(",", ":")).encode())
    except (ValueError, TypeError, UnreadableFact):
        return None
    return record if isinstance(record, dict) else None


def _add_read(reads: list[Read], read: Read) -> None:
    """Append; two reads of one stream within a second are one (same log, same stamps)."""
    last = reads[-1] if reads else None
    if last and last.stream == read.stream and int(last.at) == int(read.at):
        reads[-1] = Read(read.stream, read.upto, last.at)
    else:
        reads.append(read)


def _note_exit(found: dict[int, Exit], words: list[str]) -> None:
    """One line of the keepers: `begin JOB ORDER PID` or `end JOB ORDER STATUS`."""
    try:
        verb, _, order, number = words
        if verb == "begin":
            found[int(order)] = Exit(int(number))
        elif verb == "end":
            began = found.get(int(order), Exit(0))
            found[int(order)] = Exit(began.pid, int(number))
    except ValueError:
        return  # a line torn by the machine's death


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, in as many calls as the kernel wants."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of it at this place of the file, in as many calls as the kernel wants."""
    while (written := os.pwrite(descriptor, data, offset)) < len(data):
        data, offset = data[written:], offset + written


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
