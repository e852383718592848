"""What every reply and every request passes on its way in and out: hosts, proxies, headers.

An ASGI layer around the application. It decides for which host names this gateway answers, whom
it believes about a client's address, which pages of other origins may read replies, and adds
the headers that keep browsers from doing more with a reply than it is for. Knows no calls.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from services import logs
from services.gateway.connections import header_lines
from services.gateway.replies import AT_ONCE, JSON_TYPE, Reply, encode
from services.settings import Settings

Headers = list[tuple[bytes, bytes]]
Recurring = tuple[tuple[bytes, bytes], ...]
"""Headers that come again and again: they tell all there is to tell of the body, but its length."""

# Nothing in a reply may load or run anything; pages bring their own policy.
_DATA_POLICY = b"default-src 'none'; frame-ancestors 'none'"
_PAGE_POLICY = b"frame-ancestors 'none'"
_ALWAYS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
_ONLY_HTTPS = (b"strict-transport-security", b"max-age=31536000")
_ALLOW_ORIGIN = b"access-control-allow-origin"
# Whoever looks whether this process lives knows no host name.
_FOR_ALL_HOSTS = ("/health",)
_PORT = re.compile(r":\d+$")

log = logs.logger("gateway")


def exposed(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The application as the network may see it."""
    inner: Any = Exposure(app, settings.allowed_hosts, settings.cors_origins)
    if settings.trusted_proxies:
        inner = ProxyHeadersMiddleware(inner, trusted_hosts=list(settings.trusted_proxies))
    wrapped: ASGIApp = inner
    return wrapped


class Exposure:
    """The layer itself. Without `hosts` any name is answered; `*` in `origins` means all."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self._app = app
        self._hosts = [host.lower() for host in hosts]
        self._origins = None if "*" in origins else frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != ScopeType.HTTP:
            return
        request = scope["headers"]
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = list(message["headers"])
                message["headers"] = self._outgoing(request, headers, scope["scheme"])
            await send(message)

        at_once: Any = (scope.get("extensions") or {}).get(AT_ONCE)
        if at_once is not None:
            reply_as_is = at_once["reply"]

            def reply(status: int, recurring: Recurring, headers: Headers, body: bytes) -> bool:
                nonlocal started
                if self._origins is None:
                    lines = _guarded_lines(recurring, scope["scheme"])
                else:
                    known = self._for_known_origins(request, [*recurring])
                    lines = header_lines(_with_guards(known, scope["scheme"]))
                sent: bool = reply_as_is(status, lines, headers, body)
                started = started or sent
                return sent

            at_once["reply"] = reply

        if self._hosts and scope["path"] not in _FOR_ALL_HOSTS and not self._is_ours(scope):
            await _refusal("This is not a name of this server.", 421)(scope, receive, send_guarded)
            return
        try:
            await self._app(scope, receive, send_guarded)
        except Exception:
            if started:
                raise
            log.exception("A reply could not be sent", action="reply_failed", path=scope["path"])
            failed = _refusal("The server failed to answer.", 500, "internal")
            await failed(scope, receive, send_guarded)

    def _is_ours(self, scope: HTTPScope) -> bool:
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(named) != 1:
            return False
        host = _PORT.sub("", named[0].lower()).strip("[]").rstrip(".")
        server = scope["server"]
        if server is not None and host == server[0]:
            return True  # a page of another origin has a name that leads here, never our address
        return any(_matches(host, allowed) for allowed in self._hosts)

    def _outgoing(
        self, request: Iterable[tuple[bytes, bytes]], headers: Headers, scheme: str
    ) -> Headers:
        if self._origins is not None:
            headers = self._for_known_origins(request, headers)
        return _with_guards(headers, scheme)

    def _for_known_origins(
        self, request: Iterable[tuple[bytes, bytes]], headers: Headers
    ) -> Headers:
        """The reply's headers, with leave to read it for an origin on the list alone."""
        assert self._origins is not None
        origin = next((value for name, value in request if name == b"origin"), b"")
        kept = [header for header in headers if header[0] != _ALLOW_ORIGIN]
        if len(kept) != len(headers):
            kept.append((b"vary", b"Origin"))
            if origin.decode("latin-1") in self._origins:
                kept.append((_ALLOW_ORIGIN, origin))
        return kept


def _with_guards(headers: Headers, scheme: str) -> Headers:
    """The headers, and those that keep browsers from doing more than a reply is for."""
    headers += _ALWAYS
    names = dict(headers)
    if b"content-security-policy" not in names:
        page = names.get(b"content-type", b"").startswith(b"text/html")
        headers.append((b"content-security-policy", _PAGE_POLICY if page else _DATA_POLICY))
    if scheme == "https":
        headers.append(_ONLY_HTTPS)
    return headers


@lru_cache(64)
def _guarded_lines(recurring: Recurring, scheme: str) -> bytes:
    return header_lines(_with_guards([*recurring], scheme))


def _matches(host: str, allowed: str) -> bool:
    """`allowed` is a name, or `*.` and the end of one."""
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return host == allowed


def _refusal(description: str, status: int, code: str = "api") -> Reply:
    body = encode({"code": code, "description": description}) + b"\n"
    return Reply(body, [JSON_TYPE], status)
