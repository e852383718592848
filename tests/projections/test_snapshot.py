"""A fold's state as bytes and back."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.facts import Actor, JobRequested, Json, MadeOf
from projections import snapshot


@dataclass(slots=True)
class State:
    """What folds are made of."""

    position: int
    jobs: dict[str, JobRequested] = field(default_factory=dict)
    fired: set[tuple[int, int, float]] = field(default_factory=set)
    records: dict[str, Json] = field(default_factory=dict)
    largest: int = 10**30


REQUEST = JobRequested(
    at=1.5,
    actor=Actor(type="key", id="k1"),
    event="e",
    job="j1",
    made_of=MadeOf(event=3),
    source="key",
    username="k1",
    now=1.0,
    overrides={"params": {"a": [1, None, "ä"]}},
)


@given(
    st.integers(0, 2**53),
    st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1e10))),
)
def test_a_state_comes_back_as_it_was(position: int, fired: set[tuple[int, int, float]]) -> None:
    state = State(position, {"j1": REQUEST}, fired, {"x": {"deep": [{"y": 1.5}]}})

    assert snapshot.load(snapshot.dump(state), State) == state


def test_a_snapshot_of_another_release_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = snapshot.dump(State(7))
    monkeypatch.setattr(snapshot, "version", lambda _: b"\0" * 32)

    assert snapshot.load(data, State) is None


@pytest.mark.parametrize("cut", [0, 3, 36, 40, -1])
def test_broken_bytes_are_no_snapshot(cut: int) -> None:
    data = snapshot.dump(State(7))

    assert snapshot.load(data[:cut], State) is None


def test_a_state_of_another_shape_is_no_snapshot() -> None:
    @dataclass
    class Other:
        place: str

    assert snapshot.load(snapshot.dump(State(7)), Other) is None
