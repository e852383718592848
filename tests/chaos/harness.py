"""A whole installation to be broken: `jobledger up` on a directory and a port of its own.

Everything is found, killed and ended by process id. Knows how to break things; what must hold
afterwards is said in invariants.py, who uses the installation meanwhile in traffic.py.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from domain.facts import Json, Recorded
from services.ledger.connection import Ledger
from services.settings import load_settings
from tests.services.wire import everything

PATIENCE = 40.0
SERVICES = ("nats", "gateway", "scheduler", "runner")
# A real browser or script would not wait longer for one call either.
CALL_WAIT = 15.0

T = TypeVar("T")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def eventually(
    condition: Callable[[], T | None], what: str, within: float = PATIENCE, look: float = 0.02
) -> T:
    """What `condition` returns as soon as that is true; it is asked every `look` seconds."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(look)
    return found


def bound(seconds: float) -> float:
    """A promise in seconds of an idle machine, on this one as busy as it is now."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def exists(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def send(pid: int, number: signal.Signals) -> bool:
    """Signal a process; False if it is gone."""
    if not pid:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def start(home: Path, output: Path, *words: str, **settings: object) -> "subprocess.Popen[bytes]":
    """Start `jobledger WORDS` on a data directory; settings go in as environment variables."""
    env = os.environ | {f"JOBLEDGER_{name.upper()}": str(v) for name, v in settings.items()}
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", *words, "--data-dir", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=env,
        )


class Api:
    """A client of one gateway, with the admin's key."""

    def __init__(self, port: int, key: str) -> None:
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/app/",
            headers={"X-API-Key": key},
            timeout=CALL_WAIT,
        )

    def ask(self, name: str, *, headers: dict[str, str] | None = None, **values: Any) -> Json:
        """The answer to one call, whatever it is. Raises httpx.HTTPError, ValueError."""
        return self.reply(name, headers=headers, **values).json()  # type: ignore[no-any-return]

    def reply(
        self, name: str, *, headers: dict[str, str] | None = None, **values: Any
    ) -> httpx.Response:
        """The whole reply to one call. Raises httpx.HTTPError."""
        return self._http.post(f"{name}/v1", json=values, headers=headers)

    def call(self, name: str, **values: Any) -> Json:
        """The answer to a call that must succeed."""
        answer = self.ask(name, **values)
        assert answer.get("code") == 0, (name, answer)
        return answer

    def persist(self, name: str, within: float = PATIENCE, **values: Any) -> Json:
        """Repeat a call (of one command: same Idempotency-Key) until it succeeds."""
        key = {"Idempotency-Key": f"persist-{time.monotonic_ns()}"}
        said: list[object] = [None]

        def succeeded() -> Json | None:
            try:
                said[0] = answer = self.ask(name, headers=key, **values)
            except (httpx.HTTPError, ValueError) as error:
                said[0] = error
                return None
            return answer if answer.get("code") == 0 else None

        try:
            return eventually(succeeded, f"{name} succeeds", within)
        except AssertionError as late:
            raise AssertionError(f"{late}; last answer: {said[0]}") from None

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()


class Stack:
    """One `jobledger up`. `settings` are given to it as environment variables."""

    def __init__(self, home: Path, cluster: int = 0, **settings: object) -> None:
        self.home = home
        self.cluster = cluster
        self.port = free_port()
        self.output = home.with_name(f"{home.name}.out")
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    # --- start and stop --------------------------------------------------------------------

    def begin(self) -> "Stack":
        """Start it, and do not wait."""
        self.output.write_text("")
        words = ["up", "--port", str(self.port)]
        if self.cluster:
            words += ["--cluster", str(self.cluster)]
        self.process = start(self.home, self.output, *words, **self.settings)
        return self

    def start(self) -> "Stack":
        """Start it and wait until it says that it is up."""
        self.begin()
        eventually(lambda: self.said("Jobledger is up") or self.ended(), "Jobledger is up")
        assert not self.ended(), self.output.read_text()
        return self

    def stop(self) -> None:
        """Stop it as Ctrl-C does; fine if it has ended."""
        if self.process is None:
            return
        for name in self.services:
            send(self.pid(name), signal.SIGCONT)
        if not self.ended():
            self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=PATIENCE)

    def kill_all(self) -> None:
        """SIGKILL for `up` and everything it started, except the jobs."""
        assert self.process is not None
        pids = [self.process.pid, *map(self.pid, self.services)]
        for pid in pids:
            send(pid, signal.SIGKILL)
        self.process.wait(timeout=PATIENCE)
        eventually(lambda: not any(map(exists, pids)), "all are dead")

    # --- looking at it ---------------------------------------------------------------------

    @property
    def services(self) -> tuple[str, ...]:
        """The names of what `up` keeps running."""
        if not self.cluster:
            return SERVICES
        counts = {"nats": self.cluster, "gateway": 2, "scheduler": 2, "runner": self.cluster}
        return tuple(f"{name}{n + 1}" for name, count in counts.items() for n in range(count))

    def said(self, text: str) -> bool:
        """Whether `up` has written this."""
        return text in self.output.read_text()

    def ended(self) -> bool:
        """Whether `up` runs no more."""
        return self.process is None or self.process.poll() is not None

    def pid(self, name: str) -> int:
        """The process of a service; 0 if there is none now."""
        with suppress(OSError, ValueError):
            return int((self.home / "run" / f"{name}.pid").read_text())
        return 0

    def log(self, name: str) -> str:
        """What a service has logged."""
        with suppress(OSError):
            return (self.home / "log" / f"{name}.log").read_text(errors="replace")
        return ""

    @property
    def api(self) -> Api:
        """A new client of its gateway; of a cluster, of the first one."""
        return self.gateway(0)

    def gateway(self, number: int) -> Api:
        """A new client of one of a cluster's gateways, counted from 0."""
        return Api(self.port + number, (self.home / "admin.key").read_text().strip())

    def health(self) -> int:
        """The HTTP status of /health; 0 if nobody listens."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=2).status_code
        return 0

    # --- breaking it -----------------------------------------------------------------------

    def kill(self, name: str) -> int:
        """SIGKILL for one service; the process that was killed."""
        pid = eventually(lambda: self.pid(name), f"{name} runs")
        send(pid, signal.SIGKILL)
        return pid

    @contextmanager
    def frozen(self, name: str) -> Iterator[int]:
        """One service does not run during the block (SIGSTOP)."""
        pid = eventually(lambda: self.pid(name), f"{name} runs")
        send(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            send(pid, signal.SIGCONT)

    # --- the ledger ------------------------------------------------------------------------

    @property
    def nats_url(self) -> str:
        """What the owner of the directory needs to connect."""
        return load_settings(data_dir=self.home).nats_url

    def with_ledger(self, use: Callable[[Ledger], Awaitable[T]]) -> T:
        """Do something with the ledger, as the owner of the installation."""

        async def opened() -> T:
            async with Ledger.open(self.nats_url, name="owner") as ledger:
                return await use(ledger)

        return asyncio.run(opened())

    def facts(self) -> list[Recorded]:
        """All facts, in order."""
        return self.with_ledger(everything)


@contextmanager
def stack(home: Path, *, cluster: int = 0, **settings: object) -> Iterator[Stack]:
    """A running installation; it is stopped at the end."""
    one = Stack(home, cluster, **settings)
    try:
        yield one.start()
    finally:
        one.stop()


def job_event(id: str, script: str, **more: Any) -> Json:
    """The definition of an event that runs a shell script on any server."""
    return {
        "id": id,
        "title": id,
        "enabled": True,
        "category": "general",
        "targets": ["main"],
        "algo": "random",
        "plugin": "shellplug",
        "params": {"script": f"#!/bin/sh\n{script}\n"},
        "triggers": [{"type": "manual", "enabled": True}],
        **more,
    }


def limits(running: int, waiting: int) -> list[Json]:
    """So many jobs at a time, and so many in the queue."""
    return [
        {"type": "job", "enabled": True, "amount": running},
        {"type": "queue", "enabled": True, "amount": waiting},
    ]


def of_kind(facts: Sequence[Recorded], *kinds: str) -> list[Any]:
    """The facts of these kinds, in order."""
    return [recorded.fact for recorded in facts if recorded.fact.kind in kinds]
