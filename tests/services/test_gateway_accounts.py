"""Users, sessions and keys: api.md 1.4, 8.1, 8.2, on a real ledger."""

import asyncio
import http.cookies
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher

from domain.facts import AccessCreated, LedgerFounded, Recorded, ServerLeft, encode
from services.cli import access as command_line
from services.cli.replay import replay_to
from services.errors import StartupError
from services.gateway import logins
from services.gateway.app import create_app
from services.gateway.gateway import Gateway
from services.gateway.passwords import Passwords
from services.gateway.refold import refold
from services.ledger.authority import Signer
from services.ledger.connection import Ledger
from services.ledger.embedded import EmbeddedNats
from tests.services.gateway_kit import Api, running_gateway
from tests.services.wire import ACTOR

PASSWORD = "correct horse"
ANNA = {
    "username": "Anna.B",
    "email": "anna@example.org",
    "full_name": "Anna B.",
    "password": PASSWORD,
}
WITHIN = 10.0


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that cost nothing: these tests are about who may log in."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr("services.gateway.passwords._HASHER", cheap)
    monkeypatch.setattr("services.gateway.passwords._NOBODYS", cheap.hash("nobody's"))


@pytest.fixture
async def api(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Api]:
    async with running_gateway(ledger, tmp_path) as running:
        await running.account("admin_create", ANNA)
        yield running


class Browser:
    """A client without a key, which keeps cookies and the token of its session."""

    def __init__(self, gateway: Gateway, url: str = "http://test", address: str = "10.0.0.1"):
        transport = httpx.ASGITransport(create_app(gateway), client=(address, 1))
        self.http = httpx.AsyncClient(transport=transport, base_url=url)
        self.token = ""
        self.last: httpx.Response | None = None

    async def user(self, name: str, **body: Any) -> dict[str, Any]:
        """A call of /api/user, whose HTTP status is always 200."""
        return await self._post(f"/api/user/{name}", body, 200)

    async def app(self, name: str, **body: Any) -> dict[str, Any]:
        return await self._post(f"/api/app/{name}", body, 200)

    async def login(self, password: str = PASSWORD, username: str = "anna.b") -> dict[str, Any]:
        reply = await self.user("login", username=username, password=password)
        self.token = reply.get("csrf_token", "")
        return reply

    async def _post(self, path: str, body: dict[str, Any], status: int) -> dict[str, Any]:
        headers = {"X-CSRF-Token": self.token} if self.token else {}
        self.last = await self.http.post(path, json=body, headers=headers)
        assert self.last.status_code == status
        told: dict[str, Any] = self.last.json()
        return told

    def cookie(self) -> http.cookies.Morsel[str]:
        assert self.last is not None
        return http.cookies.SimpleCookie(self.last.headers["set-cookie"])["session_id"]


# --- sessions ------------------------------------------------------------------------------------


async def test_a_login_tells_who_it_is_and_sets_a_careful_cookie(api: Api) -> None:
    browser = Browser(api.gateway)

    reply = await browser.login(username="ANNA-B")

    assert (reply["code"], reply["username"], reply["epoch"]) == (0, "Anna.B", api.clock.now)
    assert not {"password", "salt"} & reply["user"].keys()
    assert len(reply["csrf_token"]) == 64
    cookie = browser.cookie()
    assert len(cookie.value) == 64
    assert (cookie["path"], cookie["samesite"], cookie["max-age"]) == ("/", "Lax", "31536000")
    assert cookie["httponly"] is True
    assert not cookie["secure"]
    assert browser.last is not None
    assert browser.last.headers["cache-control"] == "private, no-store"


async def test_over_https_the_cookie_is_for_https_alone(api: Api) -> None:
    browser = Browser(api.gateway, "https://test")
    await browser.login()
    assert browser.cookie()["secure"] is True
    assert browser.last is not None
    assert "strict-transport-security" in browser.last.headers


@pytest.mark.parametrize(
    "others",
    ['theme={"dark": true}', "name=Jörg Müller", "path=/", "consent", "=x", "a[0]=1"],
)
async def test_cookies_of_others_do_not_hide_the_session(api: Api, others: str) -> None:
    """A browser sends a host's cookies to all its ports, whatever their makers put in."""
    browser = Browser(api.gateway)
    await browser.login()
    session = browser.cookie().value
    browser.http.cookies.clear()
    sent = {"Cookie": f"{others}; session_id={session}; last".encode()}

    reply = await browser.http.get("/api/app/get_events/v1", headers=sent)

    assert reply.json()["code"] == 0


async def test_a_session_may_do_what_its_user_may(api: Api) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    assert (await browser.app("get_events"))["code"] == 0
    assert (await browser.app("get_api_keys"))["code"] == "access"
    browser.token = "0" * 64
    assert (await browser.app("get_events"))["code"] == "session"


async def test_the_token_may_come_in_the_body(api: Api) -> None:
    browser = Browser(api.gateway)
    token = (await browser.login())["csrf_token"]
    browser.token = ""
    assert (await browser.app("get_events", csrf_token=token))["code"] == 0


async def test_a_session_is_resumed_by_its_cookie(api: Api) -> None:
    browser = Browser(api.gateway)
    assert await browser.user("resume_session") == {"code": 0}
    first = await browser.login()
    browser.token = ""
    again = await browser.user("resume_session")
    assert (again["username"], again["csrf_token"]) == ("Anna.B", first["csrf_token"])
    browser.http.cookies.set("session_id", "0" * 64)
    assert (await browser.user("resume_session"))["code"] == "session"


async def test_a_logout_ends_the_session_everywhere(api: Api) -> None:
    browser = Browser(api.gateway)
    assert await browser.user("logout") == {"code": 0}
    await browser.login()
    session = browser.cookie().value
    assert await browser.user("logout") == {"code": 0}
    assert browser.cookie()["max-age"] == "0"
    reply = await browser.http.get("/api/app/get_events", headers={"X-Session-ID": session})
    assert reply.json()["code"] == "session"


async def test_a_mere_link_logs_nobody_out(api: Api) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    assert (await browser.http.get("/api/user/logout")).json()["code"] == "session"
    assert (await browser.app("get_events"))["code"] == 0


async def test_a_session_ends_by_itself(api: Api) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    api.clock.now += 365 * logins.HOUR * 24 - 1
    assert (await browser.app("get_events"))["code"] == 0
    api.clock.now += 1
    assert (await browser.app("get_events"))["code"] == "session"


async def test_sessions_survive_a_restart_and_are_valid_on_every_gateway(
    api: Api, ledger: Ledger, tmp_path: Path
) -> None:
    browser = Browser(api.gateway)
    token = (await browser.login())["csrf_token"]
    session = browser.cookie().value
    async with running_gateway(ledger, tmp_path) as other:
        other_browser = Browser(other.gateway)
        other_browser.http.cookies.set("session_id", session)
        other_browser.token = token
        assert (await other_browser.app("create_tag", title="x"))["code"] == "access"
        assert (await other_browser.user("resume_session"))["username"] == "Anna.B"


async def test_the_ledger_holds_neither_session_nor_password(api: Api, ledger: Ledger) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    session = browser.cookie().value
    facts = [await ledger.get(n) for n in range(1, await ledger.end() + 1)]
    told = "".join(repr(r.fact) for r in facts if isinstance(r, Recorded))
    assert "SessionStarted" in told
    assert session not in told
    assert PASSWORD not in told


async def test_the_oldest_of_very_many_sessions_gives_way(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.sessions.MOST_SESSIONS", 2)
    browsers = [Browser(api.gateway) for _ in range(3)]
    for browser in browsers:
        api.clock.now += 1
        await browser.login()
    codes = [(await browser.app("get_events"))["code"] for browser in browsers]
    assert codes == ["session", 0, 0]


# --- passwords -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"username": "anna.b", "password": "wrong"}, "login"),
        ({"username": "nobody", "password": "wrong"}, "login"),
        ({"username": "admin", "password": "no password was ever set"}, "login"),
        ({"username": "anna b", "password": PASSWORD}, "api"),
        ({"username": "anna.b"}, "api"),
        ({"username": "anna.b", "password": ""}, "api"),
        ({"username": "anna.b", "password": 5}, "api"),
        ({"username": "__proto__", "password": "x"}, "login"),
        ({"username": "anna.b", "password": "x" * 5000}, "api"),
    ],
)
async def test_a_login_that_is_refused(api: Api, body: dict[str, Any], code: str) -> None:
    browser = Browser(api.gateway)
    assert (await browser.user("login", **body))["code"] == code
    assert not browser.http.cookies


async def test_a_disabled_user_neither_logs_in_nor_stays(api: Api) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    await api.account("admin_update", {"username": "anna.b", "active": False})
    assert (await browser.app("get_events"))["code"] == "session"
    assert (await browser.login())["code"] == "login"


async def test_a_deleted_user_is_out_at_once_and_so_is_a_namesake(api: Api) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    await api.account("admin_delete", {"username": "anna.b"})
    assert (await browser.app("get_events"))["code"] == "session"
    await api.account("admin_create", ANNA)
    assert (await browser.app("get_events"))["code"] == "session"


async def test_six_failures_lock_an_account_for_an_hour(api: Api) -> None:
    """Also for the right password, from wherever it comes; other users are not concerned."""
    browser = Browser(api.gateway)
    for _ in range(6):
        assert (await browser.login("wrong"))["code"] == "login"
    assert (await browser.login())["code"] == "login"
    assert (await Browser(api.gateway, address="10.9.9.9").login())["code"] == "login"
    api.clock.now += logins.HOUR
    assert (await browser.login())["code"] == 0


async def test_guesses_at_the_same_time_are_counted_like_others(api: Api) -> None:
    browser = Browser(api.gateway)
    guesses = [f"guess {n}" for n in range(12)] + [PASSWORD]
    codes = [
        reply["code"]
        for reply in await asyncio.gather(*(browser.login(guess) for guess in guesses))
    ]
    assert codes == ["login"] * len(guesses)


async def test_a_new_password_unlocks(api: Api) -> None:
    browser = Browser(api.gateway)
    for _ in range(6):
        await browser.login("wrong")
    await api.account("admin_update", {"username": "anna.b", "new_password": "another one"})
    assert (await browser.login("another one"))["code"] == 0


async def test_a_login_in_between_starts_the_count_anew(api: Api) -> None:
    browser = Browser(api.gateway)
    for _ in range(3):
        for _ in range(4):
            await browser.login("wrong")
        assert (await browser.login())["code"] == 0


async def test_an_address_cannot_try_many_names(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser(api.gateway)
    for n in range(logins.MOST_FAILURES_OF_ADDRESS + 1):
        await browser.login("wrong", username=f"user{n}")

    async def never(*_: object) -> bool:
        raise AssertionError("no password is looked at any more")

    with monkeypatch.context() as patched:
        patched.setattr(Passwords, "matches", never)
        assert (await browser.login())["code"] == "login"
    assert (await Browser(api.gateway, address="10.9.9.9").login())["code"] == 0


async def test_gateways_tell_each_other_of_failures(
    api: Api, ledger: Ledger, tmp_path: Path
) -> None:
    """Six guesses are six guesses, on however many gateways."""
    await api.gateway.logins.listen(ledger)
    async with running_gateway(ledger, tmp_path) as other:
        elsewhere = Browser(other.gateway)
        for _ in range(6):
            await elsewhere.login("wrong")
    here = Browser(api.gateway, address="10.9.9.9")
    async with asyncio.timeout(WITHIN):
        await ledger.nc.flush()
        while (await here.login())["code"] == 0:
            await here.user("logout")


async def test_too_many_who_wait_are_sent_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.passwords._MOST_WAITING", 1)
    browser = Browser(api.gateway)
    codes = sorted(
        str(reply["code"]) for reply in await asyncio.gather(*(browser.login() for _ in range(3)))
    )
    assert codes == ["0", "login", "login"]


# --- one's own account ---------------------------------------------------------------------------


async def test_a_new_password_ends_all_other_sessions(api: Api) -> None:
    mine, stolen = Browser(api.gateway), Browser(api.gateway)
    await mine.login()
    await stolen.login()
    change = {"username": "anna.b", "old_password": PASSWORD, "new_password": "a new one"}
    reply = await mine.user("update", **change, full_name="Anna C.")
    assert (reply["code"], reply["user"]["full_name"]) == (0, "Anna C.")
    assert "password" not in reply["user"]
    assert (await mine.app("get_events"))["code"] == 0
    assert (await stolen.app("get_events"))["code"] == "session"
    assert (await stolen.login())["code"] == "login"
    assert (await stolen.login("a new one"))["code"] == 0


async def test_users_cannot_give_themselves_privileges(api: Api) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    wanted = {"privileges": {"admin": True}, "roles": ["all"], "active": 0, "categories": ["x"]}
    await browser.user("update", username="anna.b", old_password=PASSWORD, **wanted)
    record = (await api.account("admin_get_user", {"username": "anna.b"})).json()["user"]
    assert "admin" not in record["privileges"]
    assert (record["roles"], record["active"], record["categories"]) == ([], 1, [])


async def test_the_old_password_is_needed_and_cannot_be_guessed(api: Api) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    change = {"username": "anna.b", "new_password": "mine now"}
    assert (await browser.user("update", **change))["code"] == "api"
    for _ in range(6):
        assert (await browser.user("update", **change, old_password="no"))["code"] == "user"
    assert (await browser.user("update", **change, old_password=PASSWORD))["code"] == "user"


async def test_nobody_changes_the_account_of_somebody_else(api: Api) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    change = {"username": "admin", "old_password": PASSWORD, "new_password": "x"}
    assert (await browser.user("update", **change))["code"] == "user"
    assert (await api.account("update", change)).json()["code"] == "user"


async def test_who_must_choose_a_password_can_do_nothing_else_first(api: Api) -> None:
    await api.account("admin_update", {"username": "anna.b", "force_password_reset": True})
    browser = Browser(api.gateway)
    assert (await browser.login())["user"]["force_password_reset"] is True
    assert (await browser.app("get_events"))["code"] == "access"
    change = {"username": "anna.b", "old_password": PASSWORD}
    await browser.user("update", **change, new_password=PASSWORD)
    assert (await browser.app("get_events"))["code"] == "access"
    await browser.user("update", **change, new_password="my own")
    assert (await browser.app("get_events"))["code"] == 0


# --- administration ------------------------------------------------------------------------------


async def test_users_are_listed_without_their_passwords(api: Api) -> None:
    reply = (await api.account("admin_get_users", {"limit": 1, "offset": 1})).json()
    assert (reply["list"]["length"], [row["username"] for row in reply["rows"]]) == (2, ["Anna.B"])
    assert "argon2" not in str(reply)


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("admin_create", ANNA | {"username": "anna-B"}, "user_exists"),
        ("admin_create", {"username": "ben"}, "api"),
        ("admin_create", ANNA | {"username": "ben", "email": "no address"}, "api"),
        ("admin_create", ANNA | {"username": "ben", "roles": "all"}, "api"),
        ("admin_create", ANNA | {"username": "toString"}, "user_exists"),
        ("admin_update", {"username": "nobody"}, "user"),
        ("admin_delete", {"username": "nobody"}, "user"),
        ("admin_get_user", {"username": "nobody"}, "user"),
    ],
)
async def test_what_is_refused_of_administrators(
    api: Api, name: str, body: dict[str, Any], code: str
) -> None:
    if body["username"] == "toString":
        await api.account("admin_create", body)
    reply = await api.account(name, body)
    assert (reply.status_code, reply.json()["code"]) == (200, code)


async def test_an_admins_new_password_ends_the_users_sessions(api: Api) -> None:
    browser = Browser(api.gateway)
    await browser.login()
    await api.account("admin_update", {"username": "anna.b", "password": "given"})
    assert (await browser.app("get_events"))["code"] == "session"


async def test_no_password_is_shown_in_the_activity_log(api: Api) -> None:
    await api.account("admin_update", {"username": "anna.b", "new_password": "given"})
    text = (await api.call("search_activity/v1", {"limit": 50})).text
    assert '"user_create"' in text
    assert '"user_password"' in text
    assert "argon2" not in text
    assert PASSWORD not in text


# --- keys ----------------------------------------------------------------------------------------


async def test_a_changed_key_keeps_its_text_and_gets_its_new_rights_at_once(api: Api) -> None:
    made = await api.ok("create_api_key", {"title": "K"})
    key, id = made["plain_key"], made["api_key"]["id"]
    assert len(key) == 43
    await api.ok("update_api_key", {"id": id, "privileges": {"create_tags": True}, "key": "x"})
    assert await api.code("create_tag", {"title": "t"}, X_API_Key=key) == 0
    await api.ok("update_api_key", {"id": id, "active": 0})
    assert await api.code("get_tags", X_API_Key=key) == "session"
    stored = api.gateway.views.access.keys[id]
    assert key not in str(stored)


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def on_this_ledger(nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments that lead a verb to the test's ledger."""
    return {"nats": nats_server.url}


async def test_keys_are_made_listed_and_revoked_at_the_terminal(
    api: Api,
    on_this_ledger: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = on_this_ledger | {"data_dir": tmp_path}
    await asyncio.to_thread(command_line.create_key, "Deploy", privilege=["run_jobs"], **where)
    plain = capsys.readouterr().out.splitlines()[-1]
    assert await api.gateway.reached(await api.gateway.ledger.end())
    assert await api.code("get_tags", X_API_Key=plain) == 0
    assert await api.code("get_api_keys", X_API_Key=plain) == "access"

    await asyncio.to_thread(command_line.list_keys, **where)
    listed = capsys.readouterr().out
    assert "Deploy" in listed
    assert plain[-4:] in listed
    assert plain not in listed

    with pytest.raises(StartupError, match="There is no role nosuch"):
        await asyncio.to_thread(command_line.create_key, "Deploy", role=["nosuch"], **where)
    # Over the API any number may come; the list shows what else there is.
    await api.ok("create_api_key", {"title": "Eternal", "expires": 10**18})
    await asyncio.to_thread(command_line.list_keys, **where)
    assert "Eternal" in capsys.readouterr().out

    id = next(id for id, key in api.gateway.views.access.keys.items() if key["title"] == "Deploy")
    await asyncio.to_thread(command_line.revoke_key, id, **where)
    assert await api.gateway.reached(await api.gateway.ledger.end())
    assert await api.code("get_tags", X_API_Key=plain) == "session"


async def test_the_first_password_is_set_at_the_terminal(
    api: Api,
    on_this_ledger: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command_line, "_asked", lambda _: "from the terminal")
    where = on_this_ledger | {"data_dir": tmp_path}
    await asyncio.to_thread(command_line.set_password, "admin", **where)
    assert await api.gateway.reached(await api.gateway.ledger.end())
    browser = Browser(api.gateway)
    assert (await browser.login("from the terminal", "admin"))["code"] == 0
    assert (await browser.app("get_api_keys"))["code"] == 0


async def test_a_runner_neither_makes_an_administrator_nor_stops_anybody(
    api: Api, nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    """NATS lets it write anything as its report; what is none counts for nothing, for all."""
    signer = Signer.of(
        json.loads((nats_server.setup.log_file.parent / "enrolment.key").read_bytes())
    )
    hash = PasswordHasher().hash("let me in please")
    record = {"username": "mallory", "active": 1, "privileges": {"admin": True}, "password": hash}
    forged = AccessCreated(at=1.0, actor=ACTOR, type="user", id="mallory", record=record)
    other = ServerLeft(at=1.0, actor=ACTOR, server="west2", boot="b")

    runner = signer.login("runner", "west1").url(nats_server.setup.address)
    async with Ledger.open(runner, name="runner-west1") as ledger:
        for written in (encode(forged), encode(other), b'{"kind":"NoSuchThing","v":9}', b"what?"):
            stored = await ledger.request("facts.report.west1", written)
            assert await api.gateway.reached(json.loads(stored.data)["seq"])

    assert "mallory" not in api.gateway.views.access.users
    login = {"username": "mallory", "password": "let me in please"}
    assert (await api.account("login", login)).json()["code"] != 0
    await api.ok("create_tag", {"id": "t", "title": "All goes on"})
    moment = await replay_to(api.gateway.ledger, None, None, None, None, lambda *_: None)
    assert moment.counts.get("ServerLeft") is None
    fresh = tmp_path / "fresh.sqlite"
    end, first = await api.gateway.ledger.end(), await api.gateway.ledger.get(1)
    assert first is not None
    assert isinstance(first.fact, LedgerFounded)
    await refold(
        api.gateway.ledger, fresh, ledger_id=first.fact.ledger, upto=end, progress=lambda *_: None
    )
    assert b"mallory" not in fresh.read_bytes()
