"""The job endpoints: looking at jobs and asking things of them (api.md 4)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from domain import job_requests as requests
from domain.errors import BadRequest, NotFound, job_rule
from domain.facts import Json
from domain.job import Job
from projections.final_record import PRUNED
from services.gateway import jobs, lists, waiting
from services.gateway.auth import same_token, still_known
from services.gateway.endpoint import Answer, Call, Routes
from services.gateway.gateway import Decision
from services.gateway.jobs import Seen
from services.gateway.params import Order, Page, Params, order, page
from services.gateway.past import Moment, moment, past
from services.gateway.replies import Payload, Rows, encode
from services.gateway.sse import EventStream
from services.ledger.secrets import log_token, stream_token

api = Routes("Jobs")


# --- looking -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listing:
    """Which live jobs are wanted, in which order, as of when."""

    filters: Json
    part: Page
    sorting: Order
    when: Moment | None


def _active(params: Params) -> Listing:
    return Listing(
        lists.filters_of(params.values),
        page(params),
        order(params, "started", -1),
        moment(params),
    )


TRAVEL = {
    "at": "number, as it was at this time (Unix seconds)",
    "seq": "integer, as it was at this ledger sequence",
}


@api.endpoint(
    "get_active_jobs",
    "List the jobs that are not finished. Any job key or dotted path filters; administrators see "
    "invisible jobs with `invisible`.",
    parse=_active,
    fields={
        "state": "string",
        "event": "string",
        "offset": "integer",
        "limit": "integer, 0 = all",
        "sort_by": "string, default started",
        "sort_dir": "integer, 1 or -1",
        "metrics": "string, `full` for whole cpu and mem objects",
    }
    | TRAVEL,
)
async def get_active_jobs(call: Call, asked: Listing) -> Payload:
    """api.md 4.2; with `at` or `seq` as it was then (8.7)."""
    seen = call.gateway.seen
    if asked.when is not None:
        seen = (await past(call.gateway, asked.when)).seen
    plain = call.params.text("metrics") != "full"
    rows = _visible_rows(call, seen, asked.filters, plain=plain)
    found = lists.ordered(rows, asked.sorting, lambda row: row)
    return Rows([encode(row) for row in asked.part.of(found)], len(found))


def _visible_rows(call: Call, seen: Seen, filters: Json, *, plain: bool) -> list[Json]:
    """The live jobs that match and that the caller may see, as rows.

    Invisible ones are for administrators who filter by `invisible` (scheduling.md 4.2).
    """
    active = seen.active
    hidden = not (call.caller.admin and "invisible" in filters)
    wanted = filters.get("event")
    ids = active.by_event.get(wanted, set()) if isinstance(wanted, str) else active.jobs.keys()
    positions = jobs.Positions(seen)
    state = filters.get("state")
    rows = []
    for id in ids:
        job = active.jobs[id]
        if isinstance(state, str) and job.state != state:
            continue
        if hidden and job.value("invisible"):
            continue
        if not call.caller.may_see(*jobs.category_and_targets(job)):
            continue
        row = jobs.live_document(seen, job, positions=positions, plain=plain, details=False)
        if lists.matches(row, filters):
            rows.append(row)
    return rows


@api.endpoint(
    "get_active_job_summary",
    "Count the jobs that are not finished, by event, state, source and target.",
    parse=lambda params: lists.filters_of(params.values),
    fields={"state": "string", "event": "string"},
)
async def get_active_job_summary(call: Call, filters: Json) -> Payload:
    """api.md 8.5."""
    summary: Json = {}
    for row in _visible_rows(call, call.gateway.seen, filters, plain=True):
        event = summary.setdefault(
            row["event"], {"id": row["event"], "states": {}, "sources": {}, "targets": {}}
        )
        _count(event["states"], row["state"])
        _count(event["sources"], row["source"])
        targets = row.get("targets")
        for target in targets if isinstance(targets, list) else ():
            _count(event["targets"], target)
    return {"events": summary}


def _count(counts: dict[str, int], key: object) -> None:
    counts[str(key)] = counts.get(str(key), 0) + 1


def _one_job(params: Params) -> tuple[str, list[str], Moment | None]:
    return params.id(), params.words("remove") or [], moment(params)


@api.endpoint(
    "get_job",
    "One job, and the token that opens its log without credentials.",
    parse=_one_job,
    fields={"id": "string!", "remove": "array, top-level keys to leave out"} | TRAVEL,
)
async def get_job(call: Call, asked: tuple[str, list[str], Moment | None]) -> Payload:
    """api.md 4.3; with `at` or `seq` as it was then (8.7)."""
    id, remove, when = asked
    job, record = await _readable(call, id, when)
    if job is None:
        shown = await jobs.completed(call.gateway, record)
    elif when is None and "timelines" not in remove:
        shown = record | await jobs.timelines(call.gateway, job)
    else:
        shown = record
    for name in remove:
        if isinstance(name, str):
            shown.pop(name, None)
    return {"job": shown, "token": log_token(call.gateway.secret, id)}


async def _readable(call: Call, id: str, when: Moment | None = None) -> tuple[Job | None, Json]:
    """The job and its document, if the caller may see it; NotFound, AccessDenied."""
    if when is None:
        job, record = await jobs.find(call.gateway, id)
    else:
        then = await past(call.gateway, when, id)
        job = then.seen.active.jobs.get(id)
        record = jobs.live_document(then.seen, job) if job is not None else then.final
    if record is None:
        raise NotFound(f"Job not found: {id}")
    call.caller.require_access(record.get("category"), record.get("targets"))
    return job, record


async def _check_readable(call: Call, id: str) -> None:
    """As `_readable`, without making a document."""
    job = call.gateway.views.active.jobs.get(id)
    if job is None:
        await _readable(call, id)
    else:
        call.caller.require_access(*jobs.category_and_targets(job))


def _several(params: Params) -> tuple[list[Any], bool]:
    ids = params.values.get("ids")
    if isinstance(ids, str):
        ids = Params({"ids": ids}, frozenset({"ids"})).array("ids")
    if not isinstance(ids, list) or not ids:
        raise job_rule("Parameter 'ids' must name at least one job.")
    return ids, params.flag("verbose")


@api.endpoint(
    "get_jobs",
    "Several jobs at once, in the order of their ids.",
    parse=_several,
    method="POST",
    fields={"ids": "array!", "verbose": "boolean, with all keys"},
    example={"ids": ["jm4f2k8a01x2y3z4"], "verbose": False},
)
async def get_jobs(call: Call, asked: tuple[list[Any], bool]) -> Payload:
    """api.md 4.4."""
    ids, verbose = asked
    known = [id for id in ids if isinstance(id, str)]
    live = call.gateway.views.active.jobs
    stored = await call.gateway.views.history(
        lambda history: history.jobs([id for id in known if id not in live], verbose=True)
    )
    found: dict[str, Json] = {}
    for id in dict.fromkeys(known):
        record = await _one_of_several(call, id, stored, verbose=verbose)
        if record is not None:
            found[id] = record
    missing = {"err": "Job not found."}
    return {"jobs": [found.get(id, missing) if isinstance(id, str) else missing for id in ids]}


async def _one_of_several(
    call: Call, id: str, stored: dict[str, Json], *, verbose: bool
) -> Json | None:
    job = call.gateway.views.active.jobs.get(id)
    record = jobs.live_document(call.gateway.seen, job) if job is not None else stored.get(id)
    record = record or call.gateway.views.final_at_hand(id)
    if record is None or not call.caller.may_see(record.get("category"), record.get("targets")):
        return None
    if verbose:
        return record if job is not None else await jobs.completed(call.gateway, record)
    return {k: v for k, v in jobs.shown_record(record).items() if k not in PRUNED}


def _streamed(params: Params) -> tuple[str, str | None, bool]:
    return params.id(), params.text("token"), params.text("metrics") == "full"


@api.endpoint(
    "stream_job",
    "Follow a job as server-sent events.",
    open=True,
    parse=_streamed,
    fields={
        "id": "string!",
        "token": "string, from a magic link; then no other credential is looked at",
        "metrics": "string, `full`",
    },
)
async def stream_job(call: Call, asked: tuple[str, str | None, bool]) -> Answer:
    """api.md 4.11."""
    id, token, full = asked
    admitted: Callable[[Job | None], bool] = _anybody
    if token is None:
        call.sign_in()
        await _check_readable(call, id)
        admitted = _admitted(call)
    elif not same_token(token, stream_token(call.gateway.secret, id)):
        raise BadRequest("The token is not valid for this job.")
    updates = waiting.updates(call.gateway, id, full=full, admitted=admitted)
    return EventStream(updates, f"job {id}", call.gateway.patience)


def _anybody(job: Job | None) -> bool:
    return True


def _admitted(call: Call) -> Callable[[Job | None], bool]:
    """Whether the caller may see a live job, or one that is over, as long as a stream lasts."""
    known = still_known(call.gateway, call.credentials)

    def admitted(job: Job | None) -> bool:
        caller = known()
        if caller is None or job is None:
            return caller is not None
        return caller.may_see(*jobs.category_and_targets(job))

    return admitted


# --- asking things of live jobs ------------------------------------------------------------------


async def _ask(
    call: Call, id: str, decide: Callable[[Job | None], Decision], *, access: bool = True
) -> None:
    """Record a request on a live job; its owner answers (design.md 3.3)."""
    active = call.gateway.views.active

    def decide_now() -> Decision:
        job = active.jobs.get(id)
        if job is not None and access:
            call.caller.require_access(*jobs.category_and_targets(job))
        return decide(job)

    await call.gateway.submit(call, decide_now)


@api.endpoint(
    "abort_job",
    "Abort a job that is not finished.",
    parse=Params.id,
    privilege="abort_jobs",
    mutating=True,
    fields={"id": "string!"},
    example={"id": "jm4f2k8a01x2y3z4"},
)
async def abort_job(call: Call, id: str) -> Payload:
    """api.md 4.5."""
    caller = call.caller
    name = caller.title or caller.id if caller.kind == "key" else caller.id
    reason = requests.abort_reason(name, by_key=caller.kind == "key")
    await _ask(
        call,
        id,
        lambda job: Decision(
            requests.decide_abort(job, id, reason, now=call.now, actor=call.actor)
        ),
    )
    return {}


def _resumed(params: Params) -> tuple[str, Json]:
    return params.id(), params.object("params") or {}


@api.endpoint(
    "resume_job",
    "Let a suspended job go on.",
    parse=_resumed,
    privilege="run_jobs",
    mutating=True,
    fields={"id": "string!", "params": "object, merged into the job's"},
    example={"id": "jm4f2k8a01x2y3z4", "params": {"approved": True}},
)
async def resume_job(call: Call, asked: tuple[str, Json]) -> Payload:
    """api.md 4.6."""
    id, params = asked
    await _ask(
        call,
        id,
        lambda job: Decision(
            requests.decide_resume(
                job,
                id,
                params,
                call.caller,
                call.gateway.views.definitions,
                now=call.now,
                actor=call.actor,
            )
        ),
    )
    return {}


@api.endpoint(
    "job_skip_delay",
    "Let a delayed job start now.",
    parse=Params.id,
    privilege="run_jobs",
    mutating=True,
    fields={"id": "string!"},
    example={"id": "jm4f2k8a01x2y3z4"},
)
async def job_skip_delay(call: Call, id: str) -> Payload:
    """api.md 8.6."""
    await _ask(
        call,
        id,
        lambda job: Decision(requests.decide_skip_delay(job, id, now=call.now, actor=call.actor)),
    )
    return {}


# --- changing final jobs -------------------------------------------------------------------------


def _changes(params: Params) -> tuple[str, Json]:
    return params.id(), dict(params.values)


@api.endpoint(
    "update_job",
    "Change properties of a job (administrators).",
    parse=_changes,
    privilege="admin",
    mutating=True,
    fields={"id": "string!", "(any)": "any job key"},
    example={"id": "jm4f2k8a01x2y3z4", "description": "Checked by hand"},
)
async def update_job(call: Call, asked: tuple[str, Json]) -> Payload:
    """api.md 4.8."""
    id, changes = asked
    record = None
    if id not in call.gateway.views.active.jobs:
        record = await jobs.final_record(call.gateway, id)

    def decide() -> Decision:
        job = call.gateway.views.active.jobs.get(id)
        if job is not None:
            fact = requests.decide_update(job, changes, now=call.now, actor=call.actor)
            return Decision(fact)
        if record is None:
            raise requests.unknown_job(id)
        check_kept(record)
        return Decision(
            requests.decide_update_final(record, changes, now=call.now, actor=call.actor)
        )

    await call.gateway.submit(call, decide)
    return {}


def _tags(params: Params) -> tuple[str, list[str]]:
    id = params.id()
    params.values.setdefault("tags", None)
    tags = requests.check_tags(params.as_array("tags", params.values["tags"]))
    if params.values.keys() != {"id", "tags"}:
        raise job_rule("Only 'id' and 'tags' may be given.")
    return id, tags


@api.endpoint(
    "manage_job_tags",
    "Replace the tags of a finished job.",
    parse=_tags,
    privilege="tag_jobs",
    mutating=True,
    fields={"id": "string!", "tags": "array!"},
    example={"id": "jm4f2k8a01x2y3z4", "tags": ["production"]},
)
async def manage_job_tags(call: Call, asked: tuple[str, list[str]]) -> Payload:
    """api.md 4.9."""
    id, tags = asked
    record = await final_job(call, id)
    check_kept(record)
    fact = requests.decide_tags(record, tags, now=call.now, actor=call.actor)
    await call.gateway.submit(call, lambda: Decision(fact))
    return {}


def check_kept(record: Json) -> None:
    """An ephemeral job is shown for a while and has no record that could change (D15)."""
    if record.get("ephemeral"):
        raise job_rule(f"The job is ephemeral and leaves no record to change: {record['id']}")


async def final_job(call: Call, id: str) -> Json:
    """The record of a finished job that the caller may reach; a rule of jobs otherwise."""
    job = call.gateway.views.active.jobs.get(id)
    if job is not None:
        call.caller.require_access(*jobs.category_and_targets(job))
        raise job_rule(f"The job is not finished yet: {id}")
    record = await jobs.final_record(call.gateway, id)
    if record is None:
        raise requests.unknown_job(id)
    call.caller.require_access(record.get("category"), record.get("targets"))
    return record
