"""The HTTP application: the calls of the API, health, documentation (api.md 1.1).

What a call does is declared in routes/; how it goes is endpoint.py's.
"""

from services.gateway import openapi
from services.gateway.asgi import ASGIApp, HTTPScope, Receive
from services.gateway.calls import Calls
from services.gateway.endpoint import Endpoint, Routes
from services.gateway.exposure import exposed
from services.gateway.gateway import Gateway
from services.gateway.pages import Page, Pages
from services.gateway.replies import JSON_TYPE, Reply, encode
from services.gateway.routes import (
    access,
    accounts,
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
    misc.api,
)


def endpoints() -> list[Endpoint]:
    """Every call of the API, in the order of its documentation."""
    return [endpoint for routes in ROUTES for endpoint in routes.endpoints]


def create_app(gateway: Gateway) -> ASGIApp:
    """The application that answers for this gateway, as the network may see it."""
    declared = endpoints()
    pages = {"/health": _health(gateway), "/metrics": metrics.page_for(gateway)}
    others = Pages(pages | openapi.pages(declared), {"files": files.page_for(gateway)})
    return exposed(Calls(declared, gateway, others), gateway.settings)


def _health(gateway: Gateway) -> Page:
    async def health(scope: HTTPScope, receive: Receive) -> Reply:
        body, status = misc.health(gateway.troubles(), gateway.warnings())
        no_store = (b"cache-control", b"no-store")
        return Reply(encode(body) + b"\n", [JSON_TYPE, no_store], status)

    return health
