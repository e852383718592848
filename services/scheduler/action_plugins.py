"""Runs action plugins: JSON in, the last line of their output back (plugins.md 6).

Knows what an action plugin is told and what its end means, not when plugins run.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from domain.acting import Outcome
from domain.completion import normalise_code
from domain.facts import Json
from services.scheduler.notices import Notice
from services.scheduler.plugin_process import (
    NotStarted,
    OutOfTime,
    clean_environment,
    run_process,
)

TIMEOUT = 60.0
SHOWN = 16 * 1024  # characters of the output that are kept

_PROTECTED = ("LD_", "DYLD_", "BASH_", "GLIBC_")
_NON_WORD = re.compile(r"\W", re.ASCII)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


async def run_plugin(
    plugin: Json, notice: Notice, base_url: str, secrets: Mapping[str, str]
) -> Outcome:
    """Run one action plugin; whatever it does is an outcome. `secrets` are its variables."""
    params = notice.run.action.get("params")
    params = params if isinstance(params, dict) else {}
    request = notice.context | {
        "xy": 1,
        "type": "action",
        "condition": notice.run.action.get("condition"),
        "params": params,
        "secrets": dict(secrets),
        "base_url": base_url,
    }
    line = json.dumps(request).encode() + b"\n"
    timeout = float(plugin.get("timeout") or TIMEOUT)
    try:
        environment = _environment(params, notice.key, base_url)
        ended = await run_process(plugin, line, environment, timeout, secrets)
    except NotStarted as error:
        return Outcome("plugin", f"The plugin could not be started: {error}")
    except OutOfTime:
        return Outcome("plugin", f"The plugin did not end within {timeout:g} seconds.")
    return outcome_of(ended.status, ended.out, ended.err)


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
    """The scheduler's environment, and params under names that it does not have."""
    own = clean_environment(base_url)
    given = {}
    for name, value in params.items():
        variable, text = _NON_WORD.sub("_", name), _text(value, own)
        if variable not in own and not variable.startswith(_PROTECTED) and "\0" not in text:
            given[variable] = text
    return own | given | {"JOB_ACTION_KEY": key}


def _text(value: Any, environment: Mapping[str, str]) -> str:
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return _VARIABLE.sub(lambda found: environment.get(found[1] or found[2], ""), value)


def _shown(out: str, err: str) -> str | None:
    parts = [("Output", out), ("Error output", err)]
    shown = [f"**{name}:**\n\n```\n{t[-SHOWN:].strip()}\n```" for name, t in parts if t.strip()]
    return "\n\n".join(shown) or None
