"""Every call of the API, with keys that may do it, may not, or may not here (api.md 1.4, 1.5).

The table below repeats the contract, not the code: a call that is not in it fails the first
test. Privileges are those of api.md 5 and 8.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from domain.access import PRIVILEGES
from domain.facts import Actor, JobCompleted, ServerJoined
from services.gateway.app import endpoints
from services.ledger.connection import Ledger
from tests.services.conftest import ledger, nats_server  # noqa: F401 - fixtures
from tests.services.gateway_kit import EVENT, NOW, Api, running_gateway

Json = dict[str, Any]

CLOSED = "closed"
EVENT_ID = "backup"
SYSTEM = Actor(type="system", id="test")


_STOCK = ("general", "main")


@dataclass(frozen=True)
class Route:
    """A call, the privilege it needs, and parameters good enough to get to that question.

    `near` names the limits that keep a key from its object; `rows` is where a list that leaves
    out what is not allowed would show it.
    """

    name: str
    privilege: str | None = None
    body: Json = field(default_factory=dict)
    near: Sequence[str] = ()
    rows: str = ""
    space: str = "app"

    @property
    def path(self) -> str:
        return f"/api/{self.space}/{self.name}" + ("/v1" if self.space == "app" else "")


BOTH = ("categories", "groups")
ID = {"id": EVENT_ID}
LIVE = {"id": "${live}"}
DONE = {"id": "${done}"}
USER = {"username": "anna", "email": "a@example.org", "full_name": "Anna", "password": "x"}


def _records(type: str, plural: str, record: Json, near: Sequence[str] = ()) -> list[Route]:
    """The five calls of one type of supporting records; CLOSED exists."""
    one = {"id": CLOSED}
    return [
        Route(f"get_{plural}", None, {}, near, rows="rows"),
        Route(f"get_{type}", None, one, near),
        Route(f"create_{type}", f"create_{plural}", record | {"id": "fresh"}),
        Route(f"update_{type}", f"edit_{plural}", one | {"notes": "x"}, near),
        Route(f"delete_{type}", f"delete_{plural}", one, near),
    ]


def _several(type: str, plural: str) -> Route:
    items = [{"id": CLOSED, "sort_order": 3}]
    return Route(f"multi_update_{type}", f"edit_{plural}", {"items": items}, BOTH)


ROUTES = [
    Route("get_events", None, {}, BOTH, rows="rows"),
    Route("get_event", None, ID, BOTH),
    Route("create_event", "create_events", EVENT | {"id": "another"}, BOTH),
    Route("update_event", "edit_events", ID | {"notes": "x"}, BOTH),
    Route("revert_event", "edit_events", ID | {"revision": 1}, BOTH),
    Route("delete_event", "delete_events", ID, BOTH),
    Route("get_event_history", None, ID, BOTH),
    Route("flush_event_queue", "abort_jobs", ID, BOTH),
    Route("run_event", "run_jobs", ID, BOTH),
    Route("get_active_jobs", None, {}, BOTH, rows="rows"),
    Route("get_active_job_summary", None, {}, BOTH, rows="events"),
    Route("get_job", None, LIVE, BOTH),
    Route("get_jobs", None, {"ids": ["${live}", "${done}"]}, BOTH, rows="jobs"),
    Route("stream_job", None, DONE, BOTH),
    Route("abort_job", "abort_jobs", LIVE, BOTH),
    Route("resume_job", "run_jobs", LIVE, BOTH),
    Route("job_skip_delay", "run_jobs", LIVE, BOTH),
    Route("update_job", "admin", LIVE | {"label": "x"}),
    Route("manage_job_tags", "tag_jobs", DONE | {"tags": ["flag"]}, BOTH),
    Route("delete_job", "delete_jobs", DONE, BOTH),
    Route("delete_job_file", "delete_jobs", DONE | {"path": "files/jobs/x/y"}, BOTH),
    Route("get_job_log", None, DONE, BOTH),
    Route("tail_live_job_log", None, LIVE, BOTH),
    Route("upload_job_input_files", "run_jobs"),
    Route("upload_files"),
    Route("search_jobs", None, {"limit": 10}, BOTH, rows="rows"),
    Route("search_activity", "admin"),
    Route("search_revision_history", None, {"type": "events", "limit": 10}, BOTH, rows="rows"),
    Route("get_upcoming_jobs", None, {}, BOTH, rows="rows"),
    Route("cron_to_trigger", None, {"cron": "@daily"}),
    *_records("category", "categories", {"title": "C"}, ["categories"]),
    _several("category", "categories"),
    *_records("tag", "tags", {"title": "T"}),
    *_records("group", "groups", {"title": "G", "hostname_match": "x"}, ["groups"]),
    _several("group", "groups"),
    *_records("plugin", "plugins", {"title": "P", "type": "event", "command": "/bin/sh"}),
    *_records("role", "roles", {"title": "R"}),
    *_records("web_hook", "web_hooks", {"title": "W", "url": "http://127.0.0.1:9/hook"}),
    Route("get_active_servers", None, {}, ["groups"], rows="rows"),
    Route("get_active_server", None, {"id": "s1"}, ["groups"]),
    Route("get_servers", None, {}, ["groups"], rows="servers"),
    Route("update_server", "update_servers", {"id": "s1", "title": "One"}),
    Route("delete_server", "admin", {"id": "s1", "history": True}),
    Route("update", None, USER | {"old_password": "x"}, space="user"),
    Route("admin_create", "admin", USER, space="user"),
    Route("admin_update", "admin", {"username": "admin"}, space="user"),
    Route("admin_delete", "admin", {"username": "admin"}, space="user"),
    Route("admin_get_user", "admin", {"username": "admin"}, space="user"),
    Route("admin_get_users", "admin", space="user"),
    Route("get_api_keys", "admin"),
    Route("get_api_key", "admin", {"id": "kadmin"}),
    Route("create_api_key", "admin", {"title": "K"}),
    Route("update_api_key", "admin", {"id": "kadmin", "title": "K"}),
    Route("delete_api_key", "admin", {"id": "kadmin"}),
    Route("enroll_runner", "admin", {"id": "west"}),
    Route("enroll_subscriber", "admin", {"id": "west"}),
    Route("get_secrets", "admin"),
    Route("get_secret", "admin", {"id": "none"}),
    Route("create_secret", "admin", {"title": "S", "values": {"A": "b"}}),
    Route("update_secret", "admin", {"id": "none", "title": "S"}),
    Route("delete_secret", "admin", {"id": "none"}),
    Route("rotate_secrets", "admin"),
    Route("admin_get_config", "admin"),
    Route("admin_update_config", "admin", {"limits": []}),
    Route("get_global_state", None, {}, BOTH, rows="state.events"),
    Route("update_global_state", "admin", {"scheduler": {"enabled": True}}),
]
# Calls without session or key: what opens them is in the request itself, or they tell nothing.
# stream_job needs one of both, unless it has a token.
OPEN = frozenset(
    "magic form download_job_log view_job_log file login logout resume_session ping error "
    "config".split()
)
NEEDS_NOTHING = [route for route in ROUTES if route.privilege is None]
NEEDS_PRIVILEGE = [route for route in ROUTES if route.privilege is not None]


@dataclass
class World:
    """A gateway with an event, a live and a finished job, and one record of each type."""

    api: Api
    ids: dict[str, str]

    async def key(self, privileges: Iterable[str], **fields: Any) -> str:
        """The text of a new key."""
        granted = {"privileges": dict.fromkeys(privileges, True)}
        made = await self.api.ok("create_api_key", {"title": "Key"} | granted | fields)
        text: str = made["plain_key"]
        return text

    async def reply(self, route: Route, key: str, **headers: str) -> Json:
        """What the call answers to this key; its code is None for a stream that began."""
        sent = {"X-API-Key": key} | headers
        answer = await self.api.client.post(route.path, json=self.filled(route.body), headers=sent)
        if answer.headers["content-type"] != "application/json":
            return {"code": None}
        told: Json = answer.json()
        return told

    async def codes(self, routes: Iterable[Route], key: str, **headers: str) -> Json:
        """The code of each call."""
        return {route.name: (await self.reply(route, key, **headers))["code"] for route in routes}

    def filled(self, body: Json) -> Json:
        return {name: self._value(value) for name, value in body.items()}

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._value(item) for item in value]
        return self.ids.get(value, value) if isinstance(value, str) else value


@pytest.fixture
async def world(ledger: Ledger, tmp_path: Path) -> AsyncIterator[World]:  # noqa: F811
    async with running_gateway(ledger, tmp_path) as api:
        await api.ok("create_category", {"id": CLOSED, "title": "Closed"})
        await api.ok("create_group", {"id": CLOSED, "title": "Closed", "hostname_match": "^one$"})
        for type in ("tag", "role"):
            await api.ok(f"create_{type}", {"id": CLOSED, "title": "Closed"})
        plugin = {"id": CLOSED, "title": "Closed", "type": "event", "command": "/bin/true"}
        await api.ok("create_plugin", plugin)
        hourly = {"type": "schedule", "enabled": True, "minutes": [0]}
        event = EVENT | {"category": CLOSED, "targets": [CLOSED]}
        await api.ok("create_event", event | {"triggers": [*EVENT["triggers"], hourly]})
        live, done = [(await api.ok("run_event", ID))["id"] for _ in range(2)]
        await api.record(
            JobCompleted(at=NOW + 1, actor=SYSTEM, event=EVENT_ID, job=done, code=0, description="")
        )
        await api.record(
            ServerJoined(
                at=NOW,
                actor=SYSTEM,
                server="s1",
                boot="b1",
                machine_boot="m1",
                hostname="one",
            )
        )
        api.gateway.live.heard({"server": "s1", "boot": "b1"})
        yield World(api, {"${live}": live, "${done}": done})


# --- who may do what -----------------------------------------------------------------------------


def test_the_table_names_every_call() -> None:
    assert {route.name for route in ROUTES} | OPEN == {endpoint.name for endpoint in endpoints()}
    assert len({route.name for route in ROUTES}) == len(ROUTES)


async def test_without_credentials_nothing_is_answered(world: World) -> None:
    """Nor with a key that is unknown, inactive or expired: all look the same."""
    inactive = await world.key(["admin"], active=False)
    expired = await world.key(["admin"], expires=int(NOW) - 1)
    for key in ("", "unknown", inactive, expired):
        answers = {route.name: await world.reply(route, key) for route in ROUTES}

        assert {name: told["code"] for name, told in answers.items()} == dict.fromkeys(
            answers, "session"
        )


async def test_a_deleted_key_is_refused_at_once(world: World) -> None:
    made = await world.api.ok("create_api_key", {"title": "Short-lived"})
    key = made["plain_key"]
    assert (await world.reply(ROUTES[0], key))["code"] == 0

    await world.api.ok("delete_api_key", {"id": made["api_key"]["id"]})

    assert (await world.reply(ROUTES[0], key))["code"] == "session"


@pytest.mark.parametrize("privilege", sorted({str(route.privilege) for route in NEEDS_PRIVILEGE}))
async def test_all_other_privileges_together_do_not_replace_one(
    world: World, privilege: str
) -> None:
    concerned = [route for route in NEEDS_PRIVILEGE if route.privilege == privilege]
    key = await world.key(PRIVILEGES - {"admin", privilege})

    codes = await world.codes(concerned, key)

    assert codes == dict.fromkeys(codes, "access")


@pytest.mark.parametrize(
    "privilege", sorted({str(route.privilege) for route in NEEDS_PRIVILEGE} - {"admin"})
)
async def test_the_one_privilege_is_enough_also_by_a_role(world: World, privilege: str) -> None:
    concerned = [route for route in NEEDS_PRIVILEGE if route.privilege == privilege]
    role = {"id": "needed", "title": "Needed", "privileges": {privilege: True}}
    await world.api.ok("create_role", role)

    for key in (await world.key([privilege]), await world.key([], roles=["needed"])):
        codes = await world.codes(concerned, key)
        assert not {"access", "session"} & set(codes.values()), codes


async def test_what_needs_no_privilege_is_open_to_every_key(world: World) -> None:
    codes = await world.codes(NEEDS_NOTHING, await world.key([]))

    assert not {"access", "session"} & set(codes.values()), codes


async def test_a_disabled_role_gives_nothing(world: World) -> None:
    await world.api.ok("create_role", {"id": "off", "title": "Off", "privileges": {"admin": 1}})
    key = await world.key([], roles=["off"])
    assert (await world.reply(Route("get_api_keys"), key))["code"] == 0

    await world.api.ok("update_role", {"id": "off", "enabled": False})

    assert (await world.reply(Route("get_api_keys"), key))["code"] == "access"


# --- categories and groups -----------------------------------------------------------------------


@pytest.mark.parametrize("limit", BOTH)
async def test_what_lies_outside_a_keys_limits_is_out_of_reach(world: World, limit: str) -> None:
    """With all privileges but admin: single objects are refused, lists leave them out."""
    key = await world.key(PRIVILEGES - {"admin"}, **{limit: ["elsewhere"]})
    concerned = [route for route in ROUTES if limit in route.near]
    assert len(concerned) > 20

    told = {route.name: await world.reply(route, key) for route in concerned}

    refused = {route.name: told[route.name]["code"] for route in concerned if not route.rows}
    assert refused == dict.fromkeys(refused, "access")
    for route in concerned:
        if route.rows:
            shown = _at(told[route.name], route.rows)
            assert not _names(shown), (route.name, shown)


@pytest.mark.parametrize("limit", BOTH)
async def test_a_limit_that_names_the_object_lets_it_through(world: World, limit: str) -> None:
    key = await world.key(PRIVILEGES - {"admin"}, **{limit: [CLOSED]})
    concerned = [route for route in ROUTES if limit in route.near and "multi" not in route.name]

    codes = {}
    for route in concerned:
        if route.name != "create_event" and not route.name.startswith("delete"):
            told = await world.reply(route, key)
            codes[route.name] = told["code"]
            if route.rows and route.name != "search_revision_history":  # for the unlimited alone
                assert _names(_at(told, route.rows)), route.name

    assert not {"access", "session"} & set(codes.values()), codes


@pytest.mark.parametrize(
    ("limit", "change"),
    [("categories", {"category": "general"}), ("groups", {"targets": ["main"]})],
)
async def test_an_event_cannot_be_moved_out_of_ones_limits(
    world: World, limit: str, change: Json
) -> None:
    key = await world.key(["edit_events", "run_jobs"], **{limit: [CLOSED]})

    moved = await world.reply(Route("update_event", body=ID | change), key)

    assert moved["code"] == "access"


async def test_a_run_cannot_be_sent_to_targets_outside_ones_limits(world: World) -> None:
    key = await world.key(["run_jobs"], groups=[CLOSED])

    sent = await world.reply(Route("run_event", body=ID | {"targets": ["main"]}), key)

    assert sent["code"] == "access"


async def test_limits_do_not_bind_administrators(world: World) -> None:
    key = await world.key(["admin"], categories=["elsewhere"], groups=["elsewhere"])

    assert (await world.reply(Route("get_event", body=ID), key))["code"] == 0


# --- sessions ------------------------------------------------------------------------------------


async def test_a_session_changes_nothing_without_its_token(world: World) -> None:
    """By POST no call at all; by GET those that change something."""
    await world.api.account("admin_update", {"username": "admin", "password": "long enough"})
    credentials = {"username": "admin", "password": "long enough"}
    login = await world.api.account("login", credentials)
    cookie = {"Cookie": f"session_id={login.cookies['session_id']}"}
    world.api.client.cookies.clear()
    mutating = {endpoint.name for endpoint in endpoints() if endpoint.mutating}

    posted = {r.name: (await world.reply(r, "", **cookie))["code"] for r in ROUTES}
    got = {}
    for route in ROUTES:
        if route.name in mutating:
            reply = await world.api.client.get(route.path, headers=cookie | {"X-API-Key": ""})
            got[route.name] = reply.json()["code"]

    assert posted == dict.fromkeys(posted, "session")
    assert got == dict.fromkeys(got, "session")


def _at(told: Json, path: str) -> Any:
    value: Any = told
    for name in path.split("."):
        value = value[name]
    return value


def _names(shown: Any) -> list[str]:
    """What of the closed event, group or category is shown."""
    if isinstance(shown, dict):
        return list(shown)
    return [str(row) for row in shown if "err" not in row and row.get("id") not in _STOCK]
