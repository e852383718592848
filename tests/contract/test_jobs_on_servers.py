"""Jobs on several servers, and servers that leave, die, freeze and come back (execution.md 12).

The servers are runners on this machine, each with a directory of its own.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.contract.client import Client, until
from tests.contract.stack import running_stack
from tests.contract.test_jobs_scenarios import alive, suspend, until_file

pytestmark = pytest.mark.timeout(180)
EXIT_WITHIN = 30.0


@dataclass
class Site:
    """The installation, and where further servers keep their directories."""

    client: Client
    data_dir: Path

    @contextmanager
    def server(self, id: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """A further server in the group `east`, online; stopped with its jobs left alone."""
        process = self.start(id, **env)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(EXIT_WITHIN)
                process.kill()

    def start(self, id: str, **env: str) -> subprocess.Popen[bytes]:
        """Its runner, as soon as it is online."""
        where = self.data_dir.parent / id
        command = [sys.executable, "-m", "services.cli", "runner", "--id", id, "--hostname", id]
        command += ["--group", "east", "--data-dir", str(where)]
        command += ["--nats", f"@{self.data_dir}/run/nats.url"]
        where.mkdir(exist_ok=True)
        written = where / "runner.log"
        joined = _joins(written)
        with written.open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | env, start_new_session=True
            )
        until(
            lambda: _joins(written) > joined and self._is_online(id),
            f"{id} is not online: {written.read_text()}",
        )
        return process

    def _is_online(self, id: str) -> bool:
        return "server" in self.client.call("get_active_server", id=id)


def _joins(log: Path) -> int:
    return log.read_text().count("action=server_joined") if log.exists() else 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data_dir = tmp_path_factory.mktemp("servers") / "data"
    data_dir.mkdir()
    (data_dir / "jobledger.toml").write_text("server_timeout = 5\n")
    with running_stack(data_dir) as stack:
        key = {"X-API-Key": stack.admin_key}
        with httpx.Client(base_url=stack.url, headers=key, timeout=40) as http:
            client = Client(stack, http)
            client.ok("create_group", id="east", title="East", hostname_match="^east-")
            yield Site(client, data_dir)


def test_a_multiplex_job_runs_once_on_each_server(site: Site, tmp_path: Path) -> None:
    client = site.client
    script = f'grep -q \'"server":"e2"\' && exit $fail; echo here; {until_file(tmp_path / "go")}'
    with site.server("e1"), site.server("e2"), site.server("e3"):
        client.create("everywhere", script, targets=["east"], algo="multiplex")
        parent = client.run("everywhere", params={"fail": "0"})
        running = until(
            lambda: client.ok("get_active_jobs", **{"workflow.job": parent, "state": "active"})[
                "rows"
            ],
            "no child runs",
        )
        assert {child["source"] for child in running} == {"workflow"}
        (tmp_path / "go").touch()
        job = client.final(parent)
        assert (job["code"], job["type"]) == (0, "workflow")
        (node,) = job["workflow"]["jobs"].values()
        assert {child["server"] for child in node} == {"e1", "e2", "e3"}
        assert client.http.get(f"/api/app/get_job_log/v1?id={parent}").status_code == 204
        logs = {child["server"]: client.log(child["id"]) for child in node}
        assert logs == {"e1": b"here\n", "e2": b"", "e3": b"here\n"}

        some = client.finished("everywhere", params={"fail": "3"})
        assert some["code"] == "warning"
        client.ok("delete_job", id=parent)
        assert all(client.call("get_job", id=c["id"])["code"] == "notfound" for c in node)

        (tmp_path / "go").unlink()
        parent = client.run("everywhere", params={"fail": "0"})
        children = until(
            lambda: client.ok("get_active_jobs", **{"workflow.job": parent, "state": "active"})[
                "rows"
            ],
            "no child runs",
        )
        client.ok("abort_job", id=parent)
        assert client.final(parent)["code"] == "abort"
        assert {client.final(child["id"])["code"] for child in children} <= {"abort", 0}


def test_a_stopped_runner_leaves_its_jobs_to_the_next(site: Site, tmp_path: Path) -> None:
    client = site.client
    client.create("left", f"echo 1; {until_file(tmp_path / 'go')}; echo 2", targets=["s_left"])
    with site.server("s_left") as runner:
        id = client.run("left")
        pid = client.active(id)["pid"]
        runner.terminate()
        assert runner.wait(EXIT_WITHIN) == 0
        assert alive(pid)
    with site.server("s_left"):
        (tmp_path / "go").touch()
        job = client.final(id)
    assert (job["output"], job["pid"]) == ("1\n2\n", pid)


def test_a_killed_runner_that_returns_carries_out_an_abort(site: Site) -> None:
    client = site.client
    client.create("orphaned", "exec sleep 60", targets=["s_killed"])
    with site.server("s_killed") as runner:
        id = client.run("orphaned")
        pid = client.active(id)["pid"]
        runner.kill()
        runner.wait()
        client.ok("abort_job", id=id)
    with site.server("s_killed"):
        assert client.final(id)["code"] == "abort"
        until(lambda: not alive(pid), "the process goes on")


def test_a_leaving_runner_finishes_its_jobs_for_a_while(site: Site, tmp_path: Path) -> None:
    client = site.client
    client.create("finishing", until_file(tmp_path / "go"), targets=["s_drain"])
    with site.server("s_drain", JOBLEDGER_DRAIN_TIMEOUT="25") as runner:
        id = client.run("finishing")
        client.active(id)
        runner.terminate()
        until(lambda: client.finished("finishing")["code"] == "abort", "it still takes new jobs")
        assert runner.poll() is None
        (tmp_path / "go").touch()
        assert client.final(id)["code"] == 0
        assert runner.wait(EXIT_WITHIN) == 0


def test_a_leaving_runner_does_not_wait_for_ever(site: Site) -> None:
    client = site.client
    client.create("endless", "exec sleep 60", targets=["s_short"])
    with site.server("s_short", JOBLEDGER_DRAIN_TIMEOUT="1") as runner:
        id = client.run("endless")
        pid = client.active(id)["pid"]
        runner.terminate()
        assert runner.wait(EXIT_WITHIN) == 0
        assert alive(pid)
    with site.server("s_short"):
        client.ok("abort_job", id=id)
        assert client.final(id)["code"] == "abort"


def test_a_lost_job_is_run_elsewhere_and_its_late_report_is_kept(
    site: Site, tmp_path: Path
) -> None:
    client = site.client
    retry = [{"type": "retry", "enabled": True, "amount": 1}]
    waits = until_file(tmp_path / "go")
    script = f'if grep -q \'"server":"s_lost"\'; then {waits}; fi; echo done'
    targets = ["s_lost", "s_spare"]
    client.create("lost", script, targets=targets, algo="prefer_first_natural", limits=retry)
    with site.server("s_lost") as frozen, site.server("s_spare"):
        id = client.run("lost")
        assert client.active(id)["server"] == "s_lost"
        frozen.send_signal(signal.SIGSTOP)
        job = client.final(id)
        assert (job["code"], job["retried"]) == ("abort", True)
        again = client.final(job["jobs"][0]["id"])
        assert (again["code"], again["server"], again["output"]) == (0, "s_spare", "done\n")
        (tmp_path / "go").touch()
        frozen.send_signal(signal.SIGCONT)
        late = client.job(id, lambda j: j["code"] != "abort" or j.get("output") == "done\n")
        assert late["output"] == "done\n"
        assert late["code"] == "warning"


def test_a_suspended_job_waits_through_restarts_of_everything(site: Site) -> None:
    client = site.client
    client.create("waiting", 'echo "$word"', actions=[suspend("start")])
    id = client.run("waiting", params={"word": "old"})
    client.job(id, lambda job: job.get("suspended"))
    for service in ("scheduler", "gateway", "runner", "nats"):
        pid = int((site.data_dir / "run" / f"{service}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: not alive(pid), "still there")

    def resumed() -> bool:
        try:
            return bool(client.call("resume_job", id=id, params={"word": "new"})["code"] == 0)
        except (httpx.HTTPError, ValueError):
            return False

    until(resumed, "cannot be resumed")
    until(lambda: _final(client, id), "does not end")
    assert client.final(id)["output"] == "new\n"


def _final(client: Client, id: str) -> bool:
    try:
        return bool((client.call("get_job", id=id).get("job") or {}).get("final"))
    except httpx.HTTPError:
        return False
