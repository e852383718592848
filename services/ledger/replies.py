"""What NATS answers: payload and headers, as our own small types."""

from collections.abc import Mapping

import msgspec


class Reply(msgspec.Struct, frozen=True):
    """The answer to a request: its payload and its headers (`Status` for a status line)."""

    data: bytes
    headers: Mapping[str, str]

    @property
    def status(self) -> str | None:
        """404, 503 and the like, if the server answered with a status line."""
        return self.headers.get("Status")


def parse_headers(raw: bytes | None) -> dict[str, str]:
    """NATS headers as a dictionary; a status line becomes `Status` and `Description`."""
    if not raw:
        return {}
    first, *lines = raw.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    status = first.removeprefix("NATS/1.0").strip()
    if status:
        headers["Status"], _, headers["Description"] = status.partition(" ")
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers
