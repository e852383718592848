"""The HTTP API as the verbs use it: one key, one address.

Knows how to call and what a refusal looks like, nothing of what is called.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domain.facts import Json
from services.errors import StartupError

if TYPE_CHECKING:
    import ssl

    from services.settings import Settings

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="JOBLEDGER_URL",
        help="Address of the HTTP API. (default: that of the settings, http://127.0.0.1:5522)",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        help="A file with an API key. (default: JOBLEDGER_KEY, else DIR/admin.key)",
    ),
]

# A definition of 4 MiB on a slow line takes a while; a server that is gone is noticed at once.
_PATIENCE = 60.0


class Refused(Exception):
    """The server refused a call; the text is its own."""


class Api:
    """Calls by name, with a key."""

    def __init__(self, url: str, key: str, verify: "ssl.SSLContext | bool" = True) -> None:
        import httpx

        self._url = url
        self._client = httpx.Client(
            base_url=f"{url}/api/app/",
            headers={"X-API-Key": key},
            timeout=_PATIENCE,
            verify=verify,
        )

    def call(self, name: str, /, **parameters: Any) -> Json:
        """The reply to a call. Raises Refused, StartupError where no such server answers."""
        import httpx

        try:
            reply = self._client.post(f"{name}/v1", json=parameters).json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error).rstrip(".")
            raise StartupError(f"No Jobledger answers at {self._url}: {reason}.") from error
        except ValueError as error:
            raise StartupError(f"What answers at {self._url} is no Jobledger.") from error
        if not isinstance(reply, dict) or "code" not in reply:
            raise StartupError(f"What answers at {self._url} is no Jobledger.")
        if reply["code"] == "session":
            raise StartupError(f"The server at {self._url} does not take this API key.")
        if reply["code"] != 0:
            raise Refused(str(reply.get("description")))
        return reply

    def rows(self, name: str) -> list[Json]:
        """All rows of a list call."""
        rows: list[Json] = self.call(name)["rows"]
        return rows

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def call(
    settings: "Settings", name: str, values: Json, *, url: str | None, key_file: Path | None
) -> Json:
    """The reply of a call that succeeded; StartupError says why it did not."""
    with _reach(settings, url, key_file) as api:
        try:
            return api.call(name, **values)
        except Refused as error:
            raise StartupError(str(error)) from error


@contextmanager
def reach_api(data_dir: Path | None, url: str | None, key_file: Path | None) -> Iterator[Api]:
    """The API of these settings. Raises StartupError without a key."""
    from services.settings import load_settings

    with _reach(load_settings(data_dir=data_dir), url, key_file) as api:
        yield api


@contextmanager
def _reach(settings: "Settings", url: str | None, key_file: Path | None) -> Iterator[Api]:
    key = _key(key_file, settings.data_dir)
    verify = own_certificate(settings) if settings.tls_cert and url is None else True
    api = Api((url or settings.api_url).rstrip("/"), key, verify)
    try:
        yield api
    finally:
        api.close()


def own_certificate(settings: "Settings") -> "ssl.SSLContext":
    """How to know this machine's API: by the very certificate it was given, whatever its name."""
    import ssl

    context = ssl.create_default_context(cafile=settings.tls_cert)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _key(key_file: Path | None, data_dir: Path) -> str:
    if key_file is None and (given := os.environ.get("JOBLEDGER_KEY")):
        return _checked(given.strip(), "JOBLEDGER_KEY")
    path = key_file or data_dir / "admin.key"
    try:
        return _checked(path.read_text(encoding="utf-8").strip(), str(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise StartupError(
            f"No API key: {path} cannot be read ({reason}). Name one with --key-file or in "
            "JOBLEDGER_KEY."
        ) from error


def _checked(key: str, where: str) -> str:
    """The key, if it can be one; what it is instead is nobody's business."""
    if not key.isascii() or not key.isprintable() or not key or " " in key:
        raise StartupError(f"{where} holds no API key: that is one line without blanks.")
    return key
