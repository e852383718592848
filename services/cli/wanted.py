"""What the verb `up` was asked for. Told from one process to another (entry.py)."""

from dataclasses import dataclass

from services.settings import Settings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What stood on the command line and in the settings.

    `cluster`: so many NATS nodes and runners, or 0; `verbose`: show logs instead of writing them.
    """

    settings: Settings
    cluster: int
    verbose: bool
