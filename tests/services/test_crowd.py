"""Jobs that find no slot, by the clock that is passed in."""

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.crowd import ENOUGH, PAUSE, Crowd


def test_the_first_is_looked_at_at_once_and_the_next_after_a_pause() -> None:
    crowd = Crowd()
    crowd.add("a", "event", 1)
    assert crowd.patience(100.0) <= 0
    assert crowd.take(100.0) == ["a"]
    crowd.add("b", "event", 2)
    assert 0 < crowd.patience(100.0 + PAUSE / 2) <= PAUSE
    assert crowd.patience(100.0 + PAUSE) <= 0


def test_a_pause_begins_with_a_look_at_somebody_only() -> None:
    crowd = Crowd()
    assert crowd.take(100.0) == []
    crowd.add("a", "event", 1)
    assert crowd.patience(100.0) <= 0


def test_a_large_crowd_does_not_wait() -> None:
    crowd = Crowd()
    crowd.add("first", "event", 1)
    crowd.take(100.0)
    for number in range(ENOUGH):
        assert crowd.patience(100.0) > 0
        crowd.add(f"j{number}", "event", number)
    assert crowd.patience(100.0) <= 0


@given(st.lists(st.tuples(st.integers(), st.sampled_from("xyz")), unique_by=lambda job: job[0]))
def test_all_are_taken_once_in_their_order(jobs: list[tuple[int, str]]) -> None:
    crowd = Crowd()
    for sequence, (id, scope) in enumerate(jobs, 1):
        crowd.add(str(id), scope, sequence)
    assert not crowd.holds_before(1)
    assert crowd.holds_before(2) == bool(jobs)
    assert all(crowd.waits_for(scope) for _, scope in jobs)
    assert crowd.take(1.0) == [str(id) for id, _ in jobs]
    assert not crowd
    assert not any(crowd.waits_for(scope) for scope in "xyz")
    assert crowd.take(2.0) == []
