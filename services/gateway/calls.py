"""Which call of the API a request is for: `/api/SPACE/NAME`, version or not (api.md 1.1).

A dictionary, in front of all that is no call: documentation, files, health, and what there is not.
"""

import re
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from services.gateway.asgi import ASGIApp, HTTPScope, Receive, Send
from services.gateway.endpoint import Endpoint, answer
from services.gateway.pages import NO_HOST, NOT_ALLOWED
from services.metrics import Requests

if TYPE_CHECKING:
    from services.gateway.gateway import Gateway

METHODS = frozenset({"GET", "POST", "HEAD", "OPTIONS"})
_ROOT = 3
_HOST = re.compile(rb"[\w!$&'()*+,;=\-.~:\[\]@%]*")


class Calls:
    """An ASGI application that answers the calls; whatever is none goes to `others`."""

    def __init__(self, endpoints: Iterable[Endpoint], gateway: "Gateway", others: ASGIApp) -> None:
        self._calls = {call.root: (call, Requests(call.name)) for call in endpoints}
        self._gateway = gateway
        self._others = others

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        root, rest = _split(scope["path"])
        named = self._calls.get(root)
        if not _names_a_host(scope):
            await NO_HOST(scope, receive, send)
            return
        if named is None or len(rest) > 1 + named[0].tails:
            await self._others(scope, receive, send)
            return
        endpoint, requests = named
        if scope["method"] not in METHODS:
            await NOT_ALLOWED(scope, receive, send)
            return
        began = time.perf_counter()
        reply = await answer(endpoint, self._gateway, scope, receive, rest)
        requests.answered(getattr(reply, "code", 0), time.perf_counter() - began)
        await reply(scope, receive, send)


@lru_cache(1024)
def _split(path: str) -> tuple[str, tuple[str, ...]]:
    """The root of the call that a path names, and what follows; more slashes count as one."""
    parts = [part for part in path.split("/") if part]
    return "/" + "/".join(parts[:_ROOT]), tuple(parts[_ROOT:])


def _names_a_host(scope: HTTPScope) -> bool:
    """Whether the header `Host`, if it is there, could be a name at all."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    return _HOST.fullmatch(host) is not None
