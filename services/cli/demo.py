"""The verb `demo`: a whole life of a job on a throw-away server, shown and checked.

Starts `jobledger up` in a temporary directory on free ports, speaks to it as any client does,
and ends it. It exits 0 only if everything it shows really happened.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

    from domain.facts import Json, Recorded

# The demo as a whole takes some seconds; each wait in it gives up after this many.
PATIENCE = 30.0
_POLL = 0.05
_TAIL_INTERVAL = 0.2

LINES = ["Packing the boxes", "Loading the van", "Driving across town", "Unpacking"]
SCRIPT = "#!/bin/sh\n" + "".join(
    f"echo '{line}'\nsleep 0.6\necho {(number + 1) * 100 // len(LINES)}%\n"
    for number, line in enumerate(LINES)
)
EVENT: "Json" = {
    "id": "moving_day",
    "title": "Moving day",
    "enabled": True,
    "category": "general",
    "targets": ["main"],
    "algo": "random",
    "plugin": "shellplug",
    "params": {"script": SCRIPT},
    "triggers": [
        {"type": "manual", "enabled": True},
        {"type": "schedule", "enabled": True, "weekdays": [6], "hours": [9], "minutes": [0]},
    ],
}
EXPECTED_KINDS = {
    "EventCreated",
    "EventUpdated",
    "JobRequested",
    "JobAssigned",
    "JobStarted",
    "JobFinished",
    "JobCompleted",
}


class DemoFailed(Exception):
    """Something that the demo promises did not happen; the text says what."""


def demo() -> None:
    """Show a job's life on a throw-away server: about ten seconds."""
    from rich.console import Console

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console()
    home = Path(tempfile.mkdtemp(prefix="jobledger-demo-"))
    began = time.monotonic()
    try:
        with _server(home, console) as client:
            _show(client, home, console)
    except DemoFailed as failure:
        console.print(f"\n[bold red]The demo failed:[/] {failure}\nThe logs are in {home}/log.")
        raise typer.Exit(1) from None
    except BaseException:  # interrupted: nobody asked for the logs
        _remove(home)
        raise
    _remove(home)
    seconds = time.monotonic() - began
    console.print(f"\n[bold green]All of this really happened[/], in {seconds:.1f} s.")


def _show(client: "httpx.Client", home: Path, console: "Console") -> None:
    _chapter(console, "Define an event")
    created = _call(client, "create_event", EVENT)["event"]
    console.print(f"  {created['title']} ([cyan]{created['id']}[/]), revision 1")

    _chapter(console, "Run it, and watch")
    job = str(_call(client, "run_event", {"id": EVENT["id"]})["id"])
    _watch(client, job, console)

    _chapter(console, "What became of it")
    _result(client, job, console)

    _chapter(console, "Change the event, and look at its revisions")
    _call(client, "update_event", {"id": EVENT["id"], "title": "Moving day, again"})
    _revisions(client, console)

    _chapter(console, "What stands on the ledger")
    _facts(home, job, console)


# --- the server ----------------------------------------------------------------------------


@contextmanager
def _server(home: Path, console: "Console") -> "Iterator[httpx.Client]":
    """A server of its own for the block; it must start and stop cleanly."""
    import httpx

    from services.cli.supervise import ending_with

    began = time.monotonic()
    port = _free_port()
    with (home / "up.log").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "services.cli", "up", "--data-dir", home, "--port", str(port)],
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=ending_with(os.getpid()),
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            _await_ready(client, process, home)
            console.print(f"Jobledger is up after {time.monotonic() - began:.1f} s: ", end="")
            console.print(f"[underline]{client.base_url}[/]")
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
    if status != 0:
        raise DemoFailed(f"the server did not stop cleanly (status {status}).")


def _await_ready(client: "httpx.Client", process: "subprocess.Popen[bytes]", home: Path) -> None:
    """Wait until the API answers to the admin's key and a server can take jobs."""
    import httpx

    from services.cli.installation import read_key

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoFailed((home / "up.log").read_text().strip())
        if key := read_key(home):
            client.headers["X-API-Key"] = key
            try:
                answer = client.get("/api/app/get_active_servers/v1")
            except httpx.TransportError:
                pass  # not listening yet
            else:
                if answer.status_code == httpx.codes.OK and answer.json().get("rows"):
                    return
        time.sleep(_POLL)
    raise DemoFailed(f"the server was not ready within {PATIENCE:g} s.")


def _call(client: "httpx.Client", name: str, values: Mapping[str, Any]) -> "Json":
    """An API call that must succeed."""
    answer: Json = client.post(f"/api/app/{name}/v1", json=dict(values)).json()
    if answer.get("code") != 0:
        raise DemoFailed(f"{name} answered {answer.get('code')}: {answer.get('description')}")
    return answer


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _remove(home: Path) -> None:
    import shutil

    shutil.rmtree(home)


# --- the scenes ----------------------------------------------------------------------------


def _chapter(console: "Console", title: str) -> None:
    console.print(f"\n[bold]{title}[/]")


def _watch(client: "httpx.Client", job: str, console: "Console") -> None:
    """Progress from stream_job and output from tail_live_job_log, while the job runs."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn())
    seen: list[float] = []
    over = threading.Event()
    with Progress(*columns, console=console) as display:
        bar = display.add_task(job, total=1.0)
        tail = threading.Thread(target=_tail, args=(client, job, display.console, over))
        tail.start()
        try:
            for name, data in _stream(client, job):
                if name == "update" and "progress" in data:
                    seen.append(data["progress"])
                    display.update(bar, completed=data["progress"])
        finally:
            over.set()
            tail.join()
        display.update(bar, completed=1.0)
    if not any(0 < progress < 1 for progress in seen):
        raise DemoFailed(f"no progress was seen while the job ran (only {seen}).")


def _stream(client: "httpx.Client", job: str) -> "Iterator[tuple[str, Json]]":
    """The events of stream_job until its end; they come every second at least."""
    deadline = time.monotonic() + PATIENCE
    with client.stream("GET", "/api/app/stream_job/v1", params={"id": job}) as answer:
        name = ""
        for line in answer.iter_lines():
            if time.monotonic() > deadline:
                raise DemoFailed(f"the job was not over within {PATIENCE:g} s.")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))
    if name != "end":
        raise DemoFailed("the live stream of the job broke off.")


def _tail(client: "httpx.Client", job: str, console: "Console", over: threading.Event) -> None:
    """Print the job's output as it comes."""
    shown = ""
    while not over.wait(_TAIL_INTERVAL):
        answer = client.get("/api/app/tail_live_job_log/v1", params={"id": job}).json()
        text = str(answer.get("text") or "")
        if text.startswith(shown):
            for line in text[len(shown) :].splitlines():
                console.print(f"    [dim]|[/] {line}", highlight=False)
            shown = text


def _result(client: "httpx.Client", job: str, console: "Console") -> None:
    record = client.get("/api/app/get_job/v1", params={"id": job}).json()["job"]
    if record.get("code") != 0 or not record.get("final"):
        raise DemoFailed(f"the job ended with {record.get('code')}: {record.get('description')}")
    console.print(
        f"  [green]{record['description']}[/] on {record['server']} after "
        f"{record['elapsed']:.2f} s, tags {', '.join(record['tags'])}"
    )
    log = client.get("/api/app/get_job_log/v1", params={"id": job}).text
    for line in log.splitlines():
        console.print(f"    [dim]|[/] {line}", highlight=False)
    if log.splitlines() != LINES:
        raise DemoFailed("the log is not what the job wrote.")


def _revisions(client: "httpx.Client", console: "Console") -> None:
    from rich.table import Table

    rows = client.get(
        "/api/app/get_event_history/v1", params={"id": EVENT["id"], "limit": 10}
    ).json()["rows"]
    table = Table("revision", "when", "who", "what", box=None, padding=(0, 3, 0, 2))
    for row in rows:
        when = time.strftime("%H:%M:%S", time.localtime(row["epoch"]))
        revision = str(row["event"]["revision"])
        table.add_row(revision, when, row["username"], row["description"])
    console.print(table)
    if [row["action"] for row in rows] != ["event_update", "event_create"]:
        raise DemoFailed("the revisions of the event are not there.")


def _facts(home: Path, job: str, console: "Console") -> None:
    from rich.table import Table

    recorded = asyncio.run(_read_facts((home / "run" / "owner.url").read_text().strip(), job))
    table = Table("sequence", "subject", "fact", "by", box=None, padding=(0, 1, 0, 2))
    for one in recorded:
        actor = one.fact.actor
        table.add_row(str(one.sequence), one.subject, one.fact.kind, actor.type)
    console.print(table)
    if missing := EXPECTED_KINDS - {one.fact.kind for one in recorded}:
        raise DemoFailed(f"these facts are not on the ledger: {', '.join(sorted(missing))}.")


async def _read_facts(url: str, job: str) -> "list[Recorded]":
    """Every fact that names the demo's event or its job, in order."""
    from services.ledger.connection import Ledger

    found = []
    async with Ledger.open(url, name="demo") as ledger:
        for sequence in range(1, await ledger.end() + 1):
            recorded = await ledger.get(sequence)
            if recorded is None:
                continue
            fact = recorded.fact
            if getattr(fact, "job", None) == job or getattr(fact, "event", None) == EVENT["id"]:
                found.append(recorded)
    return found
