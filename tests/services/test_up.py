"""`jobledger up` as its user meets it: a process, a directory, a port."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.ledger.staging import is_possible

PATIENCE = 30.0
SERVICES = ("nats", "gateway", "scheduler", "runner")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def eventually(condition: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
    """What `condition` returns as soon as that is true."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.01)
    return found


class Up:
    """One `jobledger up`, and a client of its API."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.output = home.with_name(f"{home.name}.out")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Up":
        with self.output.open("ab") as output:
            where = ["--data-dir", str(self.home), "--port", str(self.port)]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.cli", "up", *where],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        eventually(lambda: self.said("Jobledger is up") or self.ended(), "Jobledger is up")
        assert not self.ended(), self.output.read_text()
        return self

    def said(self, text: str) -> bool:
        return text in self.output.read_text()

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        assert self.process is not None
        if not self.ended():
            self.process.send_signal(number)
        status = self.process.wait(timeout=PATIENCE)
        self.output.write_text("")
        return status

    def pid(self, name: str) -> int:
        with suppress(OSError, ValueError):
            return int((self.home / "run" / f"{name}.pid").read_text())
        return 0

    def call(self, name: str, **values: Any) -> dict[str, Any]:
        """An API call that must succeed."""
        key = (self.home / "admin.key").read_text().strip()
        answer: dict[str, Any] = httpx.post(
            f"http://127.0.0.1:{self.port}/api/app/{name if '/' in name else f'{name}/v1'}",
            json=values,
            headers={"X-API-Key": key},
            timeout=PATIENCE,
        ).json()
        assert answer["code"] == 0, answer
        return answer

    def answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200
        return False


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """An `up` that is not started yet, on a fresh directory."""
    one = Up(tmp_path / "data", free_port())
    yield one
    if one.process is not None:
        one.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An `up` that several tests share; they leave it running."""
    one = Up(tmp_path_factory.mktemp("up") / "data", free_port()).start()
    yield one
    assert one.stop() == 0


def refusal(*flags: str) -> str:
    """The one sentence with which `up` ends at once."""
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "up", *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def exists(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# --- what keeps it from starting -------------------------------------------------------------


def test_a_taken_port_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sentence = refusal("--data-dir", str(tmp_path / "data"), "--port", str(port))

    assert sentence.startswith(f"jobledger: Port {port} on 127.0.0.1 is in use")
    assert not (tmp_path / "data" / "nats").exists()
    assert not list((tmp_path / "data" / "run").glob("*.pid"))


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    sentence = refusal("--data-dir", str(tmp_path / "file" / "data"), "--port", str(free_port()))

    assert f"data directory {tmp_path}/file/data cannot be used" in sentence
    assert (tmp_path / "file").read_text() == "precious"


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobledger.toml").write_text("server_timeout = 1\n")

    assert "Setting 'server_timeout' is wrong" in refusal("--data-dir", str(tmp_path))


def test_an_absent_nats_is_named_without_its_password(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    sentence = refusal(
        "--data-dir", str(tmp_path), "--port", str(free_port()), "--nats", f"nats://me:pw@{address}"
    )  # fmt: skip

    assert sentence.endswith(f"No NATS server answers at {address}.")


def test_a_second_up_is_refused_and_the_first_goes_on(running: Up) -> None:
    before = {name: running.pid(name) for name in SERVICES}
    assert running.process is not None
    sentence = refusal("--data-dir", str(running.home), "--port", str(free_port()))

    assert f"is running on {running.home} already (process {running.process.pid})" in sentence
    assert {name: running.pid(name) for name in SERVICES} == before
    assert running.answers()


def test_a_nats_port_that_another_program_took_is_named(up: Up) -> None:
    up.start()
    port = json.loads((up.home / "nats" / "credentials.json").read_text())["port"]
    assert up.stop() == 0

    with socket.create_server(("127.0.0.1", port)):
        sentence = refusal("--data-dir", str(up.home), "--port", str(up.port))

    assert f"Port {port}, which {up.home} uses for its own NATS server, is in use" in sentence
    up.start()


@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--no-such-flag", 2)])
def test_what_is_only_read_ends_at_once_and_starts_nothing(
    flag: str, status: int, tmp_path: Path
) -> None:
    """The command line is read by a process of its own: its end is that of `up`."""
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "up", flag, "--data-dir", str(tmp_path / "data")],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == status
    assert b"services.cli up [OPTIONS]" in done.stdout + done.stderr
    assert not (tmp_path / "data").exists()


# --- while it runs ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gateway", "scheduler"])
def test_what_reads_the_settings_is_in_no_services_memory(running: Up, name: str) -> None:
    assert "pydantic" not in Path(f"/proc/{running.pid(name)}/maps").read_text()


def test_pidfiles_name_the_services_and_secrets_are_private(running: Up) -> None:
    for name in SERVICES:
        shown = Path(f"/proc/{running.pid(name)}/comm").read_text().strip()
        assert shown == ("nats-server" if name == "nats" else name)

    for private in ("admin.key", "server.secret", "run/nats.url"):
        assert stat.S_IMODE((running.home / private).stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at others' timers")
def test_nats_server_alone_may_have_late_timers(running: Up) -> None:
    slack = {name: Path(f"/proc/{running.pid(name)}/timerslack_ns") for name in SERVICES}
    assert int(slack.pop("nats").read_text()) == 1_000_000
    ours = Path("/proc/self/timerslack_ns").read_text()
    assert {file.read_text() for file in slack.values()} == {ours}


def test_no_credential_is_in_any_command_line(running: Up) -> None:
    url = (running.home / "run" / "nats.url").read_text()
    found = re.search(r"://[\w.-]+:(\w+)@", url)
    assert found is not None
    for name in SERVICES:
        assert found[1] not in Path(f"/proc/{running.pid(name)}/cmdline").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_a_killed_service_is_back_within_a_second_and_works(running: Up, name: str) -> None:
    killed = running.pid(name)
    os.kill(killed, signal.SIGKILL)

    eventually(lambda: running.pid(name) not in (0, killed), f"{name} is started again", 1.0)
    eventually(running.answers, "the API answers again", 10.0)
    eventually(lambda: running.call("get_active_servers")["rows"], "the runner is there", 10.0)
    assert running.said(f"{name} was ended by SIGKILL; it is started again.")


@pytest.mark.skipif(not is_possible(), reason="no room in /dev/shm")
def test_batches_are_collected_in_memory_also_by_the_next_nats_server(up: Up) -> None:
    def link() -> Path | None:
        links = (up.home / "nats" / "store").glob("jetstream/*/streams/LEDGER/batches")
        return next((found.readlink() for found in links if found.is_symlink()), None)

    up.start()
    memory = eventually(link, "the link is there")
    os.kill(up.pid("nats"), signal.SIGKILL)
    eventually(lambda: link() is None, "nats-server starts without it")
    assert eventually(link, "the link is there again") == memory

    up.stop()
    assert not memory.exists()


def test_the_lines_it_prints_work_when_pasted(running: Up) -> None:
    lines = [line for line in running.output.read_text().splitlines() if line.startswith("curl")]
    answers = [
        json.loads(subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout)
        for line in lines
    ]

    assert [answer["code"] for answer in answers] == [0, 0, 0]
    assert answers[1]["job"]["output"] == "Hello from Jobledger\n"
    assert answers[2]["rows"][0]["event"]["id"] == "hello"


def test_a_directory_with_a_blank_in_its_name_works_and_jobs_know_the_base_url(
    tmp_path: Path,
) -> None:
    up = Up(tmp_path / "my data", free_port())
    up.home.mkdir()
    (up.home / "jobledger.toml").write_text('base_url = "https://jobs.example.org/"\n')
    up.start()
    try:
        line = next(line for line in up.output.read_text().splitlines() if "create_event" in line)
        made = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert json.loads(made.stdout)["code"] == 0

        up.call("update_event", id="hello", params={"script": "#!/bin/sh\necho $JOB_BASE_URL"})
        job = up.call("run_event/v1/wait", id="hello")["job"]
        assert job["output"] == "https://jobs.example.org\n"
    finally:
        up.stop()


# --- how it ends -----------------------------------------------------------------------------


def long_job(up: Up, mark: Path) -> int:
    """Start a job that runs for a minute; the process id of its shell."""
    up.call(
        "create_event",
        id="long",
        title="Long",
        enabled=True,
        category="general",
        targets=["main"],
        algo="random",
        plugin="shellplug",
        params={"script": f"#!/bin/sh\necho $$ > {mark}\nexec sleep 60"},
        triggers=[{"type": "manual", "enabled": True}],
    )
    up.call("run_event", id="long")
    return int(eventually(lambda: mark.exists() and mark.read_text().strip(), "the job runs"))


def test_ctrl_c_ends_it_within_five_seconds_and_leaves_the_job_alone(
    up: Up, tmp_path: Path
) -> None:
    up.start()
    job = long_job(up, tmp_path / "mark")
    services = [up.pid(name) for name in SERVICES]
    try:
        began = time.monotonic()
        assert up.stop() == 0
        assert time.monotonic() - began < 5

        assert not any(map(exists, services))
        assert not list((up.home / "run").glob("*.pid"))
        assert exists(job)

        up.start()
        eventually(
            lambda: [row["state"] for row in up.call("get_active_jobs")["rows"]] == ["active"],
            "the job is taken up again",
        )
    finally:
        with suppress(ProcessLookupError):
            os.kill(job, signal.SIGKILL)


def test_the_next_up_takes_over_from_one_that_was_killed(up: Up) -> None:
    up.start()
    services = [up.pid(name) for name in SERVICES]
    up.call("create_tag", id="kept", title="Kept")

    up.stop(signal.SIGKILL)
    up.start()

    assert not any(map(exists, services))
    assert "kept" in [row["id"] for row in up.call("get_tags")["rows"]]


@pytest.mark.parametrize("what", ["taken away", "revoked"])
def test_without_the_first_key_it_comes_up_as_well(up: Up, what: str) -> None:
    up.start()
    if what == "revoked":
        up.call("delete_api_key", id="kadmin")
    else:
        (up.home / "admin.key").unlink()
    assert up.stop() == 0

    up.start()  # which waits for its welcome


def test_it_goes_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    up = Up(tmp_path / "data", free_port())
    where = ["--data-dir", str(up.home), "--port", str(up.port)]
    command = [sys.executable, "-m", "services.cli", "up", *where]
    up.process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    up.output.touch()
    try:
        assert up.process.stderr is not None
        eventually(lambda: b"is up" in up.process.stderr.readline(), "it is up")
        up.process.stderr.close()

        killed = up.pid("scheduler")
        os.kill(killed, signal.SIGKILL)  # of which it tells
        eventually(lambda: up.pid("scheduler") not in (0, killed), "the scheduler is back")
        assert up.answers()
    finally:
        assert up.stop() == 0
