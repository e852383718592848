"""The command line itself: help, version, exit statuses."""

import subprocess
import sys

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
