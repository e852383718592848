"""The verbs `key create`, `key list`, `key revoke` and `user password`: accounts by hand.

They write to the ledger themselves, so they also help when no gateway runs or no key is left:
whoever owns the data directory may do this. Running gateways follow at once.
"""

import asyncio
import secrets
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import DataDir, Nats
from services.errors import StartupError

if TYPE_CHECKING:
    from domain.facts import Json
    from projections.access import Access
    from services.ledger.connection import Ledger
    from services.settings import Settings

_SUBJECTS = ("facts.access.>", "facts.catalog.role.>")
_DAY = 86400
# A century: nobody means more, and calendars end somewhere.
_LONGEST_DAYS = 36525
_TRIES = 5
# Nothing is cut off: a terminal wraps, and a program reads whole lines.
_WIDE = 100_000

Names = list[str] | None


def create_key(
    title: Annotated[str, typer.Argument(help="What the key is for.")],
    data_dir: DataDir = None,
    nats: Nats = None,
    privilege: Annotated[
        Names, typer.Option("--privilege", metavar="P", help="Like run_jobs; repeatable.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="The privilege to do all.")] = False,
    role: Annotated[Names, typer.Option("--role", metavar="ID", help="Repeatable.")] = None,
    category: Annotated[
        Names, typer.Option("--category", metavar="ID", help="Only this one; repeatable.")
    ] = None,
    group: Annotated[
        Names, typer.Option("--group", metavar="ID", help="Only this one; repeatable.")
    ] = None,
    days: Annotated[
        float | None, typer.Option("--days", help="It expires after so many days.")
    ] = None,
    max_per_sec: Annotated[
        int | None, typer.Option("--max-per-sec", min=0, help="Calls per second; 0 = no limit.")
    ] = None,
) -> None:
    """Make an API key. Its text is printed this once and kept nowhere."""
    from domain.accounts import decide_create_key
    from domain.commands import CreateApiKey
    from domain.ids import make_id
    from services.cli import tools
    from services.ledger.secrets import hash_api_key, mask_of

    _check_privileges(privilege or [])
    if days is not None and not 0 < days <= _LONGEST_DAYS:
        raise StartupError(f"--days takes a number above 0, at most {_LONGEST_DAYS}.")
    settings = _settings(data_dir, nats)
    secret = tools.existing_secret(settings)
    plain, now = secrets.token_urlsafe(32), time.time()
    fields: Json = {"title": title, "privileges": dict.fromkeys(privilege or [], True)}
    if admin:
        fields["privileges"]["admin"] = True
    given: Json = {"roles": role, "categories": category, "groups": group}
    given |= {"max_per_sec": max_per_sec, "expires": days and int(now + days * _DAY)}
    fields |= {name: value for name, value in given.items() if value}
    by, actor = _myself()
    id = make_id("k", now, 0, secrets.token_bytes(8))
    command = CreateApiKey(by, actor, id, fields, hash_api_key(secret, plain), mask_of(plain))

    def decide(access: "Access") -> list[Any]:
        unknown = next((id for id in role or [] if id not in access.roles), None)
        if unknown is not None:
            raise StartupError(f"There is no role {unknown}.")
        return [decide_create_key(command, access, now)]

    _write(settings, decide)
    print(f"The key {id} is made; its text is shown this once:", file=sys.stderr)
    print(plain)


def list_keys(data_dir: DataDir = None, nats: Nats = None) -> None:
    """List the API keys, with the ends of their texts."""
    from rich.console import Console
    from rich.table import Table

    from services.cli import tools

    settings = _settings(data_dir, nats)
    access = tools.run(_read(settings))
    table = Table(box=None)
    for name in ("Id", "Text", "State", "Title", "Privileges", "Roles", "Limits"):
        table.add_column(name, no_wrap=True)
    for id, key in access.keys.items():
        limits = [*(key.get("categories") or []), *(key.get("groups") or [])]
        table.add_row(
            id,
            str(key.get("mask")),
            _state(key, time.time()),
            str(key.get("title")),
            " ".join(name for name, yes in (key.get("privileges") or {}).items() if yes),
            " ".join(map(str, key.get("roles") or [])),
            " ".join(map(str, limits)),
        )
    Console(width=_WIDE, markup=False).print(table, crop=False)


def revoke_key(
    id: Annotated[str, typer.Argument(help="The key's id, as `key list` shows it.")],
    data_dir: DataDir = None,
    nats: Nats = None,
) -> None:
    """Delete an API key. Every gateway refuses it at once."""
    from domain.accounts import decide_delete_key
    from domain.commands import DeleteApiKey

    by, actor = _myself()
    command = DeleteApiKey(by, actor, id)
    _write(
        _settings(data_dir, nats),
        lambda access: [decide_delete_key(command, access, time.time())],
    )
    print(f"The key {id} is deleted.")


def set_password(
    name: Annotated[str, typer.Argument(help="The user's name.")],
    data_dir: DataDir = None,
    nats: Nats = None,
) -> None:
    """Set a user's password: asked for, or the first line of standard input."""
    from domain.accounts import set_password
    from domain.errors import BadRequest
    from domain.facts import SessionEnded
    from services.gateway.passwords import check_password, hash_now

    settings = _settings(data_dir, nats)
    try:
        hash = hash_now(check_password(_asked(name)))
    except BadRequest as error:
        raise StartupError(error.description) from error
    _, actor = _myself()

    def decide(access: "Access") -> list[Any]:
        now = time.time()
        changed = set_password(name, hash, access, actor, now)
        ended = [
            SessionEnded(at=now, actor=actor, id=changed.id, session=session)
            for session in access.sessions_of(changed.id)
        ]
        return [changed, *ended]

    _write(settings, decide)
    print(f"The password of {name} is set; sessions that were open have ended.")


# --- steps -------------------------------------------------------------------------------------


def _settings(data_dir: Any, nats: str | None) -> "Settings":
    from services.cli import tools
    from services.settings import load_settings

    settings = load_settings(data_dir=data_dir, nats=nats)
    tools.check_data_dir(settings.data_dir)
    return settings


def _check_privileges(named: list[str]) -> None:
    """StartupError for a misspelled one: the key would be made, and could do nothing."""
    from difflib import get_close_matches

    from domain.access import PRIVILEGES

    for name in named:
        if name not in PRIVILEGES:
            alike = get_close_matches(name, sorted(PRIVILEGES), 1)
            hint = f": did you mean {alike[0]}?" if alike else "."
            raise StartupError(f"There is no privilege {name}{hint}")


def _myself() -> tuple[Any, Any]:
    """Who the facts name: the person at this machine's terminal may do all."""
    from domain.access import SYSTEM
    from domain.facts import Actor

    return SYSTEM, Actor(type="system", id="command_line")


def _asked(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    text: str = typer.prompt(f"New password of {name}", hide_input=True, confirmation_prompt=True)
    return text


def _state(key: "Json", now: float) -> str:
    if not key.get("active"):
        return "inactive"
    expires = key.get("expires")
    if not isinstance(expires, int | float) or not expires:
        return "active"
    if now >= expires:
        return "expired"
    try:
        return f"until {time.strftime('%Y-%m-%d', time.localtime(expires))}"
    except (OverflowError, OSError, ValueError):  # any number may come over the API
        return "active"


def _write(settings: "Settings", decide: Callable[["Access"], list[Any]]) -> None:
    """Record what is decided on the accounts as they are; StartupError if it is refused."""
    from domain.errors import DomainError
    from services.cli import tools

    try:
        tools.run(_submit(settings, decide))
    except DomainError as error:
        raise StartupError(error.description) from error


async def _submit(settings: "Settings", decide: Callable[["Access"], list[Any]]) -> None:
    from domain.subjects import access_subject
    from services.cli import tools
    from services.ledger.errors import WrongSequence

    async with tools.reach_ledger(settings) as ledger:
        await tools.ledger_id(ledger)
        for _ in range(_TRIES):
            access = await _accounts(ledger)
            facts = decide(access)
            id = facts[0].id
            named = [(f"{secrets.token_hex(10)}-{n}", fact) for n, fact in enumerate(facts)]
            expect = {access_subject(id): access.sequences.get(id, 0)}
            try:
                await ledger.append_all(named, expect=expect)
            except WrongSequence:
                continue
            return
    raise StartupError("Others keep changing this account; try again.")


async def _read(settings: "Settings") -> "Access":
    from services.cli import tools

    async with tools.reach_ledger(settings) as ledger:
        await tools.ledger_id(ledger)
        return await _accounts(ledger)


async def _accounts(ledger: "Ledger") -> "Access":
    """All accounts as they are now."""
    from projections.access import Access
    from services.ledger.reader import Follower

    access = Access()
    follower = Follower(ledger, access.apply, after=0, subjects=_SUBJECTS)
    following = asyncio.create_task(follower.run())
    caught_up = asyncio.create_task(follower.caught_up.wait())
    try:
        await asyncio.wait({following, caught_up}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        return access
    finally:
        following.cancel()
        caught_up.cancel()
        await asyncio.gather(following, caught_up, return_exceptions=True)
