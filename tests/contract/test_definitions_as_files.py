"""`jobledger apply`, `export` and `import crontab` against a whole installation."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.contract.client import Client, Json
from tests.contract.stack import running_stack

NIGHTLY = """
title: Nightly
enabled: true
category: reports
plugin: mine
targets: [main]
algo: random
params:
  at: 12:30
triggers:
  - {type: schedule, enabled: true, cron: 30 2 * * *}
  - {type: magic, enabled: true, key: a-long-magic-key_01}
actions:
  - {type: run_event, condition: success, enabled: true, event_id: weekly}
"""
WEEKLY = """
title: Weekly
enabled: true
category: general
plugin: shellplug
targets: [main]
algo: random
params:
  script: |
    #!/bin/sh
    echo weekly
triggers:
  - {type: manual, enabled: true}
actions:
  - {type: run_event, condition: error, enabled: true, event_id: nightly}
"""
FILES = {
    "categories/reports.yaml": "title: Reports\ncolor: blue\n",
    "plugins/mine.yaml": "title: Mine\ntype: event\ncommand: /bin/sh\n",
    "events/nightly.yaml": NIGHTLY,
    "events/weekly.yaml": WEEKLY,
}
CRONTAB = """
SHELL=/bin/sh
GREETING="it's me"
# a comment
*/5 * * * * echo "$GREETING" > {out}
CRON_TZ=Europe/Berlin
0 3 * * mon-fri cat >> {out}%one%two
@daily echo twice
@daily echo twice
"""


@dataclass
class Site:
    client: Client
    data_dir: Path

    def jobledger(self, *arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        """The command, as an administrator of this machine runs it."""
        server = ["--data-dir", str(self.data_dir), "--url", self.client.stack.url]
        return subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments, *server],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def done(self, *arguments: str, text: str = "") -> str:
        """What the command printed; it must succeed."""
        result = self.jobledger(*arguments, text=text)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def refused(self, *arguments: str, text: str = "") -> str:
        """Why the command did nothing."""
        result = self.jobledger(*arguments, text=text)
        assert result.returncode == 1, result.stdout
        assert "Traceback" not in result.stderr
        return result.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data_dir = tmp_path_factory.mktemp("definitions") / "data"
    with running_stack(data_dir) as stack:
        key = {"X-API-Key": stack.admin_key}
        with httpx.Client(base_url=stack.url, headers=key, timeout=40) as http:
            yield Site(Client(stack, http), data_dir)


def written(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def texts(directory: Path) -> dict[str, str]:
    files = directory.rglob("*.yaml")
    return {str(path.relative_to(directory)): path.read_text() for path in files}


def test_definitions_are_applied_once_exported_and_pruned(site: Site, tmp_path: Path) -> None:
    wanted = str(written(tmp_path / "wanted", FILES))

    preview = site.done("apply", "-f", wanted, "--dry-run")
    assert "4 would be created, 1 would be changed" in preview
    assert site.client.call("get_event", id="nightly")["code"] == "notfound"

    # The events run each other: one gets its actions once both are there.
    assert "4 created, 1 changed, 0 deleted, 0 unchanged" in site.done("apply", "-f", wanted)
    nightly: Json = site.client.ok("get_event", id="nightly")["event"]
    assert nightly["params"]["at"] == "12:30"
    assert nightly["actions"][0]["event_id"] == "weekly"
    assert "0 created, 0 changed, 0 deleted, 4 unchanged" in site.done("apply", "-f", wanted)

    exported = tmp_path / "exported"
    site.done("export", str(exported))
    before = texts(exported)
    assert "a-long-magic-key_01" not in "".join(before.values())
    assert not any(word in "".join(before.values()) for word in ("revision:", "created:"))
    assert "plugins/shellplug.yaml" not in before
    assert " 0 created, 0 changed" in " " + site.done("apply", "-f", str(exported), "--prune")
    site.done("export", str(exported))
    assert texts(exported) == before

    (exported / "events" / "weekly.yaml").unlink()
    path = exported / "events" / "nightly.yaml"
    path.write_text(path.read_text().replace("title: Nightly", "title: Nocturnal").split("act")[0])
    changed = site.done("apply", "-f", str(exported), "--prune")
    assert "-title: Nightly" in changed
    assert "+title: Nocturnal" in changed
    assert "0 created, 1 changed, 1 deleted" in changed
    assert site.client.call("get_event", id="weekly")["code"] == "notfound"
    assert site.client.ok("get_event", id="nightly")["event"]["actions"] == []
    assert site.client.ok("get_plugin", id="shellplug")


def test_pruning_leaves_kinds_without_a_folder_alone(site: Site, tmp_path: Path) -> None:
    site.client.create("stays")
    tags = {"tags/important.yaml": "title: Important\n", "tags/new.yaml": "title: New\n"}
    site.done("apply", "-f", str(written(tmp_path, tags)), "--prune")
    assert site.client.call("get_tag", id="flag")["code"] == "notfound"
    assert site.client.ok("get_event", id="stays")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "must hold one definition"),
        ("title: A\ntitle: B", "there twice"),
        ("id: other\ntitle: A", "named after its id"),
        ("1: one", "a key is no text"),
        (WEEKLY.replace("random", "sideways"), "Unknown algorithm: sideways"),
        (WEEKLY.replace("general", "nowhere"), "Category not found: nowhere"),
    ],
)
def test_what_would_be_refused_is_named_before_anything_is_changed(
    site: Site, tmp_path: Path, text: str, reason: str
) -> None:
    files = {"categories/never.yaml": "title: Never\n", "events/bad.yaml": text}
    assert reason in site.refused("apply", "-f", str(written(tmp_path, files)))
    assert site.client.call("get_category", id="never")["code"] == "notfound"


def test_a_missing_directory_key_or_server_is_told_in_one_sentence(
    site: Site, tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert "There is no directory" in site.refused("apply", "-f", nowhere)
    wanted = str(written(tmp_path, {"tags/a.yaml": "title: A\n"}))
    assert "No API key" in site.refused("apply", "-f", wanted, "--key-file", nowhere)
    (tmp_path / "key").write_text("wrong")
    wrong = ("--key-file", str(tmp_path / "key"))
    assert "does not take this API key" in site.refused("apply", "-f", wanted, *wrong)


def test_a_crontab_becomes_events_that_do_what_cron_does(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = tmp_path / "crontab"
    file.write_text(CRONTAB.format(out=out))

    assert "4 would be created" in site.done("import", "crontab", str(file), "--dry-run")
    assert "4 created" in site.done("import", "crontab", str(file))
    assert "0 created, 0 changed, 0 deleted, 4 unchanged" in site.done(
        "import", "crontab", "-", text=file.read_text()
    )
    rows = site.client.ok("get_events")["rows"]
    events = [row for row in rows if row["id"].startswith("cron_")]
    assert all("<" not in row["title"] and row["enabled"] for row in events)
    by_command = {row["title"].split()[0]: row for row in events}
    [_, schedule] = by_command["cat"]["triggers"]
    assert schedule["timezone"] == "Europe/Berlin"
    assert schedule["weekdays"] == [1, 2, 3, 4, 5]

    for row in events[:2]:
        assert site.client.finished(row["id"])["code"] == 0
    assert out.read_text() == "it's me\none\ntwo\n"


def test_lines_that_cannot_be_read_are_named_and_left_out_on_demand(site: Site) -> None:
    text = "0 0 1 * mon first\nnonsense\n0 1 * * * second\n"
    reasons = site.refused("import", "crontab", "-", text=text)
    assert "line 1" in reasons
    assert "line 2" in reasons
    assert "1 would be created" in site.done(
        "import", "crontab", "-", "--dry-run", "--skip", text=text
    )
    both = site.done("import", "crontab", "-", "--dry-run", "--skip", "--days", "either", text=text)
    assert "2 would be created" in both
