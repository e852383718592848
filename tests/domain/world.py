"""A small world for tests of deciders: the default records, and what a test adds."""

from collections.abc import Iterable
from typing import Any

from domain import facts as f
from domain.access import Principal
from domain.accounts import AccountType
from domain.commands import CreateEvent
from domain.defaults import default_facts
from domain.event import decide_create
from domain.facts import CatalogType, Json
from domain.ids import make_id

NOW = 1_790_000_030.5
ACTOR = f.Actor(type="user", id="anna")

ADMIN = Principal("anna", "user", "anna", privileges=frozenset({"admin"}))
NOBODY = Principal("zoe", "user", "zoe")


def having(*privileges: str, **limits: Iterable[str]) -> Principal:
    """Somebody with just these privileges, and perhaps `categories` and `groups` limits."""
    return Principal(
        "ben",
        "user",
        "ben",
        privileges=frozenset(privileges),
        categories=frozenset(limits.get("categories", ())),
        groups=frozenset(limits.get("groups", ())),
    )


class World:
    """Definitions and accounts as deciders ask for them (`Known` and `Accounts`)."""

    def __init__(self) -> None:
        self.events: dict[str, Json] = {}
        self.catalog: dict[str, dict[str, Json]] = {}
        self.accounts: dict[tuple[str, str], Json] = {}
        for fact in default_facts(NOW, f.Actor(type="system", id="system")):
            self.take(fact)

    def take(self, fact: Any) -> Any:
        """Let a fact be true from now on."""
        match fact:
            case f.EventCreated() | f.EventUpdated():
                self.events[fact.event] = fact.definition
            case f.EventDeleted():
                del self.events[fact.event]
            case f.CatalogCreated() | f.CatalogUpdated():
                self.catalog.setdefault(fact.type, {})[fact.id] = fact.record
            case f.CatalogDeleted():
                del self.catalog[fact.type][fact.id]
            case f.AccessCreated() | f.AccessUpdated():
                self.accounts[fact.type, fact.id] = fact.record
            case f.AccessDeleted():
                del self.accounts[fact.type, fact.id]
        return fact

    def plugin(self, id: str, **record: Any) -> None:
        """A plugin that exists already."""
        plugin = {"id": id, "title": id, "type": "event", "command": "/bin/x", "params": []}
        self.catalog["plugin"][id] = plugin | record

    def category(self, id: str, **record: Any) -> None:
        """A category that exists already."""
        self.catalog["category"][id] = {"id": id, "title": id, "enabled": True} | record

    def stored(self, id: str, **keys: Any) -> Json:
        """An event that exists already."""
        command = CreateEvent(ADMIN, ACTOR, id, event_fields(id=id, **keys))
        return self.take(decide_create(command, self, NOW)).definition

    def event(self, id: str) -> Json | None:
        return self.events.get(id)

    def record(self, type: CatalogType, id: str) -> Json | None:
        return self.catalog.get(type, {}).get(id)

    def records(self, type: CatalogType) -> Iterable[Json]:
        return self.catalog.get(type, {}).values()

    def category_in_use(self, id: str) -> bool:
        return any(event["category"] == id for event in self.events.values())

    def account(self, type: AccountType, id: str) -> Json | None:
        return self.accounts.get((type, id))


def event_fields(**keys: Any) -> Json:
    """What a client sends to create a valid event, with these keys changed; None drops one."""
    fields = {
        "title": "Nightly backup",
        "enabled": True,
        "category": "general",
        "targets": ["main"],
        "plugin": "shellplug",
        "algo": "random",
        "params": {"script": "#!/bin/sh\ntrue\n"},
    } | keys
    return {key: value for key, value in fields.items() if value is not None}


def new_id(prefix: str = "e") -> str:
    """An id as the gateway would make it."""
    return make_id(prefix, NOW, 0, bytes(8))
