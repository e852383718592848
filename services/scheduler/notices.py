"""What emails, web hooks and action plugins are told about a job (execution.md 9.4).

Builds the template context and the sentence of a stage; expands macros. Sends nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from domain import completion
from domain.acting import LIMIT, START
from domain.facts import Json
from domain.job import ActionRun, Job
from domain.macros import expand_text
from domain.wording import spoken_duration, spoken_size
from projections.definitions import Definitions
from projections.event_state import EventStates
from projections.fleet import Fleet
from projections.job_view import LARGE_KEY, LOG_KEY, document, without_places
from services.ledger.secrets import log_token
from services.settings import Settings

PRODUCT = "Jobledger"
_MACRO = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_SENTENCES = {
    "job_start": "Job starts: {title} on {server}",
    "job_success": "Job completed: {title} on {server}",
    "job_error": "Job failed: {title} on {server}: {description}",
    "job_suspended": "Job is suspended: {title} on {server}",
    "job_limited": "Job exceeded a limit: {title} on {server}",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One action to tell somebody about; `kind` is job_start, job_success, job_error, ..."""

    job: Job
    run: ActionRun
    kind: str
    context: Json

    @property
    def key(self) -> str:
        """The idempotency key: the same however often the action is tried (execution.md 9.2)."""
        return f"{self.job.id}:{self.run.stage}:{self.run.index}"

    @property
    def text(self) -> str:
        """The sentence of the stage, then the action's own text."""
        return str(self.context["text"])


class Notices:
    """Knows where everything stands that a notice may show."""

    def __init__(
        self,
        settings: Settings,
        definitions: Definitions,
        fleet: Fleet,
        states: EventStates,
        secret: bytes,
    ) -> None:
        self.settings = settings
        self.definitions = definitions
        self.fleet = fleet
        self.states = states
        self.secret = secret

    def notice(self, job: Job, run: ActionRun, now: float) -> Notice:
        """Everything that a template may read about this action of this job."""
        server = self.fleet.servers.get(job.server or "")
        result = completion.result_of(job)
        shown = self._shown(job, result)
        kind = _kind(job, run, result)
        title = str(job.spec.title)
        record = server.record if server else {}
        context: Json = {
            "job": shown,
            "action": run.action,
            "event": self.definitions.event(job.event) or {"id": job.event, "title": title},
            "category": self.definitions.record("category", str(shown.get("category"))) or {},
            "plugin": self.definitions.record("plugin", str(shown.get("plugin"))) or {},
            "server": record,
            "nice_server": str(record.get("title") or record.get("hostname") or "(None)"),
            "nice_hostname": str(record.get("hostname") or "(None)"),
            "links": self._links(job),
            "display": self._display(job, shown, now),
        }
        words = {
            "title": title,
            "server": context["nice_server"],
            "description": str(shown.get("description") or ""),
        }
        own = str(run.action.get("text") or "")
        sentence = _SENTENCES[kind].format(**words)
        more = expand_text(own, context, missing="n/a")
        context["text"] = " ".join(x for x in (f"{PRODUCT}: {sentence}.", more) if x)
        return Notice(job, run, kind, context)

    def label_context(self, job: Job) -> Json:
        """What the macros of a label may read: the job, and its server as a record (4, 9.3)."""
        server = self.fleet.servers.get(job.server or "")
        known = {"event_title": job.spec.title, "server": server.record if server else ""}
        return self._shown(job, completion.result_of(job)) | known

    def _shown(self, job: Job, result: completion.Result | None) -> Json:
        """The job's document as strangers may read it, with the result it is about to have."""
        server = self.fleet.servers.get(job.server or "")
        shown = document(job, groups=server.groups if server else ())
        shown = {k: v for k, v in shown.items() if k not in (LOG_KEY, LARGE_KEY, "env")}
        shown = without_places(shown)
        if result is not None:
            shown |= {"code": result.code, "description": result.description}
        return shown

    def _links(self, job: Job) -> Json:
        base = f"{self.settings.links_url}/api/app"
        return {
            "job_details": f"{base}/get_job/v1?id={job.id}",
            "job_log": f"{base}/download_job_log/v1?id={job.id}&t={log_token(self.secret, job.id)}",
            "job_files": f"{base}/get_job/v1?id={job.id}",
        }

    def _display(self, job: Job, shown: Json, now: float) -> Json:
        """Figures as people read them; `usual` is the average of the event's jobs so far."""
        end = job.completed if job.completed is not None else now
        state = self.states.states.get(job.event)
        count = state.total_count if state else 0
        usual = state.total_elapsed / count if state and count else None
        return {
            "elapsed": spoken_duration(max(0.0, end - job.started)),
            "usual": spoken_duration(usual) if usual is not None else "n/a",
            "log_size": spoken_size(shown.get("log_file_size") or 0),
            "perf": str(shown.get("perf") or "n/a"),
            "mem": _average(shown.get("mem"), spoken_size),
            "cpu": _average(shown.get("cpu"), lambda value: f"{value:.1f}%"),
        }


def payload(notice: Notice) -> Json:
    """The body of a web hook that defines none (data.md 5)."""
    job, context = notice.context["job"], notice.context
    return {
        "action": notice.kind,
        "condition": notice.run.action.get("condition"),
        "id": notice.job.id,
        "event": notice.job.spec.title,
        "event_id": notice.job.event,
        "code": job.get("code", 0),
        "description": job.get("description", ""),
        "text": notice.text,
        "state": job.get("state"),
        "server": notice.job.server,
        "tags": job.get("tags") or [],
        "started": job.get("started"),
        "completed": job.get("completed"),
        "elapsed": job.get("elapsed"),
        "links": context["links"],
    }


def expanded_url(url: str, context: Mapping[str, Any]) -> str:
    """The URL with every macro's value percent-encoded.

    Left as it is: a macro that the URL begins with, and one that calls encode() itself.
    """

    def value(found: re.Match[str]) -> str:
        text = expand_text(found[0], context, missing="N/A")
        return text if found.start() == 0 or "encode(" in found[0] else quote(text, safe="")

    return _MACRO.sub(value, url.strip())


def _kind(job: Job, run: ActionRun, result: completion.Result | None) -> str:
    if run.stage == LIMIT:
        return "job_limited"
    if run.action.get("type") == "suspend":
        return "job_suspended"
    if run.stage == START or result is None:
        return "job_start"
    return "job_success" if result.code == 0 else "job_error"


def _average(metric: Any, show: Any) -> str:
    if not isinstance(metric, dict) or not metric.get("count"):
        return "n/a"
    return str(show(metric.get("total", 0) / metric["count"]))
