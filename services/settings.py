"""The settings of all services and where they come from.

Flags win over `JOBLEDGER_*` environment variables, those over `DIR/jobledger.toml`, those over
the defaults below (design.md 10). Durations are in seconds, sizes in bytes. Only this module
reads the environment; it starts nothing and creates no files.
"""

import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from services.errors import ConfigError

MEBIBYTE = 1024 * 1024
ENV_PREFIX = "JOBLEDGER_"
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


class Settings(BaseSettings):
    """Everything that can be configured. Each name is also its key in jobledger.toml."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    data_dir: Path = Field(Path("data"), description="Where everything of this machine is kept.")
    nats: str | None = Field(
        None, description="URL of NATS, or @FILE that holds it; default: what DIR/run says"
    )
    host: str = Field("127.0.0.1", description="Address on which the API listens.")
    port: int = Field(5522, ge=1, le=65535, description="Port on which the API listens.")
    max_body: int = Field(1024 * MEBIBYTE, ge=1, description="Largest request body, in bytes.")
    max_connections: int = Field(4096, ge=1, description="Connections of clients at once.")
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM) to serve HTTPS with.")
    tls_key: Path | None = Field(None, description="Private key (PEM) of that certificate.")
    allowed_hosts: list[str] = Field(
        default=[], description="Names this API answers to, `*.` for all below one; none: any."
    )
    cors_origins: list[str] = Field(
        default=["*"], description="Origins whose pages may read replies; `*` for all."
    )
    trusted_proxies: list[str] = Field(
        default=[], description="Addresses or networks whose X-Forwarded-* headers are believed."
    )
    session_days: float = Field(365, gt=0, description="How long a login lasts, in days.")
    timezone: str = Field(
        default_factory=host_zone, description="Zone of triggers that name none; the machine's."
    )
    dst_policy: Literal["literal", "once"] = Field(
        "literal", description="Skipped and repeated wall times: as they come, or once each."
    )
    misfire_grace: float = Field(
        60.0, ge=0, description="A fire later than this many seconds is recorded as missed."
    )
    max_jobs_per_min: int = Field(0, ge=0, description="Launches per minute; 0 = no limit.")
    max_jobs_per_min_policy: Literal["defer", "drop"] = Field(
        "defer", description="Scheduled launches above that limit: later, or not at all."
    )
    server_timeout: float = Field(
        120.0, ge=5, description="A server silent for this many seconds is lost."
    )
    kill_timeout: float = Field(
        10.0, ge=0, description="Seconds between SIGTERM and SIGKILL for an aborted job."
    )
    drain_timeout: float = Field(
        0.0, ge=0, description="Seconds for which a leaving runner finishes its jobs; 0 = none."
    )
    job_env: dict[str, str] = Field(default={}, description="Environment variables of every job.")
    base_url: str | None = Field(
        None, description="Where people reach the API, for links in mails; default: host and port."
    )
    mail_host: str | None = Field(
        None, description="SMTP server for emails of actions and limits; none: emails fail."
    )
    mail_port: int = Field(25, ge=1, le=65535, description="Port of the SMTP server.")
    mail_from: str = Field("jobledger@localhost", description="Sender address of emails.")
    mail_tls: Literal["none", "starttls", "tls"] = Field(
        "none", description="How the connection to the SMTP server is encrypted."
    )
    mail_user: str | None = Field(None, description="Account on the SMTP server, if it wants one.")
    mail_password_file: Path | None = Field(None, description="File with that account's password.")
    max_emails_per_day: int = Field(0, ge=0, description="Emails per day; 0 = no limit.")
    retention_days: float = Field(
        0, ge=0, description="Finished jobs older than this many days are erased; 0 = never."
    )
    disk_reserve: int = Field(
        256 * MEBIBYTE, ge=0, description="Writes are refused below this many free bytes."
    )
    metrics_port: int = Field(
        0, ge=0, le=65533, description="Port for metrics, on loopback alone; 0 = none."
    )
    replicas: int = Field(1, description="Copies of the ledger in a NATS cluster: 1, 3 or 5.")
    log_format: Literal["console", "json"] = Field("console", description="How logs are written.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important messages that are logged."
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if not is_zone(value):
            raise ValueError(f"'{value}' is not the name of a time zone")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _known_networks(cls, value: list[str]) -> list[str]:
        for entry in value:
            try:
                ipaddress.ip_network(entry)
            except ValueError:
                raise ValueError(f"'{entry}' is neither an address nor a network") from None
        return value

    @model_validator(mode="after")
    def _certificate_with_key(self) -> "Settings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together: one of them is missing")
        return self

    @field_validator("replicas")
    @classmethod
    def _odd_number(cls, value: int) -> int:
        if value not in (1, 3, 5):
            raise ValueError("a cluster keeps 1, 3 or 5 copies")
        return value

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
        return f"{'https' if self.tls_cert else 'http'}://{self.host}:{self.port}"

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

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file in the data directory those two name."""
        named = init_settings().get("data_dir") or env_settings().get("data_dir") or "data"
        file = Path(named) / "jobledger.toml"
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)


def load_settings(**flags: Any) -> Settings:
    """The settings in force; flags that are None count as not given.

    Raises ConfigError with one sentence that names the setting, or the file that is no TOML.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = Settings(**given)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"jobledger.toml is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"The settings cannot be read: {error}.") from error
    return settings.model_copy(update={"data_dir": settings.data_dir.absolute()})


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"There is no setting '{name}'."
    reason = first["msg"].removeprefix("Value error, ")
    if not name:
        return f"The settings are wrong: {reason}."
    return f"Setting '{name}' is wrong: {reason[0].lower()}{reason[1:]}."
