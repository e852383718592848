"""Actions through the API of a whole installation, its scheduler killed in between."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.stack import Stack, running_stack

PATIENCE = 30.0

Json = dict[str, Any]


class Client:
    """The API as its user calls it, and the process id of the scheduler."""

    def __init__(self, stack: Stack, data_dir: Path) -> None:
        self.stack = stack
        self.scheduler_pid = data_dir / "run" / "scheduler.pid"

    def post(self, name: str, **body: object) -> Json:
        url = f"{self.stack.url}/api/app/{name}/v1"
        key = {"X-API-Key": self.stack.admin_key}
        answer: Json = httpx.post(url, json=body, headers=key, timeout=10).json()
        assert answer["code"] == 0, answer
        return answer

    def create(self, id: str, script: str, **fields: object) -> None:
        event = {
            "id": id,
            "title": id,
            "enabled": True,
            "category": "general",
            "targets": ["main"],
            "algo": "random",
            "plugin": "shellplug",
            "params": {"script": f"#!/bin/sh\n{script}\n"},
            "triggers": [{"type": "manual", "enabled": True}],
        }
        self.post("create_event", **(event | fields))

    def run(self, event: str, **fields: object) -> str:
        return str(self.post("run_event", id=event, **fields)["id"])

    def job(self, id: str, state: Callable[[Json], object]) -> Json:
        """The job as soon as it is as wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.stack.get("get_job", id=id).json()
            job: Json = answer.get("job") or {}
            if job and state(job):
                return job
            assert time.monotonic() < deadline, f"not within {PATIENCE:g} s; last seen: {answer}"
            time.sleep(0.02)

    def final(self, id: str) -> Json:
        return self.job(id, lambda job: job.get("final"))

    def kill_scheduler(self) -> None:
        """kill -9; whoever supervises it starts another one."""
        os.kill(int(self.scheduler_pid.read_text()), signal.SIGKILL)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    data_dir = tmp_path_factory.mktemp("acting") / "data"
    with running_stack(data_dir) as stack:
        yield Client(stack, data_dir)


def action(type: str, condition: str, **fields: object) -> Json:
    return {"type": type, "condition": condition, "enabled": True} | fields


def test_a_suspended_job_outlives_its_scheduler_and_runs_with_new_params(client: Client) -> None:
    client.create("held", "exit 7", actions=[action("suspend", "start", users=[])])
    job = client.run("held")
    client.job(job, lambda job: job.get("suspended"))

    client.kill_scheduler()
    client.post("resume_job", id=job, params={"script": "#!/bin/sh\necho went on\n"})

    end = client.final(job)
    assert end["code"] == 0
    assert "went on" in end["output"]
    [suspend] = end["actions"]
    assert suspend["code"] == 0
    assert suspend["description"].startswith("Job was resumed by")


def test_the_next_event_gets_the_data_of_the_one_before(client: Client) -> None:
    client.create("second", 'echo "got $data_answer"')
    script = 'echo \'{"xy":1,"code":0,"data":{"answer":42}}\''
    client.create("first", script, actions=[action("run_event", "success", event_id="second")])

    end = client.final(client.run("first"))
    [link] = end["jobs"]
    child = client.final(link["id"])

    assert link["reason"] == "action"
    assert child["source"] == "action"
    assert child["parent"]["job"] == end["id"]
    assert child["input"]["data"] == {"answer": 42}
    assert "got 42" in child["output"]


def test_every_attempt_has_the_input_and_only_the_last_fires_actions(client: Client) -> None:
    limits = [{"type": "retry", "enabled": True, "amount": 1}]
    tag = {"id": "late", "title": "late"}
    client.post("create_tag", **tag)
    client.create(
        "failing",
        'echo "with $data_x"; exit 5',
        limits=limits,
        actions=[action("tag", "error", tags=["late"]), action("label", "start", label="run")],
    )

    first = client.final(client.run("failing", input={"data": {"x": "input"}}))
    [link] = first["jobs"]
    last = client.final(link["id"])

    assert (first["code"], first["retried"], link["reason"]) == (5, True, "retry")
    assert "late" not in first["tags"]
    assert "with input" in first["output"]
    assert last["retry_count"] == 1
    assert "late" in last["tags"]
    assert "with input" in last["output"]
    assert first["label"] == last["label"] == "run"


def test_a_time_limit_ends_a_job_that_runs_too_long(client: Client) -> None:
    limits = [{"type": "time", "enabled": True, "duration": 1, "abort": True}]
    client.create("slow", "sleep 600", limits=limits)

    end = client.final(client.run("slow"))

    assert (end["code"], end["retry_ok"]) == ("abort", True)
    assert end["description"] == "Job elapsed time has exceeded maximum limit of 1 second."
    assert end["limits"][0]["msg"] == end["description"]
    assert end["limits"][0]["date"] > end["started"]


def test_a_log_limit_sees_what_the_job_writes(client: Client) -> None:
    limits = [{"type": "log", "enabled": True, "amount": 1000, "abort": True}]
    client.create("chatty", "while :; do echo text text text; sleep 0.01; done", limits=limits)

    end = client.final(client.run("chatty"))

    assert end["description"] == "Job output size has exceeded maximum limit of 1000 bytes."


def test_an_event_that_disables_itself_runs_once(client: Client) -> None:
    client.create("once", "true", actions=[action("disable", "complete")])
    client.final(client.run("once"))

    event = client.stack.get("get_event", id="once").json()["event"]

    assert event["enabled"] is False


def test_a_process_has_its_job_labelled_while_it_runs(client: Client) -> None:
    push = '{"xy":1,"push":{"actions":[{"type":"label","condition":"instant","enabled":true,'
    push += '"label":"half way of {{ event }}"}]}}'
    client.create("pushing", f"echo '{push}'; exec sleep 600")
    job = client.run("pushing")

    seen = client.job(job, lambda job: job.get("label"))
    client.post("abort_job", id=job)
    end = client.final(job)

    assert (seen["state"], seen["label"]) == ("active", "half way of pushing")
    assert end["code"] == "abort"
    assert end["label"] == "half way of pushing"
    [action] = [a for a in end["actions"] if a.get("source") == "job"]
    assert action["code"] == 0


def test_a_memory_limit_sees_what_the_job_holds(client: Client) -> None:
    limits = [{"type": "mem", "enabled": True, "amount": 1, "duration": 1, "abort": True}]
    client.create("hungry", "sleep 600", limits=limits)

    end = client.final(client.run("hungry"))

    assert end["description"] == (
        "Job memory usage has exceeded maximum limit of 1 byte for 1 second."
    )
