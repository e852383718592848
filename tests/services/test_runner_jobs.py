"""What a runner does with one order, from its arrival to its report."""

import asyncio
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from stat import S_ISDIR

import pytest

from domain.facts import JobFinishing, JobReturned
from services.ledger.connection import Ledger
from services.runner.launches import Launches
from services.runner.procfs import is_alive, read_process
from services.runner.reporting import Store
from tests.services.runner_bench import SERVER, Bench, bench, running


@pytest.fixture
async def scheduler(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Bench]:
    """A stand-in scheduler with a joined runner."""
    async with bench(ledger) as made, running(made, tmp_path, kill_timeout=1.0):
        yield made


async def test_a_shell_job_runs_and_reports(scheduler: Bench) -> None:
    """Order, start, log, end: the plain life of a job."""
    order = await scheduler.script("#!/bin/sh\necho hello\n")
    started = await scheduler.started(order)
    finished = await scheduler.finished(order)
    assert started.pid > 0
    assert (finished.code, finished.description) == (0, "")
    assert await scheduler.log(finished) == "hello\n"
    assert not finished.aborted


@pytest.mark.parametrize("digits", [19, 30, 308, 309, 400, 5000])
async def test_numbers_of_any_size_in_messages_do_not_keep_a_job_from_its_end(
    scheduler: Bench, digits: int
) -> None:
    """Given messages with long integers in every field, then the job ends and is reported."""
    fields = (
        "progress code perf table data workflowData serverData files push html update_event "
        "label description status custom xy complete"
    ).split()
    huge = "1" + "0" * digits
    values = [huge, f"-{huge}", f'{{"a":{huge},"rows":[[{huge}]],"content":{huge}}}', f"[{huge}]"]
    lines = [
        f'{{"xy":1,"{name}":{value}}}'
        for name in fields
        for value in values
        if name not in ("code", "complete")
    ]
    last = f'{{"xy":1,"complete":1,"code":{huge}}}'
    text = "\n".join([*lines, last, '{"xy":1,"complete":1,"code":7}'])
    order = await scheduler.script(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    finished = await scheduler.finished(order)
    assert finished.code == (int(huge) if digits <= 308 else 7)


async def test_nothing_of_a_reported_job_is_left_on_the_disk(
    scheduler: Bench, tmp_path: Path
) -> None:
    """Output, script and working directory go once the ledger has the report."""
    await scheduler.finished(await scheduler.script("echo x; touch left"))
    jobs = tmp_path / "runner" / "jobs"

    def clean() -> bool:
        ours = {"out", "script", "work"}
        try:
            left = [p for p in jobs.glob("*/*/*") if p.name not in ours or _holds_anything(p)]
        except FileNotFoundError:  # it goes just now
            return False
        return not left

    await scheduler.until(clean, "files are left")


def _holds_anything(path: Path) -> bool:
    found = path.stat()
    return any(path.iterdir()) if S_ISDIR(found.st_mode) else bool(found.st_size)


async def test_annotated_output_is_stamped_line_by_line(scheduler: Bench) -> None:
    """Stamps before ordinary lines only, not before what a line goes on with."""
    script = "echo one; echo 75%; printf two; sleep 0.4; printf ' and\\nthree'"
    finished = await scheduler.finished(await scheduler.script(script, params={"annotate": True}))
    stamp = r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] "
    log = await scheduler.log(finished)
    assert re.fullmatch(f"{stamp}one\n{stamp}two and\n{stamp}three", log)


@pytest.mark.parametrize(
    ("script", "code", "description"),
    [
        ("exit 3", 3, "Script exited with code: 3"),
        ("echo 'disk full' >&2; exit 2", 2, "Script exited with code: 2: disk full"),
        ("kill -SEGV $$", "sigsegv", "Script exited with code: SIGSEGV"),
        ("kill -9 $$", "sigkill", "Script exited with code: SIGKILL"),
        ("exit 139", 139, "Script exited with code: 139"),
        ("#!/nonexistent/sh\ntrue", 1, "Child spawn error: Command not found: /nonexistent/sh"),
        ("#!/bin/sh\r\nexit 4\r\n", 4, "Script exited with code: 4"),
        ("""echo '{"xy":1,"code":5,"description":"mine"}'; exit 1""", 5, "mine"),
    ],
)
async def test_how_a_script_ends_is_how_its_job_ends(
    scheduler: Bench, script: str, code: int | str, description: str
) -> None:
    """Exit status, signal, or the script's own final message (plugins.md 9.1)."""
    finished = await scheduler.finished(await scheduler.script(script))
    assert (finished.code, finished.description) == (code, description)


@pytest.mark.parametrize(
    ("command", "code", "description"),
    [
        ("/bin/true", "warning", "Process exited without reporting job completion."),
        ("sh -c 'exit 3'", 3, "Child {pid} crashed with code: 3"),
        ("sh -c 'kill -SEGV $$'", "sigsegv", "Child {pid} was killed by signal SIGSEGV."),
        ("no_such_program", 1, "Child spawn error: Command not found: no_such_program"),
        ("", 1, "Child spawn error: The plugin has no command"),
        ("[odd-plugin]", 1, "Child spawn error: There is no built-in runner [odd-plugin]"),
    ],
)
async def test_how_a_plugin_ends(
    scheduler: Bench, command: str, code: int | str, description: str
) -> None:
    """The table of plugins.md 4.1."""
    scheduler.use(command=command)
    order = await scheduler.order()
    finished = await scheduler.finished(order)
    pid = (await scheduler.started(order)).pid if "{pid}" in description else 0
    assert (finished.code, finished.description) == (code, description.format(pid=pid))


@pytest.mark.parametrize(
    ("account", "description"),
    [
        ({"uid": "nobody_here"}, "Plugin Error: User does not exist: nobody_here"),
        ({"gid": "no_group"}, "Plugin Error: Group does not exist: no_group"),
    ],
)
async def test_an_unknown_account_ends_the_job(
    scheduler: Bench, account: dict[str, str], description: str
) -> None:
    """Unknown users and groups: code 1 (plugins.md 4.1)."""
    scheduler.use(**account)
    finished = await scheduler.finished(await scheduler.script("true"))
    assert (finished.code, finished.description) == (1, description)


async def test_messages_become_the_report_and_the_rest_the_log(scheduler: Bench) -> None:
    """Protocol lines are no log; stderr is never protocol."""
    lines = [
        {"xy": 1, "progress": 0.5, "label": "Nightly"},
        {"xy": 1, "data": {"rows": [1]}},
        {"xy": 1, "data": {"rows": [2]}},
    ]
    script = "echo before\n" + "".join(f"echo '{json.dumps(line)}'\n" for line in lines)
    finished = await scheduler.finished(
        await scheduler.script(script + """echo after; sleep 0.3; echo '{"xy":1,"code":9}' >&2""")
    )
    assert await scheduler.log(finished) == 'before\nafter\n{"xy":1,"code":9}\n'
    assert finished.code == 0
    assert finished.report["data"] == {"rows": [1, 2]}
    assert finished.report["label"] == "Nightly"


async def test_the_child_reads_its_job_and_its_secrets(scheduler: Bench) -> None:
    """One line of JSON on stdin; params, input and secrets in the environment as well."""
    scheduler.secrets = {"TOKEN": "s3crt"}
    script = """read -r line; printf "got %s\\n" "$line"
        echo "$TOKEN $color $data_city $JOB_ID $(pwd)" """
    order = await scheduler.script(
        script,
        params={"color": "red", "TOKEN": "mine", "LD_PRELOAD": "/evil.so"},
        input={"data": {"city": "Bern"}, "files": []},
    )
    finished = await scheduler.finished(order)
    first, second = (await scheduler.log(finished)).splitlines()
    request = json.loads(first.removeprefix("got "))
    assert (request["xy"], request["type"], request["id"]) == (1, "event", "j1")
    assert request["secrets"] == {"TOKEN": "s3crt"}
    assert request["input"]["data"] == {"city": "Bern"}
    started = await scheduler.started(order)
    assert second == f"s3crt red Bern j1 {started.cwd}"
    assert abs(request["started"] - started.started) < 1
    assert request["groups"] == []


async def test_the_child_reads_the_groups_that_its_server_is_in(scheduler: Bench) -> None:
    """Given groups that the runner does not know of: those that the scheduler says are right."""
    script = 'read -r line; echo "$line $where"'
    order = await scheduler.script(script, params={"where": "in {{groups}}"}, groups=["west"])
    said = await scheduler.log(await scheduler.finished(order))
    assert '"groups":["west"]' in said
    assert said.endswith('in ["west"]\n')


async def test_a_child_inherits_neither_ignored_signals_nor_descriptors(scheduler: Bench) -> None:
    """Who starts it leaves no trace in the child."""
    script = "grep -E 'SigIgn|SigBlk' /proc/self/status; ls /proc/self/fd"
    finished = await scheduler.finished(await scheduler.script(script))
    lines = (await scheduler.log(finished)).split()
    catchable = 0x7FFFFFFF  # 32 and 33 belong to the C library
    assert [int(mask, 16) & catchable for mask in (lines[1], lines[3])] == [0, 0]
    assert lines[4:] == ["0", "1", "2", "3"]  # 3 is how ls reads the directory


async def test_definitions_are_asked_for_once_and_secrets_each_time(scheduler: Bench) -> None:
    """The launch definition of one made_of is immutable (design.md 7)."""
    for _ in range(3):
        await scheduler.finished(await scheduler.script("true"))
    assert len(scheduler.asked) == 1
    scheduler.use()
    scheduler.secrets = {"TOKEN": "x"}
    for _ in range(3):
        await scheduler.finished(await scheduler.script("true"))
    assert [a["need_records"] for a in scheduler.asked] == [True, True, False, False]


@pytest.mark.parametrize(("together", "messages"), [(7, 1), (2, 4), (1, 7), (0, 8)])
async def test_many_launches_are_asked_for_together(
    ledger: Ledger, together: int, messages: int
) -> None:
    """Schedulers answer as many as make a message of fair size; earlier releases only one."""
    async with bench(ledger) as scheduler:
        scheduler.together = together
        orders = [await scheduler.order({"script": f"echo {n}"}, ask=True) for n in range(7)]
        launches = Launches(ledger, SERVER, "b1", hostname="testhost", groups=())
        facts = [(await ledger.get(order)).fact for order in orders]  # type: ignore[union-attr]
        found = await asyncio.gather(*map(launches.fetch, orders, facts))
    scripts = [launch.document["params"]["script"] for launch in found]
    assert scripts == [f"echo {n}" for n in range(7)]
    assert scheduler.messages == messages


async def test_a_launch_that_is_not_in_the_order_is_asked_for(scheduler: Bench) -> None:
    """A launch above 32 KB comes by request."""
    order = await scheduler.order({"script": "echo " + "x" * 10}, ask=True)
    assert await scheduler.log(await scheduler.finished(order)) == "x" * 10 + "\n"


async def test_an_order_to_another_boot_is_given_back(scheduler: Bench) -> None:
    """What was assigned to an earlier boot after this one joined never starts."""
    order = await scheduler.script("true", boot="b_earlier")
    returned = await scheduler.until(lambda: scheduler.find(JobReturned, order), "not returned")
    assert returned.order == order


async def test_progress_is_told_at_once(scheduler: Bench) -> None:
    """A percent line is shown while the job runs; telemetry has the log's size."""
    order = await scheduler.script("echo some; echo 25%; sleep 30")
    entry = await scheduler.telemetry("j1", lambda e: e["progress"] == 0.25)
    assert entry["order"] == order
    assert entry["log_size"] == 5
    await scheduler.abort(order)
    await scheduler.finished(order)


async def test_large_reports_are_left_out_before_a_heartbeat_is_too_large(
    scheduler: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All else goes on to be told: what is to be done at once, and what limits look at."""
    push = '{"xy": 1, "push": {"actions": [{"condition": "instant", "type": "tag"}]}}'
    html = '{"xy": 1, "html": {"content": "%07000d"}}'
    monkeypatch.setattr(scheduler.ledger.nc, "_max_payload", 16_000)
    script = f"printf '{html}\n'; echo '{push}'; sleep 30"
    orders = [await scheduler.script(script) for _ in range(3)]
    for job in ("j1", "j2", "j3"):
        entry = await scheduler.telemetry(job, lambda e: e.get("instant") and "html" not in e)
        assert entry["elapsed"] >= 0
    for order in orders:
        await scheduler.abort(order)
        await scheduler.finished(order)


async def test_what_is_to_be_done_at_once_is_told_beside_a_large_report(scheduler: Bench) -> None:
    push = '{"xy": 1, "push": {"actions": [{"condition": "instant", "type": "tag"}]}}'
    html = '{"xy": 1, "html": {"content": "%09000d"}}'
    order = await scheduler.script(f"printf '{html}\n'; echo '{push}'; sleep 30")
    entry = await scheduler.telemetry("j1", lambda e: e.get("instant"))
    assert "html" not in entry
    await scheduler.abort(order)
    await scheduler.finished(order)


# --- aborting ------------------------------------------------------------------------------------


async def test_an_aborted_job_ends_with_its_reason(scheduler: Bench) -> None:
    """Code abort, the reason as description, what the child says later is ignored."""
    script = """trap 'echo "{\\"xy\\":1,\\"code\\":0}"; exit 0' TERM
        echo '{"xy":1,"data":{"a":1}}'; echo up; sleep 30 & wait"""
    order = await scheduler.script(script)
    await scheduler.telemetry("j1", lambda e: e["log_size"] == 3)
    await scheduler.abort(order, "Manually aborted.")
    finished = await scheduler.finished(order)
    assert (finished.code, finished.description) == ("abort", "Manually aborted.")
    assert finished.aborted
    assert finished.report["data"] == {"a": 1}
    assert "unknown" not in finished.report


async def test_what_ignores_sigterm_gets_sigkill(scheduler: Bench) -> None:
    """After kill_timeout the whole session is killed."""
    order = await scheduler.script("trap '' TERM; echo $$; while true; do sleep 0.2; done")
    await scheduler.telemetry("j1", lambda e: e["log_size"])
    await scheduler.abort(order)
    finished = await scheduler.finished(order)
    assert finished.code == "abort"
    # The shell may still have said that its child was killed.
    shell = (await scheduler.log(finished)).split()[0]
    left = read_process(int(shell))
    assert left is None or left.state == "Z"


async def test_with_kill_none_the_job_is_reported_and_goes_on(scheduler: Bench) -> None:
    """The policy `none` ends the job, not its process."""
    scheduler.use(kill="none")
    order = await scheduler.script("echo $$; exec sleep 30")
    await scheduler.telemetry("j1", lambda e: e["log_size"])
    await scheduler.abort(order)
    finished = await scheduler.finished(order)
    pid = int(await scheduler.log(finished))
    process = read_process(pid)
    assert process is not None
    assert is_alive(pid, process.start)
    os.kill(pid, 9)


async def test_an_abort_right_behind_its_order_prevents_the_start(scheduler: Bench) -> None:
    """Whether or not the process exists yet, the job ends as aborted."""
    order = await scheduler.script("sleep 30")
    await scheduler.abort(order, "Changed my mind.")
    finished = await scheduler.finished(order)
    assert (finished.code, finished.description) == ("abort", "Changed my mind.")


async def test_descendants_do_not_hold_the_job_and_are_ended(scheduler: Bench) -> None:
    """The job ends with its main process; what remains of its session gets SIGTERM."""
    order = await scheduler.script("sleep 60 & echo $!")
    finished = await scheduler.finished(order)
    pid = int(await scheduler.log(finished))

    def gone() -> bool:
        process = read_process(pid)
        return process is None or process.state == "Z"

    await scheduler.until(gone, "the descendant lives")


# --- files ---------------------------------------------------------------------------------------


async def test_input_files_are_there_and_output_files_are_stored(scheduler: Bench) -> None:
    """Input under its name in the working directory; output by glob, never from outside."""
    scheduler.files = {"f1": b"a" * 100_000}
    message = {"xy": 1, "files": ["*.txt", "/etc/passwd", {"path": "in.bin", "filename": "../x"}]}
    script = (
        f"""wc -c < in.bin > out.txt; ln -s /etc/hosts link.txt; echo '{json.dumps(message)}'"""
    )
    order = await scheduler.script(
        script, input={"data": {}, "files": [{"id": "f1", "filename": "in.bin", "path": "p"}]}
    )
    finished = await scheduler.finished(order)
    assert scheduler.find(JobFinishing, order) is not None
    assert [f["filename"] for f in finished.report["files"]] == ["out.txt", "x"]
    assert [f["size"] for f in finished.report["files"]] == [7, 100_000]
    assert sum("outside" in line["msg"] for line in finished.activity) == 2


async def test_files_to_be_deleted_are_there_for_a_runner_that_stores_them_again(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Given a runner that died after storing them, when the next stores them, then all are there.

    They go with their directory, once the job is reported.
    """
    named = [{"path": "a.txt", "delete": True}, ["b.txt", "c.txt", True]]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    for _ in range(2):
        files, remarks = await Store(ledger, SERVER).store_files("j1", tmp_path, named)
        assert [(file["filename"], file["size"]) for file in files] == [("a.txt", 5), ("c.txt", 5)]
        assert remarks == []


async def test_a_missing_input_file_is_a_setup_error(scheduler: Bench) -> None:
    """Input download failed: code 1 (plugins.md 4.1)."""
    order = await scheduler.script("true", input={"files": [{"id": "f9", "filename": "a"}]})
    finished = await scheduler.finished(order)
    assert (finished.code, finished.description) == (1, "Setup Error: No such file")


async def test_large_values_go_to_chunks(scheduler: Bench) -> None:
    """A value above 64 KiB is named by the report, not held by it (design.md 3.2)."""
    script = (
        """printf '{"xy":1,"data":{"big":"%s"}}\\n' "$(head -c 70000 /dev/zero | tr '\\0' x)" """
    )
    finished = await scheduler.finished(await scheduler.script(script))
    assert "data" not in finished.report
    assert finished.large["data"].size > 70_000


async def test_output_that_the_job_empties_stays_in_the_log(scheduler: Bench) -> None:
    """`> /dev/stdout` empties a file; what was read before is kept."""
    order = await scheduler.script("echo one; sleep 1; echo two > /dev/stdout; echo three")
    finished = await scheduler.finished(order)
    assert await scheduler.log(finished) == "one\ntwo\nthree\n"


async def test_stderr_cannot_be_emptied(scheduler: Bench) -> None:
    """`> /dev/stderr` is how scripts complain: every line of it counts, however fast they come."""
    script = (
        "for n in 1 2 3 4 5; do echo $n > /dev/stderr; done; echo 6 | tee /dev/stderr >/dev/null"
    )
    finished = await scheduler.finished(await scheduler.script(script))
    assert await scheduler.log(finished) == "1\n2\n3\n4\n5\n6\n"


async def test_twenty_megabytes_of_stderr_arrive(scheduler: Bench) -> None:
    """A pipe holds one: the runner empties it as fast as it is filled."""
    order = await scheduler.script("seq 2500000 >&2")
    finished = await scheduler.finished(order)
    log = await scheduler.log(finished)
    assert len(log) > 18_000_000
    assert log == "".join(f"{n}\n" for n in range(1, 2500001))


@pytest.mark.skipif(os.getuid() != 0, reason="only root may run jobs under another account")
async def test_a_job_runs_under_its_plugins_account(ledger: Ledger) -> None:
    """uid, gid and working directory are the account's; its output is complete."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        async with bench(ledger) as scheduler, running(scheduler, Path(name)):
            scheduler.use(uid="nobody")
            order = await scheduler.script("id -un; touch here; stat -c %U .; echo x > /dev/stderr")
            finished = await scheduler.finished(order)
            assert finished.code == 0
            assert await scheduler.log(finished) == "nobody\nnobody\nx\n"
