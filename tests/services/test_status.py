"""`jobledger status` and the metrics of all services, with everything running."""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.status import look
from services.settings import Settings
from tests.services.test_metrics import documented, names, sample
from tests.services.test_up import PATIENCE, Up, eventually, free_port


def status(home: Path, port: int, *flags: str) -> tuple[int, str]:
    """The exit status and what was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "status", "--data-dir", str(home), "--port",
         str(port), *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody uses now."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + number):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def scraped(port: int) -> str:
    """The page at this port, as soon as somebody listens there."""

    def page() -> str:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/metrics").text
        return ""

    return str(eventually(page, f"metrics at port {port}"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, int]]:
    """An `up` with ports for metrics, and the first of these."""
    home = tmp_path_factory.mktemp("status") / "data"
    home.mkdir()
    first = free_ports(3)
    toml = f'metrics_port = {first}\nlog_format = "json"\ntimezone = "UTC"\n'
    (home / "jobledger.toml").write_text(toml)
    one = Up(home, free_port()).start()
    yield one, first
    assert one.stop() == 0


def test_each_service_has_a_port_with_the_metrics_that_are_documented_for_it(
    measured: tuple[Up, int],
) -> None:
    both = "Gateway and scheduler"
    for place, parts in enumerate(
        [("Every service", "Gateway", both), ("Every service", "Scheduler", both),
         ("Every service", "Runner")]
    ):  # fmt: skip
        page = scraped(measured[1] + place)
        assert names(page) == documented(*parts)
        assert "process_cpu_seconds_total" in page


def test_a_running_installation_is_well(measured: tuple[Up, int]) -> None:
    up = measured[0]

    code, text = status(up.home, up.port, "--json")

    found = json.loads(text)
    assert (code, found["ok"], found["troubles"]) == (0, True, [])
    assert set(found["services"]) == {"nats", "gateway", "scheduler", "runner"}
    assert found["services"]["gateway"] == up.pid("gateway")
    assert [server["online"] for server in found["servers"]] == [True]
    assert found["scheduling"] is True
    assert found["jobs"] == {}
    assert found["ledger"]["lag"] == 0
    assert found["ledger"]["position"] == found["ledger"]["end"] > 0


def test_one_screen_tells_it_to_people(measured: tuple[Up, int]) -> None:
    up = measured[0]

    code, text = status(up.home, up.port)

    assert code == 0
    assert len(text.splitlines()) <= 24
    assert "All is well." in text
    assert f"gateway {up.pid('gateway')}" in text
    assert re.search(r"Servers\s+\w+ \(.+\), online", text)


def test_scheduling_that_is_off_is_shown_and_is_no_trouble(measured: tuple[Up, int]) -> None:
    up = measured[0]
    up.call("update_global_state", scheduler={"enabled": False})
    try:
        code, text = status(up.home, up.port)
    finally:
        up.call("update_global_state", scheduler={"enabled": True})
    assert code == 0
    assert "off: nothing is launched by itself" in text


def test_fires_and_the_jobs_that_come_of_them_are_measured(measured: tuple[Up, int]) -> None:
    up, first = measured
    clock = {"type": "interval", "enabled": True, "start": int(time.time()), "duration": 1}
    up.call("create_event", id="clock", title="Clock", enabled=True, category="general",
            targets=["main"], plugin="shellplug", params={"script": "true"}, algo="random",
            triggers=[clock])  # fmt: skip

    def shown(port: int, name: str, **labels: str) -> float:
        return sample(scraped(port), name, **labels)

    scheduler, runner = first + 1, first + 2
    eventually(
        lambda: shown(scheduler, "jobledger_jobs_ended_total", result="success") >= 2, "it runs"
    )
    fires = shown(scheduler, "jobledger_fire_skew_seconds_count")
    assert fires >= 2
    assert 0 < shown(scheduler, "jobledger_fire_skew_seconds_sum") < 5 * fires
    assert shown(runner, "jobledger_runner_start_seconds_count") >= 2
    up.call("update_event", id="clock", enabled=False)


def test_it_tells_no_secret(measured: tuple[Up, int]) -> None:
    up = measured[0]
    texts = [status(up.home, up.port, *flags)[1] for flags in ((), ("--json",))]
    logs = [file.read_text() for file in (up.home / "log").glob("*.log*")]
    secrets = [(up.home / name).read_text().strip() for name in ("admin.key", "server.secret")]
    secrets += re.findall(r"://[^:]+:([^@]+)@", (up.home / "run" / "nats.url").read_text())

    assert len(secrets) >= 2
    assert not [s for s in secrets for text in texts + logs if s in text]


def test_every_line_of_the_services_logs_is_json_with_an_action(measured: tuple[Up, int]) -> None:
    """style.md 13: what a program reads is the action, the ids and the service."""
    up = measured[0]
    up.call("create_event", id="logged", title="Logged", enabled=True, category="general",
            targets=["main"], plugin="shellplug", params={"script": "true"},
            algo="random", triggers=[{"type": "manual", "enabled": True}])  # fmt: skip
    up.call("run_event", id="logged")
    seen: set[str] = set()
    for name in ("gateway", "scheduler", "runner"):
        for line in (up.home / "log" / f"{name}.log").read_text().splitlines():
            record: dict[str, Any] = json.loads(line)
            assert record["action"], line
            assert record["service"] == name
            assert {"event", "level", "timestamp"} <= record.keys()
            seen.add(record["action"])
    assert {"gateway_ready", "term_begins", "server_joined", "metrics_served"} <= seen


def test_a_service_that_died_for_good_is_a_trouble(tmp_path: Path) -> None:
    """Its pidfile is there, and nobody holds it."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "scheduler.pid").write_text("4\n")

    found = look(Settings(data_dir=tmp_path, port=free_port()))

    assert not found.ok
    assert found.troubles[0] == "The scheduler is not running."
    assert re.match("The API does not answer at http://127.0.0.1:", found.troubles[1])


def test_without_the_administrators_key_it_tells_what_everybody_may_know(
    measured: tuple[Up, int], tmp_path: Path
) -> None:
    found = look(Settings(data_dir=tmp_path, port=measured[0].port))

    assert (found.ok, found.ready) == (True, True)
    assert (found.servers, found.jobs, found.ledger) == (None, None, None)


def test_what_is_no_jobledger_is_said_in_one_sentence(tmp_path: Path) -> None:
    code, text = status(tmp_path / "nowhere", free_port())
    assert (code, text.count("\n")) == (1, 1)
    assert "There is no data directory" in text


def test_a_killed_runner_is_a_trouble_until_it_is_started_again(tmp_path: Path) -> None:
    up = Up(tmp_path / "data", free_port()).start()
    assert up.process is not None
    try:
        up.process.send_signal(signal.SIGSTOP)
        os.kill(up.pid("runner"), signal.SIGKILL)
        code, text = status(up.home, up.port)
        assert (code, "The runner is not running." in text) == (1, True), text
        up.process.send_signal(signal.SIGCONT)
        eventually(lambda: status(up.home, up.port)[0] == 0, "all is well again")
    finally:
        up.process.send_signal(signal.SIGCONT)
        up.stop()


def test_the_services_of_a_cluster_are_known_by_their_numbers(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, port=free_port())
    settings.run_dir.mkdir()
    with contextlib.ExitStack() as held:
        for name in ("nats1", "gateway1", "gateway2", "scheduler1"):
            pidfile = held.enter_context((settings.run_dir / f"{name}.pid").open("w"))
            pidfile.write(f"{os.getpid()}\n")
            pidfile.flush()
            fcntl.flock(pidfile, fcntl.LOCK_EX)  # as a running child holds it
        (settings.run_dir / "scheduler2.pid").write_text("1\n")

        troubles = [one for one in look(settings).troubles if "not running" in one]

    assert troubles == ["The scheduler2 is not running.", "The runner is not running."]
