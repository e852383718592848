"""Who may do what: principals, privileges, category and group limits (api.md 1.4, 1.5).

Must not know how somebody proved who it is, nor any kind of record but keys, users and roles.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from domain.errors import AccessDenied
from domain.facts import Json

PRIVILEGES = frozenset(
    "admin create_events edit_events delete_events run_jobs abort_jobs delete_jobs tag_jobs "
    "create_categories edit_categories delete_categories create_groups edit_groups delete_groups "
    "create_plugins edit_plugins delete_plugins create_roles edit_roles delete_roles create_tags "
    "edit_tags delete_tags update_servers create_alerts edit_alerts delete_alerts create_buckets "
    "edit_buckets delete_buckets create_channels edit_channels delete_channels create_monitors "
    "edit_monitors delete_monitors create_tickets edit_tickets delete_tickets create_web_hooks "
    "edit_web_hooks delete_web_hooks create_snapshots delete_snapshots add_servers send_emails "
    "bulk_export".split()
)
"""All privileges that are known (data.md 12.4); others are stored and have no effect."""

NEW_USER_PRIVILEGES = ("create_events", "edit_events", "run_jobs", "tag_jobs")

_NON_WORD = re.compile(r"\W", re.ASCII)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who asks, with everything that its own record and its roles allow.

    `id` is a user's name or a key's id; `username` is what records made by it are signed with
    (a key's: the user who created the key). Empty `categories` or `groups` mean no limit.
    """

    id: str
    kind: Literal["key", "user", "system"]
    username: str
    privileges: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    title: str = ""

    @property
    def admin(self) -> bool:
        """Admins pass every privilege check and have no category or group limits."""
        return "admin" in self.privileges

    def may(self, privilege: str) -> bool:
        """Whether it has a privilege."""
        return self.admin or privilege in self.privileges

    def require(self, privilege: str) -> None:
        """Raises AccessDenied without this privilege."""
        if not self.may(privilege):
            raise AccessDenied(f"{self._name} does not have the privilege '{privilege}'.")

    def may_see_category(self, category: Any) -> bool:
        """Whether a category is within its limits; what is no text is not."""
        if self.admin or not self.categories:
            return True
        return isinstance(category, str) and category in self.categories

    def may_see_groups(self, groups: Iterable[str]) -> bool:
        """Whether any of these group ids is within its limits."""
        return self.admin or not self.groups or not self.groups.isdisjoint(groups)

    def may_see(self, category: Any, targets: Any) -> bool:
        """Whether an event or a job is within its limits; no targets pass (api.md 1.5).

        Whatever an admin may have written there (4.8): targets that are none are not within.
        """
        if not self.may_see_category(category):
            return False
        return not targets or self.may_see_groups(_strings(targets))

    def require_access(self, category: Any, targets: Any) -> None:
        """Raises AccessDenied for an event or a job outside its limits."""
        if not self.may_see_category(category):
            raise AccessDenied(f"{self._name} has no access to category '{category}'.")
        if targets and not self.may_see_groups(_strings(targets)):
            raise AccessDenied(f"{self._name} has no access to any of the targets.")

    @property
    def unlimited(self) -> bool:
        """Whether it has neither category nor group limits."""
        return self.admin or not (self.categories or self.groups)

    @property
    def _name(self) -> str:
        return f"API key '{self.title or self.id}'" if self.kind == "key" else f"User '{self.id}'"


SYSTEM = Principal("system", "system", "admin", privileges=frozenset({"admin"}))
"""The product itself: default records, and what the scheduler changes in definitions."""


def principal_of(
    kind: Literal["key", "user"], record: Json, role: Callable[[str], Json | None]
) -> Principal:
    """What a key's or a user's stored record allows, with its enabled roles. Never raises.

    `role` finds a role by id.
    """
    records = [record, *_enabled_roles(record, role)]
    return Principal(
        id=str(record.get("id" if kind == "key" else "username") or ""),
        kind=kind,
        username=str(record.get("username") or ""),
        privileges=frozenset(p for r in records for p in granted(r.get("privileges"))),
        categories=frozenset(c for r in records for c in _strings(r.get("categories"))),
        groups=frozenset(g for r in records for g in _strings(r.get("groups"))),
        title=str(record.get("title") or ""),
    )


def granted(privileges: Any) -> list[str]:
    """The ids that a `privileges` object grants: those with a truthy value."""
    return [p for p, yes in privileges.items() if yes] if isinstance(privileges, dict) else []


def user_id(username: str) -> str:
    """A user's id on the ledger and for look-up: lower case, without non-word characters."""
    return _NON_WORD.sub("", username).lower()


def _enabled_roles(record: Json, role: Callable[[str], Json | None]) -> list[Json]:
    roles = [role(id) for id in _strings(record.get("roles"))]
    return [found for found in roles if found is not None and found.get("enabled")]


def _strings(value: Any) -> list[str]:
    return [x for x in value if isinstance(x, str)] if isinstance(value, list) else []
