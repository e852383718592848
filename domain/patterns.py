"""Regular expressions given by users, matched in time linear to the text (RE2).

Responsible for compiling and searching without ever raising on stored patterns; look-around and
back references do not exist here. Must not know what the patterns are for.
"""

from functools import lru_cache
from typing import Any

_TAG = r"<[/!?a-zA-Z][^>]*>"
_PASSES = 8


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any | None:
    """The compiled pattern, or None when it is not a regular expression that RE2 knows."""
    # Imported here: it takes 2.5 MB, and a runner matches nothing.
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError):
        return None


def is_pattern(pattern: object) -> bool:
    """Whether the value is text that compiles."""
    return isinstance(pattern, str) and compiled(pattern) is not None


def found_in(pattern: object, text: str) -> bool:
    """Whether the pattern is found anywhere in the text; a bad pattern is found nowhere."""
    if not isinstance(pattern, str):
        return False
    machine = compiled(pattern)
    try:
        return machine is not None and machine.search(text) is not None
    except UnicodeError:
        return False


def without_tags(text: str) -> str:
    """The text without HTML tags; what only looks like a comparison (`a < b`) stays.

    A tag that appears when an inner one is taken out is taken out as well.
    """
    for _ in range(_PASSES):
        tag = compiled(_TAG) if "<" in text else None
        if tag is None or tag.search(text) is None:
            return text
        text = str(tag.sub("", text))
    return text.replace("<", "")
