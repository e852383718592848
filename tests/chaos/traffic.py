"""Who uses an installation while it is being broken, and keeps a record outside of it.

The record holds what was acknowledged to a client (an answer with code 0), and what every child
process wrote when it began and when it ended. Nothing in it comes from the ledger.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.chaos.harness import PATIENCE, Api, eventually, job_event, limits

# Between two commands of one client, in seconds.
PACE = 0.1
# The clockwork's event is due every two seconds.
INTERVAL = 2


@dataclass
class Record:
    """What was seen from outside."""

    directory: Path
    jobs: list[str] = field(default_factory=list)
    """Ids of the jobs that were acknowledged."""
    edits: list[int] = field(default_factory=list)
    """Numbers of the acknowledged edits of the event `edited`, in order."""
    aborted: list[str] = field(default_factory=list)
    """Jobs whose abort was acknowledged."""
    sequences: dict[int, str] = field(default_factory=dict)
    """Ledger sequences that replies named, and what they acknowledged."""

    def line(self, word: str) -> str:
        """Shell text with which a child adds a line to the record."""
        return f'echo "{word} $JOB_ID $$" >> {self.directory / "children"}'

    def lines(self) -> list[list[str]]:
        """The children's lines in the order in which they were written: word, job, pid."""
        return _words(self.directory / "children")

    def runs(self, word: str) -> Counter[str]:
        """How often each job's child wrote this word."""
        return Counter(line[1] for line in self.lines() if line[0] == word)

    def most_at_a_time(self) -> int:
        """The largest number of children between their first and their last line."""
        running = most = 0
        for word, *_ in self.lines():
            running += {"begin": 1, "end": -1}.get(word, 0)
            most = max(most, running)
        return most

    def fires(self) -> Counter[int]:
        """How often the clockwork's child ran for each due second."""
        return Counter(int(float(line[0])) for line in _words(self.directory / "fires"))


class Traffic:
    """Clients that run, edit and abort until `stop`; made for one installation."""

    def __init__(
        self, connect: Callable[[], Api], directory: Path, *, at_a_time: int, seconds: float = 1.0
    ) -> None:
        self.record = Record(directory)
        self.at_a_time = at_a_time
        self.first_due = 0
        self.last_due = 0
        self._connect = connect
        self._seconds = seconds
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> "Traffic":
        """Make the events and begin."""
        api = self._connect()
        record = self.record
        work = f"{record.line('begin')}\nsleep {self._seconds}\n{record.line('end')}\necho done"
        api.persist("create_event", **job_event("work", work, limits=limits(self.at_a_time, 9999)))
        long = f"{record.line('long')}\nexec sleep 600"
        api.persist("create_event", **job_event("long", long))
        api.persist("create_event", **job_event("edited", "true"))
        begin = int(time.time())
        interval = {"type": "interval", "enabled": True, "start": begin, "duration": INTERVAL}
        fire = f"echo $JOB_NOW >> {record.directory / 'fires'}"
        api.persist("create_event", **job_event("clock", fire, triggers=[interval]))
        self.first_due = (int(time.time()) - begin) // INTERVAL * INTERVAL + begin + INTERVAL
        for behaviour in (self._run, self._edit, self._abort):
            thread = threading.Thread(target=self._repeat, args=(behaviour,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> Record:
        """No more commands; the clockwork stops as well, once it goes again after the last blow.

        What was due while nobody led is requested later, and what a killed runner had not begun is
        given out again; both end without a process if their event is disabled by then.
        """
        self._over.set()
        for thread in self._threads:
            thread.join()
        due = set(range(self.first_due, int(time.time()) + INTERVAL, INTERVAL))
        eventually(
            lambda: due <= self.record.fires().keys(),
            "every fire has run, and the clockwork goes on",
            2 * PATIENCE,
        )
        self.last_due = int(time.time())
        self._connect().persist("update_event", id="clock", enabled=False)
        self._end_long_jobs()
        return self.record

    # --- three clients ---------------------------------------------------------------------

    def _repeat(self, behaviour: Callable[[Api, int], None]) -> None:
        api = self._connect()
        number = 0
        while not self._over.wait(PACE):
            number += 1
            try:
                behaviour(api, number)
            except (httpx.HTTPError, ValueError):
                continue  # nobody there, or an answer that was cut: nothing was acknowledged
        api.close()

    def _acknowledged(self, reply: httpx.Response, what: str) -> bool:
        if reply.json().get("code") != 0:
            return False
        sequence = int(reply.headers.get("X-Ledger-Seq", 0))
        if sequence:
            self.record.sequences[sequence] = what
        return True

    def _run(self, api: Api, number: int) -> None:
        reply = api.reply("run_event", id="work")
        if self._acknowledged(reply, "JobRequested"):
            self.record.jobs.append(reply.json()["id"])

    def _edit(self, api: Api, number: int) -> None:
        if self._acknowledged(
            api.reply("update_event", id="edited", notes=f"edit {number}"), "EventUpdated"
        ):
            self.record.edits.append(number)

    def _abort(self, api: Api, number: int) -> None:
        """Start a job that would run long, and abort it."""
        if number % 10:
            return
        job = api.ask("run_event", id="long").get("id")
        if job and self._acknowledged(api.reply("abort_job", id=job), "JobAbortRequested"):
            self.record.aborted.append(job)

    def _end_long_jobs(self) -> None:
        """What nobody acknowledged may still run, and would for ten minutes."""
        api = self._connect()
        for job in api.persist("get_active_jobs", event="long", limit=1000)["rows"]:
            eventually(
                lambda id=job["id"]: api.ask("abort_job", id=id)["code"] in (0, "job"),  # type: ignore[misc]
                "a job that was not acknowledged is aborted",
            )


def _words(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
