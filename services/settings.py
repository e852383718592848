"""The settings of all services.

Where they come from is settings_reader.py's. Durations are in seconds, sizes in bytes. Starts
nothing and creates no files.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct, field

from services.errors import ConfigError

MEBIBYTE = 1024 * 1024
_ZONE_PATH = re.compile(r"zoneinfo/(?:posix/|right/)?(.+)$")


def host_zone() -> str:
    """The IANA name of this machine's time zone; UTC where it has none."""
    candidates = [os.environ.get("TZ", "").lstrip(":")]
    try:
        candidates.append(Path("/etc/timezone").read_text(encoding="utf-8").strip())
    except OSError:
        candidates.append("")
    link = _ZONE_PATH.search(os.path.realpath("/etc/localtime"))
    candidates.append(link[1] if link else "")
    return next((name for name in candidates if is_zone(name)), "UTC")


def is_zone(name: str) -> bool:
    """Whether this is the name of a time zone that the scheduler can use."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return False
    return bool(name)


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be configured. Each name is also its key in jobledger.toml.

    What is made here is taken as it is; what somebody configured is checked as it is read.
    """

    data_dir: Path = Path("data")
    """Where everything of this machine is kept."""
    nats: str | None = None
    """URL of NATS, or @FILE that holds it; default: what DIR/run says."""
    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    """Address on which the API listens."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 5522
    """Port on which the API listens."""
    max_body: Annotated[int, Meta(ge=1)] = 1024 * MEBIBYTE
    """Largest request body, in bytes."""
    max_connections: Annotated[int, Meta(ge=1)] = 4096
    """Connections of clients at once."""
    tls_cert: Path | None = None
    """Certificate chain (PEM) to serve HTTPS with."""
    tls_key: Path | None = None
    """Private key (PEM) of that certificate."""
    allowed_hosts: list[str] = []
    """Names this API answers to, `*.` for all below one; none: any."""
    cors_origins: list[str] = field(default_factory=lambda: ["*"])
    """Origins whose pages may read replies; `*` for all."""
    trusted_proxies: list[str] = []
    """Addresses or networks whose X-Forwarded-* headers are believed."""
    session_days: Annotated[float, Meta(gt=0)] = 365
    """How long a login lasts, in days."""
    timezone: str = field(default_factory=host_zone)
    """Zone of triggers that name none; the machine's."""
    dst_policy: Literal["literal", "once"] = "literal"
    """Skipped and repeated wall times: as they come, or once each."""
    misfire_grace: Annotated[float, Meta(ge=0)] = 60.0
    """A fire later than this many seconds is recorded as missed."""
    max_jobs_per_min: Annotated[int, Meta(ge=0)] = 0
    """Launches per minute; 0 = no limit."""
    max_jobs_per_min_policy: Literal["defer", "drop"] = "defer"
    """Scheduled launches above that limit: later, or not at all."""
    server_timeout: Annotated[float, Meta(ge=5)] = 120.0
    """A server silent for this many seconds is lost."""
    kill_timeout: Annotated[float, Meta(ge=0)] = 10.0
    """Seconds between SIGTERM and SIGKILL for an aborted job."""
    drain_timeout: Annotated[float, Meta(ge=0)] = 0.0
    """Seconds for which a leaving runner finishes its jobs; 0 = none."""
    job_env: dict[str, str] = {}
    """Environment variables of every job."""
    base_url: str | None = None
    """Where people reach the API, for links in mails; default: host and port."""
    mail_host: str | None = None
    """SMTP server for emails of actions and limits; none: emails fail."""
    mail_port: Annotated[int, Meta(ge=1, le=65535)] = 25
    """Port of the SMTP server."""
    mail_from: str = "jobledger@localhost"
    """Sender address of emails."""
    mail_tls: Literal["none", "starttls", "tls"] = "none"
    """How the connection to the SMTP server is encrypted."""
    mail_user: str | None = None
    """Account on the SMTP server, if it wants one."""
    mail_password_file: Path | None = None
    """File with that account's password."""
    max_emails_per_day: Annotated[int, Meta(ge=0)] = 0
    """Emails per day; 0 = no limit."""
    retention_days: Annotated[float, Meta(ge=0)] = 0
    """Finished jobs older than this many days are erased; 0 = never."""
    disk_reserve: Annotated[int, Meta(ge=0)] = 256 * MEBIBYTE
    """Writes are refused below this many free bytes."""
    metrics_port: Annotated[int, Meta(ge=0, le=65533)] = 0
    """Port for metrics, on loopback alone; 0 = none."""
    replicas: int = 1
    """Copies of the ledger in a NATS cluster: 1, 3 or 5."""
    batches_in_memory: bool = False
    """Whether NATS collects batches in memory, as with `up`: few facts are worth one then."""
    log_format: Literal["console", "json"] = "console"
    """How logs are written."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important messages that are logged."""

    @property
    def run_dir(self) -> Path:
        """Where pidfiles, the lock and the NATS address are."""
        return self.data_dir / "run"

    @property
    def links_url(self) -> str:
        """Where people reach the API, without a slash at the end."""
        return (self.base_url or self.api_url).rstrip("/")

    @property
    def api_url(self) -> str:
        """Where the API listens, as a client on this machine names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"

    @property
    def nats_url(self) -> str:
        """The URL of NATS for whoever owns the data directory; see `nats_url_for`."""
        return self.nats_url_for("owner")

    def nats_url_for(self, role: str) -> str:
        """The URL of NATS with all that a role needs to connect; ConfigError where none is known.

        A URL holds credentials, so it may be given as `@FILE`, which no process list shows.
        """
        if self.nats and not self.nats.startswith("@"):
            return self.nats
        own = self.run_dir / f"{role}.url"
        path = Path(self.nats[1:]) if self.nats else own
        if not self.nats and not own.exists():
            path = self.run_dir / "nats.url"
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            hint = "" if self.nats else " Start `jobledger up` first, or say where with --nats."
            raise ConfigError(f"Cannot read the NATS address in {path}.{hint}") from error


def load_settings(**flags: Any) -> Settings:
    """The settings in force; flags that are None count as not given.

    Raises ConfigError with one sentence that names the setting, or the file that is no TOML.
    """
    # What reads them takes a tenth of a start and of a service's memory: not where they were read.
    from services.settings_reader import read_settings

    return read_settings({name: value for name, value in flags.items() if value is not None})
