"""Jobs that find no slot, by the clock that is passed in."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.crowd import ENOUGH, PAUSE, Crowd


def looks(crowd: Crowd, times: list[float]) -> list[float]:
    """When a crowd is looked at that a job joins at each of these times, and no other cause."""
    found = []
    for number, now in enumerate(times):
        if crowd and crowd.patience(now) <= 0:
            found.append(now)
            crowd.take(now)
        crowd.add(f"j{number}", "event", number)
        if crowd.patience(now) <= 0:
            found.append(now)
            crowd.take(now)
    return found


def test_the_first_is_looked_at_at_once() -> None:
    crowd = Crowd()
    crowd.add("a", "event", 1)
    assert crowd.patience(100.0) <= 0
    assert crowd.take(100.0) == ["a"]


def test_few_that_come_together_hardly_wait() -> None:
    crowd = Crowd()
    for number, now in enumerate((100.0, 100.002, 100.004)):
        crowd.add(f"j{number}", "event", number)
        crowd.take(now)
    crowd.add("last", "event", 4)
    assert 0 < crowd.patience(100.004) < 0.002


def test_while_a_burst_lasts_the_looks_become_rare() -> None:
    found = looks(Crowd(), [100.0 + 0.001 * number for number in range(2000)])
    pauses = [after - before for before, after in pairwise(found)]
    assert max(pauses) <= PAUSE + 0.002
    assert min(pauses[-20:]) > PAUSE - 0.001
    assert len(found) < 2000 / 25


def test_after_a_rest_the_next_burst_begins_anew() -> None:
    crowd = Crowd()
    looks(crowd, [100.0 + 0.001 * number for number in range(1000)])
    crowd.take(101.0)
    assert looks(crowd, [102.0, 102.001]) == [102.0, 102.001]


def test_a_look_at_nobody_is_none() -> None:
    crowd = Crowd()
    assert crowd.take(100.0) == []
    crowd.add("a", "event", 1)
    assert crowd.patience(100.0) <= 0


def test_a_large_crowd_does_not_wait() -> None:
    crowd = Crowd()
    looks(crowd, [100.0 + 0.001 * number for number in range(1000)])
    crowd.take(101.0)
    for number in range(ENOUGH):
        assert crowd.patience(101.0) > 0
        crowd.add(f"last{number}", "event", number)
    assert crowd.patience(101.0) <= 0


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
