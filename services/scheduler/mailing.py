"""Sends emails about jobs (execution.md 9.3): subject, text and HTML from one Markdown body.

An email repeated after a crash has the same Message-ID. Knows nothing of when emails are sent.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate

from domain.acting import Outcome
from domain.facts import Json
from domain.macros import expand_text
from services.scheduler.notices import PRODUCT, Notice
from services.settings import Settings

TIMEOUT = 30.0  # seconds for one exchange with the SMTP server
LOG_LINES = 50
DAY = 86400

_HEADER = re.compile(r"<!--\s*(From|Subject|Title|Button)\s*:\s*(.*?)\s*-->", re.IGNORECASE)
_FENCE = re.compile(r"`{3,}")
_BREAKS = re.compile(r"[\r\n]+")
_TITLES = {
    "job_start": "Job Started",
    "job_success": "Job Completed Successfully",
    "job_error": "Job Failed",
    "job_suspended": "Job Suspended",
    "job_limited": "Job Limit Exceeded",
}


@dataclass(frozen=True, slots=True)
class Mail:
    """An email before it is addressed: its body is Markdown."""

    subject: str
    body: str
    sender: str | None = None


class Mailer:
    """Sends emails by SMTP as the settings say. `clock` gives Unix seconds."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._day = 0
        self._sent = 0

    async def send(self, notice: Notice, recipients: list[str], log_tail: str) -> Outcome:
        """Send one email; a refusal of the SMTP server is the outcome, never an exception."""
        if not recipients:
            return Outcome(0, "Nobody to write to, skipping.")
        if not self._settings.mail_host:
            return Outcome("email", "Email is not configured (setting mail_host).")
        if self._used_up():
            return Outcome("email", "The maximum number of emails per day was reached.")
        import aiosmtplib  # not before it is needed: many never send an email

        mail = compose(notice, log_tail)
        try:
            refused = await self._deliver(self._message(notice, mail, recipients), recipients)
        except (aiosmtplib.SMTPException, OSError, ValueError, IndexError) as error:
            return Outcome("email", f"Email was not sent: {error}")
        taken = [address for address in recipients if address not in refused]
        details = f"- **Subject:** {mail.subject}\n- **To:** {', '.join(taken)}"
        if refused:
            said = ", ".join(f"{address} ({reason})" for address, reason in refused.items())
            return Outcome("email", f"Email was not taken for {said}", details)
        return Outcome(0, f"Email sent to {', '.join(taken)}", details)

    def _used_up(self) -> bool:
        """Count an email of today; whether there were too many. Counted anew in each term."""
        most, today = self._settings.max_emails_per_day, int(self._clock() // DAY)
        if today != self._day:
            self._day, self._sent = today, 0
        self._sent += 1
        return bool(most) and self._sent > most

    def _message(self, notice: Notice, mail: Mail, recipients: list[str]) -> EmailMessage:
        sender = mail.sender or self._settings.mail_from
        domain = self._settings.mail_from.rpartition("@")[2].rstrip("> ") or "localhost"
        message = EmailMessage()
        message["Subject"] = mail.subject
        message["From"] = sender
        message["To"] = ", ".join(recipients)
        message["Date"] = formatdate(self._clock())
        message["Message-ID"] = f"<{notice.key.replace(':', '.')}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.body)
        message.add_alternative(as_html(mail.body), subtype="html")
        return message

    async def _deliver(self, message: EmailMessage, recipients: list[str]) -> dict[str, str]:
        """Give it to the SMTP server; which recipients that refused, and why, if not all."""
        settings = self._settings
        password = None
        if settings.mail_password_file is not None:
            password = settings.mail_password_file.read_text(encoding="utf-8").strip()
        import aiosmtplib

        refused, _ = await aiosmtplib.send(
            message,
            recipients=recipients,
            hostname=settings.mail_host,
            port=settings.mail_port,
            use_tls=settings.mail_tls == "tls",
            start_tls=settings.mail_tls == "starttls",
            username=settings.mail_user,
            password=password,
            timeout=TIMEOUT,
        )
        return {
            address: f"{reply.code} {_line(reply.message)}" for address, reply in refused.items()
        }


def compose(notice: Notice, log_tail: str) -> Mail:
    """The email of a stage, or the action's own Markdown body with its comment headers (9.3)."""
    context = notice.context | {"log": log_tail}
    own = str(notice.run.action.get("body") or "")
    subject = f"{PRODUCT} {_TITLES[notice.kind]}: {notice.job.spec.title}"
    if not own.strip():
        return Mail(_line(subject), _default_body(notice, log_tail))
    headers = {
        name.lower(): _line(expand_text(value, context, missing="n/a"))
        for name, value in _HEADER.findall(own)
    }
    body = expand_text(_HEADER.sub("", own), context, missing="n/a").strip()
    if headers.get("title"):
        body = f"# {headers['title']}\n\n{body}"
    return Mail(headers.get("subject") or _line(subject), body, headers.get("from"))


def as_html(markdown: str) -> str:
    """The body as HTML in which nothing of a job's output is active."""
    import nh3
    from markdown_it import MarkdownIt

    return nh3.clean(MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown))


def recipients_of(action: Json, addresses: Callable[[str], str | None]) -> list[str]:
    """The addresses of an action: of its users, then its own; each once."""
    users = [addresses(user) for user in action.get("users") or [] if isinstance(user, str)]
    own = re.split(r"[,;\s]+", str(action.get("email") or ""))
    found = [_BREAKS.sub(" ", address) for address in [*users, *own] if address]
    return list(dict.fromkeys(found))


def last_lines(log: bytes) -> str:
    """The last lines of a log's end, as text."""
    return "\n".join(log.decode("utf-8", "replace").splitlines()[-LOG_LINES:])


def _default_body(notice: Notice, log_tail: str) -> str:
    job, shown = notice.context["job"], notice.context["display"]
    links = notice.context["links"]
    result = [("Result", f"{job.get('code')}: {job.get('description', '')}")]
    rows = [
        ("Event", notice.job.spec.title),
        ("Job", notice.job.id),
        ("Category", notice.context["category"].get("title") or job.get("category") or "n/a"),
        ("Server", notice.context["nice_server"]),
        ("Source", job.get("source")),
        *(result if "code" in job else []),
        ("Elapsed", f"{shown['elapsed']} (usually {shown['usual']})"),
        ("CPU, memory", f"{shown['cpu']}, {shown['mem']}"),
        ("Log size", shown["log_size"]),
    ]
    lines = [notice.text, "", *(f"- **{name}:** {_line(str(value))}" for name, value in rows)]
    lines += ["", f"Job details: <{links['job_details']}>  ", f"Job log: <{links['job_log']}>"]
    if log_tail.strip():
        fence = "`" * max(3, *(len(found) + 1 for found in _FENCE.findall(log_tail)), 3)
        lines += ["", f"The last {LOG_LINES} lines of the log:", "", fence, log_tail, fence]
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """Text that cannot begin a new header."""
    return _BREAKS.sub(" ", text).strip()
