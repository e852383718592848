"""The web hook plugin (plugins.md 9.5). A program of its own.

A scheduler has fired the hook by the time this runs, since hooks and their keys are the
schedulers'; what became of it stands in the request, and is the job's result.
"""

import os
import sys
from typing import Any

sys.path.append(os.path.abspath(f"{__file__}/../../../.."))

from services.runner.plugins.protocol import output, read_job, say


def main() -> None:
    """Tell what became of the hook."""
    fired: dict[str, Any] = read_job().get("hook") or {}
    if fired.get("details"):
        output(str(fired["details"]))
        say(markdown={"title": "Web Hook Details", "content": str(fired["details"])})
    if fired.get("answer"):
        say(data=fired["answer"])
    say(code=fired.get("code", 1), description=str(fired.get("description") or ""))


if __name__ == "__main__":
    main()
