"""Choosing a server: which are candidates, which have room, which one it is (execution.md 5).

Pure: servers come in as views, a random choice as a number. Must not know how a server is heard
of, nor what becomes of a job that finds none.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from domain.errors import job_rule
from domain.expressions import Expression, ExpressionError, evaluate, truthy
from domain.facts import Json

ALGORITHMS = frozenset(
    "random round_robin least_cpu least_mem fewest_jobs prefer_first prefer_last "
    "prefer_first_natural prefer_last_natural multiplex".split()
)
"""What `algo` may be (data.md 2.3). Monitors do not exist here, so `monitor:ID` never is."""


class ServerView(Struct, frozen=True, gc=False):
    """A server at this moment, as far as a choice depends on it.

    `cpu` is the 1-minute load average, `memory` active bytes, `jobs` the number of live jobs
    assigned and `weight_used` the sum of their weights; `max_jobs` 0 = unlimited; `record` is
    the wire form for expressions.
    """

    id: str
    hostname: str
    title: str = ""
    groups: tuple[str, ...] = ()
    enabled: bool = True
    online: bool = True
    max_jobs: float = 0
    cpu: float = 0.0
    memory: float = 0.0
    jobs: int = 0
    weight_used: float = 0.0
    record: Json | None = None

    @property
    def label(self) -> str:
        """What people call it, for comparing."""
        return (self.title or self.hostname).lower()


class Pick(Struct, frozen=True, gc=False):
    """The chosen server, and the event's next round-robin index where one was used."""

    server: ServerView
    robin: int | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """What target names stand for: servers, members of groups, servers by lower-case hostname."""

    servers: Mapping[str, object]
    members: Mapping[str, Sequence[str]]
    hostnames: Mapping[str, Sequence[str]]


def resolve(targets: object, directory: Directory, online: Callable[[str], bool]) -> list[str]:
    """The ids of the online servers that targets stand for, each once, in order (data.md 2.2).

    A target is the id of a server, else of a group, else a hostname; unknown ones yield nothing.
    Several runners may share a hostname: the first that is online stands for it.
    """
    found: dict[str, None] = {}
    for target in _names(targets):
        if target in directory.servers:
            ids: Iterable[str] = [target]
        elif target in directory.members:
            ids = directory.members[target]
        else:
            named = directory.hostnames.get(target.lower(), ())
            ids = [id for id in named if online(id)][:1]
        found.update(dict.fromkeys(id for id in ids if online(id)))
    return list(found)


def candidates(
    targets: object, servers: Mapping[str, ServerView], groups: Iterable[str] = ()
) -> list[ServerView]:
    """The online, enabled servers that targets stand for, in target order (steps 1 and 2).

    `groups` are the ids of groups that exist beside those the servers name. For small fleets
    and tests: who asks often keeps a Directory and calls `resolve`.
    """
    members: dict[str, list[str]] = {group: [] for group in groups}
    hostnames: dict[str, list[str]] = {}
    for server in servers.values():
        for group in server.groups:
            members.setdefault(group, []).append(server.id)
        hostnames.setdefault(server.hostname.lower(), []).append(server.id)
    directory = Directory(servers, members, hostnames)
    ids = resolve(targets, directory, lambda id: servers[id].online)
    return [servers[id] for id in ids if servers[id].enabled]


def with_room(servers: Iterable[ServerView], weight: float) -> list[ServerView]:
    """Those on which a job of this weight still fits (5.2)."""
    return [s for s in servers if not s.max_jobs or s.weight_used + weight <= s.max_jobs]


def passing(
    expression: Expression | None, servers: Sequence[ServerView]
) -> tuple[list[ServerView], str | None]:
    """Those for which the event's expression is true (step 5).

    An expression that fails lets no server through; its problem is the second value.
    """
    if expression is None:
        return list(servers), None
    try:
        return [s for s in servers if truthy(evaluate(expression, s.record or {}))], None
    except ExpressionError as problem:
        return [], f"The expression failed, so no server qualifies: {problem}"


def pick(algo: str | None, servers: Sequence[ServerView], *, draw: float, robin: int = 0) -> Pick:
    """One of the candidates (5.1); of equals, the first.

    `draw` is uniform in [0, 1) and `robin` the event's next index. A missing algorithm is
    `random`. Raises job_rule for an unknown one. There must be at least one candidate.
    """
    if not servers:
        raise ValueError("there must be a candidate")
    count = len(servers)
    match algo or "random":
        case "random":
            return Pick(servers[min(int(draw * count), count - 1)])
        case "round_robin":
            place = robin % count
            return Pick(servers[place], robin=(place + 1) % count)
        case "least_cpu":
            return Pick(min(servers, key=lambda s: s.cpu))
        case "least_mem":
            return Pick(min(servers, key=lambda s: s.memory))
        case "fewest_jobs":
            return Pick(min(servers, key=lambda s: s.jobs))
        case "prefer_first":
            return Pick(min(servers, key=lambda s: s.label))
        case "prefer_last":
            return Pick(max(servers, key=lambda s: s.label))
        case "prefer_first_natural":
            return Pick(servers[0])
        case "prefer_last_natural":
            return Pick(servers[-1])
        case unknown:
            raise job_rule(f"Unknown algorithm or monitor: {unknown}")


def _names(targets: object) -> list[str]:
    """A job's targets as names; text is a comma list."""
    if isinstance(targets, str):
        targets = [name.strip() for name in targets.split(",")]
    return [name for name in targets if isinstance(name, str)] if isinstance(targets, list) else []
