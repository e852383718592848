"""Replaces the values of a job's secrets by *** in whatever the job writes (docs/secrets.md).

Exact values of six characters and more, also across the boundaries of reads. Values that a job
changes first (encodes, splits, reverses) are not found: nobody could. Knows nothing of files.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

MASK = "***"
SHORTEST = 6
"""Characters from which a value is looked for; shorter ones would hide half of the output."""

_HEAD = 6
_PLAIN = ("xy", "complete", "progress")
# What the protocol itself calls the fields of a message: no secret, even if one has such a value.
_FIELDS = frozenset(
    "xy type state code complete description progress status label perf table html markdown text "
    "data workflowData serverData files push update_event delete_event".split()
)


class Stream(Protocol):
    """One output stream on its way into the log."""

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream may go on now."""

    def finish(self) -> bytes:
        """What was held back."""


class Masking(Protocol):
    """How the output of a job with secrets is treated."""

    def stream(self) -> Stream:
        """For one stream of output."""

    def fields(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message of the protocol."""

    def text(self, text: str) -> str:
        """A remark."""


class Mask:
    """Masks these values (variable names and what they hold)."""

    def __init__(self, secrets: Mapping[str, Any]) -> None:
        texts = {form for value in secrets.values() for form in (str(value), str(value).strip())}
        found = sorted((t for t in texts if len(t) >= SHORTEST), key=len, reverse=True)
        self._texts = re.compile("|".join(map(re.escape, found)) or r"(?!)")
        encoded = [text.encode("utf-8", "surrogatepass") for text in found]
        self._bytes = re.compile(b"|".join(map(re.escape, encoded)) or rb"(?!)")
        self._values = encoded

    def stream(self) -> "MaskedStream":
        """For one stream of output."""
        return MaskedStream(self._bytes, self._values)

    def fields(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message with all its texts masked, at any depth."""
        return {
            key if key in _FIELDS else self.text(key): self._any(value)
            for key, value in message.items()
        }

    def text(self, text: str) -> str:
        """A text with the values masked."""
        return self._texts.sub(MASK, text)

    def _any(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._any(entry) for entry in value]
            case dict():
                return {self.text(key): self._any(part) for key, part in value.items()}
            case bool() | None:
                return value
            case _:
                masked = self.text(str(value))
                return value if masked == str(value) else masked


class MaskedStream:
    """Masks values in a stream that comes in pieces; what may be the start of one waits."""

    def __init__(self, pattern: re.Pattern[bytes], values: Iterable[bytes]) -> None:
        self._pattern = pattern
        self._values = tuple(values)
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """The stream so far, but for an end that may go on as a value."""
        data = self._held + chunk
        begin = min((_open_end(data, value) for value in self._values), default=len(data))
        parts: list[bytes] = []
        done = 0
        for found in self._pattern.finditer(data):
            if found.start() >= begin:
                break
            parts += [data[done : found.start()], MASK.encode()]
            done = found.end()
        begin = max(begin, done)
        parts.append(data[done:begin])
        self._held = data[begin:]
        return b"".join(parts)

    def finish(self) -> bytes:
        """What was held back; it can no longer become longer."""
        rest, self._held = self._held, b""
        return self._pattern.sub(MASK.encode(), rest)


class Withheld:
    """Lets no text through: the values that would have to be masked are not known any more."""

    def stream(self) -> "_Nothing":
        """For one stream of output."""
        return _Nothing()

    def fields(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """What holds no text of the job's own."""
        kept = {key: message[key] for key in _PLAIN if key in message}
        code = message.get("code", kept)
        if code is not kept:
            kept["code"] = code if isinstance(code, int | float) else (1 if code else 0)
        return {k: v for k, v in kept.items() if isinstance(v, bool | int | float)}

    def text(self, text: str) -> str:
        """Nothing of it."""
        return MASK


class _Nothing:
    def feed(self, chunk: bytes) -> bytes:
        """Nothing goes on."""
        return b""

    def finish(self) -> bytes:
        """Nothing was kept."""
        return b""


def _open_end(data: bytes, value: bytes) -> int:
    """Where the longest end of `data` begins that is a proper beginning of `value`."""
    start = max(0, len(data) - len(value) + 1)
    head = value[:_HEAD]
    while (start := data.find(head, start)) >= 0:
        if value.startswith(data[start:]):
            return start
        start += 1
    for start in range(max(0, len(data) - min(len(head), len(value)) + 1), len(data)):
        if value.startswith(data[start:]):
            return start
    return len(data)
