"""Events as their users define, change, run and delete them (api.md 3, 7, 8).

One whole installation for the module; every test uses events of its own.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.client import Client, Json, until
from tests.contract.player import parse_events
from tests.contract.stack import running_stack

EVENT: Json = {
    "title": "An event",
    "enabled": True,
    "category": "general",
    "targets": ["main"],
    "algo": "random",
    "plugin": "shellplug",
    "params": {"script": "#!/bin/sh\ntrue\n"},
}
WHO: Json = {"id": "who", "title": "Who", "type": "text", "value": "world", "regex": "^\\w+$"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running_stack(tmp_path_factory.mktemp("events") / "data") as stack:
        key = {"X-API-Key": stack.admin_key}
        with httpx.Client(base_url=stack.url, headers=key, timeout=40) as http:
            yield Client(stack, http)


@pytest.fixture
def anonymous(client: Client) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=client.stack.url, timeout=40) as http:
        yield http


def event(client: Client, id: str) -> Json:
    found: Json = client.ok("get_event", id=id)["event"]
    return found


def get(client: Client, path: str) -> Json:
    answer: Json = client.http.get(f"/api/app/{path}").json()
    return answer


def at_once(tries: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(tries) as pool:
        return list(pool.map(work, range(tries)))


# --- defining -----------------------------------------------------------------------------------


def test_what_the_server_sets_cannot_be_sent(client: Client) -> None:
    sent = {"username": "eve", "created": 1, "modified": 1, "revision": 9, "uid": "root"}
    client.ok("create_event", EVENT | sent | {"id": "mine", "colour": "red"})
    stored = client.ok("update_event", sent | {"id": "mine", "revision": 1, "notes": "x<b>y</b>"})

    kept = stored["event"]
    assert (kept["username"], kept["revision"], kept["notes"]) == ("admin", 2, "xy")
    assert kept["created"] > 1
    assert kept["colour"] == "red"
    assert "uid" not in kept


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": 5},
        {"title": " "},
        {"title": "a <b>"},
        {"title": "nul \0"},
        {"enabled": "true"},
        {"enabled": None},
        {"targets": []},
        {"targets": "main"},
        {"algo": "sideways"},
        {"algo": "monitor:none"},
        {"category": "nowhere"},
        {"plugin": "nothing"},
        {"tags": ["nothing"]},
        {"params": []},
        {"params": {"script": "x" * (5 << 20)}},
        {"params": {"_xy_override_uid": "root"}},
        {"params": {}},
        {"triggers": [{"type": "sometimes", "enabled": True}]},
        {"triggers": [{"type": "manual", "enabled": True}] * 2},
        {"triggers": [{"type": "interval", "enabled": True, "start": 1, "duration": -1}]},
        {"triggers": [{"type": "schedule", "enabled": True, "cron": "0 0 1 * mon"}]},
        {"limits": [{"type": "job", "amount": 1}]},
        {"limits": [{"type": "queue", "enabled": True, "amount": 1}]},
        {"actions": [{"type": "email", "enabled": True, "condition": "never"}]},
        {"fields": [{"id": "toString", "type": "text", "title": "T"}]},
        {"expression": "((("},
        {"icon": "a b"},
        {"type": "workflow"},
        {"update_state": {"robin": 1}},
        {"hasOwnProperty": 1},
        *({"id": id} for id in ("", "a.b", "a*", "a>b", "ä", "😀", "a\r\nb", "a\0b", 5, "x" * 129)),
    ],
    ids=lambda wrong: str(wrong)[:60].encode("ascii", "replace").decode().replace("\0", "NUL"),
)
def test_a_wrong_definition_is_refused_and_nothing_is_recorded(client: Client, wrong: Json) -> None:
    before = client.ok("search_revision_history", type="events", limit=1)["list"]["length"]

    answer = client.call("create_event", EVENT | {"id": "refused"} | wrong)

    assert answer["code"] == "api"
    assert answer["description"]
    assert client.call("get_event", id="refused")["code"] == "notfound"
    after = client.ok("search_revision_history", type="events", limit=1)["list"]["length"]
    assert before == after


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        json.dumps(EVENT)[:-1].encode() + b',"params":{"x":NaN}}',
        b"\xff\xfe{}",
        b'{"title":',
        b"[1]",
        b"",
    ],
    ids=["deep", "nan", "not utf-8", "cut", "no object", "empty"],
)
def test_a_body_that_cannot_be_read_is_refused_in_the_apis_form(
    client: Client, body: bytes
) -> None:
    headers = {"content-type": "application/json"}
    reply = client.http.post("/api/app/create_event/v1", content=body, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (400, "api")


def test_params_of_a_megabyte_work(client: Client) -> None:
    client.create("large", "echo fine\n# " + "x" * (1 << 20))
    assert client.finished("large")["output"] == "fine\n"


def test_values_that_come_as_text_are_brought_to_their_types(client: Client) -> None:
    form = {
        "id": "by_form", "title": "By form", "enabled": "1", "category": "general",
        "targets": "main, other", "plugin": "shellplug", "algo": "random",
        "params": '{"script":"true"}', "triggers": '[{"type":"manual","enabled":true}]',
    }  # fmt: skip
    created = client.http.post("/api/app/create_event/v1", data=form).json()["event"]
    assert (created["enabled"], created["targets"]) == (True, ["main", "other"])

    assert get(client, "update_event/v1?id=by_form&enabled=false")["event"]["enabled"] is False
    assert get(client, "update_event/v1?id=by_form&enabled=perhaps")["code"] == "api"
    assert get(client, "get_events/v1?enabled=0&id=by_form")["list"]["length"] == 1
    assert get(client, "get_events/v1?limit=many")["code"] == "api"


def test_events_are_listed_filtered_and_paged_in_order_of_creation(client: Client) -> None:
    ids = [client.create(f"listed{n}", notes=f"note {n % 2}", icon="listed") for n in range(5)]

    def listed(**parameters: Any) -> tuple[list[str], int]:
        answer = client.ok("get_events", icon="listed", **parameters)
        return [row["id"] for row in answer["rows"]], answer["list"]["length"]

    assert listed() == (ids, 5)
    assert listed(offset=1, limit=2) == (ids[1:3], 5)
    assert listed(notes="note 1") == (["listed1", "listed3"], 2)
    assert listed(enabled=1, revision="1") == (ids, 5)
    assert listed(limit=0) == (ids, 5)
    everything = client.ok("get_events")["list"]["length"]
    assert client.ok("get_events", limit=2, offset=everything - 1)["list"]["length"] == everything


# --- changing -----------------------------------------------------------------------------------


def test_of_creators_and_of_editors_of_one_revision_exactly_one_wins(client: Client) -> None:
    created = at_once(8, lambda n: client.call("create_event", EVENT | {"id": "race"})["code"])
    assert sorted(map(str, created)) == ["0"] + ["event"] * 7

    changes = at_once(8, lambda n: client.call("update_event", id="race", revision=1, title=str(n)))
    codes = [answer["code"] for answer in changes]
    assert sorted(map(str, codes)) == ["0"] + ["event"] * 7
    assert event(client, "race")["title"] == str(codes.index(0))
    assert event(client, "race")["revision"] == 2


def test_the_past_of_an_event_is_kept_shown_and_brought_back(client: Client) -> None:
    client.create("past", "echo one")
    then = time.time()
    until(lambda: time.time() > then + 0.01, "the clock stands still")
    reply = client.http.post(
        "/api/app/update_event/v1",
        json={"id": "past", "title": "Changed", "update_state": {"nth": 4}},
    )
    sequence = int(reply.headers["x-ledger-seq"])
    client.ok("update_event", id="past", enabled=False)

    history = client.ok("get_event_history", id="past", limit=10)
    assert [row["description"] for row in history["rows"]] == [
        "Updated enabled", "Updated title, nth", "Created",
    ]  # fmt: skip
    assert [row["event"]["revision"] for row in history["rows"]] == [3, 2, 1]
    assert all(row["date"] == row["epoch"] for row in history["rows"])
    first = client.ok("get_event_history", id="past")
    assert (len(first["rows"]), first["list"]["length"]) == (1, 3)
    oldest = client.ok("get_event_history", id="past", offset=1, limit=1, sort_dir=1)["rows"]
    assert oldest[0]["description"] == "Updated title, nth"

    assert client.ok("get_event", id="past", at=then)["event"]["title"] == "past"
    assert client.ok("get_event", id="past", seq=sequence)["event"]["enabled"] is True
    assert client.call("get_event", id="past", seq=sequence - 2)["code"] == "notfound"
    assert client.ok("get_event_history", id="past", at=then)["list"]["length"] == 1
    assert client.ok("get_event_history", id="past", seq=sequence)["list"]["length"] == 2

    reverted = client.ok("revert_event", id="past", revision=1)["event"]
    assert (reverted["title"], reverted["enabled"], reverted["revision"]) == ("past", True, 4)
    assert client.call("revert_event", id="past", revision=99)["code"] == "event"


def test_an_event_is_deleted_with_its_jobs_but_not_while_one_is_unfinished(
    client: Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    client.create("gone", f"while [ ! -e {go} ]; do sleep 0.02; done")
    job = client.run("gone")
    client.active(job)
    shown = client.ok("get_event", id="gone")
    assert ([one["id"] for one in shown["jobs"]], shown["queued"]) == ([job], 0)
    assert client.call("delete_event", id="gone", delete_jobs=True)["code"] == "event"

    go.touch()
    client.final(job)
    client.ok("delete_event", id="gone", delete_jobs=True)
    until(lambda: client.call("get_job", id=job)["code"] == "notfound", "the job is still there")
    assert client.call("get_event", id="gone")["code"] == "notfound"
    assert client.call("get_event_history", id="gone")["code"] == "event"
    assert client.call("delete_event", id="gone")["code"] == "event"

    client.create("gone")
    descriptions = client.ok("get_event_history", id="gone", limit=10)["rows"]
    assert [row["description"] for row in descriptions] == ["Created", "Deleted", "Created"]


def test_a_regular_expression_costs_no_more_than_its_text(client: Client) -> None:
    field = WHO | {"regex": "^(a+)+$"}
    client.create("linear", fields=[field])
    began = time.monotonic()
    answer = client.call("run_event", id="linear", params={"who": "a" * 50_000 + "!"})
    assert answer["code"] == "api"
    assert time.monotonic() - began < 5


# --- running ------------------------------------------------------------------------------------

SHOW = "echo $who/$data_x"


@pytest.mark.parametrize(
    ("sent", "output"),
    [
        ({}, "world/\n"),
        ({"params": {"who": "bob"}}, "bob/\n"),
        ({"params/who": "flat"}, "flat/\n"),
        ({"json": '{"params":{"who":"text"}}'}, "text/\n"),
        ({"params": "nonsense", "input": {"data": {"x": 5}}}, "world/5\n"),
        ({"category": "other", "state": "active", "uid": "nobody", "source": "me"}, "world/\n"),
    ],
)
def test_a_run_takes_its_values_from_the_request_then_the_event_then_the_fields(
    client: Client, sent: Json, output: str
) -> None:
    if client.call("get_event", id="shows")["code"]:
        client.create("shows", SHOW, title="Shows who", fields=[WHO])
    job = client.ok("run_event", {"id": "shows"} | sent)["id"]
    final = client.final(job)
    assert (final["output"], final["code"], final["source"]) == (output, 0, "key")
    assert final["category"] == "general"


def test_an_event_is_found_by_title_and_waited_for(client: Client) -> None:
    client.create("titled", "echo titled; exit 3", title="A title of its own")
    path = "/api/app/run_event/v1/wait"
    answer = client.http.post(path, json={"title": "A title of its own"}).json()
    assert (answer["code"], answer["job"]["code"], answer["job"]["output"]) == (0, 3, "titled\n")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"id": "unknown"}, "event"),
        ({"title": "unknown"}, "event"),
        ({}, "event"),
        ({"id": "by_hand", "params": {"who": "a b"}}, "api"),
        ({"id": "by_hand", "input": 5}, "api"),
        ({"id": "by_hand", "tags": ["nothing"]}, "api"),
        ({"id": "by_hand", "algo": "sideways"}, "api"),
        ({"id": "by_hand", "test": "perhaps"}, "api"),
        ({"id": "by_hand", "json": "["}, "api"),
        ({"id": "by_clock"}, "event"),
        ({"id": "by_nobody"}, "event"),
    ],
)
def test_a_run_that_cannot_be_is_refused(client: Client, sent: Json, code: str) -> None:
    if client.call("get_event", id="by_hand")["code"]:
        client.create("by_hand", fields=[WHO])
        client.create("by_clock", triggers=[])
        client.create("by_nobody", enabled=False)
    assert client.call("run_event", sent)["code"] == code


def test_a_test_run_passes_the_gate(client: Client) -> None:
    client.create("tested", "echo ok", enabled=False, triggers=[])
    final = client.finished("tested", test=True)
    assert final["test"] is True
    assert "_test" in final["tags"]


def test_uploaded_files_lie_in_the_jobs_directory(client: Client) -> None:
    client.create("reads", "cat one.txt two.bin | wc -c; cat one.txt")
    big = bytes(range(256)) * 5000  # more than two chunks
    files = {"a": ("one.txt", b"first\n"), "b": ("../two.bin", big)}
    path = "/api/app/run_event/v1/wait"
    job = client.http.post(path, data={"id": "reads"}, files=files).json()["job"]
    assert job["output"].split() == [str(6 + len(big)), "first"]
    empty = client.http.post(path, data={"id": "reads"}, files={"a": ("one.txt", b"")}).json()
    assert empty["code"] == "api"


def test_a_whole_body_is_kept_as_post_data(client: Client) -> None:
    client.create("posted")
    path = "/api/app/run_event/v1/wait?id=posted&post_data=1"
    job = client.http.post(path, json={"anything": [1, 2]}).json()["job"]
    assert job["post_data"] == {"anything": [1, 2]}


# --- magic links and their form -----------------------------------------------------------------


def test_a_magic_link_runs_its_event_and_survives_updates(
    client: Client, anonymous: httpx.Client
) -> None:
    key = "a-magic-key_0001"
    magic = {"type": "magic", "enabled": True, "key": key}
    client.create("magic", "echo $who", triggers=[magic], fields=[WHO])
    [stored] = event(client, "magic")["triggers"]
    assert "key" not in stored
    link = f"/api/app/magic/v1/{key}"

    launched = anonymous.get(link, params={"who": "you"}).json()
    stream = {"id": launched["id"], "token": launched["stream"]}
    events = parse_events(anonymous.get("/api/app/stream_job/v1", params=stream).text)
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    assert events[-2]["data"]["code"] == 0

    client.ok("update_event", id="magic", title="Renamed")
    client.ok("update_event", id="magic", triggers=[stored])
    job = anonymous.post(f"{link}/wait", json={"who": "me", "input": {"data": {}}}).json()["job"]
    assert (job["output"], job["source"], job["username"]) == ("me\n", "magic", "admin")

    assert anonymous.get(f"{link}?_xy_override_uid=0").json()["code"] == "api"
    assert anonymous.get("/api/app/magic/v1/another-key").json()["code"] == "api"
    client.ok("update_event", id="magic", limits=[{"type": "file", "enabled": True, "amount": 0}])
    refused = anonymous.post(link, files={"f": ("a.txt", b"a")}).json()
    assert refused["code"] == "event"
    client.ok("update_event", id="magic", enabled=False)
    assert anonymous.get(link).json()["code"] == "event"


def test_the_form_page_shows_the_fields_as_text_and_asks_only_this_server(
    client: Client, anonymous: httpx.Client
) -> None:
    evil = '"><script>alert(1)</script>'
    fields = [
        WHO | {"value": evil, "caption": 'a "caption" & more', "required": True},
        {"id": "size", "title": "Size", "type": "select", "value": "S [small], L [large]"},
        {"id": "sure", "title": "Sure", "type": "checkbox", "value": True},
        {"id": "secret", "title": "Fixed", "type": "text", "value": "fixed", "locked": True},
        {"id": "text", "title": "Text", "type": "textarea", "value": "</textarea>"},
    ]
    magic = {"type": "magic", "enabled": True, "key": "a-form-key_000001"}
    client.create("formed", triggers=[magic], fields=fields, notes="Some notes")

    page = anonymous.get("/api/app/form/v1/a-form-key_000001")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert page.text.count("<script") == page.text.count(f'<script nonce="{nonce}"') == 1
    assert 'action="/api/app/magic/v1/a-form-key_000001"' in page.text
    assert '<option value="small" selected>S</option>' in page.text
    assert 'name="secret" id="field3" disabled' in page.text
    assert "a &quot;caption&quot; &amp; more" in page.text
    assert "#!/bin/sh" not in page.text
    assert anonymous.get("/api/app/form/v1/wrong").json()["code"] == "api"

    sent = {"json": json.dumps({"who": "w", "size": "large", "sure": False, "text": "t"})}
    link = "/api/app/magic/v1/a-form-key_000001/wait"
    job = anonymous.post(link, data=sent).json()["job"]
    wanted = {"who": "w", "size": "large", "sure": False, "secret": "fixed", "text": "t"}
    assert {key: job["params"][key] for key in wanted} == wanted
    assert job["code"] == 0


# --- triggers -----------------------------------------------------------------------------------


def test_cron_text_is_kept_as_lists_and_previewed(client: Client) -> None:
    cron = {"type": "schedule", "enabled": True, "cron": "*/30 4 * * *", "timezone": "UTC"}
    client.create("by_cron", triggers=[cron])
    [stored] = event(client, "by_cron")["triggers"]
    assert (stored["minutes"], stored["hours"], "cron" in stored) == ([0, 30], [4], False)

    preview = client.ok("get_upcoming_jobs", event="by_cron", hours=24)
    assert sorted(row["when"] % 86_400 for row in preview["rows"]) == [14_400, 16_200]
    client.ok("update_event", id="by_cron", enabled=False)
    assert client.ok("get_upcoming_jobs", event="by_cron")["rows"] == []
    assert client.call("get_upcoming_jobs", hours=200)["code"] == "api"


def test_an_interval_fires_once_for_every_due_second(client: Client) -> None:
    start = int(time.time()) - 1000
    interval = {"type": "interval", "enabled": True, "start": start, "duration": 1}
    client.create("ticking", triggers=[interval])

    def fired() -> list[int]:
        rows = client.ok("search_jobs", query="event:ticking", limit=50, select=["now"])["rows"]
        return sorted(int(row["now"]) for row in rows)

    until(lambda: len(fired()) >= 3, "three fires")
    client.ok("update_event", id="ticking", enabled=False)
    dues = fired()
    assert dues == list(range(dues[0], dues[0] + len(dues)))


def test_a_cursor_in_the_past_replays_what_was_missed(client: Client) -> None:
    now = int(time.time()) // 60 * 60
    triggers = [{"type": "schedule", "enabled": True}, {"type": "catchup", "enabled": True}]
    state = {"cursor": now - 300}
    client.ok(
        "create_event", EVENT | {"id": "replayed", "triggers": triggers, "update_state": state}
    )

    def fired() -> list[int]:
        rows = client.ok("search_jobs", query="event:replayed", limit=50, select=["now"])["rows"]
        return sorted(int(row["now"]) for row in rows)

    until(lambda: len(fired()) >= 5, "five replayed minutes")
    assert fired()[:5] == [now - 240 + 60 * place for place in range(5)]
    client.ok("update_event", id="replayed", enabled=False)


# --- targets ------------------------------------------------------------------------------------


def test_targets_are_ids_groups_or_host_names_and_expressions_choose_among_them(
    client: Client,
) -> None:
    [server] = client.ok("get_active_servers")["rows"]
    client.create("aimed")
    for targets in ([server["id"]], ["main"], [server["hostname"].upper()], ["none", "main"]):
        assert client.finished("aimed", targets=targets)["server"] == server["id"]
    here = f"hostname == '{server['hostname']}'"
    assert client.finished("aimed", expression=here)["code"] == 0
    assert client.finished("aimed", expression="hostname == 'elsewhere'")["code"] == "abort"
    assert client.finished("aimed", targets=["none"])["code"] == "abort"


@pytest.mark.parametrize(
    "algo",
    "random round_robin least_cpu least_mem fewest_jobs prefer_first prefer_last "
    "prefer_first_natural prefer_last_natural multiplex".split(),
)
def test_every_algorithm_finds_the_server(client: Client, algo: str) -> None:
    client.create(f"by_{algo}", "echo ok", algo=algo)
    final = client.finished(f"by_{algo}")
    assert final["code"] == 0
    assert (final.get("type") == "workflow") == (algo == "multiplex")


def test_a_server_holds_as_much_weight_as_it_may(client: Client, tmp_path: Path) -> None:
    [server] = client.ok("get_active_servers")["rows"]
    go = tmp_path / "go"
    limits = [{"type": "job", "enabled": True, "amount": 9, "weight": 2}]
    queue = [*limits, {"type": "queue", "enabled": True, "amount": 9}]
    client.create("heavy", f"while [ ! -e {go} ]; do sleep 0.02; done", limits=queue)
    client.ok("update_server", id=server["id"], maxJobs=3)
    try:
        first, second = client.run("heavy"), client.run("heavy")
        client.active(first)
        assert client.job(second, lambda job: job["state"] == "queued")["position"] == 1
        client.ok("update_server", id=server["id"], maxJobs=4)
        client.active(second)
    finally:
        go.touch()
        client.ok("update_server", id=server["id"], maxJobs=0)
    assert [client.final(job)["code"] for job in (first, second)] == [0, 0]


# --- supporting records -------------------------------------------------------------------------

KINDS: list[tuple[str, str, Json]] = [
    ("category", "categories", {"title": "C", "color": "blue"}),
    ("tag", "tags", {"title": "T"}),
    ("group", "groups", {"title": "G", "hostname_match": "^none$"}),
    ("plugin", "plugins", {"title": "P", "type": "event", "command": "/bin/sh"}),
    ("role", "roles", {"title": "R", "privileges": {"run_jobs": True}}),
]


@pytest.mark.parametrize(("kind", "plural", "fields"), KINDS, ids=[kind for kind, _, _ in KINDS])
def test_a_record_lives_from_creation_to_deletion(
    client: Client, kind: str, plural: str, fields: Json
) -> None:
    before = client.ok(f"get_{plural}")["list"]["length"]
    created = client.ok(f"create_{kind}", fields | {"id": "one", "revision": 7})[kind]
    assert (created["id"], created["revision"], created["username"]) == ("one", 1, "admin")
    assert client.call(f"create_{kind}", fields | {"id": "one"})["code"] == kind
    assert client.call(f"create_{kind}", {"id": "two"})["code"] == "api"
    client.ok(f"update_{kind}", id="one", notes="No<br>te")
    changed = client.ok(f"get_{kind}", id="one")[kind]
    assert (changed["notes"], changed["revision"]) == ("Note", 2)
    assert client.ok(f"get_{plural}")["list"]["length"] == before + 1
    assert client.call(f"update_{kind}", id="none", title="x")["code"] == kind
    assert client.call(f"get_{kind}", id="none")["code"] == "notfound"
    client.ok(f"delete_{kind}", id="one")
    assert client.call(f"delete_{kind}", id="one")["code"] == kind
    revisions = client.ok("search_revision_history", type=plural, limit=3)["rows"]
    actions = [row["action"].rpartition("_")[2] for row in revisions]
    assert actions == ["delete", "update", "create"]


def test_categories_are_sorted_together_and_kept_while_in_use(client: Client) -> None:
    ids = [
        client.ok("create_category", title=title)["category"]["id"] for title in ("first", "second")
    ]
    items = [{"id": id, "sort_order": 100 - place} for place, id in enumerate(ids)]
    client.ok("multi_update_category", items=items)
    listed = [row["id"] for row in client.ok("get_categories")["rows"]]
    assert listed[-2:] == ids[::-1]
    assert client.call("multi_update_category", items=[])["code"] == "api"
    client.ok("multi_update_group", items=[{"id": "main", "sort_order": 3}])

    client.create("in_use", category=ids[0])
    assert client.call("delete_category", id=ids[0])["code"] == "category"
    client.ok("update_category", id=ids[0], enabled=False)
    assert client.call("run_event", id="in_use")["code"] == "event"


def test_servers_are_matched_to_groups_at_once_unless_set_by_hand(client: Client) -> None:
    [server] = client.ok("get_active_servers")["rows"]
    id = server["id"]

    def groups() -> list[str]:
        return list(client.ok("get_active_server", id=id)["server"]["groups"])

    pattern = f"^{server['hostname']}$"
    made = client.ok("create_group", id="matched", title="M", hostname_match=pattern)["group"]
    assert groups() == ["main", made["id"]]
    client.ok("update_group", id="matched", hostname_match="^elsewhere$")
    assert groups() == ["main"]
    client.ok("update_server", id=id, title="Mine", groups=["main", "matched"])
    assert groups() == ["main", "matched"]
    assert client.ok("get_servers")["servers"][id]["title"] == "Mine"
    client.ok("update_server", id=id, autoGroup=True)
    assert groups() == ["main"]
    client.ok("delete_group", id="matched")
    assert client.call("update_server", id="none", title="x")["code"] == "server"
    assert client.call("get_active_server", id="none")["code"] == "notfound"
    assert client.call("delete_server", id="none")["code"] == "server"
    assert client.call("create_group", title="x", hostname_match="(")["code"] == "group"
    assert client.call("error")["code"] == "test"
