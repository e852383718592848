"""How a job looks on the wire (data.md 6): the fold's state, the live telemetry, the meta log.

Pure functions; what a caller may see of a document is the gateway's business.
"""

from collections.abc import Sequence
from typing import Any

from domain import facts as f
from domain.acting import END, LIMIT, UPDATE, actions_of
from domain.facts import Json
from domain.job import ActionRun, Job, JobState

# Keys of a runner's report and of its live telemetry that a job shows as they are.
POSTED = (
    "label",
    "perf",
    "table",
    "html",
    "custom",
    "redraw",
    "status",
    "procs",
    "conns",
    "cpu",
    "mem",
)
REPORTED = frozenset(
    {*POSTED[:6], "cpu", "mem", "disk", "net", "data", "files", "unknown", "timelines"}
)
# Not shown once a job is final, whatever its event says.
PASSING = ("status", "procs", "conns", "suspended", "remote", "redraw")
# Where the log and large values of a final job are kept; never shown.
LOG_KEY = "_log"
LARGE_KEY = "_large"


def document(
    job: Job,
    *,
    groups: Sequence[str] = (),
    position: int | None = None,
    live: Json | None = None,
    activity: Sequence[Json] = (),
) -> Json:
    """The whole job as `get_job` shows it, metrics as objects.

    `position` is the place in the queue, `live` the job's part of its runner's last heartbeat.
    A final job's document also has LOG_KEY and LARGE_KEY, for the history to keep.
    """
    shown = job.spec.document | job.changes
    shown |= {
        "state": str(job.state),
        "started": job.started,
        "updated": job.updated,
        "log_file_size": 0,
        "activity": list(activity),
    }
    if job.server is not None:
        shown |= {"server": job.server, "groups": list(groups)}
    _waiting(shown, job, position)
    _running(shown, job, live or {})
    _ended(shown, job)
    _acted(shown, job)
    return shown


def _waiting(shown: Json, job: Job, position: int | None) -> None:
    if job.until is not None and job.state in (JobState.START_DELAY, JobState.RETRY_DELAY):
        shown["until"] = job.until
    if job.state is JobState.QUEUED and position is not None:
        shown["position"] = position
    if job.suspended is not None:
        shown["suspended"] = True


def _running(shown: Json, job: Job, live: Json) -> None:
    if job.pid is not None:
        shown["pid"] = job.pid
    if job.cwd is not None:
        shown["cwd"] = job.cwd
    if job.state is not JobState.ACTIVE:
        return
    shown["remote"] = True
    shown["progress"] = live.get("progress") or 0
    shown["log_file_size"] = live.get("log_size") or 0
    shown["updated"] = max(job.updated, live.get("updated") or 0)
    shown |= {key: live[key] for key in POSTED if key in live}


def _ended(shown: Json, job: Job) -> None:
    if job.finished is not None:
        _reported(shown, job.finished)
        shown |= {key: job.changes[key] for key in _changed_at_end(job)}
    result = job.final or job.ended
    if job.completed is not None:
        shown["completed"] = job.completed
        shown["elapsed"] = round(max(0.0, job.completed - job.started), 3)
        shown["complete"] = True
        shown["progress"] = 1
    if result is not None:
        shown["code"] = result.code
        shown["description"] = result.description
    elif job.finished is not None and job.completed is not None:
        shown["code"] = job.finished.code
        shown["description"] = job.finished.description
    if job.final is not None:
        _final(shown, job, job.final)


def _changed_at_end(job: Job) -> set[str]:
    """What completion actions changed: later than whatever the process reported (9.3).

    Those that ran while the process did had their results before the job's was stated.
    """
    if job.ended is None:
        return set()
    ends = [run.ended for run in job.actions if run.stage == END and run.ended is not None]
    return {
        key
        for ended in ends
        if isinstance(ended.cause, int) and ended.cause >= job.ended_at
        for key in ended.changes
        if key in job.changes
    }


def _reported(shown: Json, finished: f.JobFinished) -> None:
    shown |= {key: value for key, value in finished.report.items() if key in REPORTED}
    shown["log_file_size"] = finished.log.size if finished.log else 0
    if finished.log is not None:
        shown[LOG_KEY] = f.to_plain(finished.log)
    if finished.large:
        shown[LARGE_KEY] = {key: f.to_plain(blob) for key, blob in finished.large.items()}


def _final(shown: Json, job: Job, final: f.JobCompleted) -> None:
    shown["final"] = True
    shown["tags"] = list(final.tags)
    shown["event_title"] = job.spec.title
    shown["event_revision"] = job.spec.revision
    if final.jobs:
        shown["jobs"] = list(final.jobs)
    if final.retry is not None:
        shown["retried"] = True
    if final.retry_ok:
        shown["retry_ok"] = True
    if final.workflow is not None:
        shown["workflow"] = final.workflow
    for key in PASSING:
        shown.pop(key, None)
    if shown.get("ephemeral") and (final.code != 0 or shown.get("files")):
        shown.pop("ephemeral")


def _acted(shown: Json, job: Job) -> None:
    """What became of the job's actions, and of the notices of its limits (data.md 4, 5)."""
    known = actions_of(job)
    if not job.actions and len(known) == len(shown.get("actions") or []):
        return
    actions = [dict(action) for action in known]
    limits = [dict(limit) for limit in job.value("limits") or []]
    for run in job.actions:
        entries, place = (limits, run.index // 2) if run.stage == LIMIT else (actions, run.index)
        if place < len(entries) and run.stage != UPDATE:
            entries[place] |= _result(run)
    shown["actions"], shown["limits"] = actions, limits


def _result(run: ActionRun) -> Json:
    date = {} if run.stage == LIMIT else {"date": run.started}
    if run.ended is None:
        return date | {"active": True}
    ended = run.ended
    result: Json = date | {
        "code": ended.code,
        "description": ended.description,
        "elapsed_ms": ended.elapsed_ms,
    }
    optional = {"details": ended.details, "http_status": ended.http_status}
    return result | {key: value for key, value in optional.items() if value is not None}


def without_places(record: Json) -> Json:
    """A copy of a job's record that tells of no file where its bytes are: nobody's business."""
    shown = dict(record)
    if "files" in record:
        shown["files"] = shown_files(record["files"])
    given = record.get("input")
    if isinstance(given, dict) and "files" in given:
        shown["input"] = given | {"files": shown_files(given["files"])}
    workflow = record.get("workflow")
    nodes = workflow.get("jobs") if isinstance(workflow, dict) else None
    if isinstance(workflow, dict) and isinstance(nodes, dict):
        jobs = {id: _shown_children(node) for id, node in nodes.items()}
        shown["workflow"] = workflow | {"jobs": jobs}
    return shown


def shown_files(files: Any) -> Any:
    """File records without the places of their bytes."""
    if not isinstance(files, list):
        return files
    return [
        {k: v for k, v in file.items() if k != "blob"} if isinstance(file, dict) else file
        for file in files
    ]


def _shown_children(node: Any) -> Any:
    return [_shown_child(child) for child in node] if isinstance(node, list) else node


def _shown_child(child: Any) -> Any:
    if not isinstance(child, dict) or "files" not in child:
        return child
    return child | {"files": shown_files(child["files"])}


LATE = "Job was aborted, but received late update after completion."


def with_late_report(record: Json, finished: f.JobFinished) -> Json:
    """A final record after its runner reported nevertheless (execution.md 12).

    An abort of a lost job becomes a warning with what the process left; a job that the runner
    itself ended stays aborted. No actions run.
    """
    patched = dict(record)
    _reported(patched, finished)
    patched["completed"] = finished.ended
    if record.get("code") == "abort" and not finished.aborted:
        patched |= {"code": "warning", "description": LATE}
    return patched


def with_plain_metrics(shown: Json) -> Json:
    """The document with `cpu` and `mem` as plain numbers (api.md D7)."""
    plain = {
        key: shown[key].get("current", 0)
        for key in ("cpu", "mem")
        if isinstance(shown.get(key), dict)
    }
    return shown | plain
