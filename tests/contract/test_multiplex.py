"""One job on every server: limits, retries, delays and ends of the children (execution.md 5.1)."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.client import Client, Json, until
from tests.contract.stack import running_stack
from tests.contract.test_jobs_on_servers import Site
from tests.contract.test_jobs_scenarios import until_file

pytestmark = pytest.mark.timeout(180)
SERVERS = ("m1", "m2", "m3")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    data_dir = tmp_path_factory.mktemp("multiplex") / "data"
    with running_stack(data_dir) as stack, ExitStack() as servers:
        key = {"X-API-Key": stack.admin_key}
        with httpx.Client(base_url=stack.url, headers=key, timeout=40) as http:
            client = Client(stack, http)
            client.ok("create_group", id="east", title="East", hostname_match="^none$")
            site = Site(client, data_dir)
            for id in SERVERS:
                servers.enter_context(site.server(id))
            yield client


def define(client: Client, id: str, script: str, **fields: Any) -> None:
    client.create(id, script, targets=["east"], algo="multiplex", **fields)


def children(client: Client, parent: str) -> list[Json]:
    found = client.ok("get_active_jobs", {"workflow.job": parent, "sort_by": "id", "sort_dir": 1})
    return list(found["rows"])


def results(job: Json) -> list[Json]:
    nodes: dict[str, list[Json]] = job["workflow"]["jobs"]
    (found,) = nodes.values()
    return found


def test_a_parents_progress_is_the_share_of_finished_children(
    client: Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    define(client, "shared", until_file(go))
    parent = client.run("shared")
    until(lambda: len(children(client, parent)) == 3, "three children")
    [first, second, _] = children(client, parent)
    assert client.job(parent, lambda job: job["state"] == "active")["progress"] == 0
    assert client.call("delete_job", id=first["id"])["code"] == "job"

    client.ok("abort_job", id=first["id"])
    client.final(first["id"])
    job = client.job(parent, lambda job: job["progress"] == 0.333)
    assert [child["code"] for child in results(job)] == ["abort"]
    assert client.call("delete_job", id=first["id"])["code"] == "job"

    go.touch()
    job = client.final(parent)
    assert (job["code"], job["progress"]) == ("warning", 1)
    assert {child["id"] for child in results(job)} >= {first["id"], second["id"]}
    client.ok("delete_job", id=first["id"])


def test_children_are_retried_each_for_itself_and_their_parent_is_not(client: Client) -> None:
    define(client, "retried", "exit 4", limits=[{"type": "retry", "enabled": True, "amount": 1}])
    parent = client.finished("retried")
    assert (parent["code"], parent.get("retried"), parent.get("jobs")) == (1, None, None)

    last = results(parent)
    assert {child["server"] for child in last} == set(SERVERS)
    assert {client.final(child["id"])["retry_count"] for child in last} == {1}
    jobs = client.ok("search_jobs", query="event:retried", limit=50)["list"]["length"]
    assert jobs == 1 + 2 * len(SERVERS)

    client.ok("delete_job", id=parent["id"])
    until(
        lambda: client.ok("search_jobs", query="event:retried")["list"]["length"] == 0,
        "earlier attempts are still there",
    )


def test_a_parent_without_servers_may_be_retried(client: Client) -> None:
    limits = [{"type": "retry", "enabled": True, "amount": 1}]
    client.create("lonely", targets=["nowhere"], algo="multiplex", limits=limits)
    first = client.finished("lonely")
    assert (first["code"], first["retried"]) == ("abort", True)
    [follower] = first["jobs"]
    assert client.final(follower["id"])["retry_count"] == 1


def test_stagger_delays_each_child_a_little_more(client: Client) -> None:
    define(client, "staggered", "true", stagger=1)
    parent = client.finished("staggered")
    assert parent["code"] == 0
    starts = sorted(client.final(child["id"])["started"] for child in results(parent))
    gaps = [after - before for before, after in pairwise(starts)]
    assert all(gap > 0.8 for gap in gaps), gaps


def test_limits_count_within_one_run_and_a_flushed_child_counts_as_aborted(
    client: Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    limits = [
        {"type": "job", "enabled": True, "amount": 1},
        {"type": "queue", "enabled": True, "amount": 9},
    ]
    define(client, "limited", until_file(go), limits=limits)
    parent = client.run("limited")
    until(
        lambda: [c["state"] for c in children(client, parent)].count("queued") == 2,
        "two queued children",
    )
    second = client.run("limited")
    client.job(second, lambda job: job["state"] == "queued")

    assert client.ok("flush_event_queue", id="limited")["count"] == 3
    go.touch()
    job = client.final(parent)
    assert sorted(str(child["code"]) for child in results(job)) == ["0", "abort", "abort"]
    assert job["code"] == "warning"
    assert client.call("get_job", id=second)["code"] == "notfound"


def test_an_aborted_parent_takes_its_waiting_children_along(client: Client) -> None:
    define(client, "aborted", "true", stagger=600)
    parent = client.run("aborted")
    until(
        lambda: [c["state"] for c in children(client, parent)] == ["start_delay"] * 2,
        "two delayed children",
    )
    client.ok("abort_job", id=parent)
    job = client.final(parent)
    assert job["code"] == "abort"
    assert sorted(str(child["code"]) for child in results(job)) == ["0", "abort", "abort"]


def test_an_expression_and_names_choose_the_servers(client: Client) -> None:
    define(client, "chosen", "true", expression="hostname != 'm2'")
    assert {child["server"] for child in results(client.finished("chosen"))} == {"m1", "m3"}
    named = client.finished("chosen", targets=["M3", "m1", "m3"], expression="")
    assert sorted(child["server"] for child in results(named)) == ["m1", "m3"]
