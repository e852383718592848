"""The types of an ASGI application (asgi.readthedocs.io), as far as this gateway is one."""

from collections.abc import Awaitable, Callable
from typing import Any

HTTPScope = dict[str, Any]
"""A request without its body."""
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[HTTPScope, Receive, Send], Awaitable[None]]
