"""The HTTP application: the calls of the API, health, documentation (api.md 1.1).

What a call does is declared in routes/; how it goes is endpoint.py's.
"""

from typing import Any

from litestar import Litestar, Request, Response, route
from litestar.enums import HttpMethod
from litestar.exceptions import HTTPException, NotFoundException
from litestar.plugins import PluginProtocol
from litestar.types import ASGIApp

from domain.facts import Json
from services import logs
from services.gateway import calls, openapi
from services.gateway.endpoint import Endpoint, Routes
from services.gateway.exposure import exposed
from services.gateway.gateway import Gateway
from services.gateway.replies import JSON_TYPE, Reply, encode
from services.gateway.routes import (
    access,
    accounts,
    configuration,
    deletion,
    enrolment,
    events,
    files,
    jobs,
    metrics,
    misc,
    records,
    running,
    search,
    secrets,
    servers,
)
from services.gateway.routes import logs as job_logs

ROUTES: tuple[Routes, ...] = (
    events.api,
    running.api,
    jobs.api,
    deletion.api,
    job_logs.api,
    files.api,
    search.api,
    records.api,
    servers.api,
    accounts.api,
    access.api,
    enrolment.api,
    secrets.api,
    configuration.api,
    misc.api,
)

log = logs.logger("gateway")


def endpoints() -> list[Endpoint]:
    """Every call of the API, in the order of its documentation."""
    return [endpoint for routes in ROUTES for endpoint in routes.endpoints]


def create_app(gateway: Gateway) -> ASGIApp:
    """The application that answers for this gateway, as the network may see it."""
    declared = endpoints()
    app = _Litestar(
        [
            calls.handler(declared, gateway),
            _health(gateway),
            metrics.handler(gateway),
            files.handler(gateway),
            *openapi.handlers(declared),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _defect},
        openapi_config=None,
        logging_config=None,
    )
    return exposed(app, gateway.settings)


class _Litestar(Litestar):
    """Without plugins: no request and no reply is a model of another library."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        """Otherwise each start imports pydantic, in two versions: 0.1 s, 10 MB."""
        return plugins


def _health(gateway: Gateway) -> Any:
    @route("/health", http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200)
    async def health() -> Reply:
        body, status = misc.health(gateway.troubles(), gateway.warnings())
        no_store = (b"cache-control", b"no-store")
        return Reply(encode(body) + b"\n", [JSON_TYPE, no_store], status)

    return health


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What Litestar itself refuses: unknown paths and methods."""
    if isinstance(error, NotFoundException):
        return Response(b"Not found.\n", media_type="text/plain", status_code=404)
    return _plain({"code": "api", "description": error.detail}, error.status_code)


def _defect(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error(
        "a request failed", action="request_failed", path=request.scope["path"], exc_info=error
    )
    return _plain({"code": "internal", "description": "The server failed to answer."}, 500)


def _plain(body: Json, status: int) -> Response[bytes]:
    return Response(encode(body) + b"\n", media_type="application/json", status_code=status)
