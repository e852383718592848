"""The gateway as a service: ledger, views and HTTP server, started and stopped together.

It answers as soon as it has a port, with `db` until the views are folded. Whatever ends one of
its parts ends the service; whoever started it starts it again.
"""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn

from domain.facts import Json, LedgerFounded
from services import logs
from services.errors import StartupError
from services.exposition import scraped
from services.gateway import snapshots
from services.gateway.app import create_app
from services.gateway.connections import guarded
from services.gateway.gateway import Gateway
from services.gateway.handshakes import Handshakes, connections_of, most_handshakes
from services.gateway.live import SUBJECT
from services.gateway.routes.metrics import page
from services.ledger.connection import Ledger
from services.ledger.enrolment import answer_enrolments
from services.ledger.live import listen
from services.ledger.secrets import server_secret
from services.pauses import avoid_pauses, take_turns
from services.settings import Settings

# Idle connections are kept this long, in seconds: new ones cost more than they hold (design.md 4).
KEEP_ALIVE = 75
# Open requests get this long to end when the service stops.
GRACE = 1
_BACKLOG = 2048
_TICK = 1.0
# Open files that are no connections of clients: the views, NATS, libraries.
_OTHER_FILES = 128

log = logs.logger("gateway")


async def run_gateway(settings: Settings) -> None:
    """Serve the API until cancelled.

    `settings.nats` is the URL of NATS; the ledger must have been founded. Raises StartupError
    with one sentence, LedgerError.
    """
    take_turns()
    secret = server_secret(settings.data_dir)
    with listening(settings.host, settings.port) as listener:
        async with (
            Ledger.open(settings.nats_url, name="gateway") as ledger,
            _gateway(settings, ledger, secret) as gateway,
            scraped(settings.metrics_port, lambda: page(gateway)),
        ):
            await _serve(gateway, listener)


@contextlib.asynccontextmanager
async def _gateway(settings: Settings, ledger: Ledger, secret: bytes) -> AsyncIterator[Gateway]:
    """A gateway with its history open, hearing the runners' heartbeats."""
    ledger.groups.in_memory = settings.batches_in_memory
    gateway = Gateway(settings, ledger, secret)
    founded = await ledger.get(1)
    if founded is None or not isinstance(founded.fact, LedgerFounded):
        raise StartupError("The ledger is not founded yet: start it with `jobledger up`.")
    path = settings.data_dir / "gateway" / f"history-{settings.port}.sqlite"
    gateway.views.open_history(path, founded.fact.ledger, await ledger.end())
    await snapshots.restore(gateway)

    async def heard(beat: Json) -> None:
        gateway.live.heard(beat)

    await listen(ledger, SUBJECT, heard)
    await gateway.logins.listen(ledger)
    await answer_enrolments(ledger, gateway.signer)
    try:
        yield gateway
    finally:
        await gateway.views.close()


async def _serve(gateway: Gateway, listener: socket.socket) -> None:
    """Until cancelled, or until a part of the gateway fails, which is raised."""
    server = http_server(gateway)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    following = asyncio.create_task(gateway.follower.run())
    ready = asyncio.create_task(_announce(gateway))
    keeping = asyncio.create_task(snapshots.keep_snapshots(gateway))
    try:
        await asyncio.wait(
            {serving, following, gateway.views.history_failed},
            return_when=asyncio.FIRST_COMPLETED,
        )
        for part in (following, gateway.views.history_failed, serving):
            if part.done():
                part.result()
    finally:
        gateway.stopping.set()
        gateway.wake_all()
        server.should_exit = True
        ready.cancel()
        keeping.cancel()
        await asyncio.wait({serving})
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


def http_server(gateway: Gateway) -> uvicorn.Server:
    """The HTTP server of this gateway: its application, and the bounds on connections."""
    settings = gateway.settings
    connections = _affordable(settings.max_connections, https=settings.tls_cert is not None)
    return _Server(
        uvicorn.Config(
            create_app(gateway),
            http=guarded(connections),
            ws="none",
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",  # what clients send wrongly is no news, and they could fill a disk
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        ),
        gateway.stopping,
        most_handshakes(connections),
    )


def _affordable(connections: int, *, https: bool) -> int:
    """So many connections, or as many as this process may have open files for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES + (most_handshakes(connections) if https else 0)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    possible = connections if soft == resource.RLIM_INFINITY else soft - _OTHER_FILES
    if https and soft != resource.RLIM_INFINITY:
        possible = connections_of(possible)
    return max(1, min(connections, possible))


async def _announce(gateway: Gateway) -> None:
    await gateway.follower.caught_up.wait()
    avoid_pauses()
    log.info(
        "The API is ready",
        action="gateway_ready",
        host=gateway.settings.host,
        port=gateway.settings.port,
        sequence=gateway.follower.position,
    )


class _Server(uvicorn.Server):
    """uvicorn without signal handlers: `stopping` is the caller's business.

    It looks ten times a second whether it shall stop; this one is told, and wakes for `Date` alone.
    """

    def __init__(
        self, config: uvicorn.Config, stopping: asyncio.Event, most_handshakes: int
    ) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._most_handshakes = most_handshakes

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it; with HTTPS, handshakes are bounded."""
        config = self.config
        if config.ssl is None:
            await super().startup(sockets)
            return

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        bounded: list[Any] = [
            Handshakes(listener, config.ssl, protocol, self._most_handshakes)
            for listener in sockets or []
        ]
        self.servers = bounded
        self.started = True

    async def main_loop(self) -> None:
        while not (await self.on_tick(0) or self._stopping.is_set()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket; StartupError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            raise StartupError(
                f"Port {port} on {host} cannot be used ({error.strerror or error}): "
                "choose another with --port."
            ) from error
        listener.setblocking(False)
        yield listener
