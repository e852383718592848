"""Calls of the HTTP API from the command line, with an administrator's key."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.errors import StartupError

if TYPE_CHECKING:
    import ssl

    from domain.facts import Json
    from services.settings import Settings

_WAIT = 30.0
_KEY_VARIABLE = "JOBLEDGER_API_KEY"

Url = Annotated[
    str | None,
    typer.Option("--url", help="Address of the HTTP API. (default: this machine's)"),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help=f"File with an administrator's API key. (default: {_KEY_VARIABLE}, DIR/admin.key)",
    ),
]


def call(
    settings: "Settings", name: str, values: "Json", *, url: str | None, key_file: Path | None
) -> Any:
    """The reply of a call that succeeded; StartupError says why it did not."""
    import httpx

    address = (url or settings.api_url).rstrip("/")
    headers = {"X-API-Key": _key(settings, key_file)}
    try:
        reply = httpx.post(
            f"{address}/api/app/{name}/v1",
            json=values,
            headers=headers,
            timeout=_WAIT,
            verify=own_certificate(settings) if settings.tls_cert and url is None else True,
        ).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise StartupError(f"No answer from the API at {address}: {error}.") from error
    if reply.get("code") != 0:
        raise StartupError(str(reply.get("description")))
    return reply


def own_certificate(settings: "Settings") -> "ssl.SSLContext":
    """How to know this machine's API: by the very certificate it was given, whatever its name."""
    import ssl

    context = ssl.create_default_context(cafile=settings.tls_cert)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _key(settings: "Settings", key_file: Path | None) -> str:
    if key_file is None and (key := os.environ.get(_KEY_VARIABLE)):
        return key
    file = key_file or settings.data_dir / "admin.key"
    try:
        return file.read_text().strip()
    except OSError as error:
        raise StartupError(
            f"There is no API key in {file}: name one with --key-file, or in {_KEY_VARIABLE}."
        ) from error
