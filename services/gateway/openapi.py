"""The documentation of the API: an OpenAPI document and a page that shows it, at /schema.

Made from the endpoints' declarations. The page and its one script are files of this package:
nothing is fetched from elsewhere.
"""

import re
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litestar import get
from litestar.handlers import HTTPRouteHandler

from domain.facts import Json
from services.gateway.endpoint import Endpoint
from services.gateway.replies import JSON_TYPE, Reply, encode

STATIC = Path(__file__).parent / "static"
_FIELD = re.compile(
    r"(?P<type>string|integer|number|boolean|array|object)(?P<required>!?)(?:[,;:]\s*(?P<meaning>.+))?"
)
_HTML = (b"content-type", b"text/html; charset=utf-8")
_SCRIPT = (b"content-type", b"text/javascript; charset=utf-8")
_FOR_A_DAY = (b"cache-control", b"public, max-age=86400")
_ONLY_OURS = (
    b"content-security-policy",
    b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"script-src 'self'",
)
_SECURITY: list[Json] = [{"key": []}, {"session": []}]
_ERROR_STATUS = {
    "400": ("api", "A parameter is missing or malformed."),
    "403": ("session", "Not signed in (`session`), or not allowed (`access`)."),
    "404": ("notfound", "The object does not exist."),
    "429": ("rate", "This key, or this address, asks too often."),
    "500": ("event", "A rule of the object is broken; `code` names its kind."),
    "503": ("db", "The ledger cannot be reached, or its owner has not answered yet."),
}


def handlers(endpoints: list[Endpoint]) -> list[HTTPRouteHandler]:
    """The routes of the documentation."""
    text = encode(document(endpoints))

    @get("/schema", include_in_schema=False)
    async def page() -> Reply:
        return Reply(_file("index.html"), [_HTML, _ONLY_OURS])

    @get("/schema/openapi.json", include_in_schema=False)
    async def schema() -> Reply:
        return Reply(text, [JSON_TYPE])

    @get("/schema/rapidoc-min.js", include_in_schema=False)
    async def script() -> Reply:
        return Reply(_file("rapidoc-min.js"), [_SCRIPT, _FOR_A_DAY])

    return [page, schema, script]


@cache
def _file(name: str) -> bytes:
    return (STATIC / name).read_bytes()


def document(endpoints: list[Endpoint]) -> Json:
    """The OpenAPI document of these endpoints."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Jobledger",
            "version": version("jobledger"),
            "description": (
                "Every call takes GET and POST alike. Replies carry `code`: 0 is success. "
                "Writes answer with `X-Ledger-Seq`; reads wait for `X-Ledger-Min-Seq`; "
                "`Idempotency-Key` makes a write repeatable."
            ),
        },
        "tags": [{"name": group} for group in dict.fromkeys(e.group for e in endpoints)],
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "session": {"type": "apiKey", "in": "header", "name": "X-Session-ID"},
            },
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {
                        "code": {"type": ["string", "integer"]},
                        "description": {"type": "string"},
                    },
                }
            },
        },
        "paths": {
            f"{endpoint.root}{_version(endpoint)}{_TAILS.get(endpoint.name, '')}": {
                endpoint.method.lower(): _operation(endpoint)
            }
            for endpoint in endpoints
        },
    }


_TAILS = {"magic": "/{key}"}


def _version(endpoint: Endpoint) -> str:
    """The status of errors of accounts does not depend on a version (api.md 1.6)."""
    return "" if endpoint.space == "user" else "/v1"


def _operation(endpoint: Endpoint) -> Json:
    operation: Json = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [endpoint.group],
        "description": _description(endpoint),
        "responses": _responses(endpoint),
        "security": [] if endpoint.open else _SECURITY,
    }
    fields = {name: _schema(text) for name, text in endpoint.fields.items() if name != "(any)"}
    if endpoint.method == "GET":
        operation["parameters"] = [
            {
                "name": name,
                "in": "query",
                "required": required,
                "schema": schema,
                "description": schema.pop("description", ""),
            }
            for name, (schema, required) in fields.items()
        ]
    else:
        kind = "application/json" if fields or not endpoint.uploads else "multipart/form-data"
        operation["requestBody"] = {"content": {kind: _body(endpoint, fields)}}
    if endpoint.name in _TAILS:
        key = {"name": "key", "in": "path", "required": True, "schema": {"type": "string"}}
        operation.setdefault("parameters", []).append(key)
    return operation


def _description(endpoint: Endpoint) -> str:
    lines = []
    if endpoint.privilege:
        lines.append(f"Needs the privilege `{endpoint.privilege}`.")
    if endpoint.mutating:
        lines.append("Changes something: a cookie session needs the CSRF token with GET as well.")
    if any(name == "(any)" for name in endpoint.fields):
        lines.append("Further keys are taken as they come.")
    return " ".join(lines)


def _body(endpoint: Endpoint, fields: dict[str, tuple[Json, bool]]) -> Json:
    schema: Json = {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in fields.items()},
    }
    if required := [name for name, (_, needed) in fields.items() if needed]:
        schema["required"] = required
    body: Json = {"schema": schema}
    if endpoint.example is not None:
        body["example"] = endpoint.example
    return body


def _schema(text: str) -> tuple[Json, bool]:
    """`"string!, what it means"` as a schema, and whether it is required."""
    found = _FIELD.fullmatch(text)
    assert found is not None, text
    required, meaning = bool(found["required"]), found["meaning"]
    schema: Json = {"type": found["type"]}
    if schema["type"] == "array":
        schema["items"] = {}
    if meaning:
        schema["description"] = meaning
    return schema, required


def _responses(endpoint: Endpoint) -> Json:
    example: Any = endpoint.reply or {"code": 0}
    responses: Json = {
        "200": {
            "description": "Done.",
            "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
        }
    }
    for status, (code, meaning) in _ERROR_STATUS.items():
        responses[status] = {
            "description": meaning,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Error"},
                    "example": {"code": code, "description": meaning},
                }
            },
        }
    return responses
