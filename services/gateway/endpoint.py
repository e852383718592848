"""How an endpoint is declared, and the one way every call goes (api.md 1, D2).

    @api.endpoint("abort_job", "Abort a job.", parse=Params.id, privilege="abort_jobs",
                  mutating=True, fields={"id": "string! Job"})
    async def abort_job(call: Call, job_id: str) -> Payload: ...

The order of checks is fixed here: credentials, then parameters (`parse`), then the privilege;
whether the object exists, category and group access, and the rules of its state are the
handler's. Knows nothing of single endpoints.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from litestar import Request
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler, route
from litestar.types import ASGIApp, HTTPScope, Receive

from domain.access import Principal
from domain.errors import BadRequest, DomainError
from domain.facts import Actor, Json
from services import logs
from services.gateway import body, errors
from services.gateway.auth import Credentials, actor_of, authenticate
from services.gateway.files import FileReply
from services.gateway.params import Params, Upload
from services.gateway.replies import (
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

METHODS = [HttpMethod.GET, HttpMethod.POST, HttpMethod.HEAD, HttpMethod.OPTIONS]
_VERSION = re.compile(r"v\d+", re.ASCII)
_NOTHING = Params({})

log = logs.logger("gateway")

Direct = Reply | ReplyStream | FileReply | EventStream
Answer = Payload | Direct
Handler = Callable[..., Awaitable[Answer]]


@dataclass(slots=True)
class Call:
    """One request on its way through the gateway. `now` is its time in Unix seconds.

    `sequence` becomes the header X-Ledger-Seq; `tail` is what follows the version in the path.
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
    stored: list[Upload] = field(default_factory=list)

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

    def sign_in(self) -> Principal:
        """Look at the credentials after all; for endpoints that are open in some cases only."""
        self.known = authenticate(
            self.gateway, self.credentials, self.scope["method"], False, self.now
        )
        return self.known

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
    """

    name: str
    summary: str
    handler: Handler
    parse: Callable[[Params], Any] | None = None
    privilege: str | None = None
    mutating: bool = False
    open: bool = False
    tails: int = 0
    body_wins: bool = False
    uploads: bool = False
    method: str = "GET"
    group: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    example: Json | None = None
    reply: Json | None = None

    @property
    def root(self) -> str:
        """The path without its version."""
        return f"/api/app/{self.name}"


class Routes:
    """The endpoints of one module, in the order of their declaration."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.endpoints: list[Endpoint] = []

    def endpoint(self, name: str, summary: str, **how: Any) -> Callable[[Handler], Handler]:
        """Declare the decorated function as the handler of the call `name`."""

        def declare(handler: Handler) -> Handler:
            how.setdefault("method", "POST" if how.get("mutating") else "GET")
            self.endpoints.append(
                Endpoint(name=name, summary=summary, handler=handler, group=self.group, **how)
            )
            return handler

        return declare


def route_handler(endpoint: Endpoint, gateway: "Gateway") -> HTTPRouteHandler:
    """The Litestar route of an endpoint: with or without a version, all methods alike."""
    paths = [endpoint.root]
    for depth in range(1 + endpoint.tails):
        paths.append(paths[-1] + f"/{{part{depth}:str}}")

    @route(paths, http_method=METHODS, status_code=200, include_in_schema=False)
    async def handle(request: Request[Any, Any, Any]) -> ASGIApp:
        reply = await answer(endpoint, gateway, request.scope, request.receive)
        return cast(ASGIApp, reply)  # they answer HTTP alone, an ASGIApp in general more

    return handle


async def answer(
    endpoint: Endpoint, gateway: "Gateway", scope: HTTPScope, receive: Receive
) -> Direct:
    """One call from its bytes to its reply. Never raises but for defects, which it logs."""
    headers = dict(scope["headers"])
    if scope["method"] == "OPTIONS":
        return preflight(
            headers.get(b"origin", b"").decode("latin-1"),
            headers.get(b"access-control-request-headers", b"").decode("latin-1"),
        )
    parts = scope["path"].removeprefix(endpoint.root).strip("/").split("/")
    versioned = _VERSION.fullmatch(parts[0]) is not None
    tail = [part for part in parts[versioned:] if part]
    if len(tail) > endpoint.tails:
        return await unknown_api(endpoint.name + "/" + "/".join(tail))
    given = Credentials(headers)
    call = Call(gateway, endpoint.name, scope, receive, _NOTHING, given, gateway.clock(), tail)
    try:
        if not gateway.started and not endpoint.open:
            raise errors.NotYet("The views are still being folded from the ledger.")
        await _admit(endpoint, call)
        if endpoint.parse is not None:
            command = endpoint.parse(call.params)
            _authorise(endpoint, call)
            result = await endpoint.handler(call, command)
        else:
            _authorise(endpoint, call)
            result = await endpoint.handler(call)
    except Exception as error:
        if call.stored and isinstance(error, DomainError):
            await gateway.discard(call.stored)
        return await _refused(endpoint, error, versioned)
    if isinstance(result, Direct):
        return result
    manner = Manner(
        gzip=wants_gzip(headers.get(b"accept-encoding", b"")),
        pretty=_truthy(call.params.reserved.get("pretty")),
        private=not endpoint.open,
        sequence=call.sequence,
    )
    return await json_reply(result, manner)


async def unknown_api(name: str) -> Reply:
    """The reply to a name that is no call: numeric code 1, HTTP 200 (api.md 1.1)."""
    payload = {"code": errors.UNKNOWN_API, "description": f"Unsupported API: {name}"}
    return await json_reply(payload, Manner())


async def _admit(endpoint: Endpoint, call: Call) -> None:
    """Credentials before parameters: what is wrong with the latter only known callers are told.

    Credentials in headers or query are looked at before the body is read; files of callers who
    are not known by then are refused.
    """
    gateway, scope, given = call.gateway, call.scope, call.credentials
    headers, problem = given.headers, None
    query: Json = {}
    sent = body.Body()
    try:
        query = body.query_values(scope["query_string"])
        given.reserved.update(body.reserved_of(query))
        given.reserved.pop("session_id", None)  # a session in a URL would end up in logs
    except DomainError as error:
        problem = error
    early = not endpoint.open and given.given
    if early:
        call.known = _known(endpoint, call)
    try:
        if has_body(headers):
            store = call.store if endpoint.uploads and (early or endpoint.open) else None
            content_type = headers.get(b"content-type", b"").decode("latin-1")
            sent = await body.read(
                content_type, chunks(call.receive), gateway.settings.max_body, store
            )
            given.reserved.update(body.reserved_of(sent.values))
    except DomainError as error:
        problem = error
    if not endpoint.open and (not early or "session_id" in given.reserved):
        call.known = _known(endpoint, call)
    if problem is not None:
        raise problem
    call.params = body.merge(query, sent, body_wins=endpoint.body_wins)
    await _caught_up(call)


def _known(endpoint: Endpoint, call: Call) -> Principal:
    return authenticate(
        call.gateway, call.credentials, call.scope["method"], endpoint.mutating, call.now
    )


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


async def chunks(receive: Receive) -> AsyncIterator[bytes]:
    """The request's body as it arrives."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise BadRequest("The client went away while it sent the body.")
        yield message["body"]
        if not message["more_body"]:
            return


def _truthy(value: object) -> bool:
    return value not in (None, "", "0", "false", 0, False)
