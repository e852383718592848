"""A runner as a process of its own, to be killed: `python -m tests.services.runner_process`."""

import asyncio
import sys

import uvloop

from services import logs
from services.errors import StartupError
from services.runner.run import run_runner
from services.settings import load_settings


def main() -> None:
    """Run until killed; a refusal is one sentence on standard error."""
    logs.configure("runner")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_runner(load_settings(), drain="--drain" in sys.argv))
    except StartupError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
