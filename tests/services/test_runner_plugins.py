"""The built-in programs, run as jobs (plugins.md 9)."""

import asyncio
import contextlib
import http.server
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.ledger.connection import Ledger
from tests.services.runner_bench import Bench, bench, running


@pytest.fixture
async def scheduler(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Bench]:
    """A stand-in scheduler with a joined runner."""
    async with bench(ledger) as made, running(made, tmp_path, kill_timeout=1.0):
        yield made


BODIES = {
    "/cut": b'{"rows": [',
    "/nan": b'{"a": NaN}',
    "/huge": b'{"a": 1e999}',
    "/deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "/%C3%A4": b"{}",
}
"""Bodies that no message can hold, or that are not all there."""


class Site(http.server.BaseHTTPRequestHandler):
    """A small web site."""

    def do_GET(self) -> None:
        """JSON with what was sent; `/missing` is missing, `/moved` is `/data`; or one of BODIES."""
        if self.path in BODIES:
            body = BODIES[self.path]
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body) + 10 * (self.path == "/cut")))
            self.end_headers()
            self.wfile.write(body)
            return
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/data")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Type", "application/json")
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length).decode()
        body = json.dumps({"path": self.path, "token": self.headers.get("X-Token"), "sent": sent})
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        """As GET."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[str]:
    """The address of a web site on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("Success", 0),
        ("Error", 999),
        ("Warning", "warning"),
        ("Critical", "critical"),
        ("Abort", "abort"),
        ("Crash", 1),
    ],
)
async def test_the_test_plugin_ends_as_told(scheduler: Bench, action: str, code: int | str) -> None:
    """Each action has its result; all but a crash report data, a table and html."""
    scheduler.use(command="[test-plugin]")
    order = await scheduler.order({"duration": 0.2, "action": action, "upload": True, "custom": 1})
    finished = await scheduler.finished(order)
    assert finished.code == code
    if action != "Crash":
        assert finished.report["data"]["custom"] == 1
        assert {"table", "html", "perf"} <= finished.report.keys()
        assert [f["filename"] for f in finished.report["files"]] == ["sample-report-j1.txt"]


@pytest.mark.parametrize(
    ("params", "code", "description"),
    [
        ({"url": "/data"}, 0, "Success (HTTP 200 OK)"),
        ({"url": "/missing"}, 404, "HTTP 404 Not Found"),
        ({"url": "/moved", "follow": True}, 0, "Success (HTTP 200 OK)"),
        ({"url": "/moved"}, 0, "Success (HTTP 302 Found)"),
        ({"url": "/a b"}, 1, "Malformed URL: {site}/a b"),
        ({"url": "/data", "error_match": "pa.h"}, 1, "Response contains error match: pa.h"),
        ({"url": "/data", "success_match": "nope"}, 1, "Response is missing success match: nope"),
    ],
)
async def test_an_http_request_is_judged(
    scheduler: Bench, site: str, params: dict[str, object], code: int, description: str
) -> None:
    """By status, then by error_match, then by success_match."""
    scheduler.use(command="[http-plugin]")
    order = await scheduler.order({**params, "url": f"{site}{params['url']}", "method": "GET"})
    finished = await scheduler.finished(order)
    assert (finished.code, finished.description) == (code, description.format(site=site))


@pytest.mark.parametrize("path", ["/nan", "/huge", "/deep", "/ä"])
async def test_a_body_that_no_message_can_hold_as_json_is_still_reported(
    scheduler: Bench, site: str, path: str
) -> None:
    """The status, the headers and the account of the request are there without it."""
    scheduler.use(command="[http-plugin]")
    finished = await scheduler.finished(await scheduler.order({"url": f"{site}{path}"}))
    assert (finished.code, finished.description) == (0, "Success (HTTP 200 OK)")
    assert finished.report["data"]["statusCode"] == 200
    assert finished.report["data"].get("json") == ({} if path == "/ä" else None)
    assert await scheduler.log(finished) == ""


async def test_an_answer_that_ends_early_is_no_success(scheduler: Bench, site: str) -> None:
    """Given a connection that ends before the whole body came, then no file is kept of it."""
    scheduler.use(command="[http-plugin]")
    order = await scheduler.order({"url": f"{site}/cut", "download": True})
    finished = await scheduler.finished(order)
    said = "HTTP request failed: The connection ended after 10 of 20 bytes"
    assert (finished.code, finished.description) == (1, said)
    assert "files" not in finished.report


@pytest.mark.parametrize(
    ("params", "description"),
    [
        ({"url": "http://127.0.0.1:99999/"}, "Malformed URL: http://127.0.0.1:99999/"),
        ({"url": "http://[::1/"}, "Malformed URL: http://[::1/"),
        ({"url": "http:///x"}, "Malformed URL: http:///x"),
        ({"headers": "A: €"}, "HTTP request failed: 'latin-1' codec can't encode character"),
        ({"timeout": -1}, "Success (HTTP 200 OK)"),
        ({"idle_timeout": "1e400"}, "Success (HTTP 200 OK)"),
    ],
)
async def test_odd_params_of_an_http_request_are_answered_in_words(
    scheduler: Bench, site: str, params: dict[str, object], description: str
) -> None:
    """Never with a traceback."""
    scheduler.use(command="[http-plugin]")
    finished = await scheduler.finished(await scheduler.order({"url": f"{site}/data"} | params))
    assert finished.description.startswith(description)
    assert await scheduler.log(finished) == ""


async def test_a_host_that_does_not_answer_is_named_in_words(scheduler: Bench) -> None:
    """Given a port whose queue of connections is full."""
    scheduler.use(command="[http-plugin]")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as all:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        for _ in range(4):
            waiting = all.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        finished = await scheduler.finished(
            await scheduler.order({"url": url, "connect_timeout": 0.2})
        )
    said = "HTTP request failed: No connection within 0.2 s"
    assert (finished.code, finished.description) == (1, said)


async def test_an_http_request_has_its_placeholders_and_hides_its_secrets(
    scheduler: Bench, site: str
) -> None:
    """`[secrets.NAME]` is filled in; where the answer repeats it, it is masked like anywhere."""
    scheduler.use(command="[http-plugin]")
    scheduler.secrets = {"TOKEN": "s3cret"}
    params = {
        "url": f"{site}/[id]",
        "method": "POST",
        "data": "n=[params.n]",
        "n": 7,
        "headers": "X-Token: [secrets.TOKEN]",
        "download": False,
    }
    finished = await scheduler.finished(await scheduler.order(params))
    answer = {"path": "/j1", "token": "***", "sent": "n=7"}
    assert finished.report["data"]["json"] == answer
    assert "s3cret" not in finished.report["html"]["content"]


async def test_a_download_becomes_an_output_file(scheduler: Bench, site: str) -> None:
    """Named after the URL, with a suffix from the content type."""
    scheduler.use(command="[http-plugin]")
    finished = await scheduler.finished(
        await scheduler.order({"url": f"{site}/data", "download": True})
    )
    assert [f["filename"] for f in finished.report["files"]] == ["data.json"]


async def test_a_web_hook_that_takes_long_is_asked_for_again(scheduler: Bench) -> None:
    """Given schedulers that do not know yet, or do not know this runner yet."""
    scheduler.use(command="[hook-plugin]")
    said = {"code": 0, "description": "Success (HTTP 200 OK)", "answer": {"statusCode": 200}}
    scheduler.hooks = [{"pending": True}, {"error": "Not assigned."}, {"pending": True}, said]
    finished = await scheduler.finished(await scheduler.order({"web_hook": "w1"}))
    assert (finished.code, finished.description) == (0, said["description"])
    assert finished.report["data"] == {"statusCode": 200}
    assert scheduler.hooks == []


DOCKER = """#!/bin/sh
if [ "$1" = stop ]; then echo "$@" > "$HERE/stopped"; kill "$(cat "$HERE/pid")"; exit; fi
echo $$ > "$HERE/pid"
echo "$@"
cat
[ -z "$WAIT" ] || exec sleep 60
exit 3
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that stands for the container engine on the PATH of jobs."""
    path = tmp_path / "bin" / "docker"
    path.parent.mkdir()
    path.write_text(DOCKER)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HERE", str(tmp_path))
    return tmp_path


CONTAINER = {
    "image_name": "alpine",
    "image_ver": "3",
    "cont_cpus": "2",
    "cont_mem": "1 g",
    "cont_extras": "-v '/a b:/c'",
    "cont_cmd": "sh -",
    "run_mode": "Send Script Source",
    "script": "echo hi",
}


async def test_a_container_gets_its_options_in_order(
    engine: Path, ledger: Ledger, tmp_path: Path
) -> None:
    """The engine's exit status is the job's result."""
    async with bench(ledger) as scheduler, running(scheduler, tmp_path):
        scheduler.use(command="[docker-plugin]", runner=True)
        finished = await scheduler.finished(await scheduler.order(CONTAINER))
        lines = (await scheduler.log(finished)).splitlines()
    assert (finished.code, finished.description) == (3, "Docker exited with code: 3")
    assert lines == [
        "run -i --rm --cpus 2 --memory 1g --name xyops-job-j1 -v /a b:/c alpine:3 sh -",
        "echo hi",
    ]


async def test_an_aborted_container_is_stopped_by_name(
    engine: Path, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending the client may leave the container running."""
    monkeypatch.setenv("WAIT", "1")
    async with bench(ledger) as scheduler, running(scheduler, tmp_path):
        scheduler.use(command="[docker-plugin]", runner=True)
        order = await scheduler.order(CONTAINER)
        await scheduler.telemetry("j1", lambda entry: entry["log_size"])
        await scheduler.abort(order)
        assert (await scheduler.finished(order)).code == "abort"
        async with asyncio.timeout(5):
            while not (engine / "stopped").exists():
                await scheduler.until(lambda: scheduler.heartbeats, "no heartbeat")
                scheduler.heartbeats.clear()
    assert (engine / "stopped").read_text() == "stop -t 9 xyops-job-j1\n"
