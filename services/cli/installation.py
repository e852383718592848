"""NATS, gateway, scheduler and runner on this machine, kept running.

This process only watches over the others (supervise.py), which are forks of it; job processes
are none of its children and go on when it ends. What can keep it from starting is checked
before anything is started (datadir.py).
"""

import http.client
import json
import os
import shlex
from contextlib import suppress
from pathlib import Path

from services.cli.datadir import (
    announce_nats,
    check_nats_port,
    check_nats_reachable,
    check_port,
    end_leftovers,
    locked,
    prepare_data_dir,
    prepare_nats,
)
from services.cli.members import deciders, runners
from services.cli.serve import import_folds
from services.cli.supervise import Child, Supervisor
from services.cli.wanted import Wanted
from services.errors import StartupError
from services.ledger.embedded import NatsSetup
from services.ledger.staging import Staging
from services.settings import Settings

# While starting, readiness is asked this often (seconds). Afterwards only the own nats-server is
# looked at (store_watch.py).
_POLL = 0.02
_IDLE = 3600.0
# A start that takes longer is explained.
_PATIENCE = 10.0
_REQUEST_WAIT = 2.0
_STANDARD_ERROR = 2

_HELLO = {
    "id": "hello",
    "title": "Hello",
    "enabled": True,
    "category": "general",
    "targets": ["main"],
    "algo": "random",
    "plugin": "shellplug",
    "params": {"script": "#!/bin/sh\necho Hello from Jobledger"},
    "triggers": [{"type": "manual", "enabled": True}],
}


def keep_up(wanted: Wanted) -> None:
    """Run until told to stop. Raises StartupError with one sentence."""
    settings = wanted.settings
    prepare_data_dir(settings)
    with locked(settings):
        end_leftovers(settings)
        _keep_running(settings, wanted.cluster, verbose=wanted.verbose)


def _keep_running(settings: Settings, cluster: int, *, verbose: bool) -> None:
    setups = _check(settings, cluster)
    log_dir = settings.data_dir / "log"
    try:
        log_dir.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StartupError(f"The logs cannot be in {log_dir}: {error.strerror}.") from error
    # The nodes of a cluster collect batches in memory by themselves.
    staging = Staging(setups[0].log_file.parent) if len(setups) == 1 else None
    with Supervisor(settings.run_dir, log_dir, _say, verbose=verbose) as family:
        watches: dict[str, Path] = {}
        for number, setup in enumerate(setups, 1):
            name = f"nats{number}" if cluster else "nats"
            family.start(Child(name, setup.command, last=True))
            watches[name] = setup.log_file
        for name, work in runners(settings, setups):
            family.start(Child(name, work))
        import_folds()  # while nats-server and runners start
        for name, work in deciders(settings, setups):
            family.start(Child(name, work))
        family.run(Readiness(settings).reached, poll=_POLL)
        family.settled = True
        if not family.stopped:
            _say(_welcome(settings))
        _watch_stores(watches, staging, family)
        _say("Stopping; running jobs go on.")
    if staging is not None:
        staging.remove()


def _watch_stores(logs: dict[str, Path], staging: Staging | None, family: Supervisor) -> None:
    """Until stopped: have batches collected in memory, whenever nats-server was started anew.

    And start it anew when it is stuck after the disk was full.
    """
    from services.cli.store_watch import WATCH, StoreWatch

    watches = {name: StoreWatch(log) for name, log in logs.items()}

    def look() -> bool:
        if staging is not None:
            staging.look()
        for name, watch in watches.items():
            if watch.is_stuck():
                _say(f"The disk has room again; {name} is started anew.")
                family.kill(name)
        return False

    family.run(look, poll=WATCH if watches else _IDLE)


def _check(settings: Settings, cluster: int) -> list[NatsSetup]:
    """Check what must be free or reachable before anything starts; the own NATS, if it is used."""
    from services.gateway.tls import check_certificate

    check_certificate(settings)
    gateways = 2 if cluster else 1  # on ports one after the other (members.py)
    for port in range(settings.port, settings.port + gateways):
        check_port(settings.host, port)
    if settings.nats is not None:
        check_nats_reachable(settings.nats_url)
        announce_nats(settings, None)
        return []
    setups = prepare_nats(settings, cluster or 1)
    for setup in setups:
        check_nats_port(setup, settings)
    announce_nats(settings, setups[0])
    return setups


class Readiness:
    """Whether the API answers and this machine's runner can take jobs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asked = 0

    def reached(self) -> bool:
        """Ask once more; after a while without success, tell where to look."""
        self._asked += 1
        if self._asked == int(_PATIENCE / _POLL):
            _say(f"Still starting; the logs are in {self._settings.data_dir / 'log'}.")
        key = read_key(self._settings.data_dir)
        if key is None:  # founding writes it before the API listens, unless somebody took it away
            status, _ = self._get("/health", {})
            return status == http.HTTPStatus.OK
        status, answer = self._get("/api/app/get_active_servers/v1", {"X-API-Key": key})
        if status == http.HTTPStatus.FORBIDDEN:  # it was revoked: who runs jobs is not told
            return True
        return bool(status == http.HTTPStatus.OK and answer.get("rows"))

    def _connection(self) -> http.client.HTTPConnection:
        at = self._settings
        if at.tls_cert is None:
            return http.client.HTTPConnection(at.host, at.port, timeout=_REQUEST_WAIT)
        from services.cli.client import own_certificate

        known = own_certificate(at)
        return http.client.HTTPSConnection(at.host, at.port, timeout=_REQUEST_WAIT, context=known)

    def _get(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, object]]:
        connection = self._connection()
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}  # not listening yet
        finally:
            connection.close()
        return response.status, answer


def read_key(data_dir: Path) -> str | None:
    """The admin's API key, as soon as it is there."""
    try:
        return (data_dir / "admin.key").read_text().strip() or None
    except OSError:
        return None


def _welcome(settings: Settings) -> str:
    url = settings.api_url
    key_file = settings.data_dir / "admin.key"
    known = str(key_file) if read_key(settings.data_dir) else f"not in {key_file} any more"
    key = f'-H "X-API-Key: $(cat {shlex.quote(str(key_file))})"'
    if settings.tls_cert is not None:
        key = f"--cacert {shlex.quote(str(settings.tls_cert))} {key}"
    hello = json.dumps(_HELLO).replace("'", "'\\''")
    return f"""
Jobledger is up: {url}

  API key (admin)   {known}
  Logs              {settings.data_dir / "log"}
  NATS address      {settings.run_dir / "nats.url"}

Make an event, run it, and see its history:

curl -s {key} -H "Content-Type: application/json" -d '{hello}' {url}/api/app/create_event/v1
curl -s {key} "{url}/api/app/run_event/v1/wait?id=hello&pretty=1"
curl -s {key} "{url}/api/app/get_event_history/v1?id=hello&limit=10&pretty=1"

Ctrl-C stops the services; running jobs go on.
"""


def _say(text: str) -> None:
    # Whoever listened may be gone, or the disk under a log full: no reason to stop everything.
    with suppress(OSError):
        os.write(_STANDARD_ERROR, f"{text}\n".encode())
