"""The systemd units start what there is, and end no job."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from services.cli.main import app

UNITS = sorted((Path(__file__).parent.parent / "docs" / "systemd").glob("*.service"))
JOBS_RUN_IN = ("jobledger.service", "jobledger-runner.service")


def settings_of(unit: Path) -> dict[str, str]:
    """The lines of a unit, the last of each name."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_a_verb_with_flags_that_exist(unit: Path) -> None:
    program, verb, *flags = shlex.split(settings_of(unit)["ExecStart"])
    assert program.endswith("/bin/jobledger")
    commands = get_command(app).commands  # type: ignore[attr-defined]
    known = {opt for param in commands[verb].params for opt in param.opts}
    assert {flag for flag in flags if flag.startswith("--")} <= known


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_only_units_without_jobs_are_sandboxed_and_only_they_end_all_their_processes(
    unit: Path,
) -> None:
    settings = settings_of(unit)
    if unit.name in JOBS_RUN_IN:
        assert settings["KillMode"] == "process"
        assert "ProtectSystem" not in settings
    else:
        assert "KillMode" not in settings
        assert settings["ProtectSystem"] == "strict"
        assert settings["NoNewPrivileges"] == "yes"
    assert (settings["User"], settings["UMask"]) == ("jobledger", "0077")


def test_the_documentation_names_every_unit() -> None:
    text = (UNITS[0].parents[1] / "operation.md").read_text(encoding="utf-8")
    assert len(UNITS) == 5
    assert [unit.name for unit in UNITS if unit.name not in text] == []
