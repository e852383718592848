"""The command line itself: help, version, exit statuses."""

import subprocess
import sys
from pathlib import Path

import pytest

VERBS = ("up", "demo", "gateway", "scheduler", "runner", "nats")


def jobledger(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert jobledger("--version").stdout == f"jobledger {version('jobledger')}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    shown = jobledger(verb, "--help")

    assert shown.returncode == 0
    assert f"jobledger {verb}" in shown.stdout.replace("python -m services.cli", "jobledger")


def test_a_wrong_flag_is_a_usage_error() -> None:
    assert jobledger("up", "--prot", "1").returncode == 2


def test_a_service_without_nats_is_refused_in_one_sentence(tmp_path: object) -> None:
    done = jobledger("runner", "--data-dir", str(tmp_path))

    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert "Cannot read the NATS address" in done.stderr


def test_a_malformed_server_id_is_refused(tmp_path: object) -> None:
    done = jobledger("runner", "--data-dir", str(tmp_path), "--id", "No Good")

    assert done.returncode == 1
    assert done.stderr == "jobledger: --id takes 1 to 128 characters of a-z, 0-9 and _.\n"


@pytest.mark.parametrize("verb", [("export", "{}/out"), ("runner", "enroll", "s2", "--out", "{}")])
def test_what_is_no_api_key_is_not_shown(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """Whatever the file holds: it may be a key with something beside it."""
    file = tmp_path / "key"
    file.write_text("verysecret\n# made for deploys")

    arguments = [word.format(tmp_path) for word in verb]
    done = jobledger(*arguments, "--key-file", str(file), "--data-dir", str(tmp_path))

    assert done.returncode != 0
    assert "holds no API key" in done.stderr
    assert "verysecret" not in done.stdout + done.stderr
