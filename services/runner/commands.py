"""From a launch to a command line, a script file and the line on the child's standard input.

Follows plugins.md 3, 5 and 9. Touches only the job's own folder; it starts nothing.
"""

import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from domain.facts import Json
from services.json_bytes import as_json
from services.runner.accounts import Account, account_of, own_account
from services.runner.children import Command
from services.runner.environment import VERSION, Base, environment
from services.runner.errors import CannotStart
from services.runner.job_files import Folder
from services.runner.keeper import SHELL
from services.runner.launches import Launch
from services.runner.spool import Mode, write_all

BUILT_IN = {
    "test-plugin": "testplug.py",
    "http-plugin": "httpplug.py",
    "docker-plugin": "docker.py",
    "hook-plugin": "hookplug.py",
}
SHELL_PLUGIN = "shell-plugin"
_PLUGINS = Path(__file__).parent / "plugins"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))", re.ASCII)
_SHEBANG = re.compile(rb"#![ \t]*([^\s]+)")


class Prepared(Struct, frozen=True):
    """Everything that `Keeping.start` needs; `remarks` are lines for the job's activity."""

    command: Command
    stdin: bytes
    remarks: list[str]


@dataclass(frozen=True, slots=True)
class Host:
    """What is the same for all jobs of this runner."""

    server: str
    hostname: str
    base_url: str
    env: Base


def prepare(launch: Launch, folder: Folder, host: Host) -> Prepared:
    """Make the working directory and the script file; say what to run.

    Raises CannotStart with the text for the job's description, OSError if a disk fails.
    """
    document = launch.document
    account = job_account(document)
    folder.make_work(account.owner if account else None)
    variables = environment(
        host.env,
        document,
        secrets=launch.secrets,
        account=account or own_account(),
        job_log=folder.out,
        cwd=folder.work,
        base_url=host.base_url,
    )
    script = _script_of(launch)
    path = folder.script if script is not None else None
    argv = _argv(document, path, script, variables.variables, launch.secrets)
    if script is not None:
        _write_script(folder.script, script, account)
    request = _request(launch, host, cwd=folder.work, job_log=folder.out)
    return Prepared(
        command=Command(argv, variables.variables, folder.work, account),
        stdin=request,
        remarks=variables.remarks,
    )


def mode_of(launch: Launch) -> Mode:
    """How the job is to be treated while it runs (plugins.md 9.1, execution.md 11)."""
    document = launch.document
    params = document.get("params") or {}
    remote = bool(document.get("runner"))
    kill = document.get("kill")
    return Mode(
        shell=_built_in(document) == SHELL_PLUGIN,
        annotate=bool(params.get("annotate")),
        passes=bool(params.get("pass")),
        # Work that runs elsewhere is told through its local client.
        kill=kill if kill in ("none", "parent", "all") and not remote else "parent",
        sampled=not remote,
        may_update=bool(launch.plugin.get("may_update_event")),
        secret=bool(launch.secrets),
    )


def job_account(document: Json) -> Account | None:
    """The account a job runs under, None for the runner's own; raises CannotStart."""
    return account_of(document.get("uid") or "", document.get("gid") or "")


def _built_in(document: Json) -> str | None:
    """The name in `[name]`, which stands for a built-in runner."""
    first = str(document.get("command") or "").partition(" ")[0]
    return first[1:-1] if first.startswith("[") and first.endswith("]") else None


def _script_of(launch: Launch) -> bytes | None:
    """What becomes a file, with unix line ends: the shell plugin's param, or the plugin's own."""
    if _built_in(launch.document) == SHELL_PLUGIN:
        return _unix(str((launch.document.get("params") or {}).get("script") or ""))
    script = launch.plugin.get("script")
    return _unix(script) if isinstance(script, str) and script else None


def _unix(text: str) -> bytes:
    return text.replace("\r\n", "\n").encode("utf-8", "surrogateescape")


def _write_script(path: str, script: bytes, account: Account | None) -> None:
    """A file that its account may run; it is empty, or not there for a job of before."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o700)
    try:
        if account is not None:
            os.fchown(descriptor, *account.owner)
        write_all(descriptor, script)
    finally:
        os.close(descriptor)


def _argv(
    document: Json,
    path: str | None,
    script: bytes | None,
    env: Mapping[str, str],
    secrets: Container[str],
) -> list[str]:
    """The command line, its program as an absolute path; no secret may stand in it.

    `script` will stand at `path`.
    """
    built_in = _built_in(document)
    if built_in == SHELL_PLUGIN:
        assert path is not None
        return _run_script(path, script or b"", env)
    if built_in is not None:
        if built_in not in BUILT_IN:
            raise CannotStart(f"Child spawn error: There is no built-in runner [{built_in}]")
        return [sys.executable, "-I", "-S", str(_PLUGINS / BUILT_IN[built_in])]
    program, _, rest = str(document.get("command") or "").strip().partition(" ")
    if not program:
        raise CannotStart("Child spawn error: The plugin has no command")
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise CannotStart(f"Child spawn error: {error} in the plugin's command") from error
    argv = [_program(program, env), *(_expand(word, env, secrets) for word in words)]
    return [*argv, path] if path is not None else argv


def _run_script(path: str, script: bytes, env: Mapping[str, str]) -> list[str]:
    """The script itself; /bin/sh runs one that names no interpreter."""
    shebang = _SHEBANG.match(script, 0, 4096)
    if shebang is None:
        return [SHELL, path]
    _program(os.fsdecode(shebang[1]), env)
    return [path]


def _program(name: str, env: Mapping[str, str]) -> str:
    if name.startswith("/") and os.access(name, os.X_OK) and os.path.isfile(name):
        return os.path.normpath(name)
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    if found is not None:
        return os.path.abspath(found)
    if "/" in name and os.path.exists(name):
        raise CannotStart(f"Child spawn error: Not executable: {name}")
    raise CannotStart(f"Child spawn error: Command not found: {name}")


def _expand(word: str, env: Mapping[str, str], secrets: Container[str]) -> str:
    """`$NAME` and `${NAME}` from the child's environment; unknown ones are empty.

    Raises CannotStart for a secret: everybody on the machine could read it in the process list.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name in secrets:
            raise CannotStart(
                f"Setup Error: The plugin's command names the secret {name}, which process lists "
                "would show: its program must read it from the environment."
            )
        return env.get(name, "")

    return _VARIABLE.sub(value, word)


def _request(launch: Launch, host: Host, *, cwd: str, job_log: str) -> bytes:
    """The one line that the child reads (plugins.md 3)."""
    document = launch.document
    given = document.get("input") or {}
    request = {
        **document,
        "xy": 1,
        "type": "event",
        "state": "active",
        "started": round(time.time(), 3),
        "params": document.get("params") or {},
        "input": {"data": given.get("data") or {}, "files": _visible(given.get("files"))},
        "secrets": launch.secrets,
        "base_url": host.base_url,
        "server": host.server,
        "hostname": host.hostname,
        "cwd": cwd,
        "log_file": job_log,
        "temp_dir": tempfile.gettempdir(),
        "versions": {"xyops": VERSION, "xysat": VERSION},
        "activity": None,
    }
    return as_json(request) + b"\n"


def _visible(files: object) -> list[Json]:
    """Input files as the child sees them: they lie in its working directory under their name."""
    if not isinstance(files, list):
        return []
    hidden = ("path", "blob")
    return [{k: v for k, v in f.items() if k not in hidden} for f in files if isinstance(f, dict)]
