"""Passwords: hashed with argon2id, outside the event loop, a few at a time.

Knows no users. A hash carries its own parameters, so that they can be raised later.
"""

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from domain.errors import BadRequest, RuleBroken

LONGEST = 1024
# One hash takes 64 MiB and about 0.1 s of one core.
_HASHER = PasswordHasher(time_cost=2, memory_cost=64 * 1024, parallelism=1)
_AT_ONCE = 2
_MOST_WAITING = 64
# Compared with when there is no password, so that this takes as long as a wrong one.
_NOBODYS = (
    "$argon2id$v=19$m=65536,t=2,p=1$c29tZXRoaW5nIG9yIG90aGVy$"
    "q5sbTqE0m7WmLkJ0Zr1ePj3u2m5XcH0i8Q1bP2nVw6A"
)


def check_password(password: object, name: str = "password") -> str:
    """The value itself, if it can be a password; BadRequest otherwise."""
    if not isinstance(password, str) or not 1 <= len(password) <= LONGEST:
        raise BadRequest(f"Parameter '{name}' must be a string of 1 to {LONGEST} characters.")
    return password


def hash_now(password: str) -> str:
    """The hash of a password; takes its time."""
    return _HASHER.hash(password)


class Passwords:
    """Hashing and checking for one process; whoever comes when too many wait is refused."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """The hash of a new password."""
        async with self:
            return await asyncio.to_thread(hash_now, password)

    async def matches(self, stored: object, password: str) -> bool:
        """Whether this is the password; takes equally long when there is none."""
        async with self:
            return await asyncio.to_thread(_matches, stored, password)

    async def __aenter__(self) -> None:
        if self._waiting >= _MOST_WAITING:
            raise RuleBroken("login", "Too many people are logging in; try again in a moment.")
        self._waiting += 1
        try:
            await self._turns.acquire()
        except BaseException:
            self._waiting -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._waiting -= 1
        self._turns.release()


def _matches(stored: object, password: str) -> bool:
    known = isinstance(stored, str)
    try:
        _HASHER.verify(stored if isinstance(stored, str) else _NOBODYS, password)
    except (VerificationError, InvalidHashError):
        return False
    return known
