"""The API as its user calls it, with the waiting that tests need. Knows nothing of the inside."""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.contract.stack import Stack

Json = dict[str, Any]

PATIENCE = 30.0
_POLL = 0.02


@dataclass
class Client:
    """A caller with the admin key."""

    stack: Stack
    http: httpx.Client

    def call(self, name: str, body: Json | None = None, **fields: Any) -> Json:
        """The reply to a call, whatever its code."""
        reply = self.http.post(f"/api/app/{name}/v1", json=(body or {}) | fields)
        answer: Json = reply.json()
        return answer

    def ok(self, name: str, body: Json | None = None, **fields: Any) -> Json:
        """The reply to a call that must succeed."""
        answer = self.call(name, body, **fields)
        assert answer["code"] == 0, (name, answer)
        return answer

    def create(self, id: str, script: str = "true", **fields: Any) -> str:
        """An event that runs a shell script (or another plugin, with `plugin` and `params`)."""
        event: Json = {
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
        self.ok("create_event", event | fields)
        return id

    def run(self, event: str, **fields: Any) -> str:
        """Launch the event; the job's id."""
        return str(self.ok("run_event", id=event, **fields)["id"])

    def job(self, id: str, state: Callable[[Json], object] = bool) -> Json:
        """The job as soon as it is as wanted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.call("get_job", id=id)
            job: Json = answer.get("job") or {}
            if job and state(job):
                return job
            assert time.monotonic() < deadline, f"not within {PATIENCE:g} s, last seen: {answer}"
            time.sleep(_POLL)

    def active(self, id: str) -> Json:
        """The job as soon as its process runs."""
        return self.job(id, lambda job: job["state"] == "active")

    def final(self, id: str) -> Json:
        """The job's final record."""
        return self.job(id, lambda job: job.get("final"))

    def finished(self, event: str, **fields: Any) -> Json:
        """Launch the event and wait for the final record."""
        return self.final(self.run(event, **fields))

    def log(self, id: str) -> bytes:
        """The job's log; empty if there is none."""
        reply = self.http.get("/api/app/get_job_log/v1", params={"id": id})
        assert reply.status_code in (200, 204), reply.text
        return reply.content

    def raw_log(self, id: str) -> bytes:
        """The log as it is on the wire, unpacked by hand."""
        params = {"id": id}
        with self.http.stream("GET", "/api/app/get_job_log/v1", params=params) as reply:
            assert reply.headers["content-encoding"] == "gzip"
            return gzip.decompress(b"".join(reply.iter_raw()))

    @contextmanager
    def stream(self, id: str, **params: str) -> Iterator[Iterator[tuple[str, Json]]]:
        """The server-sent events of a job, as they come."""
        url = "/api/app/stream_job/v1"
        with self.http.stream("GET", url, params={"id": id} | params) as reply:
            assert reply.status_code == 200, reply.read()
            yield _events(reply.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Json]]:
    for line in lines:
        name = line.removeprefix("event: ")
        data = next(lines).removeprefix("data: ")
        assert next(lines) == ""
        yield name, json.loads(data)


def until(condition: Callable[[], Any], otherwise: str) -> Any:
    """What the condition gives once it holds."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {otherwise}"
        time.sleep(_POLL)
