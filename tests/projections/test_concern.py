"""What a kind of fact does not concern need not be folded."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given

from domain import facts as f
from domain.facts import Recorded
from projections.access import Access
from projections.concern import by_kind
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.fleet import Fleet
from projections.schedule import Schedule
from tests.projections.histories import HISTORIES


def folded(history: Sequence[Recorded], *, all_of_it: bool) -> list[Any]:
    """The folds' states after a history, positions apart; each read all or what concerns it."""
    definitions = Definitions()
    schedule = Schedule(definitions, zone="UTC", dst_policy="literal")
    access, fleet, states = Access(), Fleet(), EventStates()
    concerned = by_kind(schedule, access, fleet, states)
    everything = (schedule.apply, access.apply, fleet.apply, states.apply)
    for recorded in history:
        definitions.apply(recorded)
        for fold in everything if all_of_it else concerned[type(recorded.fact)]:
            fold(recorded)
    return [replace(fold.state(), position=0) for fold in (schedule, access, fleet, states)]


@given(HISTORIES)
def test_facts_that_concern_a_fold_are_all_it_needs(history: list[Recorded]) -> None:
    assert folded(history, all_of_it=False) == folded(history, all_of_it=True)


def test_a_fact_goes_where_it_concerns_something_in_the_order_that_was_asked_for() -> None:
    fleet, states = Fleet(), EventStates()

    concerned = by_kind(states, fleet)

    assert concerned[f.CatalogUpdated] == (states.apply, fleet.apply)
    assert concerned[f.ServerLeft] == (fleet.apply,)
    assert concerned[f.TermEnded] == ()
