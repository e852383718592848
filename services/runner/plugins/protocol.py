"""The job's side of the wire protocol for the built-in programs (plugins.md 2 to 4).

Standard library only and imported by path: these programs start for every job of their kind.
"""

import json
import os
import sys
from typing import Any


def read_job() -> dict[str, Any]:
    """The request: one line of JSON on standard input."""
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    return request


def say(**fields: Any) -> None:
    """One message to the runner, at once."""
    sys.stdout.write(json.dumps({"xy": 1, **fields}) + "\n")
    sys.stdout.flush()


def output(text: str) -> None:
    """A line for the job's log."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def end_line() -> None:
    """Begin a new line if another process left one open on our standard output.

    It is the job's output file, so its last byte can be looked at.
    """
    sys.stdout.flush()
    size = os.fstat(1).st_size
    if size and os.pread(1, 1, size - 1) != b"\n":
        output("")
