"""A fold's state as bytes, so that a service need not fold the whole ledger (design.md 8).

The state is a dataclass of dataclasses and plain containers; msgspec writes and reads them by
their types, as JSON, which knows integers of any size. It is written in small pieces, one line
each, so that whoever writes it can let others have a turn in between. A snapshot is trusted only
by the very code that made it: its version is a digest of the sources of `domain`, `projections`
and the module that defines the state, so no fold ever goes on from a state that another release
would not have reached. Knows nothing of where the bytes are kept.
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec
import zstandard

State = TypeVar("State")

_MAGIC = b"JLS3"
_LEVEL = 1  # zstd: JSON shrinks ten times at 200 MB/s; higher levels gain little
_PIECE = 200  # entries of a container per line: some milliseconds at most
_READ = 64 * 1024
_ROOT = Path(__file__).parent.parent


def pieces(state: Any) -> Iterator[bytes]:
    """The bytes of a state, a dataclass, in pieces (some empty) of a few milliseconds each.

    The state must stay as it is until the last piece was taken.
    """
    kind: Any = type(state)
    yield _MAGIC + version(kind)
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    for path in _leaves(kind):
        for part in _parts(_value_at(state, path)):
            line = path.encode() + b"\t" + msgspec.json.encode(part) + b"\n"
            yield compressor.compress(line)
    yield compressor.flush()


def dump(state: Any) -> bytes:
    """The bytes of a state at once."""
    return b"".join(pieces(state))


def load(data: bytes, type: type[State]) -> State | None:
    """The state in these bytes; None if another release made them or they are no snapshot."""
    kind: Any = type
    head = _MAGIC + version(kind)
    if not data.startswith(head):
        return None
    leaves, values = _leaves(kind), dict[str, Any]()
    try:
        for line in _lines(data[len(head) :]):
            path, _, text = line.partition(b"\t")
            name = path.decode()
            part = _decoder(leaves[name]).decode(text)
            values[name] = _joined(values[name], part) if name in values else part
        state: State = _built(kind, "", values)
    except (zstandard.ZstdError, ValueError, KeyError):
        return None
    return state


@cache
def version(kind: Any) -> bytes:
    """32 bytes that differ wherever the code that folds, or the state's shape, differs."""
    digest = hashlib.sha256(msgspec.__version__.encode())
    sources = [p for name in ("domain", "projections") for p in (_ROOT / name).rglob("*.py")]
    for source in sorted(sources):
        digest.update(str(source.relative_to(_ROOT)).encode() + b"\0" + source.read_bytes())
    defined_in = sys.modules[kind.__module__].__file__
    digest.update(Path(defined_in).read_bytes() if defined_in else b"")
    return digest.digest()


# --- a state as named leaves -------------------------------------------------------------------


@cache
def _leaves(kind: Any) -> dict[str, Any]:
    """The types of all fields by their dotted path; dataclasses are nodes, the rest is leaves."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if is_dataclass(hint):
            node: Any = hint
            found |= {f"{name}.{path}": leaf for path, leaf in _leaves(node).items()}
        else:
            found[name] = hint
    return found


def _value_at(state: Any, path: str) -> Any:
    for name in path.split("."):
        state = getattr(state, name)
    return state


def _built(kind: Any, prefix: str, values: dict[str, Any]) -> Any:
    """The dataclass of these leaves; KeyError if one is missing."""
    hints = get_type_hints(kind)
    return kind(
        **{
            field.name: _built(hints[field.name], f"{prefix}{field.name}.", values)
            if is_dataclass(hints[field.name])
            else values[prefix + field.name]
            for field in fields(kind)
        }
    )


# --- containers in parts -----------------------------------------------------------------------


def _parts(value: Any) -> Iterator[Any]:
    """A container in parts of its own type, at least one; anything else whole."""
    if not isinstance(value, dict | list | set) or len(value) <= _PIECE:
        yield value
        return
    entries = iter(value.items() if isinstance(value, dict) else value)
    while part := list(islice(entries, _PIECE)):
        yield part if isinstance(value, list) else type(value)(part)


def _joined(before: Any, part: Any) -> Any:
    """The container with one more part; ValueError for what has no parts."""
    match before:
        case dict() | set():
            before.update(part)
        case list():
            before.extend(part)
        case _:
            raise ValueError("a value came twice")
    return before


def _lines(packed: bytes) -> Iterator[bytes]:
    """The lines of the compressed text; ValueError if it is cut short, ZstdError if damaged."""
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    rest = b""
    for start in range(0, len(packed), _READ):
        text = rest + decompressor.decompress(packed[start : start + _READ])
        *lines, rest = text.split(b"\n")
        yield from lines
    if rest or not decompressor.eof:
        raise ValueError("the snapshot is cut short")


@cache
def _decoder(hint: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(hint)
