"""Searching what is over and seeing what is to come (api.md 8.5, 8.7)."""

from dataclasses import dataclass

from domain.errors import RuleBroken
from domain.facts import Json
from domain.ids import check_id
from projections.revisions import REVISION_TYPES
from projections.search import Calendar
from services.gateway import jobs
from services.gateway.endpoint import Call, Routes
from services.gateway.params import Order, Page, Params, order, page
from services.gateway.replies import Payload, Rows, encode

api = Routes("Search")

_MOST_UPCOMING = 1000


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for, and which part of what is found."""

    query: str
    part: Page
    sorting: Order

    @property
    def limit(self) -> int:
        """How many rows at most."""
        return self.part.limit or 0

    @property
    def direction(self) -> int:
        """1 upwards, -1 downwards."""
        return -1 if self.sorting.descending else 1


def _search(params: Params) -> Search:
    return Search(params.text("query") or "*", page(params, 1), order(params, "_id", -1))


def _calendar(call: Call) -> Calendar:
    """Days are those of the zone of triggers that name none (scheduling.md 3.4)."""
    configured = call.gateway.views.definitions.config.get("timezone")
    return Calendar(call.now, str(configured or call.gateway.settings.timezone))


SEARCH_FIELDS = {
    "query": "string, default *",
    "offset": "integer",
    "limit": "integer, default 1",
    "sort_by": "string",
    "sort_dir": "integer, 1 or -1",
}


def _job_search(params: Params) -> tuple[Search, bool, list[str] | None]:
    return _search(params), params.flag("verbose"), params.words("select")


@api.endpoint(
    "search_jobs",
    "Search the finished jobs: `event:ID tags:_error date:today ...`.",
    parse=_job_search,
    fields=SEARCH_FIELDS | {"verbose": "boolean", "select": "array, of job keys"},
)
async def search_jobs(call: Call, asked: tuple[Search, bool, list[str] | None]) -> Payload:
    """api.md 8.5."""
    search, verbose, select = asked
    caller, whole = call.caller, verbose or select is not None
    found = await call.gateway.views.history(
        lambda history: history.search(
            search.query,
            _calendar(call),
            offset=search.part.offset,
            limit=search.limit,
            sort_by=search.sorting.key,
            sort_dir=search.direction,
            verbose=whole,
            categories=None if caller.admin else caller.categories,
            groups=None if caller.admin else caller.groups,
        )
    )
    if not whole:
        return Rows(jobs.shown_rows(found.rows), found.length)
    return Rows(await jobs.completed_rows(call.gateway, found.rows, select), found.length)


@api.endpoint(
    "search_activity",
    "Search the activity log (administrators).",
    parse=_search,
    privilege="admin",
    fields=SEARCH_FIELDS,
)
async def search_activity(call: Call, search: Search) -> Payload:
    """api.md 8.5."""
    found = await call.gateway.views.history(
        lambda history: history.revisions.search_activity(
            search.query,
            _calendar(call),
            offset=search.part.offset,
            limit=search.limit,
            sort_dir=search.direction,
        )
    )
    return Rows([row.encode() for row in found.rows], found.length)


def _revision_search(params: Params) -> tuple[str, Search]:
    type = params.text("type") or ""
    if type not in REVISION_TYPES:
        raise RuleBroken("search", f"There are no revisions of '{type}'.")
    return type, _search(params)


@api.endpoint(
    "search_revision_history",
    "Search the revisions of events and supporting records.",
    parse=_revision_search,
    fields={"type": "string!, " + ", ".join(REVISION_TYPES)} | SEARCH_FIELDS,
)
async def search_revision_history(call: Call, asked: tuple[str, Search]) -> Payload:
    """api.md 8.5: for callers without limits; others get an empty list."""
    type, search = asked
    if not call.caller.unlimited:
        return Rows([], 0)
    found = await call.gateway.views.history(
        lambda history: history.revisions.search_revisions(
            type,
            search.query,
            _calendar(call),
            offset=search.part.offset,
            limit=search.limit,
            sort_dir=search.direction,
        )
    )
    return Rows([row.encode() for row in found.rows], found.length)


def _upcoming(params: Params) -> tuple[str | None, int, int]:
    event = params.values.get("event")
    hours = params.integer("hours", 24, minimum=1, maximum=168)
    limit = params.integer("limit", 100, minimum=1, maximum=_MOST_UPCOMING)
    return None if event is None else check_id(event, "event"), hours, limit


@api.endpoint(
    "get_upcoming_jobs",
    "Preview the launches of the next hours.",
    parse=_upcoming,
    fields={
        "event": "string",
        "hours": "integer, 1 to 168, default 24",
        "limit": "integer, default 100, at most 1000",
    },
)
async def get_upcoming_jobs(call: Call, asked: tuple[str | None, int, int]) -> Payload:
    """api.md 8.7; no more than the horizon's first 1000 are counted."""
    event, hours, limit = asked

    def shown(definition: Json) -> bool:
        return call.caller.may_see(definition.get("category"), definition.get("targets"))

    rows = call.gateway.views.preview.rows(
        call.now,
        hours=hours,
        limit=_MOST_UPCOMING,
        event=event,
        shown=shown,
    )
    return Rows([encode(row) for row in rows[:limit]], len(rows))
