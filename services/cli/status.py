"""The verb `status`: whether all is well with this machine's Jobledger, on one screen.

Looks at the pidfiles of `up`, asks the API whether it is ready, and, with the administrator's
key, what it knows of servers, jobs and the ledger. It changes nothing and starts nothing.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import DataDir, Port

if TYPE_CHECKING:
    import httpx
    from rich.table import Table

    from domain.facts import Json
    from services.settings import Settings

# Nothing here takes longer than that on a machine that is well; seconds, for each question.
_PATIENCE = 5.0
# Views are some facts behind while many are written; so many are not made up for in a second.
_BEHIND = 1000
# What `up` keeps running besides nats, which may be somebody else's.
_SERVICES = ("gateway", "scheduler", "runner")


@dataclass(slots=True)
class Status:
    """What was found; None where nobody could tell. `troubles` are sentences."""

    ok: bool = True
    troubles: list[str] = field(default_factory=list)
    services: dict[str, int | None] = field(default_factory=dict)
    url: str = ""
    ready: bool = False
    scheduling: bool | None = None
    servers: "list[Json] | None" = None
    jobs: dict[str, int] | None = None
    ledger: dict[str, int] | None = None

    def trouble(self, sentence: str) -> None:
        """Take note that something is not as it should be."""
        self.ok = False
        self.troubles.append(sentence)


def status(
    data_dir: DataDir = None,
    port: Port = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Whether all is well: processes, API, servers, jobs, ledger. Ends with 1 if it is not."""
    from services.cli.tools import check_data_dir
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir, port=port)
    check_data_dir(settings.data_dir)
    found = look(settings)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _show(found)
    raise typer.Exit(0 if found.ok else 1)


def look(settings: "Settings") -> Status:
    """Everything that can be found out from this machine."""
    import httpx

    from services.cli.client import own_certificate
    from services.cli.installation import read_key

    found = Status(url=settings.api_url)
    _look_at_processes(found, settings.run_dir)
    verify = own_certificate(settings) if settings.tls_cert else True
    with httpx.Client(base_url=settings.api_url, timeout=_PATIENCE, verify=verify) as client:
        try:
            _ask_health(found, client)
            key = read_key(settings.data_dir)
            if found.ready and key is not None:
                client.headers["X-API-Key"] = key
                _ask_api(found, client)
        except httpx.HTTPError as error:
            found.trouble(f"The API does not answer at {settings.api_url}: {error}.")
        except _Refused as refused:
            found.trouble(str(refused))
    return found


class _Refused(Exception):
    """The API did not answer a call as it should; the text is one sentence."""


def _look_at_processes(found: Status, run_dir: Path) -> None:
    """The processes that `up` started, by their pidfiles; none where it was not used."""
    from services.cli.supervise import holder_of

    pidfiles = sorted(run_dir.glob("*.pid"))
    found.services = {file.stem: holder_of(file) for file in pidfiles}
    # Of a cluster on one machine there are several of each kind, with numbers.
    kinds = {name.rstrip("0123456789") for name in found.services}
    runs = any(found.services.values())
    missing = [name for name in _SERVICES if runs and name not in kinds]
    for name in [*found.services, *missing]:
        if found.services.setdefault(name, None) is None:
            found.trouble(f"The {name} is not running.")


def _ask_health(found: Status, client: "httpx.Client") -> None:
    reply = client.get("/health")
    body = _object(reply)
    found.ready = reply.status_code == 200
    reasons = body.get("reasons") or ([] if found.ready else [body.get("description")])
    for reason in reasons:
        found.trouble(str(reason))


def _ask_api(found: Status, client: "httpx.Client") -> None:
    """What only an administrator is told. Raises _Refused, httpx.HTTPError."""
    found.scheduling = bool(_call(client, "get_global_state")["state"]["scheduler"]["enabled"])
    online = {row["id"] for row in _call(client, "get_active_servers")["rows"]}
    found.servers = [
        {"id": id, "hostname": server.get("hostname"), "online": id in online}
        for id, server in _call(client, "get_servers")["servers"].items()
    ]
    if not online:
        found.trouble("No server is online: nothing can run.")
    events = _call(client, "get_active_job_summary")["events"].values()
    states: Counter[str] = Counter()
    for event in events:
        states.update(event["states"])
    found.jobs = dict(states)
    found.ledger = ledger = _positions(client)
    if ledger["lag"] > _BEHIND:
        found.trouble(f"The views are {ledger['lag']} facts behind the ledger.")


def _call(client: "httpx.Client", name: str) -> "Json":
    body = _object(client.get(f"/api/app/{name}/v1"))
    if body.get("code") != 0:
        raise _Refused(f"The API refused {name}: {body.get('description')}")
    return body


def _object(reply: "httpx.Response") -> "Json":
    try:
        body = reply.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise _Refused(f"What answers at {reply.url} is no Jobledger.")
    return body


def _positions(client: "httpx.Client") -> dict[str, int]:
    """How far the ledger goes, and how far the gateway has folded it."""
    from prometheus_client.parser import text_string_to_metric_families

    reply = client.get("/metrics")
    if reply.status_code != 200:
        raise _Refused(f"The API refused its metrics: {reply.text.strip()}")
    names = {
        "jobledger_ledger_end": "end",
        "jobledger_projection_position": "position",
        "jobledger_projection_lag": "lag",
    }
    return {
        names[family.name]: int(family.samples[0].value)
        for family in text_string_to_metric_families(reply.text)
        if family.name in names
    }


# --- on the screen ---------------------------------------------------------------------------


def _show(found: Status) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(_table(found))
    for trouble in found.troubles:
        console.print(Text("! ", style="red") + Text(trouble), soft_wrap=True)
    verdict = Text("All is well.", "green") if found.ok else Text("Not all is well.", "red")
    console.print(verdict)


def _table(found: Status) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 3))

    def row(name: str, value: Any) -> None:
        table.add_row(Text(name, style="bold"), Text(str(value)))

    row("API", f"{found.url}, {'ready' if found.ready else 'not ready'}")
    running = [f"{name} {pid or 'not running'}" for name, pid in found.services.items()]
    row("Processes", ", ".join(running) or "none that `up` started")
    if found.scheduling is not None:
        row("Scheduling", "on" if found.scheduling else "off: nothing is launched by itself")
    for number, server in enumerate(found.servers or ()):
        state = "online" if server["online"] else "offline"
        row("" if number else "Servers", f"{server['id']} ({server['hostname']}), {state}")
    if found.jobs is not None:
        states = ", ".join(f"{count} {state}" for state, count in sorted(found.jobs.items()))
        row("Live jobs", states or "none")
    if found.ledger is not None:
        ledger = found.ledger
        row("Ledger", f"sequence {ledger['end']}, views at {ledger['position']}")
    if found.ready and found.servers is None:
        row("", "no administrator's key here: servers, jobs and ledger are not shown")
    return table
