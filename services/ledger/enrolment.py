"""How runners and subscribers come to logins of their own for NATS (design.md 14).

Whoever holds the enrolment key signs them: gateways for an administrator over HTTP, gateways and
schedulers for a runner that was started with an enrolment login. NATS need not be told. A
runner's private key stays with the runner: it sends the public one. Each login is a fact.
"""

import json
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from domain.facts import Actor, Json, RunnerEnrolled
from domain.ids import is_id
from services.ledger import live
from services.ledger.authority import Signer
from services.ledger.credentials import is_user_key
from services.ledger.embedded import ENROLMENT_KEY
from services.ledger.errors import LedgerError, StartupError
from services.logs import logger

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

SUBJECT = "live.enroll"
QUEUE = "enrolment"
KEY_VARIABLE = "JOBLEDGER_ENROLMENT_KEY_FILE"
BY_LOGIN = Actor(type="system", id="enrolment")

log = logger()


class CannotEnrol(LedgerError):
    """There is no key here to sign with, or nothing to be signed."""


def enrolment_signer(data_dir: Path) -> Signer | None:
    """The key in DIR/nats/enrolment.key, or the file that JOBLEDGER_ENROLMENT_KEY_FILE names.

    None where there is none: with a NATS whose users somebody else administers. Raises
    StartupError for a file that is no such key.
    """
    named = os.environ.get(KEY_VARIABLE)
    file = Path(named) if named else data_dir / ENROLMENT_KEY
    if not named and not file.exists():
        return None
    try:
        return Signer.of(json.loads(file.read_bytes()))
    except (OSError, ValueError, KeyError) as error:
        raise StartupError(f"The enrolment key {file} cannot be used: {error}.") from error


def enrolled(server: str, public_key: str, actor: Actor, now: float) -> RunnerEnrolled:
    """The fact that a runner was given a login; CannotEnrol for a malformed id or key."""
    if not is_id(server):
        raise CannotEnrol("A server id has 1 to 128 characters of a-z, 0-9 and _.")
    if not is_user_key(public_key):
        raise CannotEnrol("That is not the public key of a NATS user.")
    return RunnerEnrolled(at=round(now, 3), actor=actor, server=server, public_key=public_key)


async def answer_enrolments(ledger: "Ledger", signer: Signer | None) -> None:
    """Answer runners that ask with an enrolment login; nothing to do without a key."""
    if signer is None:
        return

    async def enrol(request: Json) -> Json:
        server, public_key = str(request.get("server")), str(request.get("public_key"))
        try:
            fact = enrolled(server, public_key, BY_LOGIN, time.time())
        except CannotEnrol as error:
            return {"error": str(error)}
        await ledger.append(fact, id=f"enrol-{secrets.token_hex(8)}")
        log.info("Enrolled a runner", action="runner_enrolled", server=server)
        return {"token": signer.token("runner", public_key, server)}

    await live.answer(ledger, SUBJECT, enrol, queue=QUEUE)
