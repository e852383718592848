"""The docker plugin: runs a container and is its job (plugins.md 9.4). A program of its own."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any

sys.path.append(os.path.abspath(f"{__file__}/../../../.."))

from services.runner.plugins.protocol import end_line, output, read_job, say

KILL_AFTER = 9.0


def main() -> None:
    """Run the container; its exit status is the job's result."""
    job = read_job()
    params = job.get("params") or {}
    engine = shutil.which("docker") or shutil.which("podman")
    if engine is None:
        say(complete=True, code=1, description="The container engine (docker) is not installed.")
        return
    name = container_name(job, params)
    command = command_line(engine, name, params)
    if params.get("verbose"):
        output("Executing: " + shlex.join(command))
    child = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603
    signal.signal(signal.SIGTERM, lambda *_: stop(engine, name, child))
    feed(child, job, params)
    status = child.wait()
    code = signal.Signals(-status).name if status < 0 else status
    description = f"Docker exited with code: {code}" if code else ""
    end_line()
    say(complete=True, code=code, description=description)


def container_name(job: dict[str, Any], params: dict[str, Any]) -> str:
    """The wished name; by default it holds the job's id."""
    return str(params.get("cont_name") or f"xyops-job-{job.get('id', 'none')}")


def command_line(engine: str, name: str, params: dict[str, Any]) -> list[str]:
    """`docker run` with its options in the documented order."""
    command = [engine, "run", "-i"]
    if params.get("cont_rm", True):
        command.append("--rm")
    if params.get("cont_init"):
        command.append("--init")
    limits = {
        "--cpus": str(params.get("cont_cpus") or "0").strip(),
        "--memory": "".join(str(params.get("cont_mem") or "0").split()),
    }
    for option, value in limits.items():
        if value != "0":
            command += [option, value]
    if params.get("cont_net"):
        command += ["--network", str(params["cont_net"])]
    command += ["--name", name]
    command += shlex.split(str(params.get("cont_extras") or ""))
    command.append(f"{params.get('image_name', '')}:{params.get('image_ver') or 'latest'}")
    return command + shlex.split(str(params.get("cont_cmd") or ""))


def feed(child: "subprocess.Popen[bytes]", job: dict[str, Any], params: dict[str, Any]) -> None:
    """Give the container the job or the bare script; one that does not read does not matter."""
    text = json.dumps(job) + "\n"
    if "script" in str(params.get("run_mode") or "").lower():
        text = str(params.get("script") or "").replace("\r\n", "\n")
    assert child.stdin is not None
    try:
        child.stdin.write(text.encode())
        child.stdin.close()
    except BrokenPipeError:
        return


def stop(engine: str, name: str, child: "subprocess.Popen[bytes]") -> None:
    """SIGTERM: tell the client, stop the container by its name, and kill the client later."""
    child.terminate()
    killer = threading.Timer(KILL_AFTER, child.kill)
    killer.daemon = True
    killer.start()
    subprocess.Popen(  # noqa: S603
        [engine, "stop", "-t", str(int(KILL_AFTER)), name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    main()
