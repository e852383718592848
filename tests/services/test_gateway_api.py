"""The gateway's conventions, on a real ledger: api.md 1, design.md 4."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from domain.facts import (
    Actor,
    JobAssigned,
    JobCompleted,
    JobDelayed,
    JobRequested,
    JobStarted,
    SessionStarted,
)
from services.gateway.auth import session_hash
from services.gateway.gateway import TRIES
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from services.ledger.secrets import csrf_token
from services.ledger.streams import ensure_streams
from tests.services.gateway_kit import EVENT, NOW, Api, running_gateway
from tests.services.wire import until

SYSTEM = Actor(type="system", id="test")
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def api(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Api]:
    async with running_gateway(ledger, tmp_path) as running:
        yield running


# --- paths and methods -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["ping", "ping/v1", "ping/v27"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_version_is_optional_and_both_methods_work(
    api: Api, path: str, method: str
) -> None:
    reply = await api.client.request(method, f"/api/app/{path}")
    assert (reply.status_code, reply.text) == (200, '{"code":0}\n')


@pytest.mark.parametrize("path", ["nope", "nope/v1", "ping/latest", "ping/v1/wait", "ping/v1/a/b"])
async def test_an_unknown_name_has_the_number_one_as_its_code(api: Api, path: str) -> None:
    reply = await api.client.get(f"/api/app/{path}")
    assert reply.status_code == 200
    assert reply.json()["code"] == 1


async def test_an_error_has_its_own_status_only_under_a_version(api: Api) -> None:
    for name, code, status in [("get_event", "api", 400), ("error", "test", 500)]:
        versioned, plain = await api.call(f"{name}/v1"), await api.call(name)
        assert (versioned.status_code, versioned.json()["code"]) == (status, code)
        assert (plain.status_code, plain.json()["code"]) == (200, code)


async def test_head_has_the_headers_of_get_and_no_body(api: Api) -> None:
    reply = await api.client.head("/api/app/get_events/v1")
    assert (reply.status_code, reply.content) == (200, b"")
    assert int(reply.headers["content-length"]) > 0


async def test_a_preflight_is_answered_for_any_origin(api: Api) -> None:
    reply = await api.client.options(
        "/api/app/run_event/v1",
        headers={"Origin": "https://page.test", "Access-Control-Request-Headers": "x-api-key"},
    )
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["access-control-allow-origin"] == "https://page.test"
    assert reply.headers["access-control-allow-headers"] == "x-api-key"
    assert reply.headers["access-control-max-age"] == "1728000"


# --- replies ---------------------------------------------------------------------------------


async def test_pretty_replies_are_indented_with_tabs(api: Api) -> None:
    reply = await api.client.get("/api/app/get_events/v1?pretty=1")
    assert reply.text.startswith('{\n\t"code": 0,')


async def test_large_replies_are_compressed_only_when_accepted(api: Api) -> None:
    await api.ok("create_event", EVENT | {"notes": "x" * 5000})
    url = "/api/app/get_events/v1"
    plain = await api.client.get(url, headers={"Accept-Encoding": "identity"})
    refused = await api.client.get(url, headers={"Accept-Encoding": "gzip;q=0"})
    packed = await api.client.get(url, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in refused.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json() == plain.json()


async def test_replies_to_known_callers_are_private(api: Api) -> None:
    reply = await api.call("get_events/v1")
    assert reply.headers["cache-control"] == "private, no-store"


# --- parameters ------------------------------------------------------------------------------


async def test_forms_queries_and_json_say_the_same(api: Api) -> None:
    fields = {"title": "Form", "enabled": "1", "category": "general", "targets": "main, other"}
    fields |= {"plugin": "shellplug", "algo": "random", "params": '{"script": "true"}'}
    form = await api.client.post("/api/app/create_event/v1", data=fields)
    query = await api.client.get("/api/app/create_event/v1", params=fields)
    parts = await api.client.post(
        "/api/app/create_event/v1", files={k: (None, v) for k, v in fields.items()}
    )
    for reply in (form, query, parts):
        event = reply.json()["event"]
        assert event["enabled"] is True
        assert event["targets"] == ["main", "other"]
        assert event["params"] == {"script": "true"}


async def test_the_query_wins_except_when_running_an_event(api: Api) -> None:
    await api.ok("create_event", EVENT)
    await api.ok("create_event", EVENT | {"id": "other", "title": "Other"})
    seen = await api.client.post("/api/app/get_event/v1?id=other", json={"id": "backup"})
    ran = await api.client.post("/api/app/run_event/v1?id=other", json={"id": "backup"})
    assert seen.json()["event"]["id"] == "other"
    job = api.gateway.views.active.jobs[ran.json()["id"]]
    assert job.event == "backup"


@pytest.mark.parametrize(
    "body",
    [
        b"{bad",
        b'{"id": NaN}',
        b'{"id": "a\\u0000b"}',
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b"[" * 100_000,
        b'{"id": "\xff"}',
        b'{"x": 1e999}',
        b'{"__proto__": 1}',
        b'{"id": 5}',
    ],
)
async def test_what_cannot_be_read_is_refused(api: Api, body: bytes) -> None:
    reply = await api.client.post(
        "/api/app/get_events/v1", content=body, headers={"Content-Type": "application/json"}
    )
    assert (reply.status_code, reply.json()["code"]) == (400, "api")


@pytest.mark.parametrize("body", [b"", b"  \n", b"[1,2]", b'"text"'])
async def test_a_body_that_is_no_object_counts_as_empty(api: Api, body: bytes) -> None:
    reply = await api.client.post(
        "/api/app/get_events/v1", content=body, headers={"Content-Type": "application/json"}
    )
    assert reply.json()["code"] == 0


async def test_credentials_are_told_apart_from_parameters(api: Api) -> None:
    key = api.client.headers.pop("X-API-Key")
    await api.ok("create_event", EVENT | {"api_key": key})
    assert "api_key" not in api.gateway.views.definitions.events["backup"].record
    job = (await api.ok("run_event", {"id": "backup", "api_key": key, "cachebust": "1"}))["id"]
    request = api.gateway.views.active.jobs[job].request
    assert key not in repr(request)
    assert request.overrides == {}


async def test_a_body_above_the_limit_is_refused(api: Api) -> None:
    api.gateway.settings = replace(api.gateway.settings, max_body=1000)
    reply = await api.call("get_events/v1", {"x": "y" * 2000})
    assert (reply.status_code, reply.json()["code"]) == (413, "api")


# --- who may what ----------------------------------------------------------------------------


async def test_unknown_callers_learn_nothing_about_their_parameters(api: Api) -> None:
    for body in ({}, {"id": 5}):
        assert await api.code("get_event", body, X_API_Key="unknown") == "session"


async def test_parameters_are_looked_at_before_privileges(api: Api) -> None:
    key = (await api.ok("create_api_key", {"title": "reader"}))["plain_key"]
    assert await api.code("abort_job", {}, X_API_Key=key) == "api"
    assert await api.code("abort_job", {"id": "jnone"}, X_API_Key=key) == "access"
    assert await api.code("abort_job", {"id": "jnone"}) == "job"


async def test_a_key_may_be_used_so_often_within_a_second(api: Api) -> None:
    key = (await api.ok("create_api_key", {"title": "slow", "max_per_sec": 2}))["plain_key"]
    codes = [await api.code("get_events", X_API_Key=key) for _ in range(3)]
    api.clock.now += 1
    assert [*codes, await api.code("get_events", X_API_Key=key)] == [0, 0, "rate", 0]


async def test_keys_are_shown_once_and_never_again(api: Api) -> None:
    made = await api.ok("create_api_key", {"title": "once", "key": "mine"})
    listed = (await api.call("get_api_keys/v1")).text
    assert made["api_key"]["key"] == "REDACTED"
    assert made["plain_key"] not in listed
    assert '"REDACTED"' in listed


async def test_a_session_wins_over_a_key_and_needs_its_token_to_change_things(api: Api) -> None:
    session = "5" * 64
    await api.account("admin_update", {"username": "admin", "force_password_reset": False})
    await api.record(
        SessionStarted(
            at=NOW, actor=SYSTEM, id="admin", session=session_hash(session), expires=NOW + 60
        )
    )
    token = csrf_token(api.gateway.secret, session)
    cookie = {"Cookie": f"session_id={session}"}
    list_url, change_url = "/api/app/get_events/v1", "/api/app/create_tag/v1?title=x"
    assert (await api.client.get(list_url, headers=cookie)).json()["code"] == 0
    assert (await api.client.post(list_url, headers=cookie)).json()["code"] == "session"
    assert (await api.client.get(change_url, headers=cookie)).json()["code"] == "session"
    with_token = cookie | {"X-CSRF-Token": token}
    assert (await api.client.get(change_url, headers=with_token)).json()["code"] == 0
    unknown = {"X-Session-ID": "6" * 64}
    assert (await api.client.get(list_url, headers=unknown)).json()["code"] == "session"


# --- writing and reading ---------------------------------------------------------------------


async def test_a_write_tells_its_sequence_and_a_read_waits_for_it(api: Api) -> None:
    reply = await api.call("create_event/v1", EVENT)
    sequence = int(reply.headers["x-ledger-seq"])
    seen = await api.call("get_events/v1", X_Ledger_Min_Seq=str(sequence))
    assert seen.json()["list"]["length"] == 1
    assert await api.code("get_events", X_Ledger_Min_Seq="soon") == "api"


async def test_a_repeated_command_has_one_effect_and_the_same_reply(api: Api) -> None:
    await api.ok("create_event", EVENT)
    first = await api.ok("run_event", {"id": "backup"}, Idempotency_Key="k1")
    again = await api.ok("run_event", {"id": "backup"}, Idempotency_Key="k1")
    other = await api.ok("run_event", {"id": "backup"}, Idempotency_Key="k2")
    assert first["id"] == again["id"] != other["id"]
    assert len(api.gateway.views.active.jobs) == 2


async def test_commands_repeated_at_the_same_time_have_one_effect(api: Api) -> None:
    body = {key: value for key, value in EVENT.items() if key != "id"}
    replies = await asyncio.gather(
        *(api.ok("create_event", body, Idempotency_Key="same") for _ in range(5))
    )
    assert len({reply["event"]["id"] for reply in replies}) == 1
    assert len(api.gateway.views.definitions.events) == 1


async def test_a_repeated_change_of_several_records_has_one_effect(api: Api) -> None:
    await api.ok("create_category", {"id": "one", "title": "One"})
    body = {"items": [{"id": "general", "sort_order": 5}, {"id": "one", "sort_order": 6}]}
    for _ in range(2):
        await api.ok("multi_update_category", body, Idempotency_Key="same")
    record = api.gateway.views.definitions.record("category", "one")
    assert record is not None
    assert record["revision"] == 2
    twice = {"items": [{"id": "one", "notes": "a"}, {"id": "one", "color": "red"}]}
    assert await api.code("multi_update_category", twice) == "api"


async def test_a_key_of_one_magic_link_says_nothing_of_another(api: Api) -> None:
    for id in ("one", "two"):
        trigger = {"type": "magic", "enabled": True, "key": f"link-{id}"}
        await api.ok("create_event", EVENT | {"id": id, "triggers": [trigger]})
    same = {"Idempotency-Key": "1"}
    links = ["link-one", "link-one", "link-two"]
    replies = [await api.client.get(f"/api/app/magic/v1/{link}", headers=same) for link in links]
    first, again, other = [reply.json()["id"] for reply in replies]
    assert first == again != other
    assert api.gateway.views.active.jobs[other].event == "two"


@pytest.mark.parametrize("digits", [308, 309, 401])
async def test_a_number_that_no_double_can_hold_is_refused(api: Api, digits: int) -> None:
    """A macro on it would end every fold of its job."""
    await api.ok("create_event", EVENT)
    number = f'{{"id":"backup","params":{{"n":{"9" * digits},"s":"{{{{ params.n }}}}"}}}}'
    reply = await api.client.post("/api/app/run_event/v1", content=number, headers=JSON)
    assert reply.json()["code"] == (0 if digits == 308 else "api")
    text = {"id": "backup", "params": {"n": "9" * digits}}
    assert await api.code("run_event", text) == 0


async def test_changes_at_the_same_time_are_all_made(api: Api) -> None:
    """Far more of them than a change has tries: they wait for each other."""
    many = 5 * TRIES
    await api.ok("create_event", EVENT)
    await asyncio.gather(
        *(api.ok("update_event", {"id": "backup", f"key{n}": n}) for n in range(many))
    )
    event = api.gateway.views.definitions.events["backup"].record
    assert event["revision"] == 1 + many
    assert all(event[f"key{n}"] == n for n in range(many))


async def test_an_id_can_be_used_again_after_its_deletion(api: Api) -> None:
    for _ in range(2):
        await api.ok("create_event", EVENT)
        await api.ok("delete_event", {"id": "backup"})
    rows = await api.ok("search_revision_history", {"type": "events", "limit": 10})
    assert [row["action"] for row in rows["rows"]] == ["event_delete", "event_create"] * 2


async def test_an_old_revision_can_be_had_again(api: Api) -> None:
    await api.ok("create_event", EVENT)
    await api.ok("update_event", {"id": "backup", "title": "Changed"})
    event = (await api.ok("revert_event", {"id": "backup", "revision": 1}))["event"]
    assert (event["title"], event["revision"]) == ("Backup", 3)


async def test_an_event_can_be_seen_as_it_was(api: Api) -> None:
    made = await api.call("create_event/v1", EVENT)
    await api.ok("update_event", {"id": "backup", "title": "Changed"})
    then = await api.ok("get_event", {"id": "backup", "seq": int(made.headers["x-ledger-seq"])})
    assert then["event"]["title"] == "Backup"


# --- jobs ------------------------------------------------------------------------------------


async def test_live_lists_filter_and_page(api: Api) -> None:
    await api.ok("create_event", EVENT)
    ids = []
    for _ in range(3):
        api.clock.now += 1
        ids.append((await api.ok("run_event", {"id": "backup", "params": {"n": 5}}))["id"])
    page = {"sort_dir": 1, "limit": 1, "offset": 1}
    found = await api.ok("get_active_jobs", {"event": "backup", "params.n": "5"} | page)
    assert ([row["id"] for row in found["rows"]], found["list"]["length"]) == ([ids[1]], 3)
    assert (await api.ok("get_active_jobs", {"state": "nonsense"}))["rows"] == []
    assert await api.code("get_active_jobs", {"limit": -1}) == "api"
    summary = (await api.ok("get_active_job_summary"))["events"]["backup"]
    assert summary["states"] == {"ready": 3}
    assert summary["sources"] == {"key": 3}


async def test_live_lists_hide_invisible_jobs_unless_an_administrator_asks_for_them(
    api: Api,
) -> None:
    await api.ok("create_event", EVENT)
    run = await api.call("run_event/v1", {"id": "backup", "invisible": True})
    job, sequence = run.json()["id"], int(run.headers["x-ledger-seq"])

    assert (await api.ok("get_active_jobs"))["rows"] == []
    assert (await api.ok("get_active_jobs", {"event": "backup", "seq": sequence}))["rows"] == []
    assert (await api.ok("get_active_job_summary"))["events"] == {}
    assert (await api.ok("get_job", {"id": job}))["job"]["invisible"] is True

    made = await api.ok("create_api_key", {"title": "Viewer", "privileges": {}})
    for key, ids in ({}, [job]), ({"X_API_Key": made["plain_key"]}, []):
        found = await api.ok("get_active_jobs", {"invisible": True}, **key)
        summary = await api.ok("get_active_job_summary", {"invisible": True}, **key)
        assert [row["id"] for row in found["rows"]] == ids
        assert list(summary["events"]) == ["backup"] * len(ids)


async def test_the_brake_holds_for_a_minute_of_the_clock(api: Api) -> None:
    """Given two launches of two at a minute's end, when the next begins, then it lets more pass."""
    api.gateway.settings = replace(api.gateway.settings, max_jobs_per_min=2)
    await api.ok("create_event", EVENT)
    api.clock.now = NOW + 58
    for code in (0, 0, "event"):
        assert await api.code("run_event", {"id": "backup"}) == code
    api.clock.now = NOW + 60
    for code in (0, 0, "event"):
        assert await api.code("run_event", {"id": "backup"}) == code


async def test_cron_text_is_read_as_saving_it_would(api: Api) -> None:
    """Given cron text, when it is read, then the triggers are those that an event stores."""
    cron = {"cron": "0 22-2 1 * fri", "timezone": "Europe/Berlin", "days_rule": "either"}
    read = (await api.ok("cron_to_trigger", cron | {"title": "Backup"}))["triggers"]
    triggers = [{"type": "schedule", "enabled": True} | cron]
    event = (await api.ok("create_event", EVENT | {"triggers": triggers}))["event"]
    assert read == event["triggers"]
    assert [(t["hours"], t.get("days"), t.get("weekdays")) for t in read] == [
        ([0, 1, 2, 22, 23], [1], None),
        ([0, 1, 2, 22, 23], None, [5]),
    ]
    assert (await api.ok("cron_to_trigger", {"cron": "@daily"}))["triggers"] == [
        {"type": "schedule", "enabled": True, "hours": [0], "minutes": [0]}
    ]
    for text in ("0 0 1 * fri", "*/0 * * * *", "1 2 3", "5/10 * * * *", " "):
        assert await api.code("cron_to_trigger", {"cron": text}) == "api"
    assert await api.code("cron_to_trigger", {"cron": "@daily", "timezone": "Mars/One"}) == "api"


async def test_an_event_shows_its_active_jobs_but_no_invisible_ones(api: Api) -> None:
    """Given two active jobs, one invisible, when the event is looked at, then one is shown."""
    await api.ok("create_event", EVENT)
    jobs = []
    for invisible in (False, True):
        job = (await api.ok("run_event", {"id": "backup", "invisible": invisible}))["id"]
        jobs.append(job)
        order = await api.record(
            JobAssigned(
                at=NOW,
                actor=SYSTEM,
                server="s1",
                boot="b1",
                event="backup",
                job=job,
                attempt=1,
                made_of=api.gateway.views.active.jobs[job].request.made_of,
            )
        )
        await api.record(
            JobStarted(
                at=NOW,
                actor=SYSTEM,
                server="s1",
                boot="b1",
                event="backup",
                job=job,
                order=order.sequence,
                pid=1,
                started=NOW,
            )
        )
    shown = (await api.ok("get_event", {"id": "backup"}))["jobs"]
    assert [job["id"] for job in shown] == jobs[:1]


async def test_a_day_in_a_search_is_one_of_the_configured_zone(api: Api) -> None:
    """Given a job that ended at 08:00 UTC, when Hawaii's zone is configured, then a day earlier."""
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    await api.record(
        JobCompleted(at=NOW, actor=SYSTEM, event="backup", job=job, code=0, description="")
    )
    query = {"query": "date:2027-01-14"}
    assert (await api.ok("search_jobs", query))["list"]["length"] == 0
    await api.ok("admin_update_config", {"timezone": "Pacific/Honolulu"})
    assert (await api.ok("search_jobs", query))["list"]["length"] == 1


async def test_live_jobs_can_be_seen_as_they_were(api: Api) -> None:
    await api.ok("create_event", EVENT)
    run = await api.call("run_event/v1", {"id": "backup"})
    job, sequence = run.json()["id"], int(run.headers["x-ledger-seq"])
    await api.record(
        JobCompleted(at=NOW + 1, actor=SYSTEM, event="backup", job=job, code=0, description="Fine")
    )
    await api.ok("manage_job_tags", {"id": job, "tags": ["later"]})
    for seq, rows in ((sequence - 1, []), (sequence, [job]), (sequence + 1, [])):
        found = await api.ok("get_active_jobs", {"seq": seq})
        assert [row["id"] for row in found["rows"]] == rows
    then = await api.ok("get_job", {"id": job, "seq": sequence})
    ended = await api.ok("get_job", {"id": job, "seq": sequence + 1})
    assert (then["job"]["state"], ended["job"]["state"]) == ("ready", "complete")
    assert ended["job"]["tags"] != ["later"]
    assert await api.code("get_job", {"id": job, "seq": sequence - 1}) == "notfound"
    assert await api.code("get_job", {"id": job, "at": 5}) == "notfound"


async def test_only_delayed_jobs_can_skip_a_delay(api: Api) -> None:
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    assert await api.code("job_skip_delay", {"id": job}) == "job"
    delay = JobDelayed(at=NOW, actor=SYSTEM, event="backup", job=job, until=NOW + 60)
    await api.record(delay)
    assert await api.code("job_skip_delay", {"id": job}) == 0
    assert api.gateway.views.active.jobs[job].until == NOW


async def test_who_waits_for_a_job_gets_its_final_record(api: Api) -> None:
    made = await api.call("create_event/v1", EVENT)
    waiting = asyncio.create_task(api.call("run_event/v1/wait", {"id": "backup"}))
    assert await api.gateway.reached(int(made.headers["x-ledger-seq"]) + 1)
    job = next(iter(api.gateway.views.active.jobs))
    end = JobCompleted(
        at=NOW + 1, actor=SYSTEM, event="backup", job=job, code="abort", description="Too late"
    )
    await api.record(end)
    async with asyncio.timeout(5):
        record = (await waiting).json()["job"]
    assert (record["id"], record["final"], record["code"]) == (job, True, "abort")
    assert record["output"] == "Too late\n"
    again = await api.ok("get_job", {"id": job})
    assert again["job"] == record


async def test_an_ephemeral_job_leaves_nothing_to_change(api: Api) -> None:
    """Given a finished ephemeral job, when it is to change, then that is refused and it stays."""
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup", "ephemeral": True}))["id"]
    await api.record(
        JobCompleted(at=NOW, actor=SYSTEM, event="backup", job=job, code=0, description="")
    )
    before = (await api.ok("get_job", {"id": job}))["job"]
    assert before["ephemeral"]

    for name, change in (
        ("manage_job_tags", {"tags": ["mine"]}),
        ("update_job", {"label": "Mine"}),
        ("delete_job_file", {"path": "files/x"}),
    ):
        reply = (await api.call(f"{name}/v1", {"id": job} | change)).json()
        assert reply["code"] == "job"
        assert "ephemeral" in reply["description"]

    assert (await api.ok("get_job", {"id": job}))["job"] == before


async def test_overrides_are_for_this_run_and_only_what_may_be_overridden(api: Api) -> None:
    await api.ok("create_event", EVENT)
    sent = {"id": "backup", "notes": "now", "params": {"a": 1}, "uid": "root", "state": "x"}
    job = (await api.ok("run_event", sent | {"source": "me", "priority": True}))["id"]
    request = api.gateway.views.active.jobs[job].request
    assert isinstance(request, JobRequested)
    assert request.overrides == {"notes": "now", "params": {"a": 1}}
    assert (request.priority, request.source) == (True, "key")


async def test_the_body_can_be_kept_whole(api: Api) -> None:
    await api.ok("create_event", EVENT)
    reply = await api.client.post(
        "/api/app/run_event/v1?id=backup&post_data=1&params/a=5", json={"id": "zzz", "x": 1}
    )
    request = api.gateway.views.active.jobs[reply.json()["id"]].request
    assert request.overrides == {"post_data": {"id": "zzz", "x": 1}, "params": {"a": "5"}}


async def test_uploaded_files_become_input(api: Api) -> None:
    await api.ok("create_event", EVENT)
    reply = await api.client.post(
        "/api/app/run_event/v1",
        data={"json": '{"id": "backup", "input": {"data": {"n": 1}}}'},
        files={"file": ("../../etc/data.txt", b"hello" * 1000)},
    )
    given = api.gateway.views.active.jobs[reply.json()["id"]].request.input
    assert given is not None
    assert given["data"] == {"n": 1}
    assert [(f["filename"], f["size"]) for f in given["files"]] == [("data.txt", 5000)]


async def test_an_uploaded_file_without_bytes_is_refused(api: Api) -> None:
    await api.ok("create_event", EVENT)
    reply = await api.client.post(
        "/api/app/run_event/v1", data={"id": "backup"}, files={"file": ("empty.txt", b"")}
    )
    assert reply.json()["code"] == "api"


async def test_a_stream_of_a_finished_job_is_start_final_end(api: Api) -> None:
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    await api.record(
        JobCompleted(at=NOW + 1, actor=SYSTEM, event="backup", job=job, code=0, description="Fine")
    )
    reply = await api.client.get(f"/api/app/stream_job/v1?id={job}")
    names = [line for line in reply.text.split("\n") if line.startswith("event: ")]
    assert names == ["event: start", "event: update", "event: end"]
    assert reply.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("delete_api_key", {}),
        ("update_api_key", {"active": False}),
        ("update_api_key", {"categories": ["other"]}),
    ],
)
async def test_a_stream_ends_when_its_reader_may_not_see_the_job_any_more(
    api: Api, change: str, named: dict[str, Any]
) -> None:
    await api.ok("create_event", EVENT)
    made = await api.ok("create_api_key", {"title": "Reader"})
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    headers = {"X-API-Key": made["plain_key"]}
    stream = asyncio.create_task(
        api.client.get(f"/api/app/stream_job/v1?id={job}", headers=headers)
    )
    await until(lambda: job in api.gateway.views._watches, "nobody watches the job")

    await api.ok(change, {"id": made["api_key"]["id"]} | named)

    async with asyncio.timeout(10):
        reply = await stream
    assert "event: update" in reply.text
    assert "event: end" not in reply.text


async def test_a_finished_job_without_log_has_none_to_send(api: Api) -> None:
    await api.ok("create_event", EVENT)
    job = (await api.ok("run_event", {"id": "backup"}))["id"]
    reply = await api.client.get(f"/api/app/get_job_log/v1?id={job}")
    assert (reply.status_code, reply.content) == (204, b"")
    token = (await api.ok("get_job", {"id": job}))["token"]
    for given, status in ((token, 404), ("wrong", 403)):
        reply = await api.client.get(f"/api/app/download_job_log/v1?id={job}&t={given}")
        assert (reply.status_code, reply.headers["content-type"][:10]) == (status, "text/plain")


# --- documentation and readiness -------------------------------------------------------------


async def test_every_call_is_documented_with_nothing_from_elsewhere(api: Api) -> None:
    schema = (await api.client.get("/schema/openapi.json")).json()
    assert "/api/app/run_event/v1" in schema["paths"]
    assert len(schema["paths"]) > 60
    page = (await api.client.get("/schema")).text
    assert "http://" not in page
    assert "https://" not in page
    assert (await api.client.get("/schema/rapidoc-min.js")).status_code == 200


async def test_health_is_told_to_anybody(api: Api) -> None:
    reply = await api.client.get("/health", headers={"X-API-Key": ""})
    assert (reply.status_code, reply.json()) == (200, {"code": 0, "master": True})


async def test_without_nats_reads_go_on_and_writes_say_so(
    own_server: EmbeddedNats, tmp_path: Path
) -> None:
    async with Ledger.open(own_server.url, name="test") as ledger:
        await ensure_streams(ledger)
        async with running_gateway(ledger, tmp_path) as api:
            await api.ok("create_event", EVENT)
            await own_server.stop()
            assert (await api.ok("get_events"))["list"]["length"] == 1
            for path in ("run_event", "run_event/v1"):
                reply = await api.call(path, {"id": "backup"})
                assert (reply.status_code, reply.json()["code"]) == (503, "db")
            health = await api.client.get("/health")
            assert health.status_code == 503
            assert health.json()["description"]


async def test_compressed_text_is_one_gzip_member() -> None:
    from services.gateway.routes.logs import gzipped

    text = [b"first\n", b"".join(b"%d\n" % n for n in range(9_000)), b"", b"last\n"]

    async def parts() -> AsyncIterator[bytes]:
        for part in text:
            yield part

    packed = b"".join([part async for part in gzipped(parts())])
    member = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert member.decompress(packed) == b"".join(text)
    assert member.eof
    assert not member.unused_data


async def test_who_may_change_a_web_hook_sees_what_its_receiver_checks_with(api: Api) -> None:
    hook = {"id": "chat", "title": "Chat", "url": "http://127.0.0.1:9/hook"}
    made = (await api.call("create_web_hook", hook)).json()
    assert made["web_hook"]["method"] == "POST"
    again = (await api.call("get_web_hook", {"id": "chat"})).json()
    assert again["signing_key"] == made["signing_key"]
    assert (await api.call("update_web_hook", {"id": "chat", "retries": 2})).json()["code"] == 0
    assert (await api.call("get_web_hooks")).json()["rows"][0]["retries"] == 2
    assert (await api.call("delete_web_hook", {"id": "chat"})).json()["code"] == 0


async def test_what_is_configured_holds_for_all_jobs(api: Api) -> None:
    """Universal limits, actions and environment reach jobs that are requested from then on."""
    await api.ok("create_event", EVENT)
    assert (await api.ok("admin_get_config"))["config"] == {}
    limit = {"type": "time", "enabled": True, "duration": 3600, "abort": True}

    told = await api.ok("admin_update_config", {"limits": [limit], "job_env": {"SITE": "west"}})
    requested = await api.ok("run_event", {"id": EVENT["id"]})
    job = (await api.ok("get_job", {"id": requested["id"]}))["job"]

    assert told["config"] == (await api.ok("admin_get_config"))["config"]
    assert [(x["type"], x["source"]) for x in job["limits"]] == [("time", "universal")]
    assert job["env"] == {"SITE": "west"}


async def test_one_key_of_the_configuration_leaves_the_others_as_they_are(api: Api) -> None:
    await api.ok("admin_update_config", {"timezone": "Europe/Berlin"})
    config = (await api.ok("admin_update_config", {"dst_policy": "once"}))["config"]

    assert (config["timezone"], config["dst_policy"], config["revision"]) == (
        "Europe/Berlin",
        "once",
        2,
    )
    assert await api.code("admin_update_config", {"timezone": "Mars/Olympus"}) == "api"
    assert (await api.ok("admin_get_config"))["config"] == config


async def test_a_daily_limit_holds_for_magic_links_but_not_for_people(api: Api) -> None:
    magic = {"type": "magic", "enabled": True, "key": "open-sesame"}
    limit = {"type": "day", "enabled": True, "condition": "complete", "amount": 1}
    triggers = [*EVENT["triggers"], magic]
    await api.ok("create_event", EVENT | {"triggers": triggers, "limits": [limit]})
    link = "/api/app/magic/v1/open-sesame"
    assert (await api.client.get(link)).json()["code"] == 0  # live ones count as well
    refused = (await api.client.get(link)).json()
    text = "Maximum daily 'complete' count of 1 has been reached for event: backup"
    assert (refused["code"], refused["description"]) == ("event", text)
    await api.ok("run_event", {"id": "backup"})
