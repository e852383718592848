"""The entry point of the command `jobledger`.

`up` has its command line and settings read by a process of their own. What that takes, typer and
pydantic above all, is then in the memory of no service, and this process meanwhile imports what
all of them use.
"""

import errno
import os
import pickle
import sys
from typing import TYPE_CHECKING

from services.errors import StartupError
from services.ledger.errors import LedgerError
from services.pauses import importing

if TYPE_CHECKING:
    from services.cli.wanted import Wanted

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run() -> None:
    """Carry out the command line: a reason not to start is one sentence, never a traceback."""
    try:
        if sys.argv[1:2] == ["up"]:
            _up()
        else:
            from services.cli.main import app

            app()
    except (StartupError, LedgerError) as error:
        print(f"jobledger: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        # Of files somebody would have told the name: this is where the output goes.
        print(f"jobledger: The output cannot be written: {error.strerror}.", file=sys.stderr)
        os._exit(1)  # what is still in the buffer would fail once more
    except KeyboardInterrupt:
        sys.exit(130)


def _up() -> None:
    answer, told = os.pipe()
    reader = os.fork()
    if reader == 0:
        os.close(answer)
        _read_command_line(told)
    os.close(told)
    with importing():
        from services.cli.installation import keep_up
    with os.fdopen(answer, "rb") as pipe:
        wanted = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1])
    if not wanted:  # help was asked for, or something is wrong with it
        sys.exit(status if status >= 0 else 128 - status)
    keep_up(pickle.loads(wanted))  # noqa: S301 - our own process wrote it


def _read_command_line(told: int) -> None:
    """In a fork: have the verb `up` tell what is wanted. Ends the process."""
    with importing():
        from services.cli.options import application
        from services.cli.up import up

    def tell(wanted: "Wanted") -> None:
        with os.fdopen(told, "wb") as pipe:
            pickle.dump(wanted, pipe)
        os._exit(0)  # what Python would clean up is gone as well, and somebody waits

    app = application()
    app.callback()(lambda: None)  # so that the one verb has to be named
    app.command()(up)
    app(obj=tell)
