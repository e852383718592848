"""Logins for NATS: of runners on other servers, and of programs that follow the facts.

The private key stays with whoever made it: a caller that sends a `public_key` gets the token that
goes with it; for others the key is made here, shown once and kept nowhere (docs/enrolment.md).
"""

import os
from collections.abc import Callable
from pathlib import Path

from domain.errors import BadRequest, RuleBroken
from domain.facts import Fact, Json, RunnerEnrolled, SubscriberEnrolled
from domain.ids import check_id
from services.gateway.endpoint import Call, Routes
from services.gateway.gateway import Decision
from services.gateway.params import Params
from services.gateway.replies import Payload
from services.ledger.access import CA_VARIABLE
from services.ledger.authority import Signer
from services.ledger.credentials import KeyPair, Login, is_user_key, without_login

api = Routes("Logins for NATS")

_FIELDS = {
    "id": "string!",
    "public_key": "string, of the NATS key (U...) whose private part the caller has",
}


def _asked(params: Params) -> tuple[str, str | None]:
    public_key = params.text("public_key")
    if public_key is not None and not is_user_key(public_key):
        raise BadRequest("Parameter 'public_key' is not the public key of a NATS user.")
    return check_id(params.id()), public_key


@api.endpoint(
    "enroll_runner",
    "Make a login for the runner of a server; NATS is not restarted.",
    parse=_asked,
    privilege="admin",
    mutating=True,
    fields=_FIELDS,
    example={"id": "west1"},
)
async def enroll_runner(call: Call, asked: tuple[str, str | None]) -> Payload:
    """The login may write and read what belongs to this one server (design.md 14)."""
    return await _enrol(call, "runner", *asked, fact=_runner_fact(call, asked[0]))


@api.endpoint(
    "enroll_subscriber",
    "Make a login that may follow the facts, and nothing else.",
    parse=_asked,
    privilege="admin",
    mutating=True,
    fields=_FIELDS,
    example={"id": "warehouse"},
)
async def enroll_subscriber(call: Call, asked: tuple[str, str | None]) -> Payload:
    """Read-only, and without access, secrets and orders (design.md 3.1)."""
    return await _enrol(call, "subscriber", *asked, fact=_subscriber_fact(call, asked[0]))


def _runner_fact(call: Call, id: str) -> Callable[[str], Fact]:
    return lambda key: RunnerEnrolled(at=call.now, actor=call.actor, server=id, public_key=key)


def _subscriber_fact(call: Call, id: str) -> Callable[[str], Fact]:
    return lambda key: SubscriberEnrolled(at=call.now, actor=call.actor, name=id, public_key=key)


async def _enrol(
    call: Call, role: str, id: str, public_key: str | None, *, fact: Callable[[str], Fact]
) -> Payload:
    signer = call.gateway.signer
    if signer is None:
        raise RuleBroken("enrol", "This gateway has no enrolment key: see docs/enrolment.md.")
    pair = None if public_key else KeyPair.new("user")
    public = pair.public if pair else str(public_key)
    await call.gateway.submit(call, lambda: Decision(fact(public)))
    token = signer.token(role, public, id)
    reply: Json = {"id": id, "token": token, "address": _address(call, signer)}
    if pair is not None:
        login = Login.from_token(token, pair.seed)
        reply |= {"url": login.url(reply["address"]), "creds": login.creds()}
    if os.environ.get(CA_VARIABLE):
        reply["ca"] = _authority()
    return reply


def _authority() -> str:
    """The certificate authority that this gateway trusts; its clients shall as well."""
    return Path(os.environ[CA_VARIABLE]).read_text()


def _address(call: Call, signer: Signer) -> str:
    return signer.address or without_login(call.gateway.settings.nats_url)
