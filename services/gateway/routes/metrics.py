"""`/metrics`: what Prometheus reads, for administrators (docs/metrics.md).

The same page stands at `metrics_port`, on loopback alone, for whoever is on this machine. Here a
key or a session is always needed: behind a proxy everybody seems to come from this machine.
"""

from typing import Any

from litestar import Request, route
from litestar.enums import HttpMethod

from domain.errors import DomainError
from services import metrics
from services.gateway import errors
from services.gateway.auth import Credentials
from services.gateway.endpoint import Call
from services.gateway.gateway import Gateway
from services.gateway.params import Params
from services.gateway.replies import PRIVATE, Reply, text_reply


async def page(gateway: Gateway) -> bytes:
    """The gateway's metrics as they are now."""
    metrics.READY.set(not gateway.troubles())
    await metrics.measure_ledger("gateway", gateway.ledger, gateway.follower.position)
    return metrics.page("gateway")


def handler(gateway: Gateway) -> Any:
    """The route; credentials come in headers only."""

    @route("/metrics", http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200)
    async def get_metrics(request: Request[Any, Any, Any]) -> Reply:
        scope = request.scope
        given = Credentials(dict(scope["headers"]))
        call = Call(gateway, "metrics", scope, request.receive, Params({}), given, gateway.clock())
        try:
            call.sign_in().require("admin")
        except DomainError as error:
            status = errors.http_status(error.code, versioned=True)
            return text_reply(f"{error.description}\n", status)
        kind = (b"content-type", metrics.CONTENT_TYPE.encode())
        return Reply(await page(gateway), [kind, PRIVATE])

    return get_metrics
