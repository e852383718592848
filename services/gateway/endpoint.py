"""How an endpoint is declared, and the one way every call goes (api.md 1, D2).

    @api.endpoint("abort_job", "Abort a job.", parse=Params.id, privilege="abort_jobs",
                  mutating=True, fields={"id": "string! Job"})
    async def abort_job(call: Call, job_id: str) -> Payload: ...

The order of checks is fixed here: credentials, then parameters (`parse`), then the privilege;
whether the object exists, category and group access, and the rules of its state are the
handler's. Knows nothing of single endpoints.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from litestar.types import HTTPScope, Receive

from domain.access import Principal
from domain.errors import AccessDenied, BadRequest, DomainError
from domain.facts import Actor, Json
from services import logs
from services.gateway import body, errors
from services.gateway.auth import Credentials, actor_of, authenticate
from services.gateway.files import FileReply
from services.gateway.params import Params, Upload
from services.gateway.patience import GivenUp
from services.gateway.replies import (
    AT_ONCE,
    Manner,
    Payload,
    Reply,
    ReplyStream,
    json_reply,
    preflight,
    wants_gzip,
)
from services.gateway.sse import EventStream

if TYPE_CHECKING:
    from services.gateway.gateway import Gateway

_VERSION = re.compile(r"v\d+", re.ASCII)
_NOTHING = Params({})
_NO_BODY = body.Body()
# A call that is not answered within so many seconds is given up (not one that waits for a job).
PATIENCE = 60.0
# Bodies of callers who are not known before theirs is read: credentials may be in it.
STRANGERS_BODY = 8 * 1024 * 1024
# A body must come at this many bytes per second on average, beyond its first seconds.
SLOWEST_BODY = 1024
BODY_PATIENCE = 30.0

log = logs.logger("gateway")

Direct = Reply | ReplyStream | FileReply | EventStream
Answer = Payload | Direct
Handler = Callable[..., Awaitable[Answer]]


class Call(msgspec.Struct):
    """One request on its way through the gateway. `now` is its time in Unix seconds.

    `sequence` becomes the header X-Ledger-Seq; `tail` is what follows the version in the path;
    `reply_headers` are sent with a JSON reply.
    `stored` are uploaded files that nothing refers to yet: they go if the call is refused.
    """

    gateway: "Gateway"
    endpoint: str
    scope: HTTPScope
    receive: Receive
    params: Params
    credentials: Credentials
    now: float
    tail: Sequence[str] = ()
    sequence: int = 0
    known: Principal | None = None
    stored: list[Upload] = []  # each gets its own
    reply_headers: list[tuple[bytes, bytes]] = []

    @property
    def caller(self) -> Principal:
        """Who calls; only for endpoints that need credentials."""
        assert self.known is not None
        return self.known

    @property
    def actor(self) -> Actor:
        """Who is recorded as the cause of what the call does."""
        return actor_of(self.caller, self.address)

    @property
    def address(self) -> str | None:
        """The client's network address."""
        client = self.scope.get("client")
        return client[0] if client else None

    def sign_in(self, *, mutating: bool = False, before_password: bool = False) -> Principal:
        """Look at the credentials; by itself for endpoints that are open in some cases only.

        Users who must choose a new password first are refused, unless `before_password`.
        """
        method = self.scope["method"]
        self.known = known = authenticate(
            self.gateway, self.credentials, method, mutating, self.now
        )
        access = self.gateway.views.access
        bound = known.kind == "user" and access.must_change_password(known.id)
        if bound and not before_password:
            raise AccessDenied("Choose a new password first: /api/user/update.")
        return known

    async def store(self, field: str, filename: str, kind: str, parts: body.Chunks) -> Upload:
        """Keep a file part of the request."""
        upload = await self.gateway.store_upload(field, filename, kind, parts)
        self.stored.append(upload)
        return upload

    async def client_left(self) -> None:
        """Until the client closes its connection; only once its body is read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def header(self, name: bytes) -> str:
        """A request header, by its lower-case name; empty when absent."""
        return self.credentials.headers.get(name, b"").decode("latin-1")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A named call of the API. `fields` and `example` are for its documentation alone.

    `open` needs no credentials; `tails` is how many path segments may follow the version.
    `space` is `app`, or `user` for accounts, whose errors all have the status 200. `gate` refuses
    callers of an open call before their body is read; without one they cannot send files.
    `needs_views` False: answers also while the views are being folded. `before_password`: also
    for users who must choose a new password first. `patience` is how long it may take, in
    seconds.
    """

    name: str
    summary: str
    handler: Handler
    parse: Callable[[Params], Any] | None = None
    privilege: str | None = None
    mutating: bool = False
    open: bool = False
    gate: Callable[[Call], None] | None = None
    needs_views: bool = True
    before_password: bool = False
    patience: float | None = PATIENCE
    tails: int = 0
    body_wins: bool = False
    uploads: bool = False
    method: str = "GET"
    group: str = ""
    space: Literal["app", "user"] = "app"
    fields: Mapping[str, str] = field(default_factory=dict)
    example: Json | None = None
    reply: Json | None = None

    @property
    def root(self) -> str:
        """The path without its version."""
        return f"/api/{self.space}/{self.name}"


class Routes:
    """The endpoints of one module, in the order of their declaration."""

    def __init__(self, group: str, space: Literal["app", "user"] = "app") -> None:
        self.group = group
        self.space = space
        self.endpoints: list[Endpoint] = []

    def endpoint(self, name: str, summary: str, **how: Any) -> Callable[[Handler], Handler]:
        """Declare the decorated function as the handler of the call `name`."""

        def declare(handler: Handler) -> Handler:
            how.setdefault("method", "POST" if how.get("mutating") else "GET")
            how.update(group=self.group, space=self.space)
            self.endpoints.append(Endpoint(name=name, summary=summary, handler=handler, **how))
            return handler

        return declare


async def answer(
    endpoint: Endpoint,
    gateway: "Gateway",
    scope: HTTPScope,
    receive: Receive,
    rest: Sequence[str],
) -> Direct:
    """One call from its bytes to its reply; `rest` is what follows its root in the path.

    Never raises but for defects, which it logs.
    """
    headers = dict(scope["headers"])
    if scope["method"] == "OPTIONS":
        return preflight(
            headers.get(b"origin", b"").decode("latin-1"),
            headers.get(b"access-control-request-headers", b"").decode("latin-1"),
        )
    versioned = bool(rest) and _VERSION.fullmatch(rest[0]) is not None
    tail = list(rest[versioned:])
    if len(tail) > endpoint.tails:
        return await unknown_api(endpoint.name + "/" + "/".join(tail))
    versioned = versioned and endpoint.space == "app"
    given = Credentials(headers)
    call = Call(gateway, endpoint.name, scope, receive, _NOTHING, given, gateway.clock(), tail)
    try:
        if endpoint.needs_views and not gateway.started:
            raise errors.NotYet("The views are still being folded from the ledger.")
        await _admit(endpoint, call)
        arguments = [endpoint.parse(call.params)] if endpoint.parse is not None else []
        _authorise(endpoint, call)
        result = await _handled(endpoint, call, arguments)
    except Exception as error:
        if call.stored and isinstance(error, DomainError):
            await gateway.discard(call.stored)
        return await _refused(endpoint, error, versioned)
    if isinstance(result, Direct):
        return result
    manner = Manner(
        gzip=b"accept-encoding" in headers and wants_gzip(headers[b"accept-encoding"]),
        pretty=_truthy(call.params.reserved.get("pretty")),
        private=not endpoint.open or endpoint.space == "user",
        sequence=call.sequence,
        headers=call.reply_headers,
    )
    return await json_reply(result, manner)


async def _handled(endpoint: Endpoint, call: Call, arguments: list[Any]) -> Answer:
    """The handler's answer, if it comes in time."""
    work = endpoint.handler(call, *arguments)
    if endpoint.patience is None:
        return await work
    try:
        return await call.gateway.patience.wait(work, endpoint.patience)
    except GivenUp:
        raise errors.NotYet("This took too long and was given up; it may be done yet.") from None


async def unknown_api(name: str) -> Reply:
    """The reply to a name that is no call: numeric code 1, HTTP 200 (api.md 1.1)."""
    payload = {"code": errors.UNKNOWN_API, "description": f"Unsupported API: {name}"}
    return await json_reply(payload, Manner())


async def _admit(endpoint: Endpoint, call: Call) -> None:
    """Credentials before parameters: what is wrong with the latter only known callers are told.

    Credentials in headers or query are looked at before the body is read; files of callers who
    are not known by then are refused, and so are large bodies.
    """
    scope, given = call.scope, call.credentials
    headers, problem = given.headers, None
    query: Json = {}
    sent = _NO_BODY
    if scope["query_string"]:
        try:
            query = body.query_values(scope["query_string"])
            given.reserved.update(body.reserved_of(query))
            given.reserved.pop("session_id", None)  # a session in a URL would end up in logs
        except DomainError as error:
            problem = error
    if endpoint.gate is not None:
        endpoint.gate(call)
    early = not endpoint.open and given.complete
    if early:
        _sign_in(endpoint, call)
    try:
        if has_body(headers):
            sent = await _body(endpoint, call, admitted=early or endpoint.gate is not None)
            given.reserved.update(body.reserved_of(sent.values))
    except DomainError as error:
        problem = error
    # What the body says of the caller counts more than the query (api.md 1.4).
    told = "session_id" in given.reserved or "api_key" in sent.values
    if not endpoint.open and (not early or told):
        _sign_in(endpoint, call)
    if problem is not None:
        raise problem
    call.params = body.merge(query, sent, body_wins=endpoint.body_wins)
    await _caught_up(call)


async def _body(endpoint: Endpoint, call: Call, *, admitted: bool) -> body.Body:
    headers, most = call.credentials.headers, call.gateway.settings.max_body
    limit = most if admitted else min(most, STRANGERS_BODY)
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    if body.may_hold_files(content_type):
        store = None
        if endpoint.uploads and admitted:
            _authorise(endpoint, call)
            store = call.store
        check_length(headers, limit)
        return await body.read(content_type, chunks(call.receive), limit, store)
    check_length(headers, limit)
    data = _arrived(call.scope)
    if data is None:
        return await body.read(content_type, chunks(call.receive), limit, None)
    if len(data) > limit:
        raise errors.BodyTooLarge(f"The body is larger than {limit} bytes.")
    return body.whole(content_type, data)


def _arrived(scope: HTTPScope) -> bytes | None:
    """The request's body if all of it came along with its head, as it mostly does."""
    at_once: Any = (scope.get("extensions") or {}).get(AT_ONCE)
    body: bytes | None = at_once["arrived"]() if at_once is not None else None
    return body


def _sign_in(endpoint: Endpoint, call: Call) -> None:
    call.sign_in(mutating=endpoint.mutating, before_password=endpoint.before_password)


def _authorise(endpoint: Endpoint, call: Call) -> None:
    if endpoint.privilege is not None:
        call.caller.require(endpoint.privilege)


async def _caught_up(call: Call) -> None:
    """Wait for the view that the client asks for with X-Ledger-Min-Seq (design.md 4)."""
    asked = call.credentials.headers.get(b"x-ledger-min-seq")
    if asked is None:
        return
    if not asked.isdigit() or len(asked) > 18:
        raise BadRequest("Header 'X-Ledger-Min-Seq' must be a ledger sequence.")
    if not await call.gateway.reached(int(asked)):
        raise errors.NotYet("This view has not reached the sequence in X-Ledger-Min-Seq yet.")


async def _refused(endpoint: Endpoint, error: Exception, versioned: bool) -> Reply:
    refusal = errors.refusal(error, versioned)
    if refusal is None:
        log.exception("a call failed", action="call_failed", call=endpoint.name)
        refusal = errors.Refusal(
            "internal",
            "The server failed to answer; its log says why.",
            errors.http_status("internal", versioned),
        )
    payload = {"code": refusal.code, "description": refusal.description}
    return await json_reply(payload, Manner(), refusal.status)


def has_body(headers: dict[bytes, bytes]) -> bool:
    """Whether the request announces a body."""
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


def check_length(headers: dict[bytes, bytes], limit: int) -> None:
    """BodyTooLarge for a body that says itself that it is larger than `limit` bytes."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise errors.BodyTooLarge(f"The body is larger than {limit} bytes.")


async def chunks(receive: Receive) -> AsyncIterator[bytes]:
    """The request's body as it arrives. Raises BodyTooSlow."""
    clock = asyncio.get_running_loop().time
    size, patience = 0, BODY_PATIENCE
    while True:
        asked = clock()
        try:
            async with asyncio.timeout(min(BODY_PATIENCE, patience + size / SLOWEST_BODY)):
                message = await receive()
        except TimeoutError:
            raise errors.BodyTooSlow("The body did not come in time.") from None
        if message["type"] != "http.request":
            raise BadRequest("The client went away while it sent the body.")
        patience -= clock() - asked
        size += len(message["body"])
        yield message["body"]
        if not message["more_body"]:
            return


def _truthy(value: object) -> bool:
    return value not in (None, "", "0", "false", 0, False)
