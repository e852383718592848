"""The servers: who is there, what they are called, which groups they are in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import facts as f
from domain.defaults import default_facts
from domain.facts import Fact, Json, Recorded
from domain.subjects import subject_of
from domain.targets import candidates, resolve
from projections.fleet import Fleet
from tests.projections.histories import (
    ACTOR,
    HISTORIES,
    assert_redelivery_changes_nothing,
    folded,
)

AT = 1.7e9


class Told:
    """A fleet that is told facts one after another."""

    def __init__(self) -> None:
        self.view = Fleet()

    def tell(self, fact: Fact) -> int:
        sequence = self.view.position + 1
        self.view.apply(Recorded(sequence, subject_of(fact), fact))
        return sequence

    def join(self, id: str = "s1", boot: str = "b1", hostname: str = "web1", **more: Any) -> int:
        return self.tell(
            f.ServerJoined(
                at=AT, actor=ACTOR, server=id, boot=boot, machine_boot="m",
                hostname=hostname, **more,
            )
        )  # fmt: skip

    def group(self, id: str, match: str, **more: Any) -> None:
        record = {"id": id, "hostname_match": match} | more
        made = f.CatalogUpdated if id in self.view.groups else f.CatalogCreated
        self.tell(made(at=AT, actor=ACTOR, type="group", id=id, record=record))

    def say(self, id: str = "s1", **record: Any) -> None:
        self.tell(
            f.CatalogUpdated(
                at=AT + 9, actor=ACTOR, type="server", id=id, record={"id": id} | record
            )
        )

    def record(self, id: str = "s1") -> Json:
        return self.view.servers[id].record


@pytest.fixture
def told() -> Told:
    return Told()


# --- records -----------------------------------------------------------------------------------


def test_a_server_is_what_its_runner_says(told: Told) -> None:
    sequence = told.join(ip="10.0.0.5", info={"os": {"platform": "linux"}})

    assert told.record() == {
        "id": "s1",
        "hostname": "web1",
        "ip": "10.0.0.5",
        "title": "",
        "icon": "",
        "enabled": True,
        "groups": [],
        "autoGroup": True,
        "userData": {},
        "created": int(AT),
        "modified": int(AT),
        "info": {"os": {"platform": "linux"}},
    }
    server = told.view.servers["s1"]
    assert (server.joined, server.boot, server.machine_boot) == (sequence, "b1", "m")


def test_what_an_administrator_says_comes_on_top(told: Told) -> None:
    told.join()
    told.say(title="Web One", enabled=False, maxJobs=3, userData={"rack": 1}, hostname="forged")

    record = told.record()

    assert (record["title"], record["enabled"], record["maxJobs"]) == ("Web One", False, 3)
    assert (record["userData"], record["hostname"]) == ({"rack": 1}, "web1")
    assert record["modified"] == int(AT + 9)
    assert not told.view.servers["s1"].enabled


def test_it_may_be_said_before_the_server_joins(told: Told) -> None:
    told.say(title="Soon")
    told.join()

    assert told.record()["title"] == "Soon"


def test_a_server_that_left_stays_until_it_is_deleted(told: Told) -> None:
    told.join()
    told.tell(f.ServerLeft(at=AT, actor=ACTOR, server="s1", boot="b1"))
    assert told.view.servers["s1"].left

    told.tell(f.CatalogDeleted(at=AT, actor=ACTOR, type="server", id="s1"))
    assert told.view.servers == {}


def test_reports_of_an_older_boot_are_ignored(told: Told) -> None:
    told.join(boot="b1")
    told.join(boot="b2", info={"cores": 2})
    told.tell(f.ServerUpdated(at=AT, actor=ACTOR, server="s1", boot="b1", info={"cores": 9}))
    told.tell(f.ServerLeft(at=AT, actor=ACTOR, server="s1", boot="b1"))

    assert told.record()["info"] == {"cores": 2}
    assert not told.view.servers["s1"].left


def test_a_runner_describes_itself_anew(told: Told) -> None:
    told.join(info={"cores": 2})
    told.tell(f.ServerUpdated(at=AT + 5, actor=ACTOR, server="s1", boot="b1", info={"cores": 4}))

    assert told.record()["info"] == {"cores": 4}
    assert told.record()["modified"] == int(AT + 5)


# --- groups ------------------------------------------------------------------------------------


def test_servers_are_matched_whichever_comes_first(told: Told) -> None:
    told.group("early", "^web")
    told.join()
    told.group("late", r"\d$")
    told.group("never", "^db")

    assert told.record()["groups"] == ["early", "late"]


def test_a_changed_group_is_matched_at_once(told: Told) -> None:
    told.group("g", "^db")
    told.join()
    told.group("g", "^web")
    assert told.record()["groups"] == ["g"]
    told.tell(f.CatalogDeleted(at=AT, actor=ACTOR, type="group", id="g"))
    assert told.record()["groups"] == []


def test_the_default_group_takes_every_server(told: Told) -> None:
    for fact in default_facts(AT, ACTOR):
        told.tell(fact)
    told.join(hostname="anything.example")

    assert told.record()["groups"] == ["main"]


def test_a_new_hostname_is_matched_anew(told: Told) -> None:
    told.group("web", "^web")
    told.join(hostname="web1")
    told.join(hostname="db1", boot="b2")

    assert told.record()["groups"] == []


def test_groups_that_a_runner_did_not_tell_are_known_as_such(told: Told) -> None:
    """Given those it told, those that match its host name, those set by hand."""
    told.join(groups=["main"])
    assert told.view.untold_groups("s1") is None
    told.group("web", "^web")
    assert told.view.untold_groups("s1") == ("main", "web")
    told.say(groups=["special"], autoGroup=False)
    assert told.view.untold_groups("s1") == ("special",)


def test_groups_set_by_hand_replace_the_matching(told: Told) -> None:
    told.group("web", "^web")
    told.join(groups=["own"])
    assert told.record()["groups"] == ["own", "web"]
    told.say(groups=["special"], autoGroup=False)
    assert told.record()["groups"] == ["special"]
    told.group("more", ".+")
    assert told.record()["groups"] == ["special"]
    told.say(autoGroup=True)
    assert told.record()["groups"] == ["own", "web", "more"]


def test_a_broken_pattern_matches_nothing(told: Told) -> None:
    told.group("broken", "(")
    told.join()

    assert told.record()["groups"] == []


def test_targets_resolve_as_the_fleet_stands(told: Told) -> None:
    told.group("web", "^web")
    told.group("empty", "^nothing")
    told.join("s2", hostname="web2")
    told.join("s1", hostname="Web1")
    directory = told.view.directory

    assert resolve(["empty", "web"], directory, lambda id: True) == ["s2"]
    assert resolve(["WEB1", "s2"], directory, lambda id: True) == ["s1", "s2"]
    assert resolve(["web"], directory, lambda id: id != "s2") == []
    told.say("s1", groups=["web"], autoGroup=False)
    assert resolve(["web"], told.view.directory, lambda id: True) == ["s2", "s1"]


# --- limits, heartbeats, views -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "groups", "most"),
    [
        ({}, [], 0),
        ({}, [0, None], 0),
        ({}, [5, 3, 0], 3),
        ({"maxJobs": 9}, [5], 9),
        ({"maxJobs": 0}, [5], 5),
        ({"maxJobs": "many"}, ["x"], 0),
    ],
)
def test_how_many_jobs_a_server_may_hold(
    told: Told, said: Json, groups: list[Any], most: float
) -> None:
    told.join()
    told.say(**said)
    for number, limit in enumerate(groups):
        told.group(f"g{number}", ".+", max_jobs_per_server=limit)

    assert told.view.max_jobs(told.view.servers["s1"]) == most


def test_a_server_is_online_while_its_own_boot_is_heard(told: Told) -> None:
    told.join()
    assert not told.view.online("s1", AT, 120)
    told.view.heard("s1", "b0", AT, {})
    told.view.heard("s9", "b1", AT, {})
    assert not told.view.online("s1", AT, 120)
    told.view.heard("s1", "b1", AT, {})

    assert told.view.online("s1", AT + 120, 120)
    assert not told.view.online("s1", AT + 121, 120)
    told.join(boot="b2")
    assert not told.view.online("s1", AT, 120)
    assert not told.view.online("nobody", AT, 120)


def test_a_server_that_left_is_offline_at_once(told: Told) -> None:
    told.join()
    told.view.heard("s1", "b1", AT, {})
    told.tell(f.ServerLeft(at=AT, actor=ACTOR, server="s1", boot="b1"))

    assert not told.view.online("s1", AT, 120)


def test_a_heartbeat_brings_figures_for_the_choice(told: Told) -> None:
    told.group("web", "^web")
    told.join(info={"os": {"platform": "linux"}, "cpu": {"cores": 2}})
    told.view.heard("s1", "b1", AT, {"cpu": {"avgLoad": 1.5}, "memory": {"active": 1000}})

    view = told.view.view("s1", online=True, jobs=2, weight_used=3)

    assert view is not None
    assert (view.cpu, view.memory, view.jobs, view.weight_used) == (1.5, 1000, 2, 3)
    assert view.record == told.record()
    assert view.record["info"]["os"] == {"platform": "linux"}
    assert candidates(["web"], {"s1": view}) == [view]
    assert told.view.view("nobody", online=True) is None


# --- any history -------------------------------------------------------------------------------


@given(HISTORIES, st.integers(0, 40))
def test_any_history_is_taken_in_and_redelivery_changes_nothing(
    history: list[Recorded], cut: int
) -> None:
    assert_redelivery_changes_nothing(Fleet, history, cut, "_directory")
    view = folded(Fleet, history)
    for id, server in view.servers.items():
        assert server.record["id"] == id
        assert view.view(id, online=True) is not None
        assert all(id in view.directory.members[group] for group in server.groups)
