"""Three nodes with the files of nats/cluster: the ledger survives the loss of one."""

import asyncio
import datetime
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.facts import Recorded, ServerLeft
from services.cli.keys import make_keys
from services.ledger.authority import Signer
from services.ledger.certificates import make_certificates
from services.ledger.connection import Ledger
from services.ledger.embedded import configuration_dir, free_port, server_binary
from services.ledger.enrolment import answer_enrolments
from services.ledger.errors import Deposed, LedgerUnavailable, WrongSequence
from services.ledger.streams import ensure_streams
from services.runner.enrolment import connected
from tests.services.wire import ACTOR, abort, edit, everything, following, term

NODES = ("nats1", "nats2", "nats3")


class Cluster:
    """Three nodes on this machine, with the checked-in configuration."""

    def __init__(self, home: Path) -> None:
        ports = {node: (free_port(), free_port()) for node in NODES}
        hosts = [f"127.0.0.1:{port}" for port, _ in ports.values()]
        keys = home / "keys"
        make_keys(keys, hosts)
        nats = keys / "nats"
        files = {"TLS_CERT": "server.pem", "TLS_KEY": "server.key", "TLS_CA": "ca.pem"}
        common = {name: str(nats / file) for name, file in files.items()}
        common |= {file.name: file.read_text().strip() for file in nats.glob("TRUST_*")}
        password = (nats / "cluster.password").read_text().strip()
        routes = [
            f"nats-route://cluster:{password}@127.0.0.1:{route}" for _, route in ports.values()
        ]
        common |= {"CLUSTER_PASSWORD": password, "ROUTES": json.dumps(routes)}
        self.children = {
            node: subprocess.Popen(
                [
                    *(server_binary(), "-c", configuration_dir() / "cluster" / "node.conf"),
                    *("-a", "127.0.0.1", "--cluster", f"nats://127.0.0.1:{route}"),
                ],
                env=common
                | {
                    "NODE_NAME": node,
                    "PORT": str(port),
                    "CLUSTER_PORT": str(route),
                    "STORE": str(home / node),
                },
                stdout=subprocess.DEVNULL,
                stderr=(home / f"{node}.log").open("wb"),
            )
            for node, (port, route) in ports.items()
        }
        self.ca = keys / "gateway" / "ca.pem"
        self.urls = {
            role: ",".join(
                f"{one}?ca={self.ca}"
                for one in (keys / role / "nats.url").read_text().strip().split(",")
            )
            for role in ("gateway", "scheduler", "runners")
        }

    def kill(self, node: str) -> None:
        """The end of a node, without a farewell."""
        self.children[node].send_signal(signal.SIGKILL)
        self.children[node].wait()

    def stop(self) -> None:
        for child in self.children.values():
            child.kill()
            child.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one test's own."""
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


async def made(ledger: Ledger) -> None:
    """Wait for the cluster to find itself, and make the streams on all three nodes."""
    async with asyncio.timeout(40):
        while True:
            try:
                await ensure_streams(ledger, replicas=3)
            except LedgerUnavailable:
                await asyncio.sleep(0.2)
            else:
                return


@pytest.mark.timeout(180)
async def test_a_cluster_keeps_the_promises_of_one_node(cluster: Cluster) -> None:
    """Guards, the fence, and no loss when the node that leads the stream is killed."""
    seen: list[Recorded] = []
    async with (
        Ledger.open(cluster.urls["scheduler"], name="scheduler") as ledger,
        Ledger.open(cluster.urls["gateway"], name="gateway") as gateway,
    ):
        await made(ledger)
        assert ledger.replicas == 3

        last = await gateway.append(edit("e1", "one"), id="a", expect=0)
        results = await asyncio.gather(
            *(gateway.append(edit("e1", f"{n}"), id=f"r{n}", expect=last) for n in range(10)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, int) for result in results) == 1
        assert sum(isinstance(result, WrongSequence) for result in results) == 9

        mine = await ledger.append(term("a"), id="t1", expect=0)
        for count in (1, 2, 10, 100):
            facts = [(f"f{count}-{n}", abort(f"f{count}{n}")) for n in range(count)]
            assert await ledger.append_fenced(facts, mine)

        async with following(gateway, seen.append) as follower:
            acknowledged = [await gateway.append(abort(f"k{n}"), id=f"k{n}") for n in range(50)]
            info = await gateway.api("STREAM.INFO.LEDGER")
            cluster.kill(info["cluster"]["leader"])
            async with asyncio.timeout(40):
                acknowledged += [await _persist(gateway, n) for n in range(50, 100)]
            assert await follower.reached(await gateway.end(), 20)

        theirs = await ledger.append(term("b"), id="t2", expect=mine)
        for count in (1, 5):
            with pytest.raises(Deposed):
                await ledger.append_fenced(
                    [(f"late{count}-{n}", abort("x")) for n in range(count)], mine
                )
        facts = await everything(gateway)
    assert facts[-1].sequence == theirs
    assert [r.sequence for r in seen] == list(range(1, theirs))
    where = {r.fact.job: r.sequence for r in seen if r.fact.kind == "JobAbortRequested"}  # type: ignore[union-attr]
    assert [where[f"k{n}"] for n in range(100)] == acknowledged


async def _persist(ledger: Ledger, n: int) -> int:
    """Append under the same id until it is confirmed, as services do."""
    while True:
        try:
            return await ledger.append(abort(f"k{n}"), id=f"k{n}")
        except LedgerUnavailable:
            continue


@pytest.mark.timeout(180)
async def test_a_cluster_is_reached_encrypted_and_enrols_runners(cluster: Cluster) -> None:
    """Every node knows a new login at once; without TLS, or with a strange authority, no way in."""
    nodes = [url.rpartition("@")[2].partition("?")[0] for url in cluster.urls["gateway"].split(",")]
    async with Ledger.open(cluster.urls["gateway"], name="gateway", wait=30) as gateway:
        await made(gateway)
        signer = Signer.of(json.loads((cluster.ca.parent / "enrolment.key").read_text()))
        await answer_enrolments(gateway, signer)
        await gateway.nc.flush()
        async with connected(cluster.urls["runners"], "w1", cluster.ca.parent, 30) as runner:
            assert await runner.append(
                ServerLeft(at=1.0, actor=ACTOR, server="w1", boot="b"), id="l"
            )
        login = signer.login("subscriber", "x")
        for node in nodes:
            async with Ledger.open(f"{login.url('tls://' + node)}?ca={cluster.ca}", name="x"):
                pass
    for scheme, ca in (("nats", ""), ("tls", ""), ("tls", f"?ca={_strange_authority(cluster)}")):
        with pytest.raises(
            LedgerUnavailable, match="certificate of the NATS server is not trusted"
        ):
            async with Ledger.open(f"{login.url(f'{scheme}://{nodes[0]}')}{ca}", name="x", wait=1):
                pass


def _strange_authority(cluster: Cluster) -> Path:
    file = cluster.ca.with_name("strange.pem")
    now = datetime.datetime.now(datetime.UTC)
    file.write_bytes(make_certificates(["127.0.0.1"], now).ca)
    return file
