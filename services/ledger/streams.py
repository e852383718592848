"""The three streams and their settings: made at the first start, checked at every other.

A setting that readers and writers rely on must be as it is here, or the service does not start.
Knows nothing of what is stored.
"""

import re
from typing import TYPE_CHECKING

from domain.facts import Json
from services.ledger import reading
from services.ledger.errors import LedgerUnavailable, StreamMismatch

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

LEDGER = reading.STREAM
CHUNKS = "CHUNKS"
SNAPSHOTS = "SNAPSHOTS"

# Within this time a repeated command is recognised by its id (design.md 3.1), in nanoseconds.
DUPLICATE_WINDOW = 120 * 1_000_000_000
# The first one that takes atomic batches.
OLDEST_SERVER = (2, 12)
_NOT_FOUND = 10059
_EXISTS = 10058
# Making a stream waits for a quorum on a cluster.
_TIMEOUT = 20.0


def settings(replicas: int) -> list[Json]:
    """The streams as JetStream's own configuration objects."""
    common: Json = {
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": replicas,
        "allow_direct": True,
        "max_age": 0,
        "max_bytes": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "duplicate_window": DUPLICATE_WINDOW,
    }
    return [
        common
        | {
            "name": LEDGER,
            "subjects": ["facts.>"],
            "allow_atomic": True,
            "republish": {"src": "facts.>", "dest": "ledger.>"},
        },
        # Uploads say themselves when they expire.
        common | {"name": CHUNKS, "subjects": ["chunks.>"], "allow_msg_ttl": True},
        common | {"name": SNAPSHOTS, "subjects": ["snapshots.>"]},
    ]


def check_version(ledger: "Ledger") -> None:
    """StreamMismatch if this nats-server is too old to write several facts at once."""
    told = ledger.nc.server_version
    numbers = re.match(r"(\d+)\.(\d+)", told)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise StreamMismatch(
            f"The nats-server there is of version {told}, but Jobledger needs {oldest} or later."
        )


async def ensure_streams(ledger: "Ledger", *, replicas: int = 1) -> None:
    """Make the streams that are missing and check the others; safe under races.

    `replicas` counts for new streams only: how many copies a cluster keeps is changed with
    NATS's own tools. Raises StreamMismatch, LedgerUnavailable.
    """
    for wanted in settings(replicas):
        found = await _existing(ledger, wanted["name"]) or await _create(ledger, wanted)
        _check(wanted, found)
        if wanted["name"] == LEDGER:
            ledger.replicas = found["num_replicas"]


async def _existing(ledger: "Ledger", name: str) -> Json | None:
    answer = await ledger.api(f"STREAM.INFO.{name}")
    if answer.get("error", {}).get("err_code") == _NOT_FOUND:
        return None
    config: Json = reading.checked(answer)["config"]
    return config


async def _create(ledger: "Ledger", wanted: Json) -> Json:
    name = wanted["name"]
    answer = await ledger.api(f"STREAM.CREATE.{name}", wanted, within=_TIMEOUT)
    error = answer.get("error")
    if error is None:
        config: Json = answer["config"]
        return config
    if error.get("err_code") == _EXISTS:
        # Another service made it between our look and our request.
        return await _existing(ledger, name) or {}
    raise LedgerUnavailable(f"NATS cannot make the stream {name}: {error.get('description')}.")


def _check(wanted: Json, found: Json) -> None:
    """StreamMismatch on the first setting that differs; more copies than asked for are fine."""
    for key, value in wanted.items():
        if key != "num_replicas" and found.get(key) != value:
            raise StreamMismatch(
                f"The NATS stream {wanted['name']} has {key} = {found.get(key)!r}, but Jobledger "
                f"needs {value!r}: another program made it, or somebody changed it."
            )
    for forbidden in ("sealed", "deny_delete", "deny_purge"):
        if found.get(forbidden):
            raise StreamMismatch(
                f"The NATS stream {wanted['name']} has {forbidden} set, but Jobledger must be "
                "able to erase deleted jobs from it."
            )
