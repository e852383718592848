"""Three NATS nodes, two gateways, two schedulers, three runners: any one of them may be lost.

`jobledger up --cluster 3` starts them. A node that is killed is back within a second; what is
measured here is the gap until the others take writes again.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from domain.facts import Actor, JobTagged
from services.ledger.connection import Ledger
from services.ledger.errors import LedgerUnavailable, WrongSequence
from tests.chaos.harness import Stack, bound, eventually, job_event, send, stack
from tests.chaos.invariants import check_all, wait_for_quiet
from tests.chaos.mayhem import Mayhem
from tests.chaos.traffic import Traffic
from tests.services.wire import abort, term

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NODES = ("nats1", "nats2", "nats3")
# Writes stop for so long at most when the stream's leader is killed (design.md 11), in seconds.
GAP = 10.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Stack]:
    """A cluster of one test's own."""
    with stack(tmp_path / "data", cluster=3) as one:
        yield one


class Pulse:
    """A client that writes to either gateway, again and again, and knows its longest pause."""

    def __init__(self, one: Stack) -> None:
        self._one = one
        self._acknowledged = [time.monotonic()]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Pulse":
        self._one.api.persist("create_event", **job_event("pulse", "true"))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        apis = [self._one.gateway(0), self._one.gateway(1)]
        number = 0
        while not self._over.wait(0.02):
            number += 1
            with suppress(httpx.HTTPError, ValueError):
                answer = apis[number % 2].ask("update_event", id="pulse", notes=str(number))
                if answer.get("code") == 0:
                    self._acknowledged.append(time.monotonic())

    def measured(self, what: str, within: float) -> None:
        """Wait for two more writes, then check and tell the longest pause since the last look."""
        seen = len(self._acknowledged)
        eventually(lambda: len(self._acknowledged) > seen + 1, "writes are taken again")
        times, self._acknowledged[:-1] = list(self._acknowledged), []
        longest = max(after - before for before, after in pairwise(times))
        print(f"\n{what}: writes stopped for {longest:.1f} s")
        assert longest < bound(within), f"{what}: writes stopped for {longest:.1f} s"


def leader(one: Stack) -> str:
    """The node that leads the stream LEDGER."""

    async def asked(ledger: Ledger) -> str:
        return str((await ledger.api("STREAM.INFO.LEDGER"))["cluster"].get("leader", ""))

    def found() -> str:
        with suppress(LedgerUnavailable, KeyError):
            return one.with_ledger(asked)
        return ""

    return eventually(found, "the stream has a leader", look=0.2)


def all_current(one: Stack) -> bool:
    """Whether every node has all of the ledger again."""

    async def asked(ledger: Ledger) -> bool:
        info = (await ledger.api("STREAM.INFO.LEDGER"))["cluster"]
        replicas = info.get("replicas", [])
        return len(replicas) == 2 and all(r["current"] and not r.get("offline") for r in replicas)

    with suppress(LedgerUnavailable, KeyError):
        return one.with_ledger(asked)
    return False


def recovered(one: Stack) -> None:
    """Wait until every node has all of the ledger again."""
    eventually(lambda: all_current(one), "all nodes are current", 90, look=0.3)


def end(one: Stack, node: str, how: signal.Signals) -> None:
    """End a node and wait until it is back with all of the ledger."""
    pid = one.pid(node)
    send(pid, how)
    eventually(lambda: one.pid(node) not in (0, pid), f"{node} is started again")
    recovered(one)


def test_nodes_killed_and_restarted_one_by_one_lose_nothing(cluster: Stack, tmp_path: Path) -> None:
    """kill -9 of each node, of the stream's leader, a rolling restart, a runner cut off."""
    record = tmp_path / "record"
    record.mkdir()
    recovered(cluster)
    traffic = Traffic(lambda: cluster.api, record, at_a_time=20).start()
    with Pulse(cluster) as pulse:
        for node in (*NODES, leader(cluster)):
            end(cluster, node, signal.SIGKILL)
            pulse.measured(f"{node} killed", GAP)
        for node in NODES:
            end(cluster, node, signal.SIGTERM)
            pulse.measured(f"{node} restarted", GAP)
        cluster.kill("scheduler1")
        cluster.kill("scheduler2")
        pulse.measured("both schedulers killed", 1.0)
        cluster.kill("gateway1")
        pulse.measured("a gateway killed", 3.0)
        over = threading.Event()
        with cluster.frozen("runner2"):
            threading.Timer(30.0, over.set).start()
            over.wait()
        pulse.measured("a runner was cut off for 30 s", 3.0)
    traffic.stop()
    wait_for_quiet(cluster.api)
    check_all(cluster, traffic)


def test_a_storm_over_a_cluster_breaks_no_promise(
    cluster: Stack, tmp_path: Path, seed: int, blows: int
) -> None:
    """Random blows, several nodes at once included."""
    record = tmp_path / "record"
    record.mkdir()
    traffic = Traffic(lambda: cluster.api, record, at_a_time=20).start()
    mayhem = Mayhem(cluster, seed)
    mayhem.run(blows // 2)
    traffic.stop()
    wait_for_quiet(cluster.api)
    print(f"seed {seed}: {dict(mayhem.dealt)}; {len(traffic.record.jobs)} jobs acknowledged")
    check_all(cluster, traffic)


def test_a_fenced_write_and_a_literal_one_on_the_same_subject(cluster: Stack) -> None:
    """A literal guard that passes has seen every write before it, fenced ones in flight as well."""

    async def race(ledger: Ledger) -> list[str]:
        fence = await ledger.append(term("racer"), id="racer", expect=await _last_term(ledger))
        wrong = []
        for number in range(300):
            job = f"race{number}"
            first = await ledger.append(abort(job), id=f"{job}-0")
            tagged = JobTagged(
                at=1.0, actor=Actor(type="system", id="test"), event="e1", job=job, tags=[]
            )
            literal, fenced = await asyncio.gather(
                ledger.append(tagged, id=f"{job}-1", expect=first),
                ledger.append_fenced([(f"{job}-2", abort(job))], fence),
                return_exceptions=True,
            )
            assert isinstance(fenced, int), fenced
            assert isinstance(literal, int | WrongSequence), literal
            if isinstance(literal, int) and first < fenced < literal:
                wrong.append(f"{job}: {first} < {fenced} < {literal}")
        return wrong

    # The own schedulers must not depose the racer.
    for name in ("scheduler1", "scheduler2"):
        send(cluster.pid(name), signal.SIGSTOP)
    recovered(cluster)
    wrong = cluster.with_ledger(race)
    assert not wrong, f"{len(wrong)} of 300 races: {wrong[:3]}"


async def _last_term(ledger: Ledger) -> int:
    return await ledger.last_sequence("facts.term")
