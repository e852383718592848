"""The environment of a job's process (plugins.md 5). Pure: everything is passed in.

Later sources override earlier ones, except that nothing a user can set as a param or as input
data reaches the fixed names, the secrets or what a loader reads.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from domain.facts import Json
from services.runner.accounts import Account

VERSION = "1.0.88"
"""What jobs see in XYOPS: the release of the reference whose protocol this is."""

LONGEST = 128 * 1024
"""Linux takes no longer entry, name and zero byte included; the whole data is on stdin."""

TOTAL = 1536 * 1024
"""The system's limit for arguments and environment together is 2 MB; this leaves room."""

_OWN_PREFIXES = ("JOBLEDGER_", "XYOPS")
_PATHS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PROTECTED = frozenset(
    "XYOPS JOB_ID JOB_LOG JOB_NOW JOB_BASE_URL PWD USER USERNAME HOME SHELL PATH "
    "BASH_ENV GLIBC_TUNABLES".split()
)
_LOADER = ("LD_", "DYLD_", "BASH_FUNC_")
_NON_WORD = re.compile(r"\W", re.ASCII)


@dataclass(frozen=True, slots=True)
class Base:
    """What all jobs begin with: `inherited(...)` plus the runner's job_env; `size` in bytes."""

    variables: Mapping[str, str]
    size: int

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "Base":
        """These variables, measured."""
        return cls(variables, _most_bytes(variables))


class Environment(Struct, frozen=True):
    """The variables, and a line for the job's activity per variable that was left out."""

    variables: dict[str, str]
    remarks: list[str]


def inherited(own: Mapping[str, str]) -> dict[str, str]:
    """What jobs take over from the runner's environment: all but the product's own settings."""
    env = {k: v for k, v in own.items() if not k.startswith(_OWN_PREFIXES)}
    paths = [p for p in env.get("PATH", "").split(":") if p]
    if "HOME" in env:
        paths.append(f"{env['HOME']}/.local/bin")
    env["PATH"] = ":".join(dict.fromkeys([*paths, *_PATHS]))
    return env


def environment(
    base: Base,
    document: Json,
    *,
    secrets: Mapping[str, Any],
    account: Account,
    job_log: str,
    cwd: str,
    base_url: str,
) -> Environment:
    """The environment of this job."""
    own = {
        **_texts(document.get("env")),
        **_texts(secrets),
        "XYOPS": VERSION,
        "JOB_ID": str(document.get("id", "")),
        "JOB_LOG": job_log,
        "JOB_NOW": text(document.get("now", "")),
        "JOB_BASE_URL": base_url,
        "PWD": cwd,
        "USER": account.name,
        "USERNAME": account.name,
        "HOME": account.home,
        "SHELL": account.shell,
    }
    env = {**base.variables, **own}
    remarks: list[str] = []
    room = TOTAL - base.size - _most_bytes(own)
    for name, value in _given(document):
        if name in _PROTECTED or name in secrets or name.startswith(_LOADER) or "\0" in value:
            continue
        size = len(name.encode()) + len(value.encode("utf-8", "surrogatepass")) + 2
        if size > min(LONGEST, room):
            remarks.append(
                f"WARNING: Environment variable {name} was left out: it is too large "
                f"({size} bytes). Its value is on the standard input."
            )
            continue
        room -= size
        env[name] = value
    return Environment(env, remarks)


def text(value: Any) -> str:
    """A value as the text of a variable: true, false, numbers, texts; objects as JSON."""
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return json.dumps(value, ensure_ascii=False)


def _given(document: Json) -> list[tuple[str, str]]:
    """What params, workflow and input add, in the order in which it overrides."""
    workflow = _object(document.get("workflow"))
    given = _object(document.get("input"))
    groups = (
        ("", document.get("params")),
        ("workflow_", workflow.get("params")),
        ("workflow_data_", document.get("workflowData")),
        ("server_data_", document.get("serverData")),
        ("data_", given.get("data")),
    )
    return [
        (prefix + _NON_WORD.sub("_", name), text(value))
        for prefix, values in groups
        for name, value in _object(values).items()
        if name
    ]


def _most_bytes(variables: Mapping[str, str]) -> int:
    return sum(map(len, variables)) + sum(map(len, variables.values())) * 4


def _texts(values: Any) -> dict[str, str]:
    if not values:
        return {}
    texts = {k: text(v) for k, v in _object(values).items()}
    return {k: v for k, v in texts.items() if k and "=" not in k and "\0" not in k + v}


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
