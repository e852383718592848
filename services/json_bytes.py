"""JSON between our processes, and to those of jobs: quickly written and read, whatever is in it.

What programs print need not be Unicode, and what they call JSON may be more than that. Knows
nothing of what the values mean.
"""

import json
from typing import Any

import msgspec


def as_json(value: Any) -> bytes:
    """A value as compact JSON; bytes in it that are no text, as `os.fsdecode` has them, escaped."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def from_json(data: bytes) -> Any:
    """What was written by `as_json` or by a program. Raises ValueError."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return json.loads(data)
