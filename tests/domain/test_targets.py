"""Choosing a server: candidates, room, expressions, algorithms."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.errors import RuleBroken
from domain.expressions import parse
from domain.targets import ALGORITHMS, ServerView, candidates, passing, pick, with_room

A = ServerView("a", "alpha.example", title="Zeta", groups=("main", "web"), cpu=2, memory=10, jobs=3)
B = ServerView("b", "Beta.example", groups=("main",), cpu=1, memory=30, jobs=1)
C = ServerView("c", "gamma.example", title="Anna", groups=("web",), cpu=1, memory=20, jobs=2)
FLEET = {server.id: server for server in (A, B, C)}


def ids(servers: Any) -> list[str]:
    return [server.id for server in servers]


# --- who is a candidate ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (["b"], ["b"]),
        (["main"], ["a", "b"]),
        (["GAMMA.example"], ["c"]),
        (["beta.EXAMPLE", "main", "a"], ["b", "a"]),
        (["web", "main"], ["a", "c", "b"]),
        (["nobody", "c"], ["c"]),
        ([], []),
        ("c, main", ["c", "a", "b"]),
        (None, []),
        ([5, None, "a"], ["a"]),
    ],
)
def test_targets_stand_for_servers_each_once_in_order(targets: Any, found: list[str]) -> None:
    assert ids(candidates(targets, FLEET)) == found


def test_a_servers_id_wins_over_a_groups_and_that_over_a_hostname() -> None:
    fleet = FLEET | {
        "main": ServerView("main", "web", groups=()),
        "d": ServerView("d", "main", groups=()),
    }

    assert ids(candidates(["main"], fleet)) == ["main"]
    assert ids(candidates(["web"], fleet)) == ["a", "c"]


def test_an_empty_group_is_not_looked_for_among_hostnames() -> None:
    assert candidates(["alpha.example"], FLEET, groups=["alpha.example"]) == []


def test_servers_must_be_online_and_enabled() -> None:
    fleet = FLEET | {"a": replace(A, online=False), "b": replace(B, enabled=False)}

    assert ids(candidates(["main", "web", "alpha.example"], fleet)) == ["c"]


def test_of_runners_with_one_hostname_the_first_that_is_online_stands_for_it() -> None:
    fleet = {
        "x": ServerView("x", "twin", online=False),
        "y": ServerView("y", "twin"),
        "z": ServerView("z", "twin"),
    }

    assert ids(candidates(["twin"], fleet)) == ["y"]


@pytest.mark.parametrize(
    ("most", "used", "weight", "fits"),
    [(0, 100, 5, True), (5, 4, 1, True), (5, 4.5, 1, False), (2, 0, 3, False), (3, 0, 3, True)],
)
def test_a_job_needs_room(most: float, used: float, weight: float, fits: bool) -> None:
    server = replace(A, max_jobs=most, weight_used=used)

    assert bool(with_room([server], weight)) is fits


def test_an_expression_lets_some_servers_through() -> None:
    servers = [replace(A, record={"info": {"cores": 8}}), replace(B, record={"info": {}}), C]

    assert passing(parse("info.cores >= 4"), servers) == ([servers[0]], None)
    assert passing(None, servers) == (servers, None)


def test_an_expression_that_fails_lets_no_server_through() -> None:
    endless = parse("list[list[list[.x == .y].length > .z].length > .z].length > 0")
    big = replace(A, record={"list": [{"x": 1}] * 500})

    servers, problem = passing(endless, [big])

    assert servers == []
    assert problem is not None
    assert "no server qualifies" in problem


# --- which one it is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algo", "chosen"),
    [
        ("least_cpu", "b"),
        ("least_mem", "a"),
        ("fewest_jobs", "b"),
        ("prefer_first", "c"),
        ("prefer_last", "a"),
        ("prefer_first_natural", "a"),
        ("prefer_last_natural", "c"),
    ],
)
def test_algorithms_without_chance(algo: str, chosen: str) -> None:
    assert pick(algo, [A, B, C], draw=0.99, robin=1).server.id == chosen


def test_of_equals_the_first_is_chosen() -> None:
    twins = [replace(A, id=id) for id in ("x", "y", "z")]

    for algo in ("least_cpu", "least_mem", "fewest_jobs", "prefer_first", "prefer_last"):
        assert pick(algo, twins, draw=0.9).server.id == "x"


@pytest.mark.parametrize(
    ("draw", "chosen"), [(0.0, "a"), (0.34, "b"), (0.67, "c"), (0.999999, "c")]
)
def test_a_draw_decides_random_ones(draw: float, chosen: str) -> None:
    assert pick("random", [A, B, C], draw=draw).server.id == chosen
    assert pick(None, [A, B, C], draw=draw).server.id == chosen


def test_round_robin_goes_round() -> None:
    robin, seen = 0, []
    for _ in range(5):
        chosen = pick("round_robin", [A, B, C], draw=0, robin=robin)
        assert chosen.robin is not None
        robin = chosen.robin
        seen.append(chosen.server.id)

    assert seen == ["a", "b", "c", "a", "b"]


def test_round_robin_survives_a_fleet_that_shrank() -> None:
    chosen = pick("round_robin", [A, B], draw=0, robin=7)

    assert (chosen.server.id, chosen.robin) == ("b", 0)


@pytest.mark.parametrize("algo", ["fastest", "monitor:load", "multiplex"])
def test_an_unknown_algorithm_ends_the_job(algo: str) -> None:
    with pytest.raises(RuleBroken, match=f"Unknown algorithm or monitor: {algo}"):
        pick(algo, [A], draw=0)


views = st.builds(
    ServerView,
    id=st.sampled_from(["a", "b", "c", "d"]),
    hostname=st.text(max_size=3),
    title=st.text(max_size=3),
    cpu=st.floats(0, 9),
    memory=st.floats(0, 9),
    jobs=st.integers(0, 9),
)


@given(
    st.sampled_from(sorted(ALGORITHMS - {"multiplex"})),
    st.lists(views, min_size=1),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 100),
)
def test_what_is_picked_was_a_candidate(
    algo: str, servers: list[ServerView], draw: float, robin: int
) -> None:
    chosen = pick(algo, servers, draw=draw, robin=robin)

    assert chosen.server in servers
    assert chosen.robin is None or 0 <= chosen.robin < len(servers)
