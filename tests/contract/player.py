"""Plays one request/response pair of examples.json against a running server (api.md 9).

Knows the file's language and nothing of what the server should do.
"""

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

Json = dict[str, Any]

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_POLL = 0.1


class Mismatch(AssertionError):
    """The reply is not what the entry expects; the text says where."""


@dataclass
class Player:
    """A client with the variables that earlier entries saved."""

    client: httpx.Client
    variables: dict[str, str] = field(default_factory=dict)

    def play(self, entry: Json) -> None:
        """Send the entry's request until the reply matches or its `wait` is over."""
        deadline = time.monotonic() + entry.get("wait", 0)
        while True:
            try:
                self._once(entry)
            except Mismatch:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL)
            else:
                return

    def _once(self, entry: Json) -> None:
        reply = self._send(entry)
        status, text = reply.status_code, reply.text
        if status != entry["expect_status"]:
            raise Mismatch(f"HTTP {status} instead of {entry['expect_status']}: {text[:500]}")
        self._check_headers(entry, reply)
        if entry.get("expect_text") and entry["expect_text"] not in text:
            raise Mismatch(f"{entry['expect_text']!r} is not in {text[:500]!r}")
        if "expect_sse" in entry or "expect_sse_ends" in entry:
            self._check_events(entry, text)
        if entry.get("expect_body") is not None or entry.get("save"):
            self._check_body(entry, reply)

    def _send(self, entry: Json) -> httpx.Response:
        headers = {name: self.filled(value) for name, value in entry["headers"].items()}
        body = entry["body"]
        content = None
        if body is not None:
            raw = body if entry.get("raw_body") else json.dumps(body)
            content = self.filled(raw).encode()
        return self.client.request(
            entry["method"], self.filled(entry["path"]), headers=headers, content=content
        )

    def filled(self, text: str) -> str:
        """The text with its `${VAR}`s replaced."""
        return _VARIABLE.sub(lambda match: self.variables[match[1]], text)

    def _check_headers(self, entry: Json, reply: httpx.Response) -> None:
        for name, wanted in entry.get("expect_headers", {}).items():
            found = reply.headers.get(name)
            if found is None or not _matches_text(found, self.filled(wanted)):
                raise Mismatch(f"header {name} is {found!r}, not {wanted!r}")

    def _check_body(self, entry: Json, reply: httpx.Response) -> None:
        try:
            body = reply.json()
        except ValueError as error:
            raise Mismatch(f"no JSON: {reply.text[:300]!r}") from error
        self.check(entry["expect_body"], body, "")
        for path in entry.get("absent", []):
            if at(body, path) is not _ABSENT:
                raise Mismatch(f"{path} should be absent, is {at(body, path)!r}")
        for path in entry.get("exact", []):
            wanted = self._filled_value(at(entry["expect_body"], path))
            if at(body, path) != wanted:
                raise Mismatch(f"{path} is {at(body, path)!r}, not exactly {wanted!r}")
        if "rows_length" in entry and len(body["rows"]) != entry["rows_length"]:
            raise Mismatch(f"{len(body['rows'])} rows instead of {entry['rows_length']}")
        for name, path in entry.get("save", {}).items():
            value = at(body, path)
            if value is _ABSENT:
                raise Mismatch(f"{path} is absent, but to be saved")
            self.variables[name] = str(value)

    def _filled_value(self, value: Any) -> Any:
        return json.loads(self.filled(json.dumps(value)))

    def check(self, wanted: Any, found: Any, path: str) -> None:
        """`found` has everything that `wanted` lists."""
        if isinstance(wanted, dict):
            if not isinstance(found, dict):
                raise Mismatch(f"{path or 'the body'} is {found!r}, no object")
            for key, value in wanted.items():
                if key not in found:
                    raise Mismatch(f"{path}.{key} is missing in {str(found)[:800]}")
                self.check(value, found[key], f"{path}.{key}")
        elif isinstance(wanted, list):
            if not isinstance(found, list) or len(found) < len(wanted):
                raise Mismatch(f"{path} is {found!r}, expected {wanted!r}")
            for index, value in enumerate(wanted):
                self.check(value, found[index], f"{path}[{index}]")
        elif wanted == "num":
            if isinstance(found, bool) or not isinstance(found, int | float):
                raise Mismatch(f"{path} is {found!r}, no number")
        elif isinstance(wanted, str) and wanted != "any":
            if not isinstance(found, str) or not _matches_text(found, self.filled(wanted)):
                raise Mismatch(f"{path} is {found!r}, expected {wanted!r}")
        elif wanted not in (None, "any") and not _same(wanted, found):
            raise Mismatch(f"{path} is {found!r}, expected {wanted!r}")

    def _check_events(self, entry: Json, text: str) -> None:
        events = parse_events(text)
        wanted = entry.get("expect_sse")
        if wanted is not None and len(events) != len(wanted):
            raise Mismatch(f"{len(events)} events instead of {len(wanted)}: {events}")
        if wanted is None:
            wanted = entry["expect_sse_ends"]
            if len(events) < len(wanted):
                raise Mismatch(f"too few events: {events}")
            events = [events[0], events[-2], events[-1]]
        for expected, found in zip(wanted, events, strict=True):
            self.check(expected, found, "event")


_ABSENT: Any = object()


def at(value: Any, path: str) -> Any:
    """The value at a dotted path, or a marker that nothing equals."""
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _ABSENT
    return value


def parse_events(text: str) -> list[Json]:
    """The server-sent events of a whole stream, each of exactly two lines and an empty one."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        match = re.fullmatch(r"event: (\w+)\ndata: (.*)", block)
        if match is None:
            raise Mismatch(f"no event: {block!r}")
        events.append({"event": match[1], "data": json.loads(match[2])})
    return events


def _same(wanted: Any, found: Any) -> bool:
    """Equal, and not one a number and the other a boolean."""
    return bool(wanted == found) and isinstance(wanted, bool) == isinstance(found, bool)


def _matches_text(found: str, wanted: str) -> bool:
    if wanted.startswith("re:"):
        return re.search(wanted[3:], found) is not None
    return found == wanted
