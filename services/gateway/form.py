"""The form page of a magic link: an event's fields as HTML (api.md 7.3).

The page holds no more of the event than its title, its notes and its fields; it asks nobody but
this server, and says so in its policy. Everything that is text stays text. Knows nothing of what
becomes of the values: they are posted to the magic link.
"""

import re
import secrets
from collections.abc import Iterator
from functools import cache
from html import escape
from string import Template
from typing import Any

from domain.facts import Json
from domain.plugins import default_value, select_items
from services.gateway.openapi import STATIC
from services.gateway.replies import Reply, dumps

_TEXT_TYPES = frozenset("color date datetime-local email number password text time tel url".split())
# What stands for something that only a running job knows, or for nothing.
_NOT_SHOWN = frozenset({"group", "bucket", "system"})
_LABELLED = re.compile(r"(?P<title>.*?)\s*\[(?P<id>[^\]]*)\]\s*")
_RANGE = re.compile(r"(-?[\d.]+)-(-?[\d.]+)(?:/([\d.]+|any))?")


def form_page(event: Json, key: str) -> Reply:
    """The page that runs this event through the magic link of `key`."""
    nonce = secrets.token_urlsafe(16)
    page = _template().substitute(
        title=escape(str(event.get("title") or "")),
        notes=escape(str(event.get("notes") or "")),
        fields="\n".join(_controls(event)),
        action=f"/api/app/magic/v1/{escape(key)}",
        stream="/api/app/stream_job/v1",
        nonce=nonce,
    )
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "cache-control": "private, no-store",
    }
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Reply(page.encode(), pairs)


@cache
def _template() -> Template:
    return Template((STATIC / "form.html").read_text(encoding="utf-8"))


def _controls(event: Json) -> Iterator[str]:
    for number, field in enumerate(event.get("fields") or []):
        if isinstance(field.get("id"), str) and field.get("type") not in _NOT_SHOWN:
            yield _labelled(field, f"field{number}")
    if _takes_files(event):
        yield '<label for="files">Files</label>'
        yield '<input type="file" name="files" id="files" multiple>'


def _labelled(field: Json, id: str) -> str:
    """One field with its label and its caption; what is locked is shown, not sent."""
    title = escape(str(field.get("title") or field["id"]))
    common = f'name="{escape(field["id"])}" id="{id}"'
    if field.get("required") and field.get("type") not in ("checkbox", "hidden"):
        common += " required"
    if field.get("locked"):
        common += " disabled"
    value = default_value(field)
    if field.get("type") == "hidden":
        return f'<input type="hidden" {common} value="{_text(value)}">'
    if field.get("type") == "checkbox":
        tick = " checked" if value else ""
        control = f'<label class="tick"><input type="checkbox" {common}{tick}> {title}</label>'
    else:
        control = f'<label for="{id}">{title}</label>\n{_control(field, common, value)}'
    caption = field.get("caption")
    return control + (f"\n<small>{escape(str(caption))}</small>" if caption else "")


def _control(field: Json, common: str, value: Any) -> str:
    match field.get("type"):
        case "textarea" | "code" | "json":
            return f"<textarea {common}>\n{_text(value)}</textarea>"
        case "select":
            return _select(field, common)
        case "toolset":
            tools = (field.get("data") or {}).get("tools") or []
            choices = [(str(t.get("id")), str(t.get("title") or t.get("id"))) for t in tools]
            return _options(common, choices, value)
        case _:
            variant = field.get("variant")
            kind = variant if variant in _TEXT_TYPES else "text"
            return f'<input type="{kind}" {common} value="{_text(value)}"{_bounds(field, kind)}>'


def _select(field: Json, common: str) -> str:
    ids = select_items(field.get("value"))
    titles = [part.strip() for part in str(field.get("value") or "").split(",")]
    matches = [_LABELLED.fullmatch(title) for title in titles]
    shown = [
        match["title"] if match else title for match, title in zip(matches, titles, strict=True)
    ]
    many = " multiple" if field.get("multiple") else ""
    chosen = ids[0] if ids else ""
    return _options(common + many, list(zip(ids, shown, strict=True)), chosen)


def _options(common: str, choices: list[tuple[str, str]], chosen: Any) -> str:
    options = [f"<select {common}>"]
    for id, title in choices:
        mark = " selected" if id == chosen else ""
        options.append(f'<option value="{escape(id)}"{mark}>{escape(title)}</option>')
    return "".join([*options, "</select>"])


def _bounds(field: Json, kind: str) -> str:
    """`range` as the browser checks it; the server checks it in any case."""
    match = _RANGE.fullmatch(str(field.get("range") or ""))
    if match is None or kind != "number":
        return ""
    return f' min="{match[1]}" max="{match[2]}" step="{match[3] or 1}"'


def _text(value: Any) -> str:
    if value is None:
        return ""
    return escape(value if isinstance(value, str) else dumps(value))


def _takes_files(event: Json) -> bool:
    limits = event.get("limits") or []
    return any(
        limit.get("type") == "file" and limit.get("enabled") and limit.get("amount")
        for limit in limits
    )
