"""Runs a scheduler's plugin as a process: a line in, the end of its output back (plugins.md 6, 7).

The process lives in a session of its own and is gone, with all it started, when its time is over.
Knows nothing of what the output means.
"""

import asyncio
import contextlib
import grp
import os
import pwd
import signal
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from domain.facts import Json
from domain.masking import Mask

OUTPUT = 1024 * 1024  # bytes that are kept of each stream, from its end
HEARD = 0.005  # seconds within which the loop knows how a process ended, about
LEFT_OPEN = 1.0  # seconds for what a process that made itself independent may hold open

_OWN_PREFIXES = ("JOBLEDGER_", "XYOPS")


class NotStarted(Exception):
    """The process could not be started; its text says why."""


class OutOfTime(Exception):
    """The process did not end in time, and was killed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended by itself. `status` is negative for a signal."""

    status: int
    out: str
    err: str


async def run_process(
    plugin: Json,
    line: bytes,
    environment: Mapping[str, str],
    seconds: float,
    secrets: Mapping[str, str],
) -> Ended:
    """Run the plugin's command, its script appended, for at most so many seconds.

    `secrets` win over `environment`, and are masked in the output.
    Raises NotStarted and OutOfTime. The whole session of the process is killed in any case.
    """
    with tempfile.TemporaryDirectory(prefix="jobledger-plugin-") as folder:
        command = str(plugin.get("command") or "")
        if plugin.get("script"):
            command += f" {_write_script(Path(folder), plugin)}"
        try:
            process = await _start(plugin, command, {**environment, **secrets})
        except (OSError, ValueError) as error:
            raise NotStarted(str(error)) from error
        ended = await _talk(process, line, seconds)
    mask = Mask(secrets)
    return Ended(ended.status, mask.text(ended.out), mask.text(ended.err))


def clean_environment(base_url: str) -> dict[str, str]:
    """The scheduler's environment without its own settings, and where the API is."""
    own = {key: text for key, text in os.environ.items() if not key.startswith(_OWN_PREFIXES)}
    return own | {"XYOPS": "1.0.88", "XYOPS_BASE_URL": base_url}


def working_directory(plugin: Json) -> str:
    """Where the plugin's process runs."""
    return str(plugin.get("cwd") or tempfile.gettempdir())


def account_of(plugin: Json) -> int | None:
    """The user id that the plugin's process has; None for the scheduler's own.

    Raises KeyError for an account that does not exist.
    """
    user = plugin.get("uid") or ""
    return None if user == "" else _user(str(user)).pw_uid


async def _start(
    plugin: Json, command: str, environment: dict[str, str]
) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=working_directory(plugin),
            env=environment,
            start_new_session=True,
            preexec_fn=_becoming(plugin.get("uid") or "", plugin.get("gid") or ""),
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Cut short, a start would leave behind what the command has started already.
        await _end(await starting)
        raise


def _becoming(user: int | str, group: int | str) -> Callable[[], None] | None:
    """What a new process calls to run under another account; None for the scheduler's own.

    (uvloop knows no `user` and `group`.) Raises ValueError for an account that does not exist.
    """
    if user == "" and group == "":
        return None
    try:
        found = pwd.getpwuid(os.getuid()) if user == "" else _user(str(user))
        gid = found.pw_gid if group == "" else _group(str(group))
    except KeyError as error:
        raise ValueError(f"the account does not exist: {error.args[0]}") from error
    groups = os.getgrouplist(found.pw_name, gid)

    def become() -> None:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(found.pw_uid)

    return become


def _user(name: str) -> pwd.struct_passwd:
    return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)


def _group(name: str) -> int:
    return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid


async def _end(process: asyncio.subprocess.Process) -> None:
    _kill(process)
    await _over(process)
    process._transport.close()  # type: ignore[attr-defined]


async def _over(process: asyncio.subprocess.Process) -> int:
    """Wait for the process alone; its status. (`wait` may wait for its output to be closed.)"""
    ended = asyncio.Event()
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
    while process.returncode is None:  # noqa: ASYNC110 - the loop hears of it in a moment
        await asyncio.sleep(HEARD)
    return process.returncode


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _talk(process: asyncio.subprocess.Process, line: bytes, seconds: float) -> Ended:
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    out, err = bytearray(), bytearray()
    talking = asyncio.gather(_write(stdin, line), _read(stdout, out), _read(stderr, err))
    try:
        async with asyncio.timeout(seconds):
            status = await _over(process)
            _kill(process)  # what it left would hold its output open
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEFT_OPEN):
                    await talking
    except TimeoutError as error:
        raise OutOfTime(f"{seconds:g} seconds") from error
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
        await _end(process)
    return Ended(status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def _write_script(folder: Path, plugin: Json) -> Path:
    script = folder / "script"
    script.write_text(str(plugin["script"]).replace("\r\n", "\n"), encoding="utf-8")
    if plugin.get("uid"):
        folder.chmod(0o711)  # its account must reach the script
        script.chmod(0o644)
    return script


async def _write(stdin: asyncio.StreamWriter, line: bytes) -> None:
    """A plugin that does not read is no error."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(line)
        await stdin.drain()
        stdin.close()


async def _read(stream: asyncio.StreamReader, kept: bytearray) -> None:
    while part := await stream.read(65536):
        kept += part
        del kept[:-OUTPUT]
