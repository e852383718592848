"""What a runner does with one order, from its arrival to its report."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.ledger.connection import Ledger
from tests.services.runner_bench import Bench, bench, running


@pytest.fixture
async def scheduler(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Bench]:
    """A stand-in scheduler with a joined runner."""
    async with bench(ledger) as made, running(made, tmp_path, kill_timeout=1.0):
        yield made


async def test_a_shell_job_runs_and_reports(scheduler: Bench) -> None:
    """Order, start, log, end: the plain life of a job."""
    order = await scheduler.script("#!/bin/sh\necho hello\n")
    started = await scheduler.started(order)
    finished = await scheduler.finished(order)
    assert started.pid > 0
    assert (finished.code, finished.description) == (0, "")
    assert await scheduler.log(finished) == "hello\n"
    assert not finished.aborted
