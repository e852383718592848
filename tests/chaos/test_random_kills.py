"""Anything may be killed at any moment, under load: no promise is broken.

A short run belongs to the normal tests. `make chaos ARGS="--seed 7 --blows 200"` makes it longer;
the seed reproduces the blows (not the timing of the machine).
"""

from pathlib import Path

import pytest

from tests.chaos.harness import stack
from tests.chaos.invariants import check_all, wait_for_quiet
from tests.chaos.mayhem import Mayhem
from tests.chaos.traffic import Traffic


def survive(home: Path, record: Path, *, seed: int, blows: int, at_a_time: int) -> None:
    """Deal blows to an installation under load, wait until it is quiet, and check all."""
    record.mkdir()
    with stack(home) as one:
        traffic = Traffic(lambda: one.api, record, at_a_time=at_a_time).start()
        mayhem = Mayhem(one, seed)
        mayhem.run(blows)
        seen = traffic.stop()
        wait_for_quiet(one.api)
        check_all(one, traffic)
        print(f"seed {seed}: {dict(mayhem.dealt)}; {len(seen.jobs)} jobs acknowledged")
        assert len(seen.jobs) > blows / 2, "hardly anything was asked of it"


@pytest.mark.timeout(180)
def test_a_short_storm_breaks_no_promise(tmp_path: Path) -> None:
    survive(tmp_path / "data", tmp_path / "record", seed=1, blows=12, at_a_time=10)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_long_storm_breaks_no_promise(tmp_path: Path, seed: int, blows: int) -> None:
    survive(tmp_path / "data", tmp_path / "record", seed=seed, blows=blows, at_a_time=100)
