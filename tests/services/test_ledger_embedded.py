"""The nats-server that comes along: private, on one port for ever, gone with its parent."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats, prepare
from services.ledger.errors import LedgerUnavailable, StartupError
from services.ledger.streams import ensure_streams
from tests.services.wire import tick, until


async def test_port_and_credentials_stay_over_restarts(tmp_path: Path) -> None:
    first = EmbeddedNats(tmp_path)
    await first.start()
    async with Ledger.open(first.url, name="t") as ledger:
        await ensure_streams(ledger)
        await ledger.append(tick(), id="a")
    await first.stop()

    second = EmbeddedNats(tmp_path)
    assert second.url == first.url
    await second.start()
    async with Ledger.open(second.url, name="t") as ledger:
        assert await ledger.end() == 1
    await second.stop()
    await second.stop()


@pytest.mark.parametrize("what", ["authority", "all of it"])
async def test_new_keys_lock_logins_out_and_open_the_same_ledger(tmp_path: Path, what: str) -> None:
    first = EmbeddedNats(tmp_path)
    await first.start()
    async with Ledger.open(first.url, name="t") as ledger:
        await ensure_streams(ledger)
        await ledger.append(tick(), id="a")
    await first.stop()

    file = tmp_path / "nats" / "credentials.json"
    known = json.loads(file.read_text())
    del known["authority"]
    file.write_text(json.dumps(known)) if what == "authority" else file.unlink()

    second = EmbeddedNats(tmp_path)
    await second.start()
    try:
        async with Ledger.open(second.url, name="t") as ledger:
            assert await ledger.end() == 1
        old = first.setup.logins["owner"].url(second.setup.address)
        with pytest.raises(LedgerUnavailable, match="refused the credentials"):
            async with Ledger.open(old, name="t"):
                pass
    finally:
        await second.stop()


async def test_damaged_keys_are_told_in_one_sentence(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "nats" / "credentials.json").write_text("")
    with pytest.raises(StartupError, match=r"credentials\.json is damaged"):
        prepare(tmp_path)


async def test_credentials_are_in_private_files_only(own_server: EmbeddedNats) -> None:
    home = own_server.setup.log_file.parent
    secret = json.loads((home / "credentials.json").read_text())["logins"]["owner"][1]
    for file in ("credentials.json", "server.conf"):
        assert stat.S_IMODE((home / file).stat().st_mode) == 0o600
    proc = Path(f"/proc/{own_server.pid}")
    assert secret.encode() not in (proc / "cmdline").read_bytes()
    assert secret.encode() not in (proc / "environ").read_bytes()
    assert secret not in own_server.setup.log_file.read_text()


async def test_it_listens_on_the_loopback_interface_only(own_server: EmbeddedNats) -> None:
    log = own_server.setup.log_file.read_text()
    listening = [line for line in log.splitlines() if "Listening for" in line]
    assert len(listening) == 1
    assert f"127.0.0.1:{own_server.setup.port}" in listening[0]


async def test_its_end_is_noticed_and_it_can_be_started_again(own_server: EmbeddedNats) -> None:
    first = own_server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert await asyncio.wait_for(own_server.exited(), 5) == -signal.SIGKILL
    assert own_server.pid is None
    await own_server.start()
    assert own_server.pid not in (None, first)


async def test_a_taken_port_is_told_in_one_sentence(tmp_path: Path) -> None:
    setup = prepare(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", setup.port))
        other.listen()
        with pytest.raises(StartupError, match=rf"^Port {setup.port} on 127\.0\.0\.1.* is taken"):
            await EmbeddedNats(tmp_path).start()


async def test_an_unusable_directory_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="cannot be used: Not a directory"):
        await EmbeddedNats(tmp_path / "file").start()


async def test_a_damaged_store_path_is_told_in_one_sentence(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "nats" / "store").write_text("not a directory")
    with pytest.raises(StartupError, match=r"^nats-server ended at once: .*"):
        await EmbeddedNats(tmp_path).start()


def test_it_dies_with_its_parent_even_if_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from services.ledger.embedded import EmbeddedNats\n"
        "async def main():\n"
        "    server = EmbeddedNats(Path(sys.argv[1]))\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await server.exited()\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        lines = iter(parent.stdout.readline, "")
        child = int(next(line for line in lines if line.strip().isdigit()))
    parent.kill()
    parent.wait()
    asyncio.run(until(lambda: not _lives(child), "nats-server outlived its parent"))


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
