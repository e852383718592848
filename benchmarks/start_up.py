"""How long `jobledger up` takes from nothing: to the first accepted job, and to its end.

    python benchmarks/start_up.py [RUNS]

A throw-away directory each time; prints a table.
"""

import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

RUNS = 5
PATIENCE = 60.0
EVENT = {
    "id": "first",
    "title": "First",
    "enabled": True,
    "category": "general",
    "targets": ["main"],
    "algo": "random",
    "plugin": "shellplug",
    "params": {"script": "#!/bin/sh\ntrue"},
    "triggers": [{"type": "manual", "enabled": True}],
    # Until the runner has joined the job waits.
    "limits": [
        {"type": "job", "enabled": True, "amount": 1},
        {"type": "queue", "enabled": True, "amount": 1},
    ],
}


def measure() -> tuple[float, float, float]:
    """Seconds to the first accepted job, to its end, and for a clean stop."""
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        home = Path(folder) / "data"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "services.cli", "up"]
        began = time.perf_counter()
        up = subprocess.Popen(
            [*command, "--data-dir", str(home), "--port", str(port)], stderr=subprocess.DEVNULL
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/app", timeout=PATIENCE) as api:
                job = first_job(api, home)
                accepted = time.perf_counter() - began
                while not api.get("get_job/v1", params={"id": job}).json()["job"].get("final"):
                    time.sleep(0.005)
                ended = time.perf_counter() - began
        finally:
            stopping = time.perf_counter()
            up.send_signal(signal.SIGINT)
            up.wait()
        return accepted, ended, time.perf_counter() - stopping


def first_job(api: httpx.Client, home: Path) -> str:
    """Its id, as soon as the API takes it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            api.headers["X-API-Key"] = (home / "admin.key").read_text().strip()
            if api.post("create_event/v1", json=EVENT).json()["code"] == 0:
                answer = api.post("run_event/v1", json={"id": EVENT["id"]}).json()
                return str(answer["id"])
        except (OSError, httpx.TransportError):
            pass  # no key yet, or nobody listens yet
        time.sleep(0.005)
    raise SystemExit("The API took no job.")


def main(runs: int) -> None:
    rows = [measure() for _ in range(runs)]
    print(f"{runs} starts from nothing, seconds        median     best")
    for name, values in zip(
        ("job accepted", "job ended", "clean stop"), zip(*rows, strict=True), strict=True
    ):
        print(f"{name:32} {median(values):12.2f} {min(values):8.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)
