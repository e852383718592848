"""The definitions in force, and the versions that live jobs hold on to."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from domain import facts as f
from domain.assembly import Made
from domain.facts import Fact, Json, MadeOf, Recorded
from domain.subjects import subject_of
from projections.definitions import KEPT_AFTER, Definitions, Version
from tests.projections.histories import (
    ACTOR,
    HISTORIES,
    assert_redelivery_changes_nothing,
    folded,
)

AT = 1.7e9


class Told:
    """Definitions that are told facts one after another, each with the next sequence."""

    def __init__(self) -> None:
        self.view = Definitions()

    def tell(self, fact: Fact, at: int | None = None) -> int:
        sequence = at or self.view.position + 1
        self.view.apply(Recorded(sequence, subject_of(fact), fact))
        return sequence

    def event(self, id: str = "e1", **record: Any) -> int:
        record = {"id": id, "category": "c1", "plugin": "p1"} | record
        if id in self.view.events:
            return self.tell(f.EventUpdated(at=AT, actor=ACTOR, event=id, definition=record))
        return self.tell(f.EventCreated(at=AT, actor=ACTOR, event=id, definition=record))

    def catalog(self, type: Any, id: str, **record: Any) -> int:
        made = f.CatalogUpdated if id in self.view.catalog[type] else f.CatalogCreated
        return self.tell(made(at=AT, actor=ACTOR, type=type, id=id, record={"id": id} | record))

    def request(self, job: str, made_of: MadeOf) -> None:
        self.tell(
            f.JobRequested(
                at=AT, actor=ACTOR, event="e1", job=job, made_of=made_of,
                source="user", username="u", now=AT,
            )
        )  # fmt: skip

    def complete(self, job: str) -> None:
        self.tell(f.JobCompleted(at=AT, actor=ACTOR, event="e1", job=job, code=0, description=""))

    def much_later(self) -> None:
        """So many facts later that nothing superseded is kept for its own sake."""
        self.tell(
            f.TickFired(at=AT, actor=ACTOR, evaluated=AT), self.view.position + KEPT_AFTER + 2
        )


def titles(records: Any) -> list[Any]:
    return [record["title"] for record in records]


# --- what is in force --------------------------------------------------------------------------


def test_events_stay_in_creation_order_under_updates() -> None:
    told = Told()
    for id in ("b", "a", "c"):
        told.event(id)
    told.event("b", title="new")

    assert list(told.view.events) == ["b", "a", "c"]
    assert told.view.events["b"] == Version(
        4, AT, {"id": "b", "category": "c1", "plugin": "p1", "title": "new"}
    )


def test_a_deleted_event_is_gone_and_may_come_again_last() -> None:
    told = Told()
    told.event("a")
    told.event("b")
    told.tell(f.EventDeleted(at=AT, actor=ACTOR, event="a"))
    assert told.view.event("a") is None
    told.event("a")

    assert list(told.view.events) == ["b", "a"]


def test_deciders_find_records_by_type_and_id() -> None:
    told = Told()
    told.catalog("tag", "x", title="Tag")
    told.catalog("role", "x", title="Role")
    told.event(category="c7")

    assert told.view.record("tag", "x") == {"id": "x", "title": "Tag"}
    assert titles(told.view.records("role")) == ["Role"]
    assert told.view.record("plugin", "x") is None
    assert told.view.category_in_use("c7")
    assert not told.view.category_in_use("c1")


def test_the_ledger_and_the_master_switch_are_known() -> None:
    told = Told()
    assert told.view.scheduling
    told.tell(f.LedgerFounded(at=AT, actor=ACTOR, ledger="L", fingerprint="F"))
    told.tell(f.MasterSwitched(at=AT, actor=ACTOR, enabled=False))

    assert (told.view.ledger, told.view.fingerprint) == ("L", "F")
    assert not told.view.scheduling


def test_tags_are_found_by_id_before_title_and_the_first_of_a_title() -> None:
    told = Told()
    told.catalog("tag", "one", title="Red")
    told.catalog("tag", "two", title="Red")
    told.catalog("tag", "three", title="one")

    assert told.view.tag_names == {"one": "one", "two": "two", "three": "three", "Red": "one"}
    told.tell(f.CatalogDeleted(at=AT, actor=ACTOR, type="tag", id="one"))
    assert told.view.tag_names == {"two": "two", "three": "three", "Red": "two", "one": "three"}


# --- what jobs are made of ---------------------------------------------------------------------


def test_a_launch_names_the_versions_in_force() -> None:
    told = Told()
    category, plugin = told.catalog("category", "c1"), told.catalog("plugin", "p1")
    other, config = told.catalog("plugin", "p2"), told.catalog("config", "config")
    event = told.event()

    assert told.view.made_of("e1", overrides={}) == MadeOf(
        event=event, category=category, plugin=plugin, config=config
    )
    assert told.view.made_of("e1", overrides={"plugin": "p2"}).plugin == other
    assert told.view.made_of("e1", overrides={"category": "c2"}).category == category
    assert told.view.made_of("nobody", overrides={}) == MadeOf(event=0)


def test_what_does_not_exist_is_zero_and_empty() -> None:
    told = Told()
    event = told.event(plugin=["p1"])

    made_of = told.view.made_of("e1", overrides={})

    assert made_of == MadeOf(event=event)
    assert told.view.made(made_of) == Made(told.view.events["e1"].record, {}, {}, {})


def test_a_job_is_made_of_the_records_it_names_not_of_todays() -> None:
    told = Told()
    told.event(title="old")
    made_of = told.view.made_of("e1", overrides={})
    told.event(title="new")

    made = told.view.made(made_of)

    assert made is not None
    assert made.event["title"] == "old"


def test_a_retry_takes_category_and_configuration_as_they_are_now() -> None:
    told = Told()
    told.catalog("category", "c1")
    plugin, event = told.catalog("plugin", "p1"), told.event()
    first = told.view.made_of("e1", overrides={})
    category, config = told.catalog("category", "c1"), told.catalog("config", "config")
    told.event(title="new")

    assert told.view.retry_made_of(first, {"category": "c1"}) == MadeOf(
        event=event, plugin=plugin, category=category, config=config
    )


def test_a_live_job_holds_on_to_its_versions() -> None:
    told = Told()
    told.event(title="old")
    made_of = told.view.made_of("e1", overrides={})
    told.request("j1", made_of)
    told.request("j2", made_of)
    told.event(title="new")
    told.much_later()

    assert told.view.made(made_of) is not None
    told.complete("j1")
    assert told.view.made(made_of) is not None
    told.complete("j2")
    assert told.view.made(made_of) is None


def test_every_way_in_which_a_job_can_go_lets_its_versions_go() -> None:
    ends: list[Fact] = [
        f.QueueFlushed(at=AT, actor=ACTOR, event="e1", jobs=["j1"]),
        f.JobDeleted(at=AT, actor=ACTOR, event="e1", job="j1"),
        f.LaunchRejected(
            at=AT, actor=ACTOR, event="e1", job="j1", reason="", now=AT, source="scheduler"
        ),
    ]
    for end in ends:
        told = Told()
        told.event(title="old")
        made_of = told.view.made_of("e1", overrides={})
        told.request("j1", made_of)
        told.event(title="new")
        told.much_later()
        told.tell(end)

        assert told.view.made(made_of) is None, end


def test_a_repeated_request_holds_only_once() -> None:
    told = Told()
    told.event(title="old")
    made_of = told.view.made_of("e1", overrides={})
    told.request("j1", made_of)
    told.request("j1", made_of)
    told.event(title="new")
    told.much_later()
    told.complete("j1")

    assert told.view.made(made_of) is None


def test_superseded_versions_are_kept_for_a_while() -> None:
    told = Told()
    told.event(title="old")
    made_of = told.view.made_of("e1", overrides={})
    told.tell(f.EventDeleted(at=AT, actor=ACTOR, event="e1"))

    assert told.view.made(made_of) is not None
    told.much_later()
    assert told.view.made(made_of) is None


# --- any history -------------------------------------------------------------------------------


@given(HISTORIES, st.integers(0, 40))
def test_any_history_is_taken_in_and_redelivery_changes_nothing(
    history: list[Recorded], cut: int
) -> None:
    assert_redelivery_changes_nothing(Definitions, history, cut, "_tag_names")
    view = folded(Definitions, history)
    for event in view.events:
        made_of = view.made_of(event, overrides={})
        assert view.made(made_of) is not None
    assert view.tag_names.keys() >= view.catalog["tag"].keys()


@given(HISTORIES)
def test_what_live_jobs_do_not_need_is_let_go(history: list[Recorded]) -> None:
    view = folded(Definitions, history)
    tick = f.TickFired(at=AT, actor=ACTOR, evaluated=AT)
    view.apply(Recorded(len(history) + KEPT_AFTER + 2, "facts.schedule", tick))

    current: set[int] = {v.sequence for v in view.events.values()}
    for versions in view.catalog.values():
        current |= {v.sequence for v in versions.values()}
    needed = {n for m in view._live.values() for n in f.to_plain(m).values()}
    kept: dict[int, Json] = view._records
    assert set(kept) <= current | needed
