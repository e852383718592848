"""The documentation names everything there is: verbs, settings, calls, facts, files."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from domain.facts import KINDS
from services.cli.main import app
from services.gateway.app import endpoints
from services.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def verbs() -> list[str]:
    return sorted(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_is_in_the_readme(verb: str) -> None:
    assert f"`jobledger {verb}`" in README


@pytest.mark.parametrize("setting", sorted(Settings.__struct_fields__))
def test_every_setting_is_in_the_readmes_table(setting: str) -> None:
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    assert f"`{setting}`" in table


def test_the_readmes_table_names_no_setting_that_is_not_there() -> None:
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| (`[^|]+) \|", table, re.M)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert named == set(Settings.__struct_fields__)


def test_the_readmes_table_names_every_call_and_no_other() -> None:
    table = README.partition("## The API")[2].partition("\n### ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert named == {endpoint.name for endpoint in endpoints()}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_fact_is_in_the_subject_table(kind: str) -> None:
    table = ARCHITECTURE.partition("## What stands where")[2].partition("\n## ")[0]
    assert f"`{kind}`" in table


@pytest.mark.parametrize("text", [README, ARCHITECTURE], ids=["readme", "architecture"])
def test_files_that_are_named_exist(text: str) -> None:
    named = re.findall(r"`((?:tests|benchmarks|nats)/[\w./]+)`", text)
    named += re.findall(r"\]\((\w+(?:\.md)?)\)", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("text", [README, ARCHITECTURE], ids=["readme", "architecture"])
def test_every_make_target_that_is_named_exists(text: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)`", text):
        assert re.search(rf"^{target}:", makefile, re.M), target
