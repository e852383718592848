"""The command line itself: help, version, exit statuses."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.ledger.embedded import free_port

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


@contextmanager
def starting(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """A verb in the foreground; ended with the `with`."""
    command = [sys.executable, "-m", "services.cli", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("service", ["gateway", "scheduler", "runner"])
def test_a_service_that_waits_for_nats_says_so(tmp_path: Path, service: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    with starting(service, "--data-dir", str(tmp_path), "--nats", f"nats://{address}") as process:
        assert process.stderr is not None
        said = process.stderr.readline()

        assert f"No NATS server answers at {address} (Connection refused)" in said
        assert "action=nats_awaited" in said
        assert process.poll() is None


def greet_once(listener: socket.socket, version: str) -> None:
    """Be a nats-server of this version, for as long as a client says hello."""
    client, _ = listener.accept()
    with client:
        greeting = {"server_id": "S", "version": version, "max_payload": 1048576, "headers": True}
        client.sendall(b"INFO " + json.dumps(greeting).encode() + b"\r\n")
        while data := client.recv(4096):
            client.sendall(b"PONG\r\n" * data.count(b"PING\r\n"))


def test_an_old_nats_server_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet_once, args=(listener, "2.11.9"), daemon=True).start()
        port = listener.getsockname()[1]
        done = jobledger("scheduler", "--data-dir", str(tmp_path), "--nats", f"127.0.0.1:{port}")

    assert done.returncode == 78
    assert "is of version 2.11.9, but Jobledger needs 2.12 or later." in done.stderr


def test_an_address_of_nats_that_is_none_is_told_in_one_sentence(tmp_path: Path) -> None:
    done = jobledger("up", "--data-dir", str(tmp_path), "--nats", "nats://127.0.0.1:abc")

    assert done.returncode == 1
    assert done.stderr.startswith("jobledger: The address of NATS is malformed")
    assert done.stderr.count("\n") == 1


def test_a_full_disk_under_the_output_is_told_in_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "services.cli", "asyncapi"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
        )  # fmt: skip

    assert done.returncode == 1
    assert done.stderr == "jobledger: The output cannot be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--privilege", "run_job"), "There is no privilege run_job: did you mean run_jobs?"),
        (("--days", "0"), "--days takes a number above 0, at most 36525."),
        (("--days", "inf"), "--days takes a number above 0, at most 36525."),
    ],
)
def test_a_key_that_would_not_be_what_was_meant_is_not_made(
    tmp_path: Path, flags: tuple[str, ...], sentence: str
) -> None:
    done = jobledger("key", "create", "Deploys", "--data-dir", str(tmp_path), *flags)

    assert done.returncode == 1
    assert done.stderr == f"jobledger: {sentence}\n"


def test_keys_for_other_nodes_are_not_taken_for_made(tmp_path: Path) -> None:
    made = ("keys", str(tmp_path), "--host", "nats1", "--host", "nats2:4223")
    assert jobledger(*made).returncode == 0
    login = (tmp_path / "gateway" / "nats.url").read_text()

    other = jobledger("keys", str(tmp_path), "--host", "nats9")
    assert other.returncode == 1
    assert f"The keys in {tmp_path} are for nats1, nats2:4223" in other.stderr
    assert jobledger(*made).returncode == 0
    assert (tmp_path / "gateway" / "nats.url").read_text() == login


def test_no_keys_of_secrets_are_made_in_a_mistyped_directory(tmp_path: Path) -> None:
    done = jobledger("secrets", "new-key", "--data-dir", str(tmp_path / "dta"))

    assert done.returncode == 1
    assert "There is no data directory" in done.stderr
    assert not (tmp_path / "dta").exists()
