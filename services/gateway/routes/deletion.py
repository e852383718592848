"""Erasing finished jobs and single files of them (api.md 4.7, 8.6).

The gateway records what is to go and hides it at once; the leading scheduler removes the facts
and the bytes (design.md 8).
"""

from domain import job_requests as requests
from domain.checks import bounded
from domain.deletion import children_of, decide_delete_job
from domain.errors import job_rule
from domain.facts import JobDeleted, JobUpdated, Json, to_plain
from domain.subjects import job_subject
from projections.job_view import LARGE_KEY
from services.gateway import jobs
from services.gateway.endpoint import Call, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Params
from services.gateway.replies import Payload
from services.gateway.routes.jobs import check_kept, final_job
from services.ledger.chunks import STREAM as CHUNKS
from services.ledger.erasing import facts_of_job
from services.ledger.raw import remove

api = Routes("Jobs")


@api.endpoint(
    "delete_job",
    "Erase a finished job with its log and files.",
    parse=Params.id,
    privilege="delete_jobs",
    mutating=True,
    fields={"id": "string!"},
    example={"id": "jm4f2k8a01x2y3z4"},
)
async def delete_job(call: Call, id: str) -> Payload:
    """api.md 4.7; a multiplex parent takes its children along (4.1)."""
    if _is_done(call):
        return {}
    record = await final_job(call, id)
    deletions = [
        deletion
        for each in [*await _children(call, record), record]
        for deletion in await _deletions(call, each)
    ]
    await call.gateway.submit_all(call, lambda: [Decision(fact) for fact in deletions])
    return {}


def _is_done(call: Call) -> bool:
    """Whether this very command, by its Idempotency-Key, was carried out before."""
    sequence = call.gateway.views.commands.get(call.gateway.command_id(call))
    call.sequence = sequence or call.sequence
    return sequence is not None


async def _deletions(call: Call, record: Json) -> list[JobDeleted]:
    """What records that this job goes."""
    gateway = call.gateway
    id = record["id"]
    workflow = record.get("workflow")
    parent = str(workflow.get("job") or "") if isinstance(workflow, dict) else ""
    reports = await gateway.views.history(lambda history: history.facts_of(id))
    subject = job_subject(requests.event_of(record), id)
    return decide_delete_job(
        record,
        await facts_of_job(gateway.ledger, reports, subject),
        parent_is_live=parent in gateway.views.active.jobs,
        now=call.now,
        actor=call.actor,
    )


async def _children(call: Call, record: Json) -> list[Json]:
    """The records of a parent's children, and of their earlier attempts."""
    found: dict[str, Json] = {}
    wanted = children_of(record)
    while wanted:
        id = wanted.pop()
        child = await jobs.final_record(call.gateway, id) if id not in found else None
        if child is not None:
            found[id] = child
            if child.get("retry_prev"):
                wanted.append(str(child["retry_prev"]))
    return list(found.values())


def _file(params: Params) -> tuple[str, str]:
    return params.id(), params.required_text("path", r"\S")


@api.endpoint(
    "delete_job_file",
    "Erase one file that a finished job left.",
    parse=_file,
    privilege="delete_jobs",
    mutating=True,
    fields={"id": "string!", "path": "string!, as in the job's files"},
    example={"id": "jm4f2k8a01x2y3z4", "path": "files/jobs/jm4f2k8a01x2y3z4/report.csv"},
)
async def delete_job_file(call: Call, asked: tuple[str, str]) -> Payload:
    """api.md 8.6. The bytes go after the record: what a crash leaves goes with the job."""
    id, path = asked
    record = await final_job(call, id)
    check_kept(record)
    files = await jobs.files_of(call.gateway, record)
    found = next((file for file in files if file.get("path") == path), None)
    if found is None:
        raise job_rule(f"The job has no such file: {path}")
    changes: Json = {"files": [file for file in files if file is not found]}
    large = jobs.large_of(record)
    if "files" in large:
        changes[LARGE_KEY] = {k: to_plain(blob) for k, blob in large.items() if k != "files"}
    fact = bounded(
        JobUpdated(
            at=call.now,
            actor=call.actor,
            event=requests.event_of(record),
            job=record["id"],
            changes=changes,
            erased=path,
        )
    )
    await call.gateway.submit(call, lambda: Decision(fact))
    if (blob := jobs.blob_of(found.get("blob"))) is not None:
        for sequence in blob.sequences:
            await remove(call.gateway.ledger, sequence, overwrite=True, stream=CHUNKS)
    return {}
