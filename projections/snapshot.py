"""A fold's state as bytes, so that a service need not fold the whole ledger (design.md 8).

The state is made of dataclasses and plain containers; pydantic writes and reads them by their
types. A snapshot is trusted only by the very code that made it: its version is a digest of the
sources of `domain` and `projections`, so no fold ever goes on from a state that another release
would not have reached. Knows nothing of where the bytes are kept.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import zstandard
from pydantic import ConfigDict, TypeAdapter

State = TypeVar("State")

_MAGIC = b"JLS1"
_LEVEL = 1  # zstd: JSON shrinks ten times at 200 MB/s; higher levels gain little
_MOST_BYTES = 4 * 1024**3
_ROOT = Path(__file__).parent.parent
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def dump(state: State, type: type[State]) -> bytes:
    """The bytes of a state of this type. Slow for large states: call it off the loop."""
    text = _adapter(type).dump_json((state,))
    return _MAGIC + version() + zstandard.ZstdCompressor(level=_LEVEL).compress(text)


def load(data: bytes, type: type[State]) -> State | None:
    """The state in these bytes; None if another release made them or they are no snapshot."""
    head = _MAGIC + version()
    if not data.startswith(head):
        return None
    try:
        text = zstandard.ZstdDecompressor().decompress(
            data[len(head) :], max_output_size=_MOST_BYTES
        )
        state: State = _adapter(type).validate_json(text)[0]
    except (zstandard.ZstdError, ValueError):
        return None
    return state


@cache
def version() -> bytes:
    """32 bytes that differ wherever the code that folds, or what writes the state, differs."""
    digest = hashlib.sha256(pydantic.VERSION.encode())
    for folder in ("domain", "projections"):
        for source in sorted((_ROOT / folder).glob("*.py")):
            digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.digest()


def _adapter(type: Any) -> TypeAdapter[Any]:
    if type not in _ADAPTERS:
        # Inside a tuple, because a dataclass alone takes no configuration; infinity must survive.
        _ADAPTERS[type] = TypeAdapter(tuple[type], config=ConfigDict(ser_json_inf_nan="constants"))
    return _ADAPTERS[type]
