"""Secrets and enrolment with everything running: `up`, more runners, the command line."""

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.facts import JobFinished, RunnerEnrolled, encode
from services.ledger.authority import Authority
from services.ledger.chunks import read_chunks
from services.ledger.connection import Ledger
from services.settings import load_settings
from tests.services.test_up import PATIENCE, Up, eventually, free_port
from tests.services.wire import everything

VALUE = "correct-horse-battery-staple"
CLI = [sys.executable, "-m", "services.cli"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An installation that the tests share."""
    one = Up(tmp_path_factory.mktemp("access") / "data", free_port()).start()
    yield one
    assert one.stop() == 0


def run(up: Up, event: str, script: str, **more: Any) -> dict[str, Any]:
    """Define an event if it is new, run it, and give the finished job."""
    if event not in [row["id"] for row in up.call("get_events")["rows"]]:
        define(up, event, script, **more)
    job = up.call("run_event", id=event)["id"]

    def finished() -> Any:
        found = up.call("get_job", id=job)["job"]
        return found if found.get("final") or found.get("completed") else None

    return eventually(finished, f"{event} is finished")  # type: ignore[no-any-return]


def define(up: Up, event: str, script: str, **more: Any) -> None:
    fields = {"title": event, "enabled": True, "category": "general", "targets": ["main"]}
    fields |= {"algo": "random", "plugin": "shellplug", "params": {"script": script}}
    up.call("create_event", id=event, **fields, triggers=[{"type": "manual", "enabled": True}])


def output(up: Up, job: dict[str, Any]) -> str:
    token = up.call("get_job", id=job["id"])["token"]
    url = f"http://127.0.0.1:{up.port}/api/app/download_job_log/v1"
    return httpx.get(url, params={"id": job["id"], "t": token}).text


def cli(up: Up, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=os.environ | {"JOBLEDGER_PORT": str(up.port)},
        **more,
    )


async def ledger_contents(up: Up) -> str:
    """All facts, and all logs, in the clear."""
    async with Ledger.open(load_settings(data_dir=up.home).nats_url, name="test") as ledger:
        facts = await everything(ledger)
        logs = [
            part
            for one in facts
            if isinstance(one.fact, JobFinished) and one.fact.log
            async for part in read_chunks(ledger, one.fact.log)
        ]
    return b"\n".join([*(encode(one.fact) for one in facts), *logs]).decode()


# --- secrets -----------------------------------------------------------------------------------


def test_a_job_gets_its_secret_and_nothing_else_ever_shows_it(up: Up) -> None:
    made = up.call(
        "create_secret", id="warehouse", title="W", values={"DB_PASS": VALUE}, events=["sec1"]
    )
    assert made["secret"]["names"] == ["DB_PASS"]
    mark = up.home.with_name("go")
    script = (
        "#!/bin/sh\n"
        'echo "length ${#DB_PASS}"; echo "value $DB_PASS"; echo "err $DB_PASS" >&2\n'
        f"while [ ! -e {mark} ]; do sleep 0.05; done\n"
        'echo "{\\"xy\\":1,\\"data\\":{\\"pass\\":\\"$DB_PASS\\"},'
        '\\"description\\":\\"$DB_PASS\\"}"\n'
    )
    define(up, "sec1", script)
    job = up.call("run_event", id="sec1")["id"]

    def live() -> str:
        return str(up.call("tail_live_job_log", id=job).get("text", ""))

    eventually(lambda: "value" in live(), "the job writes its log")
    assert VALUE not in live()
    assert VALUE not in processes()
    mark.touch()
    eventually(lambda: up.call("get_job", id=job)["job"].get("completed"), "the job ends")

    record = up.call("get_job", id=job)["job"]
    log = output(up, record)
    assert f"length {len(VALUE)}\n" in log
    assert "value ***\n" in log
    assert "err ***\n" in log
    shown = [record, up.call("get_secrets"), up.call("get_secret", id="warehouse")]
    shown += [up.call("search_activity", limit=100), up.call("get_events")]
    assert VALUE not in json.dumps(shown) + log
    assert '"ciphertext"' not in json.dumps(shown)

    contents = asyncio.run(ledger_contents(up))
    assert "***" in contents
    assert VALUE not in contents
    eventually(lambda: not holders(up.home / "runner"), "the job's files are cleaned")
    assert holders(up.home) == []
    assert VALUE not in up.output.read_text()


def holders(directory: Path) -> list[Path]:
    """The files that hold the secret's value."""
    found = []
    for file in directory.rglob("*"):
        with suppress(OSError):  # it went away meanwhile, or is no file
            if VALUE.encode() in file.read_bytes():
                found.append(file)
    return found


def processes() -> str:
    """What `ps` shows of all processes."""
    return subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout


def test_a_plugins_secret_wins_over_a_categorys_and_that_over_an_events(up: Up) -> None:
    for id, place in (("s_p", "plugins"), ("s_c", "categories"), ("s_e", "events")):
        names = {"s_p": ["A"], "s_c": ["A", "B"], "s_e": ["A", "B", "C"]}[id]
        where = {"plugins": "shellplug", "categories": "general", "events": "sec2"}[place]
        up.call(
            "create_secret", id=id, title=id, values=dict.fromkeys(names, id), **{place: [where]}
        )
    log = output(up, run(up, "sec2", '#!/bin/sh\necho "$A $B $C"\n'))
    assert log == "s_p s_c s_e\n"

    for id in ("s_p", "s_c", "s_e"):
        up.call("delete_secret", id=id)
    assert output(up, run(up, "sec2", "")) == "  \n"


def test_values_are_replaced_and_removed_by_name(up: Up) -> None:
    up.call("create_secret", id="upd", title="U", values={"A": "one", "B": "two"}, events=["sec3"])
    up.call("update_secret", id="upd", values={"A": "new", "B": None}, notes="changed")

    assert up.call("get_secret", id="upd")["secret"]["names"] == ["A"]
    assert output(up, run(up, "sec3", '#!/bin/sh\necho "$A ${B-gone}"\n')) == "new gone\n"


def test_only_administrators_see_that_there_are_secrets(up: Up) -> None:
    key = up.call("create_api_key", title="Weak", privileges={"edit_events": 1})["plain_key"]
    for name in ("get_secrets", "create_secret", "rotate_secrets", "enroll_runner"):
        answer = httpx.post(
            f"http://127.0.0.1:{up.port}/api/app/{name}/v1",
            json={"id": "x1", "title": "x"},
            headers={"X-API-Key": key},
        )
        assert answer.json()["code"] == "access", name


def test_rotating_the_key_keeps_the_values_and_makes_the_old_key_useless(up: Up) -> None:
    up.call("create_secret", id="rot", title="R", values={"A": "kept"}, events=["sec4"])
    before = (up.home / "secrets.keys").read_bytes()

    done = cli(up, "secrets", "rotate", "--forget", "--data-dir", str(up.home))

    assert done.returncode == 0, done.stderr
    after = (up.home / "secrets.keys").read_bytes()
    assert len(after.split()) == 1
    assert after != before
    assert output(up, run(up, "sec4", '#!/bin/sh\necho "$A"\n')) == "kept\n"
    assert up.call("rotate_secrets")["secrets"] == 0


def test_an_action_plugin_gets_its_secret_and_its_output_is_masked(up: Up) -> None:
    script = '#!/bin/sh\necho "told ${#HOOK_TOKEN} $HOOK_TOKEN"\n'
    up.call(
        "create_plugin", id="teller", title="T", type="action", command="/bin/sh", script=script
    )
    up.call("create_secret", title="T", values={"HOOK_TOKEN": VALUE}, plugins=["teller"])
    action = {"enabled": True, "condition": "complete", "type": "plugin", "plugin_id": "teller"}
    define(up, "sec5", "#!/bin/sh\ntrue\n")
    up.call("update_event", id="sec5", actions=[action])

    job = run(up, "sec5", "")

    def told() -> str:
        actions = up.call("get_job", id=job["id"])["job"]["actions"]
        return next(str(one.get("details", "")) for one in actions if one["type"] == "plugin")

    shown = eventually(told, "the action has ended")
    assert f"told {len(VALUE)} ***" in shown
    assert VALUE not in json.dumps(up.call("get_job", id=job["id"]))


# --- enrolment -----------------------------------------------------------------------------------


@contextmanager
def extra_runner(up: Up, id: str, nats: str, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """One more runner on this machine, until the block ends."""
    where = ["--nats", nats, "--id", id, "--hostname", f"{id}.example", "--data-dir", str(home)]
    with home.with_name(f"{id}.log").open("wb") as log:
        process = subprocess.Popen(
            [*CLI, "runner", *where, "--group", "extra"], stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


def online(up: Up, id: str) -> bool:
    return id in [row["id"] for row in up.call("get_active_servers")["rows"]]


def test_a_runner_with_the_local_address_asks_for_its_own_login(up: Up, tmp_path: Path) -> None:
    address = (up.home / "run" / "nats.url").read_text().strip()
    nats = up.pid("nats")
    with extra_runner(up, "west1", address, tmp_path / "west1") as process:
        eventually(lambda: online(up, "west1"), "the runner is online")
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        seed = re.search(r":(\w+)@", address)
        assert seed is not None
        assert seed[1].encode() not in shown, "a credential stands in the process list"
    kept = tmp_path / "west1" / "runner" / "login"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert json.loads(kept.read_text())["token"] not in address
    first = kept.read_bytes()

    with extra_runner(up, "west1", address, tmp_path / "west1"):
        eventually(lambda: online(up, "west1"), "it is online again")
    assert kept.read_bytes() == first, "it keeps its login"
    assert up.pid("nats") == nats, "NATS was not restarted"


def test_a_runner_is_enrolled_by_an_administrators_key(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "west2.url"
    done = cli(
        up,
        "runner",
        "enroll",
        "west2",
        "--data-dir",
        str(up.home),
        "--out",
        str(file),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert f"jobledger runner --nats @{file} --id west2" in done.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    with extra_runner(up, "west2", f"@{file}", tmp_path / "west2"):
        eventually(lambda: online(up, "west2"), "the runner is online")
    other = cli(
        up, "runner", "--nats", f"@{file}", "--id", "west3", "--data-dir", str(tmp_path / "west3")
    )
    assert other.returncode != 0
    assert "This login is for the server west2, not west3." in other.stderr
    assert any(
        isinstance(one, RunnerEnrolled) and (one.server, one.actor.id) == ("west2", "kadmin")
        for one in asyncio.run(facts_of(up))
    )


async def facts_of(up: Up) -> list[Any]:
    async with Ledger.open(load_settings(data_dir=up.home).nats_url, name="test") as ledger:
        return [one.fact for one in await everything(ledger)]


def test_a_login_of_another_installation_is_replaced(up: Up, tmp_path: Path) -> None:
    home = tmp_path / "west4"
    (home / "runner").mkdir(parents=True)
    login = Authority.new().signer.login("runner", "west4")
    (home / "runner" / "login").write_text(json.dumps({"token": login.token, "seed": login.seed}))

    with extra_runner(up, "west4", (up.home / "run" / "nats.url").read_text().strip(), home):
        eventually(lambda: online(up, "west4"), "the runner is online")
    assert json.loads((home / "runner" / "login").read_text())["token"] != login.token


def test_a_wrong_key_enrols_nobody(up: Up, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("wrong\n")
    done = cli(
        up, "runner", "enroll", "west5", "--data-dir", str(up.home), "--key-file", str(key),
        cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*.url"))


def test_a_subscriber_is_enrolled_with_a_name_of_its_own(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "warehouse.creds"
    done = cli(
        up, "subscriber", "enroll", "warehouse", "--data-dir", str(up.home), "--out", str(file)
    )
    assert done.returncode == 0, done.stderr
    assert "subscriber-warehouse" in done.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    target = tmp_path / "completions.csv"
    example = Path(__file__).parents[2] / "examples" / "mirror_completions.py"
    address = (up.home / "run" / "nats.url").read_text().strip().rpartition("@")[2]
    process = subprocess.Popen(
        [sys.executable, str(example), f"nats://{address}", str(file), str(target)]
    )
    try:
        job = run(up, "mirrored", "#!/bin/sh\ntrue\n")["id"]
        eventually(lambda: target.exists() and job in target.read_text(), "it is mirrored")
    finally:
        process.terminate()
        process.wait()
