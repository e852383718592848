"""The verb `import crontab`: every job line of a crontab as an event.

A line's event has an id that follows from the line, so that importing twice changes nothing.
What cron does around a command (its environment, the directory, the input after %) is put into
the event's script; how the text is read is domain/cron.py's business.
"""

import hashlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.apply import DryRun
from services.cli.client import KeyFile, Url, reach_api
from services.cli.options import DataDir
from services.errors import StartupError

if TYPE_CHECKING:
    from domain.cron import CrontabLine
    from domain.facts import Json

app = typer.Typer(
    name="import", help="Take over what another scheduler runs.", no_args_is_help=True
)

_LONGEST_TITLE = 80
# What these name is cron's own business, or said otherwise in an event.
_NOT_EXPORTED = frozenset({"SHELL", "MAILTO", "MAILFROM", "CRON_TZ", "RANDOM_DELAY"})


@app.callback()
def _several() -> None:
    """Take over what another scheduler runs."""


@app.command("crontab")
def crontab(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A user's crontab; - reads stdin.")],
    dry_run: DryRun = False,
    category: Annotated[
        str, typer.Option("--category", help="Category of the events.")
    ] = "general",
    target: Annotated[str, typer.Option("--target", help="Where they run.")] = "main",
    days: Annotated[
        str | None,
        typer.Option(
            "--days",
            help="Lines that restrict day and weekday: `both` must match, or `either`, as cron "
            "means it (a date that satisfies both then fires twice).",
        ),
    ] = None,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out lines that cannot be read.")
    ] = False,
    data_dir: DataDir = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Make an event of every line of a crontab. Importing twice changes nothing."""
    from domain.cron import parse_crontab
    from services.cli.apply import carry_out
    from services.cli.definitions import KINDS

    if days not in (None, "both", "either"):
        raise StartupError("--days must be `both` or `either`.")
    lines = parse_crontab(_text(file), days_rule=days)  # type: ignore[arg-type]
    bad = [f"  line {line.line_no}: {line.error}" for line in lines if line.error]
    if bad and not skip:
        raise StartupError(
            "Nothing was imported; leave these lines out with --skip:\n" + "\n".join(bad)
        )
    good = [line for line in lines if not line.error]
    wanted = {
        event_id(line, place): event_of(line, category, target) for place, line in _numbered(good)
    }
    with reach_api(data_dir, url, key_file) as api:
        carry_out(api, {KINDS[-1]: wanted}, prune=False, dry_run=dry_run)
    for line in bad:
        typer.echo(f"left out:{line}", err=True)
    if any("MAILTO" in line.environment for line in good):
        typer.echo("MAILTO is not taken over: give the events e-mail actions.", err=True)


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise StartupError(f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"{file} is not UTF-8 text.") from error


def _numbered(lines: "list[CrontabLine]") -> "list[tuple[int, CrontabLine]]":
    """Each line with the number of equal ones before it: cron runs a repeated line twice."""
    seen: dict[tuple[str, str], int] = {}
    numbered = []
    for line in lines:
        key = _identity(line)
        numbered.append((seen.get(key, 0), line))
        seen[key] = seen.get(key, 0) + 1
    return numbered


def _identity(line: "CrontabLine") -> tuple[str, str]:
    return " ".join(line.text.split()), repr(sorted(line.environment.items()))


def event_id(line: "CrontabLine", place: int = 0) -> str:
    """The id of a line's event; `place` tells lines apart that say the same."""
    text, environment = _identity(line)
    digest = hashlib.sha256(f"{text}\n{environment}\n{place}".encode()).hexdigest()
    return f"cron_{digest[:16]}"


def event_of(line: "CrontabLine", category: str, target: str) -> "Json":
    """The event that does what cron does with this line; it may be run by hand as well."""
    return {
        "title": _title(line.command),
        "enabled": True,
        "category": category,
        "targets": [target],
        "plugin": "shellplug",
        "algo": "random",
        "notes": f"Imported from a crontab, line {line.line_no}.",
        "params": {"script": script_of(line)},
        "triggers": [{"type": "manual", "enabled": True}, *line.triggers],
    }


def _title(command: str) -> str:
    plain = " ".join(command.translate({ord("<"): "‹", ord(">"): "›"}).split())
    return plain if len(plain) <= _LONGEST_TITLE else plain[: _LONGEST_TITLE - 1] + "…"


def script_of(line: "CrontabLine") -> str:
    """The command with the environment, the directory and the input that cron would give it."""
    parts = [f"#!{line.environment.get('SHELL', '/bin/sh')}"]
    parts += [
        f"export {name}={shlex.quote(value)}"
        for name, value in line.environment.items()
        if name not in _NOT_EXPORTED
    ]
    parts.append('cd "${HOME:-/}" || exit')
    if line.stdin is None:
        parts.append(line.command)
    else:
        end = "INPUT"
        while end in line.stdin.splitlines():
            end += "_"
        parts += ["{", line.command, f"}} <<'{end}'", line.stdin, end]
    return "\n".join(parts) + "\n"
