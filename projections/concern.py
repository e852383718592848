"""Which folds a fact concerns: most kinds concern few of them, and each call costs time.

Knows of a fold only what it says itself.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from domain.facts import KINDS, FactBase, Recorded

Apply = Callable[[Recorded], object]


class Fold(Protocol):
    """A projection that passes over some kinds of facts."""

    def apply(self, recorded: Recorded) -> object:
        """Take in one fact."""

    def concerns(self, kind: type[FactBase]) -> bool:
        """Whether facts of this kind change anything here; no other needs to be applied."""


def by_kind(*folds: Fold) -> Mapping[type[FactBase], tuple[Apply, ...]]:
    """What to call, in the order of `folds`, for a fact of each kind."""
    return {
        kind: tuple(fold.apply for fold in folds if fold.concerns(kind)) for kind in KINDS.values()
    }
