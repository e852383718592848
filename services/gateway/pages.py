"""What is no call of the API: pages by their path, files below one, and what there is not.

Knows nothing of what stands on a page.
"""

from collections.abc import Awaitable, Callable, Mapping

from services import logs
from services.gateway.asgi import ASGIApp, HTTPScope, Receive, Send
from services.gateway.replies import JSON_TYPE, Reply, encode, text_reply

Page = Callable[[HTTPScope, Receive], Awaitable[ASGIApp]]

log = logs.logger("gateway")


class Pages:
    """An ASGI application of `pages` by their whole path, and of `trees` by its first part.

    A page is asked for with GET or HEAD; more slashes count as one.
    """

    def __init__(self, pages: Mapping[str, Page], trees: Mapping[str, Page]) -> None:
        self._pages = pages
        self._trees = trees

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            reply = await self._reply(scope, receive)
        except Exception:
            log.exception("a request failed", action="request_failed", path=scope["path"])
            reply = _json("internal", "The server failed to answer.", 500)
        await reply(scope, receive, send)

    async def _reply(self, scope: HTTPScope, receive: Receive) -> ASGIApp:
        path = scope["path"]
        parts = [part for part in path.split("/") if part]
        page = self._pages.get("/" + "/".join(parts))
        if page is None and len(parts) > 1:
            page = self._trees.get(parts[0])
        if page is None:
            return _json(1, f"Unsupported API: {path[5:205]}") if _is_call(path) else _NOT_FOUND
        match scope["method"]:
            case "GET" | "HEAD":
                return await page(scope, receive)
            case "OPTIONS":
                return Reply(b"", [(b"allow", b"GET, HEAD, OPTIONS")], 204)
            case _:
                return NOT_ALLOWED


def _is_call(path: str) -> bool:
    return path.startswith("/api/")


def _json(code: int | str, description: str, status: int = 200) -> Reply:
    body = encode({"code": code, "description": description}) + b"\n"
    return Reply(body, [JSON_TYPE], status)


NOT_ALLOWED = _json("api", "Method Not Allowed", 405)
NO_HOST = _json("api", "Invalid host header", 400)
_NOT_FOUND = text_reply("Not found.\n", 404)
