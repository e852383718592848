"""The connection to NATS: it survives restarts of the server and answers every request once.

`Ledger` is what services hold: a connection with the ledger's verbs on it (append.py). This
module knows how to send and to await answers; it must not know what a fact means.

Nothing is ever sent later than asked for: without a connection a request fails (`NotSent`), and
what was not yet on the wire when the connection broke is dropped. So a write that was reported
as not stored cannot appear afterwards.
"""

import asyncio
import itertools
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from nats.errors import ConnectionClosedError, Error, OutboundBufferLimitError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext

from domain.facts import Fact, Json, Recorded
from services.ledger import append as appending
from services.ledger import reading
from services.ledger.access import CA_VARIABLE, Access
from services.ledger.client import FastClient, Handler, header_block
from services.ledger.errors import (
    Deposed,
    LedgerError,
    LedgerUnavailable,
    NotSent,
    NotServed,
    OutcomeUnknown,
    Refused,
    WrongSequence,
)
from services.ledger.groups import Groups
from services.ledger.replies import Reply, parse_headers
from services.logs import logger
from services.metrics import Appending

__all__ = [
    "Deposed",
    "Ledger",
    "LedgerError",
    "LedgerUnavailable",
    "NotSent",
    "NotServed",
    "OutcomeUnknown",
    "Refused",
    "Reply",
    "WrongSequence",
]

# A restarted nats-server is back within about 0.3 s; trying five times a second costs nothing.
RECONNECT_WAIT = 0.2
CONNECT_TIMEOUT = 2
# A server that is just starting answers sooner; the wait for another one is no secret.
TOLD_AFTER = 2.5
# A server that hangs with an open connection is given up after two unanswered pings.
PING_INTERVAL = 5
REQUEST_TIMEOUT = 5.0
# An answer that does not come is given up so late at most, in seconds.
LOOK = 0.05
# The answer to what was sent by somebody who gave up before asking for it, in seconds.
UNTOLD = 30.0
_LATE = Reply(b"", {})

log = logger()


class Ledger:
    """A live connection with the verbs of the ledger; open it with `Ledger.open`."""

    def __init__(self, name: str, access: Access) -> None:
        self.name = name
        self._access = access
        self.nc = FastClient()
        self.js: JetStreamContext = self.nc.jetstream()
        self.replicas = 0
        """Of the stream LEDGER; 0 until somebody asked."""
        self.highest = 0
        """The highest sequence that any answer named: what is written next stands after it."""
        self.groups = Groups(self)
        """Through which facts are written."""
        self.on_reconnect: list[Callable[[], None]] = []
        self.on_disconnect: list[Callable[[], None]] = []
        # Permissions name each user's inbox (nats/permissions).
        self._inbox = f"_INBOX.{access.login.name if access.login else name}"
        self._answers = ""
        self._tokens = itertools.count()
        self._waiting: dict[bytes, asyncio.Future[Reply | None]] = {}
        self._until: dict[asyncio.Future[Reply | None], float] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._back = asyncio.Event()
        # What the client said last: why a first connection does not come about.
        self._failure = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, name: str, wait: float = 10.0) -> AsyncIterator["Ledger"]:
        """Connect to NATS at `url` (several, separated by commas, for a cluster).

        Waits up to `wait` seconds for the server; LedgerUnavailable after that, Refused at once
        if the credentials are. `name` is what the server's lists show.
        """
        access = Access.of(url)
        ledger = cls(name, access)
        await ledger._connect(access.servers, wait)
        try:
            yield ledger
        finally:
            await ledger._close()

    @property
    def connected(self) -> bool:
        """Whether requests can be sent now."""
        return bool(self.nc.is_connected)

    async def wait_connected(self, within: float) -> bool:
        """Wait up to `within` seconds for the connection; whether it is there."""
        try:
            async with asyncio.timeout(within):
                await self._back.wait()
        except TimeoutError:
            return False
        return True

    # --- requests ------------------------------------------------------------------------

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        within: float = REQUEST_TIMEOUT,
    ) -> Reply:
        """Send a request and await its answer, up to `within` seconds.

        Raises NotSent without a connection, OutcomeUnknown if no answer came or the connection
        broke meanwhile, NotServed if nobody serves `subject`, LedgerUnavailable if the message
        cannot be sent at all (too large).
        """
        future = self.begin(subject, payload, headers, within)
        return _checked(await future, subject, within)

    def begin(
        self,
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None = None,
        within: float = UNTOLD,
    ) -> asyncio.Future[Reply | None]:
        """Send a request; its answer comes through the future, an empty one after `within` seconds.

        Raises as `publish` does.
        """
        token = b"%x" % next(self._tokens)
        self.publish(subject, payload, headers, self._answers + token.decode())
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply | None] = loop.create_future()
        self._waiting[token] = future
        self._until[future] = loop.time() + within
        if self._looking is None:
            self._looking = loop.call_later(LOOK, self._look_for_late)
        return future

    def publish(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None, reply: str = ""
    ) -> None:
        """Send a message that nobody confirms.

        Raises NotSent without a connection, LedgerUnavailable if it is too large.
        """
        try:
            self.nc.send(subject, payload, header_block(headers) if headers else b"", reply)
        except (OutboundBufferLimitError, ConnectionClosedError) as error:
            self._back.clear()
            raise NotSent(f"There is no connection to NATS ({self.name}).") from error
        except Error as error:
            raise LedgerUnavailable(f"NATS does not take this message: {error}.") from error

    async def answer(
        self, future: "asyncio.Future[Reply | None]", subject: str, within: float
    ) -> Reply:
        """The answer to `begin`, awaited for up to `within` seconds; errors as in `request`."""
        if not future.done():
            self._until[future] = asyncio.get_running_loop().time() + within
        return _checked(await future, subject, within)

    def _look_for_late(self) -> None:
        """Give up answers that are overdue: one timer for all, as nearly none ever is."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for future, until in list(self._until.items()):
            if until <= now and not future.done():
                future.set_result(_LATE)
        self._until = {f: until for f, until in self._until.items() if not f.done()}
        self._waiting = {token: f for token, f in self._waiting.items() if not f.done()}
        self._looking = loop.call_later(LOOK, self._look_for_late) if self._waiting else None

    async def api(
        self, verb: str, body: Json | None = None, *, within: float = REQUEST_TIMEOUT
    ) -> Json:
        """A request to the JetStream API; the answer may hold an `error` object."""
        payload = b"" if body is None else json.dumps(body).encode()
        reply = await self.request(f"$JS.API.{verb}", payload, within=within)
        answer: Json = json.loads(reply.data)
        return answer

    async def subscribe_direct(self, subject: str, handler: Handler) -> int:
        """Hand every message on `subject` to `handler` as it is parsed; returns the key."""
        subscription = await self.nc.subscribe(subject)
        key: int = subscription._id
        self.nc.direct[key] = handler
        return key

    async def unsubscribe_direct(self, key: int) -> None:
        """End what `subscribe_direct` began; fine without a connection."""
        self.nc.direct.pop(key, None)
        subscription = self.nc._subs.get(key)
        if subscription is not None and not self.nc.is_closed:
            await subscription.unsubscribe()

    # --- the verbs, see append.py and reading.py -------------------------------------------

    async def append(
        self,
        fact: Fact,
        *,
        id: str,
        expect: int | None = None,
        stored: appending.StoredCopy | None = None,
    ) -> int:
        """See `append.append`."""
        with Appending():
            return await appending.append(self, fact, id=id, expect=expect, stored=stored)

    def offer(
        self, fact: Fact, *, id: str, stored: Callable[[], None], otherwise: Callable[[], None]
    ) -> None:
        """See `append.offer`."""
        appending.offer(self, fact, id=id, stored=stored, otherwise=otherwise)

    async def append_all(
        self, facts: Sequence[tuple[str, Fact]], *, expect: Mapping[str, int] | None = None
    ) -> int:
        """See `append.append_all`."""
        with Appending():
            return await appending.append_all(self, facts, expect=expect or {})

    async def append_fenced(
        self, facts: Sequence[tuple[str, Fact]], term: int, *, behind: Collection[str] = ()
    ) -> int:
        """See `append.append_fenced`."""
        with Appending():
            return await appending.append_fenced(self, facts, term, behind=behind)

    async def last_sequence(self, subject: str) -> int:
        """The last sequence of this literal subject; 0 if there is none."""
        return await reading.last_sequence(self, subject)

    async def get(self, sequence: int) -> Recorded | None:
        """The fact at this sequence, or None (none yet, or erased)."""
        return await reading.get(self, sequence)

    async def last_fact(self, subject: str) -> Recorded | None:
        """The last fact of this subject, or None."""
        return await reading.last_fact(self, subject)

    async def end(self) -> int:
        """The last sequence of the ledger; 0 if it is empty."""
        return await reading.end(self)

    # --- the connection's own life -----------------------------------------------------------

    async def _connect(self, servers: list[str], wait: float) -> None:
        where = ", ".join(urlsplit(server).netloc for server in servers)
        telling = asyncio.get_running_loop().call_later(TOLD_AFTER, self._tell_of_wait, where, wait)
        try:
            async with asyncio.timeout(wait):
                await self._attempt_until_connected(servers)
        except TimeoutError:
            raise LedgerUnavailable(
                f"No NATS server answered at {where} within {wait:g} s{self._why_not()}."
            ) from None
        finally:
            telling.cancel()
        self._answers = f"{self._inbox}.{self.nc._nuid.next().decode()}."
        await self.subscribe_direct(self._answers + "*", self._on_answer)
        try:
            await self.nc.flush()
        except (Error, TimeoutError) as error:
            raise LedgerUnavailable(f"NATS ended the new connection: {error}.") from error
        self._back.set()

    def _tell_of_wait(self, where: str, wait: float) -> None:
        """Say what start-up waits for: whoever mistyped the address sees it at once."""
        log.warning(
            f"No NATS server answers at {where}{self._why_not()}; trying for {wait:g} s",
            action="nats_awaited",
        )

    def _why_not(self) -> str:
        return f" ({self._failure})" if self._failure else ""

    async def _attempt_until_connected(self, servers: list[str]) -> None:
        while True:
            self.nc = FastClient()
            try:
                await self.nc.connect(
                    servers,
                    # Said once for all: nodes that a cluster tells us about come without.
                    **self._access.options(),
                    name=self.name,
                    # At first a refusal must be told; later every connection is renewed.
                    allow_reconnect=False,
                    connect_timeout=CONNECT_TIMEOUT,
                    reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]  # fractions work
                    max_reconnect_attempts=-1,
                    ping_interval=PING_INTERVAL,
                    pending_size=0,
                    inbox_prefix=self._inbox,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_reconnect,
                )
            except ssl.SSLCertVerificationError as error:
                raise Refused(
                    f"The certificate of the NATS server is not trusted ({error.verify_message}): "
                    f"name who signed it with {CA_VARIABLE}."
                ) from None
            except (OSError, Error) as error:
                if "authorization violation" in str(error).lower():
                    raise Refused("NATS refused the credentials.") from None
                self._failure = _reason(error)
                await asyncio.sleep(RECONNECT_WAIT)
            else:
                self.nc.options["allow_reconnect"] = True
                self.js = self.nc.jetstream()
                return

    async def _close(self) -> None:
        self._back.clear()
        self._fail_waiting()
        self.nc.write_out()
        await self.nc.close()

    async def _on_error(self, error: Exception) -> None:
        self._failure = _reason(error)
        if isinstance(error, (OSError, NatsTimeout)) or not self.connected:
            log.debug("NATS is not reachable", action="nats_unreachable", error=str(error))
        elif "permissions violation" in str(error):
            log.error("NATS denied a permission", action="nats_permission_denied", error=str(error))
        else:
            log.warning("NATS reported an error", action="nats_error", error=repr(error))

    async def _on_disconnect(self) -> None:
        self._back.clear()
        self.nc.drop_unsent()
        self._fail_waiting()
        if not self.nc.is_closed:
            log.warning("The connection to NATS broke", action="nats_disconnected")
        for callback in self.on_disconnect:
            callback()

    async def _on_reconnect(self) -> None:
        log.info("The connection to NATS is back", action="nats_reconnected")
        self._back.set()
        for callback in self.on_reconnect:
            callback()

    def _fail_waiting(self) -> None:
        self.groups.forget_waiting(NotSent(f"The connection to NATS broke ({self.name})."))
        for future in list(self._waiting.values()):
            if not future.done():
                future.set_result(None)

    def _on_answer(self, subject: bytes, _: bytes, data: bytes, headers: bytes | None) -> None:
        future = self._waiting.pop(subject.rpartition(b".")[2], None)
        if future is not None and not future.done():
            future.set_result(Reply(data, parse_headers(headers)))


def _reason(error: Exception) -> str:
    """A few words on why there is no connection; of a refused one asyncio tells the address."""
    if isinstance(error, TimeoutError):
        return "it says nothing"
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(error).removeprefix("nats: ").rstrip(".")


def _checked(reply: Reply | None, subject: str, within: float) -> Reply:
    """An answer that came; errors as in `Ledger.request`."""
    if reply is _LATE:
        raise OutcomeUnknown(
            f"NATS did not answer on {subject} within {within:g} s "
            "(a denied permission looks the same)."
        )
    if reply is None:
        raise OutcomeUnknown("The connection to NATS broke before the answer came.")
    if reply.headers and reply.status == "503" and not reply.data:
        hint = ": NATS runs without JetStream, or it is starting" if subject[:3] == "$JS" else ""
        raise NotServed(f"Nobody answers on {subject}{hint}.")
    return reply
