"""Identifiers: how they look, how they are made and derived (data.md section 1).

Knows no clock and no randomness: both are passed in.
"""

import hashlib
import re
from functools import lru_cache

from domain.errors import BadRequest

ID = re.compile(r"[a-z0-9_]{1,128}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIR = 36 * 36
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_BLOCK = _PAIR * _PAIR
_LENGTH = 16
_COUNTER_WRAP = 1296

RESERVED = frozenset(
    "constructor __defineGetter__ __defineSetter__ hasOwnProperty __lookupGetter__ "
    "__lookupSetter__ isPrototypeOf propertyIsEnumerable toString valueOf __proto__ "
    "toLocaleString 0".split()
)


def base36(number: int) -> str:
    """A non-negative integer in lower-case base 36."""
    digits = ""
    while number >= _PAIR:
        number, rest = divmod(number, _PAIR)
        digits = _PAIRS[rest] + digits
    return (_PAIRS[number] + digits).lstrip("0") or "0"


def base36_of_15(number: int) -> str:
    """As `base36` with zeros in front, 15 digits; quick for numbers that follow each other."""
    block, rest = divmod(number, _BLOCK)
    return _first_11(block) + _PAIRS[rest // _PAIR] + _PAIRS[rest % _PAIR]


@lru_cache(maxsize=64)
def _first_11(block: int) -> str:
    return f"{base36(block):0>11}"


def is_id(value: object) -> bool:
    """Whether a value is a well-formed, unreserved id (data.md 1.2)."""
    return isinstance(value, str) and ID.fullmatch(value) is not None and value not in RESERVED


def check_id(value: object, name: str = "id") -> str:
    """The value itself, if it is an id; BadRequest otherwise (api.md 1.3)."""
    if not isinstance(value, str):
        raise BadRequest(f"Parameter '{name}' must be a string.")
    if not is_id(value):
        raise BadRequest(
            f"Parameter '{name}' must be 1 to 128 characters of a-z, 0-9 and _, "
            "and not a reserved word."
        )
    return value


def make_id(prefix: str, now: float, counter: int, entropy: bytes) -> str:
    """A new id: prefix + milliseconds + counter + random, 16 characters (data.md 1.1).

    `now` is in Unix seconds; `counter` grows by one per id within a process; `entropy` is
    at least 8 random bytes.
    """
    head = prefix + base36(int(now * 1000)).rjust(8, "0") + base36(counter % _COUNTER_WRAP)
    room = _LENGTH - len(head)
    number = int.from_bytes(entropy, "big") % 36**room
    return head + base36(number).rjust(room, "0")


def derived_job_id(at: float, *origin: str | int) -> str:
    """The id of a fire, a retry, a child or an action's job (data.md 1.1).

    `at` is the due time, or the causing fact's `at`, in Unix seconds; `origin` names what the
    job derives from. The same origin always gives the same id, so doing it twice is seen.
    """
    digest = hashlib.sha256("\x1f".join(map(str, origin)).encode()).digest()
    tail = base36(int.from_bytes(digest[:8], "big") % 36**7).rjust(7, "0")
    return "j" + base36(int(at * 1000)).rjust(8, "0")[-8:] + tail
