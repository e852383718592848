"""Runs action plugins: one process per action, JSON in, the last line of its output back.

See plugins.md 6. The process lives in a session of its own and is gone, with all it started,
when its time is over. Knows nothing of when plugins run.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from domain.acting import Outcome
from domain.completion import normalise_code
from domain.facts import Json
from services.scheduler.notices import Notice

TIMEOUT = 60.0
OUTPUT = 1024 * 1024  # bytes that are read of each stream; the rest is thrown away
SHOWN = 16 * 1024  # characters of the output that are kept
VERSION = "1.0.88"

_OWN_PREFIXES = ("JOBLEDGER_", "XYOPS")
_PROTECTED = ("LD_", "DYLD_", "BASH_", "GLIBC_")
_NON_WORD = re.compile(r"\W", re.ASCII)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


async def run_plugin(plugin: Json, notice: Notice, base_url: str) -> Outcome:
    """Run one action plugin; whatever it does is an outcome."""
    params = notice.run.action.get("params")
    params = params if isinstance(params, dict) else {}
    request = notice.context | {
        "xy": 1,
        "type": "action",
        "condition": notice.run.action.get("condition"),
        "params": params,
        "secrets": {},
        "base_url": base_url,
    }
    environment = _environment(params, notice.key, base_url)
    with tempfile.TemporaryDirectory(prefix="jobledger-action-") as folder:
        command = str(plugin.get("command") or "")
        if plugin.get("script"):
            command += f" {_write_script(Path(folder), plugin)}"
        try:
            return await _run(plugin, command, json.dumps(request).encode() + b"\n", environment)
        except (OSError, ValueError) as error:
            return Outcome("plugin", f"The plugin could not be started: {error}")


def _write_script(folder: Path, plugin: Json) -> Path:
    script = folder / "script"
    script.write_text(str(plugin["script"]).replace("\r\n", "\n"), encoding="utf-8")
    if plugin.get("uid"):
        folder.chmod(0o711)  # its account must reach the script
        script.chmod(0o644)
    return script


async def _run(plugin: Json, command: str, line: bytes, environment: dict[str, str]) -> Outcome:
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=str(plugin.get("cwd") or tempfile.gettempdir()),
        env=environment,
        start_new_session=True,
        user=plugin.get("uid") or None,
        group=plugin.get("gid") or None,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    timeout = float(plugin.get("timeout") or TIMEOUT)
    try:
        async with asyncio.timeout(timeout):
            _, out, err = await asyncio.gather(
                _write(process.stdin, line), _read(process.stdout), _read(process.stderr)
            )
            status = await process.wait()
    except TimeoutError:
        return Outcome("plugin", f"The plugin did not end within {timeout:g} seconds.")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return outcome_of(status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def outcome_of(status: int, out: str, err: str) -> Outcome:
    """What a plugin's end means (plugins.md 6).

    A last line that looks like a message must be one; plain text succeeds by exit status.
    """
    lines = out.strip().splitlines()
    last = lines[-1].strip() if lines else ""
    details = _shown(out, err)
    if status != 0:
        return Outcome("plugin", f"The plugin ended with status {status}.", details)
    if not (last.startswith("{") and last.endswith("}")):
        return Outcome(0, "Success", details)
    try:
        said = json.loads(last)
    except ValueError as error:
        return Outcome("plugin", f"The plugin's answer is not JSON: {error}", details)
    if not said.get("xy"):
        return Outcome(0, "Success", details)
    code = normalise_code(said.get("code"))
    own = said.get("details")
    description = str(said.get("description") or ("Success" if code == 0 else "Unknown Error"))
    return Outcome(code, description, own if isinstance(own, str) else _shown("", err))


def _environment(params: Json, key: str, base_url: str) -> dict[str, str]:
    """The scheduler's environment without its own settings, then params, then fixed names."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(_OWN_PREFIXES)}
    fixed = {"XYOPS": VERSION, "XYOPS_BASE_URL": base_url, "JOB_ACTION_KEY": key}
    given = {}
    for name, value in params.items():
        variable, text = _NON_WORD.sub("_", name), _text(value, own)
        if variable not in own and not variable.startswith(_PROTECTED) and "\0" not in text:
            given[variable] = text
    return own | given | fixed


def _text(value: Any, environment: Mapping[str, str]) -> str:
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return _VARIABLE.sub(lambda found: environment.get(found[1] or found[2], ""), value)


async def _write(stdin: asyncio.StreamWriter, line: bytes) -> None:
    """A plugin that does not read is no error."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(line)
        await stdin.drain()
        stdin.close()


async def _read(stream: asyncio.StreamReader) -> bytes:
    """The end of a stream: its last OUTPUT bytes."""
    kept = b""
    while part := await stream.read(65536):
        kept = (kept + part)[-OUTPUT:]
    return kept


def _shown(out: str, err: str) -> str | None:
    parts = [("Output", out), ("Error output", err)]
    shown = [f"**{name}:**\n\n```\n{t[-SHOWN:].strip()}\n```" for name, t in parts if t.strip()]
    return "\n\n".join(shown) or None
