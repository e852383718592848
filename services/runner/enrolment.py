"""A runner's own login for NATS: kept in DIR/runner/login (mode 0600), asked for if it has none.

With the login of an enrolment the runner may only ask for one of its own: a login by which it
can write as its own server and read its own orders. The key of that login is made here and
never leaves this machine. A runner that was given its own login, or the login of a NATS that
somebody else administers, connects with that.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from services.errors import ConfigError
from services.ledger import live
from services.ledger.access import Access
from services.ledger.connection import TOLD_AFTER, Ledger
from services.ledger.credentials import KeyPair, Login
from services.ledger.enrolment import SUBJECT
from services.ledger.errors import LedgerUnavailable, NotServed, Refused
from services.ledger.secrets import write_private
from services.logs import logger

_FILE = "login"
_ANSWER_WAIT = 5.0
# Gateway and scheduler may be starting at the same time.
_RETRY = 0.05

log = logger("runner")


def check_identity(url: str, server: str) -> None:
    """ConfigError if this is the login of another server's runner."""
    login = Access.of(url).login
    if login is not None and login.role == "runner" and login.name != f"runner-{server}":
        raise ConfigError(
            f"This login is for the server {login.name.removeprefix('runner-')}, not {server}."
        )


@asynccontextmanager
async def connected(url: str, server: str, directory: Path, wait: float) -> AsyncIterator[Ledger]:
    """The ledger, as the runner of this server; a login of its own is asked for first if needed.

    Waits up to `wait` seconds for NATS, and for a gateway or scheduler to answer. Raises
    LedgerUnavailable, ConfigError.
    """
    check_identity(url, server)
    name = f"runner-{server}"
    given = Access.of(url).login
    if given is None or given.role != "enrolment":
        async with Ledger.open(url, name=name, wait=wait) as direct:
            yield direct
        return
    async with AsyncExitStack() as stack:
        ledger = await _with_kept_login(stack, url, server, directory, wait)
        if ledger is None:
            login = await _enrol(url, server, directory, wait)
            opening = Ledger.open(login.url(url), name=name, wait=wait)
            ledger = await stack.enter_async_context(opening)
        yield ledger


async def _with_kept_login(
    stack: AsyncExitStack, url: str, server: str, directory: Path, wait: float
) -> Ledger | None:
    """The ledger by the login that was given before; None if there is none that counts."""
    given = Access.of(url).login
    login = _kept(directory, server, given.account if given else "")
    if login is None:
        return None
    try:
        return await stack.enter_async_context(
            Ledger.open(login.url(url), name=login.name, wait=wait)
        )
    except Refused:
        log.warning("The runner's login is refused", action="login_refused", server=server)
        return None


async def _enrol(url: str, server: str, directory: Path, wait: float) -> Login:
    key = KeyPair.new("user")
    async with Ledger.open(url, name="enrolment", wait=wait) as ledger:
        token = await _asked(ledger, {"server": server, "public_key": key.public}, wait)
    login = Login.from_token(token, key.seed)
    content = json.dumps({"token": token, "seed": key.seed}).encode()
    write_private(directory / _FILE, content, replace=True)
    return login


async def _asked(ledger: Ledger, request: dict[str, str], wait: float) -> str:
    begun = time.monotonic()
    told = False
    while True:
        try:
            answer = await live.ask(ledger, SUBJECT, request, _ANSWER_WAIT)
        except NotServed as error:
            waited = time.monotonic() - begun
            if waited > wait:
                raise LedgerUnavailable("No gateway or scheduler enrols this runner.") from error
            if waited > TOLD_AFTER and not told:
                told = True
                log.warning(
                    f"No gateway or scheduler answers; trying for {wait:g} s",
                    action="enrolment_awaited",
                )
            await asyncio.sleep(_RETRY)
            continue
        if "token" not in answer:
            raise ConfigError(f"The runner is not enrolled: {answer.get('error')}")
        return str(answer["token"])


def _kept(directory: Path, server: str, account: str) -> Login | None:
    """The login that was given before, if it is for this server and this installation."""
    try:
        kept = json.loads((directory / _FILE).read_bytes())
        login = Login.from_token(kept["token"], kept["seed"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return login if (login.account, login.name) == (account, f"runner-{server}") else None
