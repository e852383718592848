"""The services of an installation on one machine: one of each, or a cluster to try.

Every service gets settings of its own: the login of its role, and ports and directories where
there are several of a kind.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from services.cli import serve
from services.ledger.staging import is_possible
from services.settings import Settings

if TYPE_CHECKING:
    from services.ledger.embedded import NatsSetup

# From the setting metrics_port upwards: the services' ports in this order.
METRICS_PORTS = ("gateway", "scheduler", "runner")
# Of a cluster: enough that any one may be lost.
SCHEDULERS = GATEWAYS = 2


Member = tuple[str, Callable[[], int]]
"""A service's name and its work."""


def runners(settings: Settings, setups: "list[NatsSetup]") -> list[Member]:
    """Those of `members` that run jobs."""
    return [member for member in members(settings, setups) if member[0].startswith("runner")]


def deciders(settings: Settings, setups: "list[NatsSetup]") -> list[Member]:
    """The other ones, gateways first."""
    return [member for member in members(settings, setups) if not member[0].startswith("runner")]


def members(settings: Settings, setups: "list[NatsSetup]") -> Iterator[Member]:
    """All services, for as many NATS nodes (none: somebody else's NATS)."""
    if len(setups) > 1:
        yield from _cluster(settings, setups)
        return
    for kind in ("gateway", "scheduler", "runner"):
        mine: dict[str, object] = {}
        if setups:
            mine = {"nats": setups[0].url_for(kind), "batches_in_memory": is_possible()}
        if settings.metrics_port:
            mine["metrics_port"] = settings.metrics_port + METRICS_PORTS.index(kind)
        service = serve.SERVICES[kind]
        yield kind, partial(serve.serve, kind, replace(settings, **mine), service)


def _cluster(settings: Settings, setups: "list[NatsSetup]") -> Iterator[Member]:
    kinds = ["gateway"] * GATEWAYS + ["runner"] * len(setups) + ["scheduler"] * SCHEDULERS
    for place, kind in enumerate(kinds):
        number = kinds[:place].count(kind)
        name = f"{kind}{number + 1}"
        # A client goes to the next node when one is lost; they begin at different ones.
        nats = setups[place % len(setups)].url_for(kind)
        mine: dict[str, object] = {"nats": nats, "replicas": len(setups)}
        if settings.metrics_port:
            mine["metrics_port"] = settings.metrics_port + place
        service = serve.SERVICES[kind]
        if kind == "gateway":
            mine["port"] = settings.port + number
        elif kind == "runner":
            mine["data_dir"] = settings.data_dir / name
            service = partial(serve.runner, id=name, hostname=name)
        yield name, partial(serve.serve, kind, replace(settings, **mine), service)
