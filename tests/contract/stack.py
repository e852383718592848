"""A whole Jobledger for one test session: `jobledger up` on a free port, data in a temp dir."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

READY_WITHIN = 40.0
STOPPED_WITHIN = 20.0
_POLL = 0.1


@dataclass(frozen=True)
class Stack:
    """A running installation: where its API is, and an API key with all privileges."""

    url: str
    admin_key: str

    def get(self, name: str, **params: str) -> httpx.Response:
        """One call of the API with the admin key."""
        return httpx.get(
            f"{self.url}/api/app/{name}/v1",
            params=params,
            headers={"X-API-Key": self.admin_key},
            timeout=10,
        )


@contextmanager
def running_stack(data_dir: Path) -> Iterator[Stack]:
    """Start everything and wait until a server is online; stop it by its process id."""
    port = free_port()
    log = data_dir.parent / "up.log"
    options = ["--verbose", "--data-dir", str(data_dir), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "up", *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"JOBLEDGER_LOG_LEVEL": "info"},
        )
    try:
        yield _when_ready(f"http://127.0.0.1:{port}", data_dir, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _when_ready(url: str, data_dir: Path, process: subprocess.Popen[bytes], log: Path) -> Stack:
    deadline = time.monotonic() + READY_WITHIN
    key_file = data_dir / "admin.key"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if key_file.exists():
            stack = Stack(url, key_file.read_text().strip())
            if _has_a_server(stack):
                return stack
        time.sleep(_POLL)
    raise AssertionError(f"The stack did not become ready:\n{log.read_text()[-4000:]}")


def _has_a_server(stack: Stack) -> bool:
    try:
        return bool(stack.get("get_active_servers").json().get("rows"))
    except (httpx.HTTPError, ValueError):
        return False
