"""The test plugin: a job that does as it is told (plugins.md 9.3). A program of its own."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from typing import Any

sys.path.append(os.path.abspath(f"{__file__}/../../../.."))

from services.runner.plugins.protocol import output, read_job, say

TICK = 0.15
MEBIBYTE = 1024 * 1024
RESULTS: dict[str, tuple[int | str, str]] = {
    "success": (0, "Success!"),
    "error": (999, "Simulating an error message here. Something went wrong!"),
    "warning": ("warning", "Simulating a warning message here."),
    "critical": ("critical", "Simulating a critical error message here."),
    "abort": ("abort", "Simulating an abort message here."),
}


def main() -> None:
    """Run for the wished duration, then end as wished."""
    job = read_job()
    params = job.get("params") or {}
    duration = seconds(params.get("duration"))
    child = subprocess.Popen(["/bin/sleep", str(duration + 1)])  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: stop(child))
    ballast = bytearray(random.randint(128, 256) * MEBIBYTE) if flag(params, "burn") else b""  # noqa: S311
    try:
        run(duration, burn=bool(ballast), network=flag(params, "network"))
    finally:
        child.kill()
        child.wait()
    finish(job, params, duration)


def seconds(value: Any) -> float:
    """A number, or a random one from `low-high`."""
    low, dash, high = str(value if value not in (None, "") else 60).partition("-")
    try:
        return random.uniform(float(low), float(high)) if dash else float(low)  # noqa: S311
    except ValueError:
        return 60.0


def flag(params: dict[str, Any], name: str) -> bool:
    """Whether a checkbox is set."""
    return params.get(name) in (True, 1, "1", "true")


def run(duration: float, *, burn: bool, network: bool) -> None:
    """Show progress; burn some processor time or talk to this machine, if wished."""
    began = time.monotonic()
    output(f"Running for {duration:g} seconds.")
    while (elapsed := time.monotonic() - began) < duration:
        say(progress=round(elapsed / duration, 3))
        until = min(time.monotonic() + TICK, began + duration)
        while burn and time.monotonic() < until - TICK / 2:
            sum(range(1000))
        if network:
            talk_to_ourselves()
        time.sleep(max(0.0, until - time.monotonic()))


def talk_to_ourselves() -> None:
    """Some traffic on the loopback interface; nothing leaves the machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with client, accepted:
            accepted.sendall(b"x" * 65536)
            received = 0
            while received < 65536:
                received += len(client.recv(65536))


def stop(child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM: take the sleeping child along."""
    child.kill()
    os._exit(143)


def finish(job: dict[str, Any], params: dict[str, Any], duration: float) -> None:
    """Report what a job can report, then the result."""
    action = str(params.get("action") or "Success").lower()
    if action == "crash":
        output("Simulating a crash.")
        sys.stdout.flush()
        os._exit(1)
    code, description = RESULTS.get(action, RESULTS["success"])
    message: dict[str, Any] = {
        "perf": {"db": round(duration / 2, 3), "http": round(duration / 4, 3), "total": duration},
        "table": {
            "title": "Sample Job Stats",
            "header": ["IP Address", "DNS Lookup", "Flag", "Count", "Percentage"],
            "rows": [
                ["62.121.210.2", "directing.com", "MaxEvents-ImpsUserHour-DMZ", 138, "0.0032%"],
                [
                    "97.247.105.50",
                    "hsd2.nm.comcast.net",
                    "MaxEvents-ImpsUserHour-ILUA",
                    84,
                    "0.0019%",
                ],
            ],
            "caption": "This is an example table.",
        },
        "html": {"title": "Sample Report", "content": "<p>This is <b>sample</b> html.</p>"},
        "data": {
            "text": "This is some sample data to pass to the next job.",
            "hostname": socket.gethostname(),
            "pid": os.getpid(),
            "random": random.random(),  # noqa: S311
            "obj": {"foo": "bar", "num": 123},
            "custom": params.get("custom"),
        },
    }
    if flag(params, "upload"):
        name = f"sample-report-{job.get('id', 'job')}.txt"
        with open(name, "w", encoding="utf-8") as file:
            file.write("This is a sample report.\n")
        message["files"] = [name]
    say(**message)
    say(complete=True, code=code, description=description)


if __name__ == "__main__":
    main()
