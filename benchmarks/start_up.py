"""How long `jobledger up` takes from nothing: to the first accepted job, and to its end.

    python benchmarks/start_up.py [RUNS] [--json FILE]

A throw-away directory each time. Not with stack.running, which waits until all is ready.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx
from stack import event, free_port, installed, machine, print_table, write_json

PATIENCE = 60.0
# Until the runner has joined the job waits in the queue.
EVENT = event("first", jobs=1)


def measure() -> tuple[float, float, float]:
    """Seconds to the first accepted job, to its end, and for a clean stop."""
    with tempfile.TemporaryDirectory(prefix="jobledger-bench-") as folder:
        home = Path(folder) / "data"
        port = free_port()
        command = [sys.executable, "-m", "services.cli", "up"]
        began = time.perf_counter()
        up = subprocess.Popen(
            [*command, "--data-dir", str(home), "--port", str(port)],
            stderr=subprocess.DEVNULL,
            env=installed(),
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


def main() -> None:
    parser = argparse.ArgumentParser(description="The time of a start.")
    parser.add_argument("runs", type=int, nargs="?", default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    runs = [measure() for _ in range(args.runs)]
    names = ("job accepted", "job ended", "clean stop")
    rows: list[list[object]] = [
        [name, median(values), min(values)]
        for name, values in zip(names, zip(*runs, strict=True), strict=True)
    ]
    title = f"{args.runs} starts from nothing; {before}"
    print_table(title, ["seconds until", "median", "best"], rows)
    write_json(args.json, {"start_up": {name: middle for name, middle, _ in rows}})


if __name__ == "__main__":
    main()
