"""Serves a service's metrics to Prometheus on this machine: one page, one port, loopback alone.

Speaks just enough HTTP for that, on the service's own event loop, so that what is measured does
not change while it is read. Knows nothing of what stands on the page.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.errors import StartupError
from services.logs import logger
from services.metrics import CONTENT_TYPE

HOST = "127.0.0.1"
PATHS = ("/metrics", "/")
# A request must have come, and its answer gone, within so many seconds.
PATIENCE = 5.0
_LARGEST_HEAD = 16 * 1024

Page = Callable[[], Awaitable[bytes]]

log = logger()


@asynccontextmanager
async def scraped(port: int, page: Page) -> AsyncIterator[None]:
    """Answer `GET /metrics` at this port of 127.0.0.1 meanwhile; nothing if it is 0.

    Raises StartupError with one sentence if the port cannot be had.
    """
    if not port:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(await _reply(reader, page))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # whoever asked does not speak HTTP, or is gone
        except Exception:
            log.exception("Metrics cannot be shown", action="metrics_failed")
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, HOST, port, limit=_LARGEST_HEAD)
    except OSError as error:
        raise StartupError(
            f"Port {port} for metrics cannot be used ({error.strerror or error}): "
            "choose another with --metrics-port."
        ) from error
    log.info("Metrics are served", action="metrics_served", port=port)
    try:
        yield
    finally:
        server.close()


async def _reply(reader: asyncio.StreamReader, page: Page) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
    if path not in PATHS:
        return _response("404 Not Found", b"Not found.\n")
    if method not in (b"GET", b"HEAD"):
        return _response("405 Method Not Allowed", b"Only GET is answered.\n")
    response = _response("200 OK", await page())
    return response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == b"HEAD" else response


def _response(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
