"""A cable between a client and NATS that a test can cut or make deaf.

And the facts that ledger tests write. A deaf cable carries what the client says to the server,
but not the server's answers: so a write is stored and its answer is lost.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from domain.facts import Actor, EventUpdated, JobAbortRequested, Recorded, TermStarted, TickFired
from services.ledger.connection import Ledger
from services.ledger.reader import Follower

ACTOR = Actor(type="system", id="test")


def tick(number: float = 0.0) -> TickFired:
    """A fact that anybody may write, told apart by its number."""
    return TickFired(at=1.0, actor=ACTOR, evaluated=float(number))


def edit(event: str, title: str) -> EventUpdated:
    """A new definition of an event: its subject is guarded."""
    return EventUpdated(at=1.0, actor=ACTOR, event=event, definition={"title": title})


def abort(job: str) -> JobAbortRequested:
    """A request on a subject of its own."""
    return JobAbortRequested(at=1.0, actor=ACTOR, event="e1", job=job, reason="test")


def term(instance: str) -> TermStarted:
    """A scheduler takes the lead."""
    return TermStarted(at=1.0, actor=ACTOR, instance=instance)


async def everything(ledger: Ledger) -> list[Recorded]:
    """All facts of the ledger, in order."""
    found: list[Recorded] = []
    async with following(ledger, found.append) as follower:
        assert await follower.reached(await ledger.end(), 10), "the ledger's end was not reached"
    return found


@asynccontextmanager
async def following(
    ledger: Ledger, apply: Callable[[Recorded], None], *, after: int = 0
) -> AsyncIterator[Follower]:
    """A follower that runs during the block."""
    follower = Follower(ledger, apply, after=after)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], why: str, within: float = 10.0) -> None:
    """Wait for a condition that no signal tells of."""
    try:
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110  # nothing to be woken by
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {within:g} s: {why}") from None


class Cable:
    """Forwards connections to the server behind `url`; see the module's docstring."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._ends: set[asyncio.StreamWriter] = set()
        self.deaf = False
        self.said = asyncio.Event()
        """Set when the server said something that a deaf cable swallowed."""

    @property
    def url(self) -> str:
        """Where a client finds the cable."""
        host = f"{self._server.username}:{self._server.password}@127.0.0.1:{self._port}"
        return urlunsplit(self._server._replace(netloc=host))

    async def plug(self) -> None:
        """Take connections (again), with the answers."""
        self.deaf = False
        self._listener = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._listener.sockets[0].getsockname()[1]

    def deafen(self) -> None:
        """Swallow what the server says from now on."""
        self.said.clear()
        self.deaf = True

    async def cut(self) -> None:
        """Break all connections and take no new ones."""
        if self._listener is not None:
            self._listener.close()
        for end in list(self._ends):
            end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_server = await asyncio.open_connection(self._server.hostname, self._server.port)
        ends = {writer, to_server}
        self._ends |= ends
        try:
            await asyncio.gather(
                self._pump(reader, to_server, answers=False),
                self._pump(there, writer, answers=True),
            )
        except OSError:
            pass  # the cable was cut
        finally:
            self._ends -= ends
            for end in ends:
                end.close()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await source.read(65536):
            if answers and self.deaf:
                self.said.set()
            else:
                sink.write(data)
                await sink.drain()
        sink.close()
