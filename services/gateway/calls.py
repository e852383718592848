"""The calls of the API below `/api`: `/api/SPACE/NAME`, version or not (api.md 1.1).

Mounted in the Litestar application as one ASGI handler that finds calls by a dictionary:
Litestar's request and response objects would cost more than most calls.
"""

import time
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from litestar.handlers import ASGIRouteHandler
from litestar.types import ExceptionHandlersMap, HTTPScope, Receive, Send

from services.gateway.endpoint import Endpoint, answer
from services.gateway.replies import JSON_TYPE, Reply, encode, text_reply
from services.metrics import Requests

if TYPE_CHECKING:
    from services.gateway.gateway import Gateway

METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS"})
MOUNT = "/api"
_SPACE_AND_NAME = 2


def handler(endpoints: Iterable[Endpoint], gateway: "Gateway") -> ASGIRouteHandler:
    """The route of all calls, all methods alike."""
    calls = {call.root: (call, Requests(call.name)) for call in endpoints}

    @_Calls(MOUNT, is_mount=True, copy_scope=False)
    async def handle(scope: HTTPScope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if not path.startswith("/"):  # Litestar mounts below anything that begins like /api
            await NOT_FOUND(scope, receive, send)
            return
        root, rest = _split(path)
        named = calls.get(root)
        if named is None or len(rest) > 1 + named[0].tails:
            await _unsupported(path)(scope, receive, send)
            return
        endpoint, requests = named
        if scope["method"] not in METHODS:
            await _NOT_ALLOWED(scope, receive, send)
            return
        began = time.perf_counter()
        reply = await answer(endpoint, gateway, scope, receive, rest)
        requests.answered(getattr(reply, "code", 0), time.perf_counter() - began)
        await reply(scope, receive, send)

    return handle


class _Calls(ASGIRouteHandler):
    """Litestar would look for the handlers of exceptions anew at each request."""

    _handlers: "ExceptionHandlersMap | None" = None

    def resolve_exception_handlers(self) -> ExceptionHandlersMap:
        """Those of all layers."""
        if self._handlers is None:
            self._handlers = super().resolve_exception_handlers()
        return self._handlers


@lru_cache(1024)
def _split(path: str) -> tuple[str, tuple[str, ...]]:
    """The root of the call that a path names, and what follows; more slashes count as one."""
    parts = [part for part in path.split("/") if part]
    return "/".join((MOUNT, *parts[:_SPACE_AND_NAME])), tuple(parts[_SPACE_AND_NAME:])


def _unsupported(path: str) -> Reply:
    description = f"Unsupported API: {path.strip('/')[:200]}"
    return Reply(encode({"code": 1, "description": description}) + b"\n", [JSON_TYPE])


NOT_FOUND = text_reply("Not found.\n", 404)
_NOT_ALLOWED = Reply(
    encode({"code": "api", "description": "Method Not Allowed"}) + b"\n", [JSON_TYPE], 405
)
