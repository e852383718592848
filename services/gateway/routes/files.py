"""Uploading files, and reading files by their path (api.md 8.6)."""

from typing import Any, cast

from litestar import Request, route
from litestar.enums import HttpMethod
from litestar.types import ASGIApp

from domain.errors import BadRequest
from domain.facts import Json
from projections.job_view import shown_files
from services.gateway import files, uploads
from services.gateway.body import query_values
from services.gateway.endpoint import Answer, Call, Routes
from services.gateway.gateway import Gateway
from services.gateway.params import Params
from services.gateway.replies import Payload, text_reply
from services.ledger.errors import LedgerUnavailable

api = Routes("Files")


async def published(call: Call, job: str | None = None) -> list[Json]:
    """The files of this request, each reachable under its path from now on.

    `job` is the job that this request launches with them.
    """
    owner = call.known.id if call.known is not None else "magic"
    return [
        await uploads.publish(call.gateway, upload, owner, call.now, job)
        for upload in call.params.uploads
    ]


async def _sent(call: Call) -> list[Json]:
    if not call.params.uploads:
        raise BadRequest("No file was sent: this call takes multipart/form-data.")
    records = await published(call)
    call.stored.clear()
    return records


@api.endpoint(
    "upload_job_input_files",
    "Upload files (multipart) to be passed to run_event as `input.files`; kept for 30 days.",
    privilege="run_jobs",
    mutating=True,
    uploads=True,
    fields={"(any)": "file"},
)
async def upload_job_input_files(call: Call) -> Payload:
    """api.md 8.6."""
    return {"files": shown_files(await _sent(call))}


@api.endpoint(
    "upload_files",
    "Upload files (multipart) and get their URLs; kept for 30 days.",
    mutating=True,
    uploads=True,
    fields={"(any)": "file"},
)
async def upload_files(call: Call) -> Payload:
    """api.md 8.6."""
    return {"urls": [f"/{record['path']}" for record in await _sent(call)]}


def _path(params: Params) -> tuple[str, str | None]:
    path = params.required_text("path", r"^/?files/").removeprefix("/")
    return path, params.text("download")


@api.endpoint(
    "file",
    "A file by its path, as `/files/...` gives it; the path is the credential.",
    parse=_path,
    open=True,
    fields={"path": "string!", "download": "string: `1`, or the name to save it under"},
)
async def file(call: Call, asked: tuple[str, str | None]) -> Answer:
    """api.md 8.6."""
    path, download = asked
    wanted = files.Asked(path, call.credentials.headers, download)
    return await files.reply_to(call.gateway, wanted)


def handler(gateway: Gateway) -> Any:
    """The route of `/files/...`."""

    @route("/files/{path:path}", http_method=[HttpMethod.GET, HttpMethod.HEAD], status_code=200)
    async def get_file(request: Request[Any, Any, Any]) -> ASGIApp:
        scope = request.scope
        try:
            download = query_values(scope["query_string"]).get("download")
        except BadRequest as error:
            return cast(ASGIApp, text_reply(f"{error.description}\n", 400))
        path = scope["path"].removeprefix("/")
        asked = files.Asked(path, dict(scope["headers"]), download and str(download))
        try:
            return cast(ASGIApp, await files.reply_to(gateway, asked))
        except LedgerUnavailable:
            return cast(ASGIApp, text_reply("The file cannot be read now.\n", 503))

    return get_file
