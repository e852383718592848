"""Who changed what: the revisions of events and the activity log (api.md 3.7, data.md 12.5).

`activity_of` says, purely, which activity record a fact leaves; `Revisions` keeps the records
in the tables of projections/store.py and answers questions about them. It knows nothing of
jobs' results (history.py), and of access limits only what its callers pass in.
"""

import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from domain import facts as f
from domain.event import change_summary
from domain.facts import Json, Recorded
from domain.ids import base36
from projections.search import Calendar, Where, activity_where, all_of

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Json)
_WORDS = re.compile(r"\w+")
_END_OF_TIME = 1e11  # Unix seconds; what comes after it has no date
_EVENT_ACTIONS = ("event_create", "event_update", "event_delete")
# What never leaves the ledger's own records (data.md 12.5: hashes removed).
_HIDDEN = ("key", "password", "salt", "value", "ciphertext", "nonce", "fields")
_VERBS = {"Created": "create", "Updated": "update", "Deleted": "delete"}
# search_revision_history's `type` -> the first word of the actions it shows (api.md 8.5).
REVISION_TYPES = {
    "events": "event",
    "categories": "category",
    "groups": "group",
    "plugins": "plugin",
    "tags": "tag",
    "roles": "role",
}


# What every job leaves on the ledger, and the log does not show: no need to look closer.
PASSED_OVER = frozenset(
    {
        f.JobRequested,
        f.JobQueued,
        f.JobStarting,
        f.JobAssigned,
        f.JobStarted,
        f.JobFinishing,
        f.JobFinished,
        f.ActionStarted,
        f.ActionEnded,
        f.JobEnded,
        f.JobCompleted,
    }
)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, each as JSON text, and how many there are without offset and limit."""

    rows: list[str]
    length: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What a fact leaves in the activity log: `object` is the id that it is about."""

    action: str
    description: str
    object: str
    details: Json


def to_text(value: Json) -> str:
    """JSON as rows are stored and sent: compact, in UTF-8."""
    return _ENCODER.encode(value).decode()


def from_text(text: str) -> Json:
    """What `to_text` wrote."""
    return _DECODER.decode(text)


def row_id(prefix: str, at: float, sequence: int) -> str:
    """The id of a row that a fact leaves: by time, then sequence; the same in every view."""
    return prefix + base36(int(_sane(at) * 1000)).rjust(8, "0") + base36(sequence).rjust(7, "0")


def actor_name(actor: f.Actor) -> str:
    """The user name or the API key's id; for the product's own doings, which part it was."""
    return actor.id if actor.type in ("user", "key") else actor.type


def activity_of(fact: f.Fact, previous: Json | None = None) -> Activity | None:
    """The activity record of a fact; None for what is not logged.

    `previous` is the event's last definition, which the record of its deletion shows.
    """
    match fact:
        case f.EventCreated():
            return Activity("event_create", "Created", fact.event, {"event": fact.definition})
        case f.EventUpdated():
            details = {"event": fact.definition, "reason": fact.reason}
            return Activity("event_update", _summary(fact), fact.event, details)
        case f.EventDeleted():
            details = {"event": previous or {"id": fact.event}, "reason": fact.reason}
            return Activity("event_delete", "Deleted", fact.event, details)
        case f.CatalogCreated() | f.CatalogUpdated() | f.CatalogDeleted():
            return _record_activity(fact.type, fact)
        case f.AccessCreated() | f.AccessUpdated() | f.AccessDeleted():
            return _access_activity(fact)
        case f.SessionStarted():
            return Activity("user_login", fact.id, fact.id, {})
        case f.MasterSwitched():
            text = f"Scheduling turned {'on' if fact.enabled else 'off'}"
            switch = {"key": "scheduler.enabled", "value": fact.enabled}
            return Activity("state_update", text, "scheduler", switch)
        case f.ServerJoined():
            return Activity("server_add", fact.hostname, fact.server, {})
        case f.ServerLeft():
            return Activity("server_remove", fact.server, fact.server, {"reason": fact.reason})
        case f.QueueFlushRequested():
            return Activity("queue_flush", fact.event, fact.event, {})
        case f.FiresMissed():
            text = f"{fact.count} runs of {fact.event} were missed: {fact.reason}"
            return Activity("warning", text, fact.event, {})
        case f.LaunchRejected():
            text = f"A run of {fact.event} could not be launched: {fact.reason}"
            return Activity("warning", text, fact.event, {"job": fact.job})
        case _:
            return _job_activity(fact)


def _job_activity(fact: f.Fact) -> Activity | None:
    match fact:
        case f.JobAbortRequested():
            return Activity("job_abort", fact.job, fact.job, {"reason": fact.reason})
        case f.JobResumeRequested():
            return Activity("job_resume", fact.job, fact.job, {"params": fact.params})
        case f.JobTagged():
            return Activity("job_update_tags", fact.job, fact.job, {"tags": fact.tags})
        case f.JobUpdated(erased=str(path)):
            return Activity("job_delete_file", path, fact.job, {"path": path})
        case f.JobUpdated():
            return Activity("job_update", fact.job, fact.job, {"changes": fact.changes})
        case f.JobDeleted() if fact.actor.type in ("user", "key"):
            return Activity("job_delete", fact.job, fact.job, {})
        case _:
            return None


def _summary(fact: f.EventUpdated) -> str:
    """The change summary of api.md D6, with the reason where there is one."""
    text = change_summary(fact)
    return f"{text} ({fact.reason})" if fact.reason else text


def _record_activity(
    type: str,
    fact: f.CatalogCreated
    | f.CatalogUpdated
    | f.CatalogDeleted
    | f.AccessCreated
    | f.AccessUpdated
    | f.AccessDeleted,
) -> Activity:
    verb = _VERBS[fact.kind.removeprefix("Catalog").removeprefix("Access")]
    if type == "server" and verb == "create":
        verb = "update"  # the server is there already; this is its first change by hand
    hidden = _HIDDEN if type in ("api_key", "user", "secret") else ()
    shown = {name: value for name, value in fact.record.items() if name not in hidden}
    title = shown.get("title") or shown.get("username") or fact.id
    return Activity(f"{type.replace('_', '')}_{verb}", str(title), fact.id, {type: shown})


def _access_activity(fact: f.AccessCreated | f.AccessUpdated | f.AccessDeleted) -> Activity:
    found = _record_activity(fact.type, fact)
    if isinstance(fact, f.AccessUpdated) and fact.type == "user" and "password" in fact.changed:
        return Activity("user_password", found.description, found.object, found.details)
    return found


def _of_event(event: str, sequence: int | None, at: float | None) -> list[Where]:
    """The rows of one event, as far as they stood at a moment."""
    conditions = [Where("event = ?", (event,))]
    if sequence is not None:
        conditions.append(Where("sequence <= ?", (sequence,)))
    if at is not None:
        conditions.append(Where("at <= ?", (at,)))
    return conditions


class Revisions:
    """The activity table. All methods are synchronous and use the connection they were given."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, recorded: Recorded) -> None:
        """Write what this fact leaves, inside the caller's transaction."""
        fact = recorded.fact
        if type(fact) in PASSED_OVER:
            return
        previous = None
        if isinstance(fact, f.EventDeleted):
            previous = self.event_at(fact.event, sequence=recorded.sequence - 1)
        activity = activity_of(fact, previous)
        if activity is None:
            return
        keywords = [activity.object, actor_name(fact.actor)]
        record = {
            "id": row_id("a", fact.at, recorded.sequence),
            "action": activity.action,
            "description": activity.description,
            "epoch": int(_sane(fact.at)),
            "date": int(_sane(fact.at)),
            "username": actor_name(fact.actor),
            "keywords": keywords,
            **{name: value for name, value in activity.details.items() if value is not None},
        }
        event = activity.object if activity.action in _EVENT_ACTIONS else None
        self._connection.execute(
            "INSERT INTO activity VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                recorded.sequence,
                _sane(fact.at),
                activity.action,
                event,
                _revision(activity) if event else None,
                fact.actor.address,
                to_text(record),
            ),
        )
        words = {word.lower() for word in (*keywords, *_WORDS.findall(activity.description))}
        self._connection.executemany(
            "INSERT INTO activity_words VALUES (?, ?)",
            [(word, recorded.sequence) for word in sorted(words)],
        )

    def forget(self, sequences: Iterable[int]) -> None:
        """Drop what these facts left, since they are erased; inside the caller's transaction."""
        marks = [(sequence,) for sequence in sequences]
        self._connection.executemany("DELETE FROM activity WHERE sequence = ?", marks)
        self._connection.executemany("DELETE FROM activity_words WHERE sequence = ?", marks)

    def event_history(
        self,
        event: str,
        *,
        offset: int = 0,
        limit: int = 1,
        sort_dir: int = -1,
        sequence: int | None = None,
        at: float | None = None,
    ) -> Page:
        """The rows of get_event_history (api.md 3.7), without addresses.

        `limit` 0 gives none but the length. With a sequence or a moment (Unix seconds) the
        history as it stood then. A reused id shows the rows of its earlier bearers too.
        """
        where = all_of(_of_event(event, sequence, at))
        return self._page(where, offset, limit, sort_dir, private=False)

    def event_at(
        self, event: str, *, sequence: int | None = None, at: float | None = None
    ) -> Json | None:
        """The event as it stood at a sequence or at a moment (Unix seconds); None if it was not.

        Without either: as it stands now.
        """
        where = all_of(_of_event(event, sequence, at))
        row = self._connection.execute(
            f"SELECT action, record FROM activity WHERE {where.sql} "  # noqa: S608
            "ORDER BY sequence DESC LIMIT 1",
            where.params,
        ).fetchone()
        if row is None or row[0] == "event_delete":
            return None
        event_then: Json = from_text(row[1])["event"]
        return event_then

    def event_revision(self, event: str, revision: int) -> Json | None:
        """The event's content at its newest revision of this number (revert_event, api.md 8.7)."""
        row = self._connection.execute(
            "SELECT record FROM activity WHERE event = ? AND action != 'event_delete' "
            "AND revision = ? ORDER BY sequence DESC LIMIT 1",
            (event, revision),
        ).fetchone()
        return None if row is None else from_text(row[0])["event"]

    def search_activity(
        self,
        query: str,
        calendar: Calendar,
        *,
        offset: int = 0,
        limit: int = 1,
        sort_dir: int = -1,
    ) -> Page:
        """search_activity for admins (api.md 8.5): all rows, with ip, ips, headers, useragent.

        Raises RuleBroken("db") for a bad query.
        """
        where = activity_where(query, calendar)
        return self._page(where, offset, limit, sort_dir, private=True)

    def search_revisions(
        self,
        type: str,
        query: str,
        calendar: Calendar,
        *,
        offset: int = 0,
        limit: int = 1,
        sort_dir: int = -1,
    ) -> Page:
        """search_revision_history (api.md 8.5) for one of REVISION_TYPES, without addresses.

        Raises RuleBroken("db") for a bad query and KeyError for another type.
        """
        name = REVISION_TYPES[type]
        actions = tuple(f"{name}_{verb}" for verb in _VERBS.values())
        where = all_of([Where("action IN (?, ?, ?)", actions), activity_where(query, calendar)])
        return self._page(where, offset, limit, sort_dir, private=False)

    def _page(self, where: Where, offset: int, limit: int, sort_dir: int, *, private: bool) -> Page:
        direction = "ASC" if sort_dir == 1 else "DESC"
        length = self._connection.execute(
            f"SELECT COUNT(*) FROM activity WHERE {where.sql}",  # noqa: S608
            where.params,
        ).fetchone()[0]
        rows = self._connection.execute(
            f"SELECT record, address FROM activity WHERE {where.sql} "  # noqa: S608
            f"ORDER BY sequence {direction} LIMIT ? OFFSET ?",
            (*where.params, limit, offset),
        )
        return Page([_with_origin(*row) if private else row[0] for row in rows], length)


def _with_origin(record: str, address: str | None) -> str:
    """The row as an admin sees it; requests' headers are not recorded."""
    origin: Json = {
        "ip": address or "",
        "ips": [address] if address else [],
        "headers": {},
        "useragent": "",
    }
    return record[:-1] + "," + to_text(origin)[1:]


def _revision(activity: Activity) -> int | None:
    revision = activity.details["event"].get("revision")
    return revision if isinstance(revision, int) and abs(revision) < 2**63 else None


def _sane(at: float) -> float:
    """A fact's time, or 0 if it is none that a date can show; a fold must not stop at it."""
    return at if 0 <= at < _END_OF_TIME else 0.0
