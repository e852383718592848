"""How services log: a short sentence plus `action=` and ids, as data (style.md 13).

    log = logs.logger("runner")
    log.info("the job's process runs", action="job_started", job=job_id)

Logs go to standard error; credentials and job output never do.
"""

import logging
import sys
from types import ModuleType
from typing import Any, TextIO, cast

# structlog brings the library rich along where that is installed, for tracebacks that no service
# shows: a twentieth of a start and of a service's memory.
sys.modules.setdefault("rich", cast(ModuleType, None))
import structlog  # noqa: E402

if sys.modules["rich"] is None:
    del sys.modules["rich"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(service: str, *, format: str = "console", level: str = "info") -> None:
    """Set up the logging of this process: `format` is console or json (settings.log_format)."""
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    renderers: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
        if format == "json"
        else [console]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)


class _StandardError:
    """Standard error as it is at each line: loggers are kept, and it may be exchanged."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Libraries(logging.Handler):
    """Has what libraries log look like our own records."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno,
            record.getMessage(),
            action="library_says",
            part=record.name,
            **({"exc_info": record.exc_info} if record.exc_info else {}),
        )


def logger(name: str = "") -> Any:
    """A logger; `name` tells the part of the service, where that helps the reader."""
    return structlog.get_logger(**({"part": name} if name else {}))
