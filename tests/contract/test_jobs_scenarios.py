"""Jobs as their users see them: every call about jobs, and what a process may do (api.md 4 to 8).

A whole installation; what happened is also looked at from outside, in files that the jobs write.
"""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.client import Client, Json, until
from tests.contract.stack import running_stack

LIMIT_ONE = [{"type": "job", "enabled": True, "amount": 1}]
QUEUE = [*LIMIT_ONE, {"type": "queue", "enabled": True, "amount": 100}]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs") / "data"


@pytest.fixture(scope="module")
def client(data_dir: Path) -> Iterator[Client]:
    with running_stack(data_dir) as stack:
        key = {"X-API-Key": stack.admin_key}
        with httpx.Client(base_url=stack.url, headers=key, timeout=40) as http:
            yield Client(stack, http)


def suspend(condition: str) -> Json:
    return {"type": "suspend", "condition": condition, "enabled": True}


def until_file(path: Path) -> str:
    """A script that waits until the file is there, but not for ever."""
    return f"n=0; while [ ! -e {path} ] && [ $n -lt 2000 ]; do sleep 0.02; n=$((n+1)); done"


# --- looking ------------------------------------------------------------------------------------


def test_live_jobs_are_filtered_sorted_and_paged(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    client.create("looked_at", until_file(go))
    ids = []
    for color in ("red", "green", "green"):
        ids.append(client.run("looked_at", params={"color": color}))
        client.active(ids[-1])  # one after the other: their order is that of their starts

    def rows(**filters: Any) -> list[Json]:
        found = client.ok("get_active_jobs", event="looked_at", **filters)
        assert found["list"]["length"] == len(found["rows"]) or "limit" in filters
        return list(found["rows"])

    assert {row["id"] for row in rows(**{"params.color": "green"})} == set(ids[1:])
    assert [row["id"] for row in rows(sort_by="started", sort_dir=1)] == ids
    assert [row["id"] for row in rows(sort_by="started", sort_dir=1, offset=1, limit=1)] == ids[1:2]
    assert rows(state="queued") == []
    assert all(key not in rows()[0] for key in ("input", "data", "files", "activity", "timelines"))
    until(lambda: rows()[0].get("mem"), "no memory is told")
    assert isinstance(rows()[0]["mem"], int | float)
    assert rows(metrics="full")[0]["mem"].keys() == {"min", "max", "total", "count", "current"}
    summary = client.ok("get_active_job_summary", event="looked_at")["events"]["looked_at"]
    assert (summary["states"], summary["sources"]) == ({"active": 3}, {"key": 3})
    event = client.ok("get_event", id="looked_at")
    assert {job["id"] for job in event["jobs"]} == set(ids)
    go.touch()
    for id in ids:
        assert client.final(id)["code"] == 0


def test_a_job_is_shown_without_what_was_removed_and_as_it_was(client: Client) -> None:
    client.create("shown", "echo hello; sleep 0.2")
    id = client.run("shown")
    live = client.active(id)
    assert live["state"] == "active"
    done = client.final(id)
    assert done["output"] == "hello\n"
    short = client.ok("get_job", id=id, remove="output, activity,nothing")
    assert not {"output", "activity"} & short["job"].keys()
    assert re.fullmatch(r"[\w-]{22}", short["token"])
    before = client.ok("get_job", id=id, at=done["started"] + 0.1)["job"]
    assert (before["state"], before.get("final")) == ("active", None)
    then = client.ok("get_active_jobs", at=done["started"] + 0.1)["rows"]
    assert id in {row["id"] for row in then}
    several = client.ok("get_jobs", ids=[id, "jnone", id])["jobs"]
    assert [job.get("id") for job in several] == [id, None, id]
    assert "output" not in several[0]
    assert "err" in several[1]


def test_finished_jobs_are_searched(client: Client) -> None:
    client.create("sought", 'echo "{\\"xy\\":1,\\"code\\":$CODE,\\"description\\":\\"x\\"}"')
    good = client.finished("sought", params={"CODE": "0"})
    bad = client.finished("sought", params={"CODE": "7"})

    def found(query: str, **how: Any) -> list[str]:
        rows = client.ok("search_jobs", query=query, limit=50, **how)["rows"]
        return [row["id"] for row in rows]

    assert found("event:sought") == [bad["id"], good["id"]]
    assert found("event:sought", sort_dir=1) == [good["id"], bad["id"]]
    assert found("event:sought tags:_error") == [bad["id"]]
    assert found("event:sought -tags:_error") == [good["id"]]
    assert found("event:sought code:7|8 date:today") == [bad["id"]]
    assert found("event:sought date:<2001-01-01") == []
    assert client.ok("search_jobs", query="event:sought")["list"]["length"] == 2
    rows = client.ok("search_jobs", query="event:sought", select="id,code")["rows"]
    assert rows == [{"id": bad["id"], "code": 7}]
    assert client.call("search_jobs", query="event:")["code"] == "db"


# --- aborting, resuming, delaying ---------------------------------------------------------------


def aborted(client: Client, id: str) -> Json:
    client.ok("abort_job", id=id)
    job = client.final(id)
    assert job["code"] == "abort"
    assert "Manually aborted by API Key" in job["description"]
    assert client.call("abort_job", id=id)["code"] == "job"
    return job


def test_a_job_is_aborted_in_every_state_it_can_wait_in(client: Client, tmp_path: Path) -> None:
    client.create("ab_active", "sleep 60")
    id = client.run("ab_active")
    client.active(id)
    assert aborted(client, id)["elapsed"] < 20

    client.create("ab_queue", until_file(tmp_path / "go"), limits=QUEUE)
    first = client.run("ab_queue")
    client.active(first)
    queued = client.run("ab_queue")
    assert client.job(queued, lambda job: job["state"] == "queued")["position"] == 1
    aborted(client, queued)
    (tmp_path / "go").touch()
    client.final(first)

    retry = [{"type": "retry", "enabled": True, "amount": 1, "duration": 60}]
    client.create("ab_retry", "exit 3", limits=retry)
    failed = client.finished("ab_retry")
    assert failed["retried"]
    waiting = failed["jobs"][0]["id"]
    assert client.job(waiting)["state"] == "retry_delay"
    aborted(client, waiting)

    client.create("ab_start", "true", actions=[suspend("start")])
    id = client.run("ab_start")
    client.job(id, lambda job: job.get("suspended") and job["state"] == "starting")
    aborted(client, id)

    client.create("ab_end", "true", actions=[suspend("complete")])
    id = client.run("ab_end")
    client.job(id, lambda job: job.get("suspended") and job["state"] == "complete")
    aborted(client, id)


def test_a_suspended_job_goes_on_with_the_params_of_its_resumption(client: Client) -> None:
    client.create("resumed", 'echo "color $color"', actions=[suspend("start")])
    id = client.run("resumed", params={"color": "red"})
    client.job(id, lambda job: job.get("suspended"))
    client.ok("resume_job", id=id, params={"color": "blue"})
    job = client.final(id)
    assert (job["output"], job["code"]) == ("color blue\n", 0)
    assert job["actions"][0]["code"] == 0
    assert client.call("resume_job", id=id)["code"] == "job"


def test_a_delay_is_skipped(client: Client) -> None:
    retry = [{"type": "retry", "enabled": True, "amount": 1, "duration": 3600}]
    client.create("skipped", "exit 5", limits=retry)
    again = client.finished("skipped")["jobs"][0]["id"]
    assert client.job(again)["until"] > time.time() + 3000
    client.ok("job_skip_delay", id=again)
    job = client.final(again)
    assert (job["code"], job["retry_count"]) == (5, 1)
    assert client.call("job_skip_delay", id=again)["code"] == "job"


def test_a_flushed_queue_leaves_no_trace(client: Client, tmp_path: Path) -> None:
    client.create("flushed", until_file(tmp_path / "go"), limits=QUEUE)
    running = client.run("flushed")
    client.active(running)
    waiting = [client.run("flushed") for _ in range(5)]
    client.job(waiting[-1], lambda job: job.get("position") == 5)
    assert client.ok("flush_event_queue", id="flushed")["count"] == 5
    assert [client.call("get_job", id=id)["code"] for id in waiting] == ["notfound"] * 5
    assert client.ok("flush_event_queue", id="flushed")["count"] == 0
    (tmp_path / "go").touch()
    assert client.final(running)["code"] == 0


# --- changing and deleting ----------------------------------------------------------------------


def test_jobs_are_changed_tagged_and_deleted(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    client.create("changed", until_file(go))
    id = client.run("changed")
    client.active(id)
    client.ok("update_job", id=id, label="by hand")
    assert client.ok("get_job", id=id)["job"]["label"] == "by hand"
    client.job(id, lambda job: job.get("label") == "by hand")
    assert client.call("manage_job_tags", id=id, tags=["x"])["code"] == "job"
    assert client.call("delete_job", id=id)["code"] == "job"
    go.touch()
    client.final(id)
    client.ok("update_job", id=id, retry_count="+1")
    client.ok("update_job", id=id, retry_count="+1", label="again")
    client.ok("manage_job_tags", id=id, tags=["one", "two"])
    job = client.final(id)
    assert (job["label"], job["tags"]) == ("again", ["one", "two"])
    client.ok("delete_job", id=id)
    assert client.call("get_job", id=id)["code"] == "notfound"
    assert client.http.get(f"/api/app/get_job_log/v1?id={id}").status_code == 404
    assert client.call("delete_job", id=id)["code"] == "job"


def test_the_record_of_now_is_also_that_of_the_past_up_to_now(client: Client) -> None:
    """Whatever was changed since the job was over: counted up, tagged, its server's groups."""
    client.create("remembered", "exit 2")
    id = client.run("remembered")
    client.final(id)
    client.ok("manage_job_tags", id=id, tags=["foo"])
    reply = client.http.post("/api/app/update_job/v1", json={"id": id, "code": "+1"})

    now = client.final(id)
    then = client.ok("get_job", id=id, seq=int(reply.headers["x-ledger-seq"]))["job"]

    assert (then["code"], then["tags"]) == (3, ["foo"])
    for key in ("code", "tags", "groups", "activity", "completed", "description"):
        assert then[key] == now[key], key


def test_lists_of_keys_may_be_json_or_words(client: Client) -> None:
    client.create("worded", "true")
    id = client.run("worded")
    client.final(id)
    for remove in ('["activity","code"]', "activity,code"):
        job = client.http.get("/api/app/get_job/v1", params={"id": id, "remove": remove}).json()
        assert not {"activity", "code"} & job["job"].keys()
    for select in ('["id","code"]', "id, code"):
        query = {"query": "event:worded", "select": select}
        rows = client.http.get("/api/app/search_jobs/v1", params=query).json()["rows"]
        assert rows == [{"id": id, "code": 0}]


def test_a_search_shows_as_much_of_a_job_as_a_look_at_it(client: Client) -> None:
    """Its output, and data that is too large for its record."""
    client.create("found", """echo said; printf '{"xy":1,"data":{"big":"%0300000d"}}\\n' 0""")
    id = client.run("found")
    job = client.final(id)
    whole = client.ok("search_jobs", query="event:found", verbose=True)["rows"][0]
    chosen = client.ok("search_jobs", query="event:found", select=["id", "output", "data"])
    brief = client.ok("search_jobs", query="event:found")["rows"][0]

    assert job["output"] == "said\n"
    assert (whole["output"], whole["data"]) == (job["output"], job["data"])
    assert chosen["rows"] == [{key: job[key] for key in chosen["rows"][0]}]
    assert chosen["rows"][0].keys() == {"id", "output", "data"}
    assert not {"output", "data"} & brief.keys()


# --- logs and streams ---------------------------------------------------------------------------


def test_a_log_is_read_while_it_grows_and_afterwards(client: Client, tmp_path: Path) -> None:
    script = f"echo one; echo two >&2; {until_file(tmp_path / 'go')}; printf three"
    client.create("logged", script)
    id = client.run("logged")
    client.active(id)
    until(lambda: client.ok("tail_live_job_log", id=id)["text"] == "one\ntwo\n", "no live log")
    assert client.ok("tail_live_job_log", id=id, bytes=5)["text"] == "two\n"
    assert client.call("tail_live_job_log", id=id, bytes=0)["code"] == "api"
    assert client.raw_log(id) == b"one\ntwo\n"
    token = client.ok("get_job", id=id)["token"]
    anybody = httpx.Client(base_url=client.stack.url)
    partial = anybody.get(f"/api/app/download_job_log/v1?id={id}&t={token}")
    assert "Partial" in partial.headers["content-disposition"]
    (tmp_path / "go").touch()
    assert client.final(id)["output"] == "one\ntwo\nthree"
    for call in ("download_job_log", "view_job_log"):
        assert anybody.get(f"/api/app/{call}/v1?id={id}&t={token}").text == "one\ntwo\nthree"
        assert anybody.get(f"/api/app/{call}/v1?id={id}&t=wrong").status_code == 403
    assert client.ok("tail_live_job_log", id=id)["text"] == ""


def test_a_stream_shows_the_start_updates_and_the_end(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    said = json.dumps({"xy": 1, "progress": 0.5, "table": {"rows": [["a"]]}})
    client.create("streamed", f"echo '{said}'; {until_file(go)}; echo '{{\"xy\":1,\"code\":4}}'")
    id = client.run("streamed")
    with client.stream(id) as events:
        assert next(events) == ("start", {})
        name, first = next(events)
        assert (name, first["xy"], first["id"]) == ("update", 1, id)
        seen: Json = {}
        while seen.get("progress") != 0.5 or not seen.get("mem") or "table" not in seen:
            seen |= next(events)[1]
        assert isinstance(seen["mem"], int | float)
        assert seen["state"] == "active"
        with client.stream(id, metrics="full") as late:
            assert next(late)[0] == "start"
            update = next(late)[1]
            assert (update["id"], update["progress"]) == (id, 0.5)
            assert update["table"] == {"rows": [["a"]]}
            assert update["mem"]["count"] >= 1
        go.touch()
        rest = list(events)
    assert [name for name, _ in rest][-2:] == ["update", "end"]
    assert rest[-2][1]["code"] == 4
    with client.stream(id) as events:
        assert [name for name, _ in events] == ["start", "update", "end"]


def test_a_magic_link_runs_and_is_followed_without_an_account(client: Client) -> None:
    limits = [{"type": "file", "enabled": True, "amount": 1, "accept": ".txt"}]
    triggers = [{"type": "magic", "enabled": True, "key": "abracadabra_1234567"}]
    client.create("magical", 'echo "hi $who"; cat a.txt', triggers=triggers, limits=limits)
    anybody = httpx.Client(base_url=client.stack.url, timeout=30)
    link = "/api/app/magic/v1/abracadabra_1234567"
    started = anybody.post(link, data={"who": "you"}, files={"f": ("a.txt", b"content")}).json()
    assert started["code"] == 0, started
    follow = Client(client.stack, anybody)
    with follow.stream(started["id"], token=started["stream"]) as events:
        last = [data for _, data in events][-2]
    assert last["code"] == 0
    assert client.final(started["id"])["output"] == "hi you\ncontent"
    wrong = anybody.get(f"/api/app/stream_job/v1?id={started['id']}&token=" + "0" * 64)
    assert wrong.status_code == 400
    for files in ([("a.exe", b"x")], [("a.txt", b"x"), ("b.txt", b"y")]):
        refused = anybody.post(link, files=[("f", file) for file in files])
        assert refused.json()["code"] == "event"
    assert anybody.post("/api/app/magic/v1/wrong_key_12345678").json()["code"] == "api"


# --- what a process gets ------------------------------------------------------------------------

DUMP = """
import json, os, sys
request = sys.stdin.read()
json.dump({"env": dict(os.environ), "request": json.loads(request), "lines": request.count("\\n"),
  "cwd": os.getcwd(), "mode": os.stat(".").st_mode & 0o777, "files": sorted(os.listdir(".")),
  "session": os.getsid(0), "pid": os.getpid()}, open(PATH, "w"))
"""


def test_a_process_gets_its_environment_its_request_and_its_files(
    client: Client, tmp_path: Path
) -> None:
    dump = tmp_path / "dump.json"
    plugin = {
        "id": "dumper",
        "title": "Dumper",
        "type": "event",
        "command": "/usr/bin/env python3",
        "script": DUMP.replace("PATH", repr(str(dump))) + '\nprint(\'{"xy":1,"code":0}\')\n',
    }
    client.ok("create_plugin", plugin)
    reply = client.http.post(
        "/api/app/upload_job_input_files/v1", files={"f": ("../in put.txt", b"content")}
    )
    files = reply.json()["files"]
    client.create("dumped", plugin="dumper", params={"deep": {"a": 1}, "PATH": "/evil"})
    huge = "x" * 200_000
    job = client.finished(
        "dumped",
        params={"flag": True, "my-name": "1", "huge": huge},
        input={"data": {"answer": 42}, "files": files},
    )
    assert job["code"] == 0, job
    seen = json.loads(dump.read_text())
    env, request = seen["env"], seen["request"]
    assert (env["JOB_ID"], env["flag"], env["my_name"]) == (job["id"], "true", "1")
    assert (env["deep"], env["data_answer"]) == ('{"a": 1}', "42")
    assert env["PATH"] != "/evil"
    assert not [name for name in env if name.startswith("JOBLEDGER_")]
    assert "huge" not in env
    assert "huge was left out" in str(job["activity"])
    assert request["params"]["huge"] == huge
    assert (seen["lines"], request["xy"], request["type"]) == (1, 1, "event")
    assert (request["id"], request["input"]["data"]) == (job["id"], {"answer": 42})
    assert request["input"]["files"][0].keys() & {"path", "blob"} == set()
    assert (seen["mode"], seen["files"]) == (0o700, ["in put.txt"])
    assert seen["cwd"] == env["PWD"]
    assert seen["session"] != os.getsid(0)
    until(lambda: not Path(seen["cwd"]).exists(), "the working directory is still there")
    assert "blob" not in json.dumps(job)


# --- what a process says ------------------------------------------------------------------------


def test_messages_become_the_jobs_fields(client: Client) -> None:
    messages = [
        {"xy": 1, "label": "nightly", "perf": "scale=1000&db=1500", "status": "working"},
        {"xy": 1, "markdown": {"title": "T", "content": "**bold** <script>x</script>"}},
        {"xy": 1, "data": {"list": [1]}, "params": {"stolen": 1}},
        {"xy": 1, "data": {"list": [2], "more": True}, "push": {"tags": ["urgent"]}},
        {"xy": 1, "delete_event": True, "update_event": {"title": "hacked"}},
        {"no": "marker"},
        {"xy": 1, "code": 0, "description": "fine"},
    ]
    client.ok("create_tag", id="urgent", title="Urgent")
    said = "\n".join(json.dumps(message) for message in messages)
    client.create("saying", f"cat <<'END'\n{said}\n{{broken json}}\nEND\nprintf tail")
    job = client.finished("saying")
    assert (job["code"], job["description"], job["label"]) == (0, "fine", "nightly")
    assert job["data"] == {"list": [1, 2], "more": True}
    assert "<strong>bold</strong>" in job["html"]["content"]
    assert "<script" not in job["html"]["content"]
    assert {"urgent", "_success", "_last"} <= set(job["tags"])
    assert job["custom"] == {"params": {"stolen": 1}}
    assert job["output"] == '{"no": "marker"}\n{broken json}\ntail'
    assert client.ok("get_event", id="saying")["event"]["title"] == "saying"


def test_binary_output_arrives_byte_by_byte(client: Client) -> None:
    client.create("binary", "head -c 300000 /dev/urandom | tee \"$seen\"; printf '\\000\\377'")
    seen = Path(f"/tmp/jobledger-binary-{os.getpid()}")
    try:
        job = client.finished("binary", params={"seen": str(seen)})
        assert client.raw_log(job["id"]) == seen.read_bytes() + b"\x00\xff"
    finally:
        seen.unlink(missing_ok=True)


def test_output_files_are_stored_and_passed_on(client: Client) -> None:
    actions = [{"type": "run_event", "condition": "success", "enabled": True, "event_id": "eater"}]
    files = ["*.csv", {"path": "raw.bin", "filename": "named.bin"}, "../../etc/passwd", "none*"]
    said = json.dumps({"xy": 1, "files": files, "data": {"rows": 2}, "code": 0})
    script = f"echo 1 >a.csv; echo 2 >b.csv; printf '\\001' >raw.bin; echo '{said}'"
    client.create("eater", "cat a.csv b.csv; ls; echo $data_rows")
    client.create("feeder", script, actions=actions)
    job = client.finished("feeder")
    assert [file["filename"] for file in job["files"]] == ["a.csv", "b.csv", "named.bin"]
    assert re.fullmatch(rf"files/jobs/{job['id']}/[\w-]{{43}}/a.csv", job["files"][0]["path"])
    assert client.http.get("/" + job["files"][2]["path"]).content == b"\x01"
    assert "outside the working directory" in str(job["activity"])
    assert "_files" in job["tags"]
    child = client.final(next(one["id"] for one in job["jobs"] if one["reason"] == "action"))
    assert child["output"] == "1\n2\na.csv\nb.csv\nnamed.bin\n2\n"
    assert child["parent"]["job"] == job["id"]
    path = job["files"][0]["path"]
    client.ok("delete_job_file", id=job["id"], path=path)
    assert client.http.get("/" + path).status_code == 404


def test_a_plugin_of_the_reference_runs_unmodified(client: Client) -> None:
    """Reads one line of JSON, prints messages; written for another server."""
    script = """
import sys, json
job = json.loads(sys.stdin.readline())
print(json.dumps({"xy": 1, "progress": 0.25}), flush=True)
print("Working for %s" % job["params"]["who"], flush=True)
print(json.dumps({"xy": 1, "table": {"title": "T", "header": ["A"], "rows": [[1]]}}), flush=True)
print(json.dumps({"xy": 1, "complete": 1, "code": 0, "data": {"seen": job["id"]}}), flush=True)
"""
    plugin = {"id": "foreign", "title": "F", "type": "event", "command": "/usr/bin/env python3 -u"}
    client.ok("create_plugin", plugin | {"script": script})
    client.create("foreign", plugin="foreign", params={"who": "you"})
    job = client.finished("foreign")
    assert (job["code"], job["data"]) == (0, {"seen": job["id"]})
    assert (job["output"], job["table"]["rows"]) == ("Working for you\n", [[1]])


# --- how a process ends -------------------------------------------------------------------------


def ends(client: Client, id: str, script: str) -> tuple[Any, str]:
    client.create(id, script)
    job = client.finished(id)
    return job["code"], job["description"]


def test_every_end_of_a_process_has_its_code(client: Client) -> None:
    assert ends(client, "end_0", "exit 0") == (0, "Success")
    assert ends(client, "end_7", "exit 7") == (7, "Script exited with code: 7")
    assert ends(client, "end_err", "echo oops >&2; exit 2")[1].endswith(": oops")
    assert ends(client, "end_kill", "kill -9 $$")[0] == "sigkill"
    assert ends(client, "end_group", "kill 0; sleep 5")[0] == "sigterm"
    assert ends(client, "end_trap", "trap 'exit 9' TERM; kill 0; sleep 5")[0] == 9
    client.create("end_none", plugin="shellplug", params={"script": "#!/no/such/interpreter\n"})
    assert client.finished("end_none")["code"] not in (0, None)
    client.ok("create_plugin", id="nobody", title="N", type="event", command="/no/such/program")
    client.create("end_spawn", plugin="nobody", params={})
    job = client.finished("end_spawn")
    assert (job["code"], "spawn" in job["description"]) == (1, True)
    client.ok("create_plugin", id="nouser", title="N", type="event", command="true", uid="no_user")
    client.create("end_user", plugin="nouser", params={})
    assert client.finished("end_user")["description"].startswith("Plugin Error: User does not")


def test_a_grandchild_that_holds_the_output_does_not_hold_the_job(client: Client) -> None:
    client.create("held", "sleep 300 & echo $!; exit 0")
    began = time.monotonic()
    job = client.finished("held")
    assert time.monotonic() - began < 5
    assert job["code"] == 0
    until(lambda: not alive(int(job["output"])), "the grandchild is still there")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.timeout(90)
def test_an_abort_ends_a_whole_family_that_ignores_sigterm(client: Client, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    deaf = "trap '' TERM INT HUP; echo $$ >>{0}; while :; do sleep 1; done"
    inner = tmp_path / "inner.sh"
    inner.write_text(f"setsid true; sh -c '{deaf.format(pids)}' & {deaf.format(pids)}")
    client.create("deaf", f"sh {inner} & {deaf.format(pids)}")
    id = client.run("deaf")
    until(lambda: pids.exists() and len(pids.read_text().split()) == 3, "not all have started")
    client.ok("abort_job", id=id)
    job = client.final(id)
    assert job["code"] == "abort"
    assert 9 < job["elapsed"] < 25
    family = [int(pid) for pid in pids.read_text().split()]
    until(lambda: not any(alive(pid) for pid in family), "some survived")


# --- built-in plugins ---------------------------------------------------------------------------


def test_a_web_request_takes_macros_and_judges_the_answer(client: Client) -> None:
    url = f"{client.stack.url}/api/app/ping/v1?who={{{{ params.who }}}}&job={{{{ id }}}}"
    actions = [{"type": "run_event", "condition": "success", "enabled": True, "event_id": "after"}]
    client.create("after", 'echo "status $data_statusCode"')
    client.create(
        "request",
        plugin="httpplug",
        params={"method": "GET", "url": url, "success_match": '"code":0'},
        actions=actions,
    )
    job = client.finished("request", params={"who": "me"})
    assert job["code"] == 0, job
    assert job["params"]["url"].endswith(f"who=me&job={job['id']}")
    assert (job["data"]["statusCode"], job["data"]["json"]["code"]) == (200, 0)
    assert client.final(job["jobs"][0]["id"])["output"] == "status 200\n"
    assert client.finished("request", params={"error_match": "code"})["code"] == 1
    missing = client.finished("request", params={"url": f"{client.stack.url}/nothing"})
    assert missing["code"] == 404
    assert client.finished("request", params={"url": "ftp://x"})["code"] == 1


def test_the_test_plugin_does_as_it_is_told(client: Client) -> None:
    client.create("pretend", plugin="testplug", params={"duration": "0.5", "action": "Success"})
    for wished, code in (("Success", 0), ("Error", 999), ("Critical", "critical")):
        job = client.finished("pretend", params={"action": wished, "upload": wished == "Success"})
        assert job["code"] == code
        assert ("files" in job) == (wished == "Success")
    assert client.finished("pretend", params={"action": "Crash"})["code"] not in (0, "warning")


def test_a_web_hook_is_fired_as_a_job(client: Client) -> None:
    """The hook's result is the job's; a URL may stand in the place of a hook."""
    url = f"{client.stack.url}/api/app/echo_nothing/v1"
    client.create("hooked", plugin="hookplug", params={"web_hook": url, "text": "hello"})
    job = client.finished("hooked")
    assert (job["code"], job["data"]["statusCode"], job["data"]["json"]["code"]) == (0, 200, 1)
    assert "200" in job["output"]
    gone = "http://127.0.0.1:9/nobody"
    failed = client.finished("hooked", params={"web_hook": "no_such_hook"})
    assert (failed["code"], failed["description"]) == (
        "web_hook",
        "Web Hook not found: no_such_hook",
    )
    assert client.finished("hooked", params={"web_hook": gone})["code"] == "web_hook"


# --- telemetry ----------------------------------------------------------------------------------


def test_usage_is_told_while_the_job_runs_and_kept_off_the_record(
    client: Client, tmp_path: Path
) -> None:
    script = f"""
import os, socket, time
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
taken, _ = server.accept()
client.sendall(b"x" * 100000)
open("file", "wb").write(b"x" * 1000000)
began = time.monotonic()
while not os.path.exists({str(tmp_path / "go")!r}) and time.monotonic() < began + 60:
    sum(range(100000))
"""
    plugin = {"id": "busy", "title": "B", "type": "event", "command": "/usr/bin/env python3"}
    client.ok("create_plugin", plugin | {"script": script})
    client.create("busy", plugin="busy", params={})
    id = client.run("busy")
    live = client.job(id, lambda j: "timelines" in j and j["cpu"]["max"] > 10 and j["conns"])
    assert len(live["timelines"]["second"]) >= 2
    assert live["mem"]["current"] > 1_000_000
    row = next(row for row in live["procs"].values() if row["conns"])
    assert row["conns"] == 3
    assert {one["state"] for one in live["conns"]} == {"LISTEN", "ESTABLISHED"}
    (tmp_path / "go").touch()
    job = client.final(id)
    assert job["disk"]["total"] > 1_000_000
    assert job["net"]["total"] > 0
    assert len(job["timelines"]["second"]) >= 2
    assert "procs" not in job
    assert "conns" not in job


# --- limits from outside ------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_sixty_launches_at_a_limit_of_three_never_overlap_more(
    client: Client, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    limits = [{"type": "job", "enabled": True, "amount": 3}]
    limits.append({"type": "queue", "enabled": True, "amount": 60})
    client.create("narrow", f"echo + >>{journal}; sleep 0.1; echo - >>{journal}", limits=limits)
    ids = [client.run("narrow") for _ in range(60)]
    assert [client.final(id)["code"] for id in ids] == [0] * 60
    level = most = 0
    for line in journal.read_text().split():
        level += 1 if line == "+" else -1
        most = max(most, level)
    assert (level, most) == (0, 3)


# --- when the runner dies -----------------------------------------------------------------------


def test_a_killed_runners_jobs_go_on_and_lose_nothing(
    client: Client, data_dir: Path, tmp_path: Path
) -> None:
    client.create("orphan", f"echo before; {until_file(tmp_path / 'go')}; echo after; exit 6")
    id = client.run("orphan")
    pid = client.active(id)["pid"]
    runner = int((data_dir / "run" / "runner.pid").read_text())
    os.kill(runner, signal.SIGKILL)
    assert alive(pid)
    (tmp_path / "go").touch()
    job = client.final(id)
    assert (job["code"], job["output"], job["pid"]) == (6, "before\nafter\n", pid)
