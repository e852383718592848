"""A service that kills itself at a named moment: `python -m tests.chaos.dying MOMENT runner ...`.

The moments are places in the services' code that a signal from outside would hit only by luck.
They are set here, from outside: the services know nothing of them."""

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from domain.facts import Fact
from services.cli import main
from services.ledger.connection import Ledger
from services.runner import run
from services.runner.keeping import Keeping
from services.runner.reporting import Store
from services.runner.spool import Spool

RUNNER: dict[str, tuple[Any, str, str]] = {
    "order not saved": (Spool, "take", "before"),
    "order saved, not started": (Keeping, "start", "before"),
    "asked for, not heard": (Keeping, "start", "after"),
    "started, not noted": (Spool, "started", "before"),
    "start noted, not reported": (Spool, "started", "after"),
    "start reported": (Spool, "told", "before"),
    "end seen, not noted": (Spool, "ended", "before"),
    "end noted, log not stored": (Spool, "ended", "after"),
    "log stored, report not noted": (Store, "write", "after"),
    "report noted, not sent": (Spool, "finished", "after"),
    "reported, not noted": (Spool, "reported", "before"),
    "all done": (Spool, "reported", "after"),
}
"""What is replaced for each moment: (owner, name, when)."""

LEADER = {
    "between a fire and its order": ("JobRequested", 1),
    "between fires": ("JobRequested", 2),
    "between parent and children": ("JobFannedOut", 1),
    "between the children": ("JobFannedOut", 2),
    "between end and retry": ("JobCompleted", 1),
}
"""After how many facts, counted from the first of that kind, a leader dies."""

MACHINE = "another boot of the machine"


def die() -> None:
    """The end, without a farewell."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm_runner(moment: str) -> None:
    """Have the runner die at this moment of its first job."""
    owner, name, when = RUNNER[moment]
    original: Callable[..., Any] = getattr(owner, name)

    def dying(*args: Any, **more: Any) -> Any:
        if name == "take" and not args[1]:
            return original(*args, **more)  # aborts and positions only
        if when == "before":
            die()
        done = original(*args, **more)
        if isinstance(done, Awaitable):
            return dying_after(done)
        die()
        return done

    async def dying_after(work: Awaitable[Any]) -> Any:
        await work
        die()

    setattr(owner, name, dying)


def arm_leader(moment: str) -> None:
    """Have the leading scheduler die after a certain fact of its first such decision."""
    kind, count = LEADER[moment]
    original = Ledger.append_fenced
    seen = 0

    async def dying(
        ledger: Ledger, facts: Sequence[tuple[str, Fact]], term: int, *, behind: Collection[str]
    ) -> int:
        nonlocal seen
        last = 0
        for decision in facts:
            last = await original(ledger, [decision], term)
            if seen or decision[1].kind == kind:
                seen += 1
            if seen >= count:
                die()
        return last

    Ledger.append_fenced = dying  # type: ignore[method-assign, assignment]


def pretend_reboot() -> None:
    """Have the runner believe that the kernel was started anew."""
    run.machine_boot = lambda: "another-boot"  # type: ignore[attr-defined]


if __name__ == "__main__":
    moment = sys.argv.pop(1)
    if moment in RUNNER:
        arm_runner(moment)
    elif moment in LEADER:
        arm_leader(moment)
    else:
        assert moment == MACHINE, f"there is no moment {moment!r}"
        pretend_reboot()
    main.run()
