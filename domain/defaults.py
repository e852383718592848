"""The records of a fresh ledger (data.md 13), as facts. Knows neither clock nor secrets."""

from collections.abc import Iterator

from domain.access import NEW_USER_PRIVILEGES
from domain.facts import AccessCreated, Actor, CatalogCreated, CatalogType, Fact, Json
from domain.stock_plugins import STOCK_PLUGINS

ADMIN = "admin"
"""The user who owns the default records."""


def default_facts(now: float, actor: Actor) -> list[Fact]:
    """What a new ledger holds after its first fact; `now` is in Unix seconds.

    The user `admin` has no password, so nobody can log in until one is set.
    """
    records: list[Fact] = [
        CatalogCreated(at=now, actor=actor, type=type, id=record["id"], record=_signed(record, now))
        for type, record in _records()
    ]
    return [*records, AccessCreated(at=now, actor=actor, type="user", id=ADMIN, record=_admin(now))]


def _records() -> Iterator[tuple[CatalogType, Json]]:
    yield (
        "role",
        {
            "id": "all",
            "title": "All Users",
            "enabled": True,
            "privileges": dict.fromkeys(NEW_USER_PRIVILEGES, True),
            "categories": [],
            "groups": [],
            "icon": "",
            "notes": "",
        },
    )
    yield (
        "group",
        {
            "id": "main",
            "title": "Main Group",
            "hostname_match": ".+",
            "alert_actions": [],
            "sort_order": 0,
            "icon": "",
            "notes": "",
        },
    )
    yield (
        "category",
        {
            "id": "general",
            "title": "General",
            "enabled": True,
            "color": "plain",
            "limits": [],
            "actions": [],
            "sort_order": 0,
            "icon": "",
            "notes": "For events that don't fit anywhere else.",
        },
    )
    yield "tag", {"id": "important", "title": "Important", "icon": "alert-rhombus", "notes": ""}
    yield "tag", {"id": "flag", "title": "Flag", "icon": "flag-checkered", "notes": ""}
    for plugin in STOCK_PLUGINS:
        yield "plugin", plugin


def _signed(record: Json, now: float) -> Json:
    return record | {
        "username": ADMIN,
        "created": int(now),
        "modified": int(now),
        "revision": 1,
    }


def _admin(now: float) -> Json:
    record: Json = {
        "username": ADMIN,
        "full_name": "Administrator",
        "email": "",
        "active": 1,
        "privileges": {"admin": True},
        "roles": [],
        "categories": [],
        "groups": [],
        "force_password_reset": True,
    }
    return record | {"created": int(now), "modified": int(now), "revision": 1}
