"""Pauses of an interpreter: garbage collection that does not hold up a loop, and turns of threads.

A full collection looks at everything that is folded: with 10,000 events some 0.4 s in which no
fire is launched and no call answered. What is folded lives on anyway, and what is no longer used
is freed without a collection, but for the few objects that refer to each other in a circle.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Young objects are looked at after so many new ones (about a millisecond), those that survived
# twenty such looks once more (some ten); all of them hardly ever.
_YOUNG, _OLDER, _ALL = 10_000, 20, 1_000
# So long (seconds) a thread that wants the interpreter waits for a busy one; Python's 5 ms for each
# of its statements would keep one that writes to SQLite from keeping up with a loop that folds.
_TURN = 0.0005


@contextmanager
def importing() -> Iterator[None]:
    """No collections meanwhile, and none that looks later at what was imported.

    Forks then share it for good: a collection writes to every object that it looks at.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(_YOUNG, _OLDER, _ALL)
        gc.enable()


def avoid_pauses() -> None:
    """No later collection looks at what is there now: for when all is folded."""
    gc.collect()
    gc.freeze()


def take_turns() -> None:
    """Have a busy loop give way to this process's other threads sooner."""
    sys.setswitchinterval(_TURN)
