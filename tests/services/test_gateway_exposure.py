"""What strangers, hostile clients and slow ones can do to a gateway: nothing much.

Requests go over real connections to the real HTTP server, unless a test is about one header.
"""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec.structs import replace

from services.errors import ConfigError, StartupError
from services.gateway import connections, endpoint, handshakes
from services.gateway.app import create_app
from services.gateway.failures import Failures, network_of
from services.gateway.tls import check_certificate
from services.ledger.connection import Ledger
from services.settings import Settings, load_settings
from tests.services.gateway_kit import EVENT, Api, over_http, running_gateway
from tests.services.hostile import EVENTS, HOSTILE, get, post

WITHIN = 10.0


@dataclass
class Served:
    """A gateway that listens on a port."""

    api: Api
    server: uvicorn.Server
    port: int
    key: str

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, request: bytes) -> bytes:
        """All that is answered to these bytes until the connection is closed."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            async with asyncio.timeout(WITHIN):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def answers(self) -> bool:
        """Whether the gateway serves others as before."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            reply = await client.get("/api/app/get_events/v1", headers={"X-API-Key": self.key})
        return bool(reply.json()["code"] == 0)


@pytest.fixture
async def api(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Api]:
    async with running_gateway(ledger, tmp_path) as running:
        yield running


@pytest.fixture
async def served(api: Api) -> AsyncIterator[Served]:
    async with serving(api) as started:
        yield started


@contextlib.asynccontextmanager
async def serving(api: Api, **settings: Any) -> AsyncIterator[Served]:
    """The gateway's own HTTP server on a free port, with changed settings."""
    with_settings(api, **settings)
    async with over_http(api) as (server, port):
        yield Served(api, server, port, api.client.headers["X-API-Key"])


def with_settings(api: Api, **changed: Any) -> None:
    api.gateway.settings = replace(api.gateway.settings, **changed)


def client_of(api: Api, address: str = "10.0.0.1", **settings: Any) -> httpx.AsyncClient:
    """Requests as they come from this address, without a key."""
    with_settings(api, **settings)
    transport = httpx.ASGITransport(create_app(api.gateway), client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://jobs.example.org")


# --- hostile requests ----------------------------------------------------------------------------

# Words that a reply to a client must not hold.
INTERNALS = (b"Traceback", b'File "', b"line ", b"sqlite", b"msgspec", b"services/", b"asyncio")


async def test_hostile_requests_are_refused_and_nobody_else_notices(served: Served) -> None:
    """No defect of ours comes to light, nothing of our insides, JSON where a call was meant."""
    problems = {}
    for name, request in HOSTILE.items():
        reply = await served.raw(request.replace(b"${KEY}", served.key.encode()))
        problem = _problem(reply) if reply else None
        if problem or not await served.answers():
            problems[name] = problem or "nobody is answered any more"
    assert problems == {}


def _problem(reply: bytes) -> str | None:
    """What is wrong with a refusal."""
    head, _, body = reply.partition(b"\r\n\r\n")
    if b'"internal"' in body or (b" 500 " in head[:20] and b'"code"' not in body):
        return f"a defect: {reply[:500]!r}"
    if b"set-cookie" in head.lower():
        return f"a cookie: {head!r}"
    told = [word for word in INTERNALS if word in body] if len(body) < 10_000 else []
    return f"{told} in {body!r}" if told else None


async def test_a_body_that_breaks_http_is_told_so(served: Served) -> None:
    reply = await served.raw(HOSTILE["a chunk of a terrible size"])
    assert reply.startswith(b"HTTP/1.1 400")
    assert reply.endswith(b'request."}\n')


def test_there_are_enough_hostile_requests() -> None:
    assert len(HOSTILE) > 60
    assert len(set(HOSTILE.values())) == len(HOSTILE)


@pytest.mark.parametrize(
    "title",
    ["'; DROP TABLE jobs; --", "../../etc", "a.b.*", "*", "${HOME} $(id) `id`", "\u202e\ufeff"],
)
async def test_odd_titles_are_just_titles(api: Api, title: str) -> None:
    await api.ok("create_event", EVENT | {"title": title})
    assert (await api.ok("get_event", {"id": "backup"}))["event"]["title"] == title
    assert (await api.ok("get_event_history", {"id": "backup"}))["list"]["length"] == 1
    await api.ok("delete_event", {"id": "backup"})


# --- slow and silent clients ---------------------------------------------------------------------


async def test_a_connection_that_says_nothing_is_closed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_PATIENCE", 0.2)
    async with serving(api) as served:
        assert b"408" in await served.raw(b"")


async def test_a_head_that_never_ends_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However steadily its bytes drop in, also on a connection that was used before."""
    monkeypatch.setattr(connections, "HEAD_PATIENCE", 0.4)
    async with serving(api) as served:
        for first in (b"", get(b"/api/app/ping/v1").replace(b"close", b"keep-alive")):
            reader, writer = await served.connect()
            writer.write(first + b"GET /api/app/ping/v1 HTTP/1.1\r\n")
            answer = asyncio.create_task(reader.read())
            async with asyncio.timeout(WITHIN):
                while not answer.done():
                    with contextlib.suppress(ConnectionError):
                        writer.write(b"X: y\r\n")
                        await writer.drain()
                    await asyncio.wait({answer}, timeout=0.05)
            assert (await answer).endswith(b'in time."}\n')
            writer.close()


async def test_a_body_that_does_not_come_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "BODY_PATIENCE", 0.2)
    async with serving(api) as served:
        key = f"X-API-Key: {served.key}".encode()
        reply = await served.raw(post(EVENTS, b"{", key, length=1000))
        assert reply.startswith(b"HTTP/1.1 408")
        assert b'"code":"api"' in reply


async def test_a_body_that_drips_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BODY_PATIENCE", 0.3)
    async with serving(api) as served:
        reader, writer = await served.connect()
        writer.write(post(EVENTS, b"", f"X-API-Key: {served.key}".encode(), length=10_000))
        answer = asyncio.create_task(reader.readline())
        async with asyncio.timeout(WITHIN):
            while not answer.done():
                writer.write(b" ")
                await asyncio.wait({answer}, timeout=0.05)
        assert b"408" in await answer
        writer.close()


async def test_a_client_that_reads_nothing_is_dropped(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READ_PATIENCE", 0.2)
    for n in range(20):
        await api.ok("create_event", EVENT | {"id": f"e{n}", "notes": "n" * 500_000})
    async with serving(api) as served:
        _, writer = await served.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(get(EVENTS.encode(), f"X-API-Key: {served.key}".encode()))
        await until(lambda: not served.server.server_state.connections)
        assert await served.answers()
        writer.close()


async def test_a_client_that_reads_slowly_gets_all(api: Api) -> None:
    for n in range(10):
        await api.ok("create_event", EVENT | {"id": f"e{n}", "notes": "n" * 500_000})
    async with serving(api) as served:
        reader, writer = await served.connect()
        writer.write(get(EVENTS.encode(), f"X-API-Key: {served.key}".encode()))
        size = 0
        async with asyncio.timeout(WITHIN):
            while part := await reader.read(100_000):
                size += len(part)
        assert size > 5_000_000
        writer.close()


async def test_idle_connections_give_way_to_new_ones(api: Api) -> None:
    async with serving(api, max_connections=5) as served:
        idle = [await served.connect() for _ in range(20)]
        assert await served.answers()
        for _, writer in idle:
            writer.close()


async def test_there_are_no_more_connections_than_allowed(api: Api) -> None:
    """When all are busy, the next one is told so at once."""
    await api.ok("create_event", EVENT)
    async with serving(api, max_connections=2) as served:
        key = f"X-API-Key: {served.key}".encode()
        busy = [await served.connect() for _ in range(2)]
        for _, writer in busy:
            writer.write(get(b"/api/app/run_event/v1/wait?id=backup", key))
        await until(lambda: len(api.gateway.views.active.jobs) == 2)
        reply = await served.raw(get(b"/api/app/ping/v1"))
        assert reply.startswith(b"HTTP/1.1 503")
        for _, writer in busy:
            writer.close()


async def test_the_rest_of_a_refused_body_does_not_hold_a_connection(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_PATIENCE", 0.3)
    async with serving(api, max_body=1000) as served:
        reader, writer = await served.connect()
        key = f"X-API-Key: {served.key}".encode()
        writer.write(post(EVENTS, b"x" * 2000, key, length=10**9).replace(b"close", b"keep-alive"))
        async with asyncio.timeout(WITHIN):
            reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 413")
        assert reply.count(b"HTTP/1.1") == 1
        writer.close()


async def test_a_body_is_read_whole_however_it_comes(served: Served) -> None:
    """With its head in one piece, in several, or after a leave to send it."""
    key = f"X-API-Key: {served.key}".encode()
    body = b'{"title": "none"}'
    for headers, leave in (((key,), b""), ((key, b"Expect: 100-continue"), b"HTTP/1.1 100")):
        request = post(EVENTS, body, *headers)
        for cut in (len(request), len(request) - len(body), len(request) - 3):
            reader, writer = await served.connect()
            writer.write(request[:cut])
            await writer.drain()
            async with asyncio.timeout(WITHIN):
                first = await reader.readuntil(b"\r\n\r\n") if leave else b""
                writer.write(request[cut:])
                reply = await reader.read()
            writer.close()
            assert first.startswith(leave)
            assert reply.endswith(b'"list":{"length":0}}\n')


OFFER = (b"Upgrade: h2c", b"HTTP2-Settings: AAMA", b"Connection: Upgrade, HTTP2-Settings, close")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_that_offers_another_protocol_keeps_its_body(
    served: Served, chunked: bool
) -> None:
    """As Java's client sends it; whatever is in the body is no request of its own."""
    body = b'{"id":\n\n"GET /api/app/ping/v1 HTTP/1.1"}'
    request = post("/api/app/get_event/v1", body, f"X-API-Key: {served.key}".encode(), *OFFER)
    request = request.replace(b"Connection: close\r\n", b"")
    if chunked:
        head = request.removesuffix(body)
        head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        request = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for cut in (len(request), request.index(b"\r\n\r\n") + 4, len(request) - 20):
        reader, writer = await served.connect()
        writer.write(request[:cut])
        await writer.drain()
        writer.write(request[cut:])
        async with asyncio.timeout(WITHIN):
            reply = await reader.read()
        writer.close()
        assert reply.startswith(b"HTTP/1.1 400")
        assert b"Parameter 'id' must be" in reply
        assert reply.count(b"HTTP/1.1 ") == 1


async def test_what_follows_an_offer_of_another_protocol_is_the_next_request(
    served: Served,
) -> None:
    offer = get(b"/api/app/ping/v1", *OFFER[:2], b"Connection: Upgrade")
    offer = offer.replace(b"Connection: close\r\n", b"")
    reply = await served.raw(offer + offer + get(b"/api/app/nope/v1"))
    assert reply.count(b"HTTP/1.1 200") == 3
    assert reply.endswith(b'"Unsupported API: app/nope/v1"}\n')


CHUNKED = post(EVENTS, b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")


async def test_fields_after_a_body_do_not_count_as_its_head(served: Served) -> None:
    """A proxy that watches over heads would let them pass."""
    reply = await served.raw(CHUNKED + f"0\r\nX-API-Key: {served.key}\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("endless", [b"0\r\nX: ", b"5;"])
async def test_what_frames_a_body_is_bounded(served: Served, endless: bytes) -> None:
    """Trailers and the extensions of chunks are no body, and as large as a client likes."""
    reader, writer = await served.connect()
    writer.write(CHUNKED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    async with asyncio.timeout(WITHIN):
        await reader.readuntil(b"100 Continue\r\n\r\n")
        writer.write(endless + b"y" * (connections.MOST_HEAD + 1 - len(endless)))
        assert (await reader.read()).startswith(b"HTTP/1.1 431")
    writer.close()


async def test_the_frames_of_an_answered_request_are_bounded(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(CHUNKED.replace(EVENTS.encode(), b"/api/app/nope/v1") + b"0\r\n")
    async with asyncio.timeout(WITHIN):
        await reader.readuntil(b"}\n")
        writer.write(b"X: y\r\n" * 20_000)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


async def test_many_requests_before_a_body_do_not_count_as_its_frame(served: Served) -> None:
    reader, writer = await served.connect()
    plain = b"GET /api/app/ping/v1 HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 4000 + b"\r\n\r\n"
    async with asyncio.timeout(WITHIN):
        for _ in range(20):
            writer.write(plain)
            await reader.readuntil(b"}\n")
        head, body = CHUNKED, b"2\r\n{}\r\n0\r\n\r\n"
        writer.write(head)
        await writer.drain()
        writer.write(body)
        assert (await reader.read()).startswith(b"HTTP/1.1 403")
    writer.close()


@pytest.mark.parametrize("size", [900, 2000])
async def test_chunks_are_bounded_like_any_body(api: Api, size: int) -> None:
    async with serving(api, max_body=1000) as served:
        head = [b"POST /api/app/get_events/v1 HTTP/1.1", b"Host: x", b"Connection: close"]
        head += [f"X-API-Key: {served.key}".encode(), b"Content-Type: application/json"]
        head += [b"Transfer-Encoding: chunked"]
        body = b'{"x":"' + b"y" * size + b'"}'
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        reply = await served.raw(b"\r\n".join(head) + b"\r\n\r\n" + chunks)
    assert (b" 413 " in reply[:20]) == (size > 1000)


async def test_strangers_cannot_send_much(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key may stand in a body, so strangers' bodies are read; but not at any size."""
    monkeypatch.setattr(endpoint, "STRANGERS_BODY", 1000)
    client = client_of(api)
    for body, code in ((100, "session"), (2000, "session")):
        reply = await client.post(EVENTS, json={"x": "y" * body, "api_key": "unknown"})
        assert reply.json()["code"] == code
    reply = await client.post("/api/user/login", json={"x": "y" * 2000})
    assert (reply.status_code, reply.json()["code"]) == (413, "api")


async def test_no_file_of_a_stranger_is_kept(api: Api) -> None:
    """Neither by a wrong link nor by a call without credentials, or without the privilege."""
    key = (await api.ok("create_api_key", {"title": "reader"}))["plain_key"]
    client = client_of(api)
    files = {"file": ("a.txt", b"hello")}
    for path, headers in (
        ("/api/app/magic/v1/guess", {}),
        ("/api/app/run_event/v1", {}),
        ("/api/app/upload_files/v1", {"X-API-Key": "unknown"}),
        ("/api/app/upload_job_input_files/v1", {"X-API-Key": key}),
    ):
        reply = await client.post(path, files=files, headers=headers)
        assert reply.json()["code"] in ("api", "session", "access")
    chunks = await api.gateway.ledger.api("STREAM.INFO.CHUNKS")
    assert chunks["state"]["last_seq"] == 0


# --- guessing ------------------------------------------------------------------------------------


async def test_magic_links_cannot_be_guessed_for_long(api: Api) -> None:
    trigger = {"type": "magic", "enabled": True, "key": "open-sesame"}
    await api.ok("create_event", EVENT | {"triggers": [trigger]})
    client = client_of(api)
    codes = [(await client.get(f"/api/app/magic/v1/guess{n}")).json()["code"] for n in range(102)]
    assert codes[0] == "api"
    assert codes[-1] == "rate"
    assert (await client.get("/api/app/magic/v1/open-sesame")).json()["code"] == "rate"
    elsewhere = client_of(api, "10.0.0.2")
    assert (await elsewhere.get("/api/app/magic/v1/open-sesame")).json()["code"] == 0
    api.clock.now += 61
    assert (await client.get("/api/app/magic/v1/open-sesame")).json()["code"] == 0


async def test_tokens_of_one_job_do_not_open_another(api: Api) -> None:
    await api.ok("create_event", EVENT)
    first, second = [(await api.ok("run_event", {"id": "backup"}))["id"] for _ in range(2)]
    token = (await api.ok("get_job", {"id": first}))["token"]
    client = client_of(api)
    for call in ("download_job_log", "view_job_log"):
        reply = await client.get(f"/api/app/{call}/v1?id={second}&t={token}")
        assert reply.status_code == 403
    reply = await client.get(f"/api/app/stream_job/v1?id={second}&token={token}")
    assert reply.json()["code"] == "api"


def test_failures_are_counted_by_name_and_forgotten_with_time() -> None:
    failures = Failures(most=2, window=10)
    for at in (0, 1, 5):
        failures.add("a", at)
    assert failures.locked("a", 9)
    assert not failures.locked("b", 9)
    assert not failures.locked("a", 10)


def test_the_addresses_of_one_household_count_together() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") == "2001:db8::/64"
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") == "10.0.0.1"
    assert network_of(None) == "unknown"


# --- hosts, origins, proxies ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("jobs.example.org", 200),
        ("JOBS.example.org:5522", 200),
        ("a.b.internal", 200),
        ("internal", 421),
        ("evil-internal", 421),
        ("jobs.example.org.evil.test", 421),
        ("", 421),
    ],
)
async def test_only_its_own_names_are_answered(api: Api, host: str, status: int) -> None:
    client = client_of(api, allowed_hosts=["jobs.example.org", "*.internal"])
    reply = await client.get("/api/app/ping/v1", headers={"Host": host})
    assert reply.status_code == status
    assert (await client.get("/health", headers={"Host": host})).status_code == 200


async def test_replies_are_readable_from_known_origins_alone(api: Api) -> None:
    client = client_of(api, cors_origins=["https://page.test"])
    for origin, allowed in (("https://page.test", True), ("https://other.test", False)):
        for method in ("GET", "OPTIONS"):
            reply = await client.request(method, "/api/app/ping/v1", headers={"Origin": origin})
            found = reply.headers.get("access-control-allow-origin")
            assert found == (origin if allowed else None)
            assert "access-control-allow-credentials" not in reply.headers


async def test_every_reply_tells_browsers_to_be_careful(api: Api) -> None:
    client = client_of(api)
    for path in ("/api/app/ping", "/api/app/nope", "/nope", "/schema", "/health", "/files/x/y"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "content-security-policy" in headers
        assert "server" not in headers


async def test_a_proxys_word_counts_only_if_it_is_trusted(api: Api) -> None:
    """Otherwise anybody could log in from any address, and count for any."""
    told = {"X-Forwarded-For": "6.6.6.6, 9.9.9.9", "X-Forwarded-Proto": "https"}
    trusted = ["10.0.0.0/24", "9.9.9.9"]
    for proxies, address, scheme in (([], "10.0.0.1", "http"), (trusted, "6.6.6.6", "https")):
        client = client_of(api, trusted_proxies=proxies)
        made = await client.post(
            "/api/app/create_tag/v1",
            json={"title": "t"},
            headers=told | {"X-API-Key": api.client.headers["X-API-Key"]},
        )
        fact = await api.gateway.ledger.get(int(made.headers["x-ledger-seq"]))
        assert fact is not None
        assert fact.fact.actor.address == address
        assert ("strict-transport-security" in made.headers) == (scheme == "https")


@pytest.mark.parametrize("wrong", ["example.org", "10.0.0.1/8", ""])
def test_a_proxy_is_named_by_its_address(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        load_settings(data_dir=tmp_path, trusted_proxies=[wrong])


# --- https ---------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


async def test_with_a_certificate_the_api_speaks_https(
    api: Api, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    async with serving(api, tls_cert=cert, tls_key=key) as served:
        trust = ssl.create_default_context(cafile=str(cert))
        async with httpx.AsyncClient(verify=trust) as client:
            reply = await client.get(f"https://127.0.0.1:{served.port}/api/app/ping/v1")
        assert reply.json() == {"code": 0}
        assert "strict-transport-security" in reply.headers
        assert b'"code":0' not in await served.raw(get(b"/api/app/ping/v1"))


async def test_those_who_do_not_shake_hands_shut_nobody_out(
    api: Api, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of too many gives way at once, the others after a while."""
    cert, key = certificate
    monkeypatch.setattr(handshakes, "PATIENCE", 0.3)
    async with serving(api, max_connections=5, tls_cert=cert, tls_key=key) as served:
        silent = [await served.connect() for _ in range(handshakes.most_handshakes(5) + 1)]
        async with asyncio.timeout(WITHIN):
            for reader, _ in silent:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
        trust = ssl.create_default_context(cafile=str(cert))
        async with httpx.AsyncClient(verify=trust) as client:
            reply = await client.get(f"https://127.0.0.1:{served.port}/api/app/ping/v1")
        assert reply.json() == {"code": 0}
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize("connections", [1, 5, 72, 4096])
def test_files_are_enough_for_connections_and_handshakes(connections: int) -> None:
    files = connections + handshakes.most_handshakes(connections)
    assert connections - 1 <= handshakes.connections_of(files) <= connections


async def test_the_oldest_of_too_many_handshakes_gives_way(
    api: Api, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    async with serving(api, max_connections=5, tls_cert=cert, tls_key=key) as served:
        silent = [await served.connect() for _ in range(handshakes.most_handshakes(5) + 1)]
        async with asyncio.timeout(WITHIN):
            with contextlib.suppress(ConnectionResetError):
                assert await silent[0][0].read() == b""
        assert not any(reader.at_eof() for reader, _ in silent[1:])
        for _, writer in silent:
            writer.close()


def test_a_certificate_that_cannot_be_used_is_told_before_anything_starts(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    with pytest.raises(ConfigError, match="tls_key"):
        load_settings(data_dir=tmp_path, tls_cert=cert)
    check_certificate(Settings(data_dir=tmp_path, tls_cert=cert, tls_key=key))
    for wrong in (tmp_path / "none.pem", tmp_path):
        with pytest.raises(StartupError, match="cannot be used for HTTPS"):
            check_certificate(Settings(data_dir=tmp_path, tls_cert=cert, tls_key=wrong))


# --- steps ---------------------------------------------------------------------------------------


async def until(reached: Callable[[], bool]) -> None:
    """Wait for a condition that other tasks bring about."""
    async with asyncio.timeout(WITHIN):
        while not reached():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
