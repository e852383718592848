"""The operating system's accounts under which jobs run (plugins.md 5).

Names and numbers are both accepted. Knows nothing of jobs.
"""

import functools
import grp
import os
import pwd
from dataclasses import dataclass

from services.runner.errors import CannotStart


@dataclass(frozen=True, slots=True)
class Account:
    """An account with its groups and what goes into the environment."""

    uid: int
    gid: int
    groups: list[int]
    name: str
    home: str
    shell: str

    @property
    def owner(self) -> tuple[int, int]:
        """As `chown` takes it."""
        return self.uid, self.gid


@functools.cache
def own_account() -> Account:
    """The account of this process; its groups are what they are."""
    uid = os.getuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(uid, os.getgid(), os.getgroups(), str(uid), "/", "/bin/sh")
    return Account(uid, os.getgid(), os.getgroups(), entry.pw_name, entry.pw_dir, entry.pw_shell)


def account_of(uid: str | int, gid: str | int) -> Account | None:
    """The account that a plugin names, or None where it names none.

    Without `gid` it has the user's primary group, and always the user's supplementary groups.
    Raises CannotStart for an unknown user or group.
    """
    if uid in ("", None) and gid in ("", None):
        return None
    user = _user(uid) if uid not in ("", None) else pwd.getpwuid(os.getuid())
    group = _group(gid) if gid not in ("", None) else user.pw_gid
    groups = os.getgrouplist(user.pw_name, group)
    account = Account(
        user.pw_uid, group, groups, user.pw_name, user.pw_dir, user.pw_shell or "/bin/sh"
    )
    if os.getuid() != 0:
        return _as_ourselves(account)
    return account


def _as_ourselves(account: Account) -> Account | None:
    """Only root may become somebody else; the own account needs no change."""
    if account.uid == os.getuid() and account.gid in {os.getgid(), *os.getgroups()}:
        return None
    raise CannotStart(
        f"Plugin Error: The runner may not run jobs as user {account.name}: it is not root"
    )


def _user(uid: str | int) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(str(uid))
    except KeyError:
        pass
    try:
        return pwd.getpwuid(int(uid))
    except (KeyError, ValueError, OverflowError):
        raise CannotStart(f"Plugin Error: User does not exist: {uid}") from None


def _group(gid: str | int) -> int:
    try:
        return grp.getgrnam(str(gid)).gr_gid
    except KeyError:
        pass
    try:
        return grp.getgrgid(int(gid)).gr_gid
    except (KeyError, ValueError, OverflowError):
        raise CannotStart(f"Plugin Error: Group does not exist: {gid}") from None
