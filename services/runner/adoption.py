"""What becomes of the orders that an earlier runner left in the spool (design.md 7).

Each is decided once, at the start: go on with the process, report how it ended, or start it
now. A process is known by pid and start time under the same kernel boot; where the earlier
runner died between starting it and writing that down, by its keeper's line in `exits` or by
JOB_ID in its environment.
"""

import asyncio
import os
from collections.abc import Mapping

from services.runner import children, procfs
from services.runner.keeping import Keeping
from services.runner.running import Run
from services.runner.spool import Entry, Exit, Phase, Spool

# A process that was being started when its keeper died shows its environment by then, in seconds.
BEGIN_WAIT = 0.25


def adopt(run: Run, spool: Spool, keeping: Keeping, exits: Mapping[int, Exit]) -> None:
    """Let the run go on from where its entry says; the work itself happens in its own task."""
    entry = run.entry
    seen = exits.get(entry.order)
    if entry.report is not None or entry.phase is Phase.ENDED:
        run.later(run.conclude_again())
    elif entry.phase is Phase.ORDERED:
        run.decide_to_start()
    elif seen is not None and seen.status is not None:
        run.later(run.conclude_unseen(seen.status))
    elif entry.machine != spool.machine:
        run.later(run.conclude_unseen(None))
    else:
        run.undecided = True
        run.later(_find_process(run, spool, keeping, seen))


async def _find_process(run: Run, spool: Spool, keeping: Keeping, seen: Exit | None) -> None:
    """The process may run, may have ended unseen, or may never have been started."""
    entry = run.entry
    if entry.phase is Phase.STARTED:
        if not await run.adopt(entry.pid, entry.start_ticks):
            await run.conclude_unseen(await _status(spool, entry, entry.pid))
        return
    if seen is None or not seen.pid:
        await keeping.settled()
        seen = spool.read_exits().get(entry.order)
    if seen is None:
        run.decide_to_start()
        return
    mark = _mark(entry)
    pid = seen.pid or await _pid_of(mark)
    process = procfs.read_process(pid)
    ours = process is not None and procfs.has_variables(pid, mark)
    if process is None or not ours or not await run.adopt(pid, process.start):
        await run.conclude_unseen(await _status(spool, entry, pid))


async def _pid_of(mark: set[bytes]) -> int:
    """The process that a keeper was starting when it died; 0 if there is none, or no more."""
    await asyncio.sleep(BEGIN_WAIT)
    return await asyncio.to_thread(procfs.find_leader, mark) or 0


async def _status(spool: Spool, entry: Entry, pid: int) -> int | None:
    """How the process ended: for us to see, or what its keeper wrote; None if nobody did."""
    status = await children.gone(pid)
    if status is not None:
        return status
    seen = spool.read_exits().get(entry.order)
    return seen.status if seen else None


def _mark(entry: Entry) -> set[bytes]:
    """What only this job's processes have in their environment."""
    return {f"JOB_ID={entry.job}".encode(), os.fsencode(f"PWD={entry.folder.work}")}
