"""Several nats-servers of one data directory that keep the ledger together: a cluster to try.

Each node has its own store, port and log in DIR/nats/nodeN; all trust the same keys. They listen
on the loopback interface only. A cluster on several machines is described in compose.yaml.
"""

import json
import secrets
from pathlib import Path

from domain.facts import Json
from services.ledger.embedded import (
    HOST,
    NatsSetup,
    chosen,
    free_port,
    logins,
    server_binary,
    write_configuration,
    write_enrolment,
)
from services.ledger.errors import StartupError
from services.ledger.secrets import write_private

_CLUSTER = """
cluster {{
  name: jobledger
  host: {host}
  port: {port}
  authorization {{ user: cluster, password: {password} }}
  routes: {routes}
}}
"""


def kept_size(data_dir: Path) -> int:
    """How many nodes this data directory was begun with; 0 if it is not used yet."""
    home = data_dir / "nats"
    if (home / "cluster.json").exists():
        return len(json.loads((home / "cluster.json").read_bytes())["nodes"])
    return 1 if (home / "store").exists() else 0


def prepare_cluster(data_dir: Path, size: int) -> list[NatsSetup]:
    """Choose ports and keys on first use, and write each node's configuration.

    Safe to call again and again. Raises StartupError if DIR cannot be written.
    """
    home = data_dir / "nats"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        choice = chosen(home / "credentials.json")
        nodes = _nodes(home / "cluster.json", choice["port"], size)
        setups = [_node(home, choice, nodes, number) for number in range(size)]
        write_enrolment(home, choice, setups[0].address)
    except OSError as error:
        raise StartupError(
            f"The data directory {data_dir} cannot be used: {error.strerror or error}."
        ) from error
    return setups


def _nodes(file: Path, first: int, size: int) -> Json:
    """The ports (for clients, for the other nodes) of each node, and the nodes' password."""
    if not file.exists():
        ports = [(first if n == 0 else free_port(), free_port()) for n in range(size)]
        # It must begin with a letter: NATS reads 1e5 as a number.
        choice = {"nodes": ports, "password": "p" + secrets.token_hex(24)}
        write_private(file, json.dumps(choice).encode(), replace=False)
    known: Json = json.loads(file.read_bytes())
    return known


def _node(home: Path, choice: Json, nodes: Json, number: int) -> NatsSetup:
    own = home / f"node{number + 1}"
    own.mkdir(exist_ok=True, mode=0o700)
    password = nodes["password"]
    port, route = nodes["nodes"][number]
    routes = [f"nats-route://cluster:{password}@{HOST}:{other}" for _, other in nodes["nodes"]]
    cluster = _CLUSTER.format(host=HOST, port=route, password=password, routes=json.dumps(routes))
    write_configuration(own, choice, name=f"nats{number + 1}", port=port, cluster=cluster)
    return NatsSetup(
        command=[str(server_binary()), "-c", str(own / "server.conf")],
        port=port,
        logins=logins(choice),
        log_file=own / "nats.log",
        others=tuple(other for other, _ in nodes["nodes"] if other != port),
    )
