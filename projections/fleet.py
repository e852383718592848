"""The servers: what their runners report, what administrators say, which groups they are in.

Heartbeats are no facts: services feed them with `heard`, and nothing that is decided here from
facts depends on them. Must not know jobs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from domain import facts as f
from domain.checks import is_number
from domain.facts import Json, Recorded
from domain.patterns import found_in
from domain.targets import Directory, ServerView


@dataclass(slots=True)
class Server:
    """One server. `record` is its wire form (data.md 10); times are Unix seconds.

    `joined` is the sequence of the newest ServerJoined; `own_groups` are those its runner asked
    for; `said` is what an administrator set; `live` is the newest heartbeat's part of `info`.
    """

    id: str
    boot: str = ""
    machine_boot: str = ""
    joined: int = 0
    created: float = 0.0
    modified: float = 0.0
    hostname: str = ""
    ip: str = ""
    left: bool = False
    own_groups: list[str] = field(default_factory=list)
    info: Json = field(default_factory=dict)
    said: Json = field(default_factory=dict)
    live: Json = field(default_factory=dict)
    heard_at: float | None = None
    groups: list[str] = field(default_factory=list)
    record: Json = field(default_factory=dict)

    @property
    def enabled(self) -> bool:
        """Whether it may take new jobs."""
        return bool(self.said.get("enabled", True))


@dataclass(frozen=True, slots=True)
class StoredFleet:
    """What a snapshot keeps of Fleet; of the servers, what their runners reported."""

    position: int
    servers: dict[str, Server]
    groups: dict[str, Json]
    said: dict[str, Json]


class Fleet:
    """Fold of all servers and groups. A server stays, offline, until somebody deletes it."""

    def __init__(self) -> None:
        self.position = 0
        self.servers: dict[str, Server] = {}
        self.groups: dict[str, Json] = {}
        self._said: dict[str, Json] = {}
        self._directory: Directory | None = None

    # --- folding -------------------------------------------------------------------------------

    def apply(self, recorded: Recorded) -> None:
        """Take in one fact; those already taken in are ignored. Never raises."""
        if recorded.sequence <= self.position:
            return
        self.position = recorded.sequence
        fold = _FOLDS.get(type(recorded.fact))
        if fold is not None:
            fold(self, recorded.fact)

    def concerns(self, kind: type[f.FactBase]) -> bool:
        """Whether facts of this kind change anything here; no other needs to be applied."""
        return kind in _FOLDS

    def _enter(self, fact: f.CatalogCreated | f.CatalogUpdated) -> None:
        if fact.type == "group":
            self.groups[fact.id] = fact.record
            self._match_all()
        elif fact.type == "server":
            self._say(fact.id, fact.record, fact.at)

    def _remove(self, fact: f.CatalogDeleted) -> None:
        if fact.type == "group":
            self.groups.pop(fact.id, None)
            self._match_all()
        elif fact.type == "server":
            self._said.pop(fact.id, None)
            self.servers.pop(fact.id, None)
            self._directory = None

    def _update(self, fact: f.ServerUpdated) -> None:
        server = self._current(fact.server, fact.boot)
        if server is not None:
            server.info, server.modified = fact.info, fact.at
            self._describe(server)

    def _leave(self, fact: f.ServerLeft) -> None:
        server = self._current(fact.server, fact.boot)
        if server is not None:
            server.left, server.modified = True, fact.at
            self._describe(server)

    def _join(self, fact: f.ServerJoined) -> None:
        server = self.servers.get(fact.server)
        if server is None:
            server = Server(fact.server, created=fact.at, said=self._said.get(fact.server, {}))
            self.servers[fact.server] = server
        server.boot, server.machine_boot = fact.boot, fact.machine_boot
        server.joined = self.position
        server.hostname, server.ip = fact.hostname, fact.ip
        server.own_groups, server.info = list(fact.groups), fact.info
        server.left, server.modified = False, fact.at
        server.heard_at, server.live = None, {}
        self._match(server)

    def _current(self, id: str, boot: str) -> Server | None:
        """The server, unless the report comes from an older boot."""
        server = self.servers.get(id)
        return server if server is not None and server.boot == boot else None

    def _say(self, id: str, record: Json, at: float) -> None:
        self._said[id] = record
        server = self.servers.get(id)
        if server is not None:
            server.said, server.modified = record, at
            self._match(server)

    def _match_all(self) -> None:
        self._directory = None
        for server in self.servers.values():
            self._match(server)

    def _match(self, server: Server) -> None:
        """Put the server into its groups: those set by hand, else its own and the matching."""
        by_hand = server.said.get("groups")
        if isinstance(by_hand, list) and not server.said.get("autoGroup", True):
            groups = [group for group in by_hand if isinstance(group, str)]
        else:
            matching = [
                id
                for id, group in self.groups.items()
                if found_in(group.get("hostname_match"), server.hostname)
            ]
            groups = [*server.own_groups, *matching]
        server.groups = list(dict.fromkeys(groups))
        self._directory = None
        self._describe(server)

    def _describe(self, server: Server) -> None:
        record: Json = {
            "id": server.id,
            "hostname": server.hostname,
            "ip": server.ip,
            "title": "",
            "icon": "",
            "enabled": True,
            "autoGroup": True,
            "userData": {},
        }
        record |= {k: v for k, v in server.said.items() if k not in _OWN}
        server.record = record | {
            "groups": server.groups,
            "info": server.info | server.live,
            "created": int(server.created),
            "modified": int(server.modified),
        }

    # --- snapshots -----------------------------------------------------------------------------

    def state(self) -> StoredFleet:
        """All that `restore` needs, heartbeats apart; not changed by what is folded later."""
        servers = {
            id: Server(
                id=id,
                boot=server.boot,
                machine_boot=server.machine_boot,
                joined=server.joined,
                created=server.created,
                modified=server.modified,
                hostname=server.hostname,
                ip=server.ip,
                left=server.left,
                own_groups=server.own_groups,
                info=server.info,
            )
            for id, server in self.servers.items()
        }
        return StoredFleet(self.position, servers, dict(self.groups), dict(self._said))

    def restore(self, state: StoredFleet) -> None:
        """Go on from a snapshot; only for a fold that has seen nothing yet."""
        self.position = state.position
        self.servers, self.groups, self._said = state.servers, state.groups, state.said
        for server in self.servers.values():
            server.said = self._said.get(server.id, {})
        self._match_all()

    # --- heartbeats ----------------------------------------------------------------------------

    def heard(self, server_id: str, boot: str, at: float, info: Json) -> None:
        """A heartbeat came, at the receiver's time `at`; one of another boot is ignored."""
        server = self._current(server_id, boot)
        if server is not None:
            server.heard_at = at
            server.live = info
            server.record["info"] = server.info | info

    def online(self, server_id: str, now: float, timeout: float) -> bool:
        """Whether a server was heard within `timeout` seconds and did not leave."""
        server = self.servers.get(server_id)
        return (
            server is not None
            and not server.left
            and server.heard_at is not None
            and now - server.heard_at <= timeout
        )

    # --- questions -----------------------------------------------------------------------------

    def untold_groups(self, server_id: str) -> tuple[str, ...] | None:
        """A server's groups, if they are others than those that its runner told."""
        server = self.servers.get(server_id)
        if server is None or server.groups == server.own_groups:
            return None
        return tuple(server.groups)

    @property
    def directory(self) -> Directory:
        """What target names stand for; members in the order in which servers first joined."""
        if self._directory is None:
            members: dict[str, list[str]] = {group: [] for group in self.groups}
            hostnames: dict[str, list[str]] = {}
            for server in self.servers.values():
                for group in server.groups:
                    members.setdefault(group, []).append(server.id)
                hostnames.setdefault(server.hostname.lower(), []).append(server.id)
            self._directory = Directory(MappingProxyType(self.servers), members, hostnames)
        return self._directory

    def max_jobs(self, server: Server) -> float:
        """The weight of jobs a server may hold; 0 = no limit (data.md 2.2 step 4)."""
        own = server.said.get("maxJobs")
        if is_number(own) and own > 0:
            return own
        limits = [self.groups.get(group, {}).get("max_jobs_per_server") for group in server.groups]
        return min((limit for limit in limits if is_number(limit) and limit > 0), default=0)

    def view(
        self, server_id: str, *, online: bool, jobs: int = 0, weight_used: float = 0.0
    ) -> ServerView | None:
        """A server as a choice needs it; None if there is none with this id."""
        server = self.servers.get(server_id)
        if server is None:
            return None
        info = server.record["info"]
        return ServerView(
            id=server.id,
            hostname=server.hostname,
            title=str(server.said.get("title") or ""),
            groups=tuple(server.groups),
            enabled=server.enabled,
            online=online,
            max_jobs=self.max_jobs(server),
            cpu=_figure(info, "cpu", "avgLoad"),
            memory=_figure(info, "memory", "active"),
            jobs=jobs,
            weight_used=weight_used,
            record=server.record,
        )


# What does not stand here does not concern a Fleet.
_FOLDS: Mapping[type[f.FactBase], Callable[[Fleet, Any], None]] = {
    f.ServerJoined: Fleet._join,
    f.ServerUpdated: Fleet._update,
    f.ServerLeft: Fleet._leave,
    f.CatalogCreated: Fleet._enter,
    f.CatalogUpdated: Fleet._enter,
    f.CatalogDeleted: Fleet._remove,
}

_OWN = frozenset({"id", "hostname", "ip", "groups", "info", "created", "modified", "revision"})
"""Keys of the wire record that an administrator's record does not set."""


def _figure(info: Json, part: str, name: str) -> float:
    found = info.get(part)
    value = found.get(name) if isinstance(found, dict) else None
    return float(value) if is_number(value) else 0.0
