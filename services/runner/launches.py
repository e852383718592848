"""What a job is launched with: its definitions, its request, its secrets (design.md 7).

The definitions of one `made_of` never change, so they are asked for once and cached. Secrets
are asked for with each job that has any, and are neither cached nor written.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from domain.assembly import Assembly, Made, on_server
from domain.facts import JobAssigned, JobRequested, Json, from_plain
from services.ledger import live
from services.ledger.connection import LedgerUnavailable
from services.logs import logger
from services.runner.errors import CannotStart

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

CACHED = 2000
ANSWER_WAIT = 5.0
RETRY_WAIT = 0.25
REFUSALS = 5
# So many launches are asked for in one message.
TOGETHER = 32
# How long "no secrets are assigned" is believed; an assignment changes no definition.
BELIEVED = 10.0

HOOK_PLUGIN = "[hook-plugin]"
"""The command of the plugin whose job is a web hook."""

log = logger("launches")


class Launch(Struct, frozen=True):
    """Everything needed to start a job. `secrets` are variable names and values.

    `document` holds the job's keys and the groups of its server; the params that name these, or
    the server, are expanded.
    """

    document: Json
    plugin: Json
    secrets: Json


_Key = tuple[str, int, int, int, int]


@dataclass(slots=True)
class _Cached:
    made: Made
    secret: bool
    believed_until: float


class Launches:
    """Asks the schedulers and remembers what does not change."""

    def __init__(
        self, ledger: "Ledger", server: str, boot: str, *, hostname: str, groups: Sequence[str]
    ) -> None:
        self._ledger = ledger
        self._subject = f"live.launch.{server}"
        self._server = server
        self._boot = boot
        self._record: Json = {"id": server, "hostname": hostname, "groups": list(groups)}
        self._groups = groups
        self._cache: OrderedDict[_Key, _Cached] = OrderedDict()
        self._assembly = Assembly()
        self._first: dict[_Key, asyncio.Future[None]] = {}
        self._asked: list[tuple[Json, asyncio.Future[Json]]] = []
        self._asking: set[asyncio.Task[None]] = set()

    def at_hand(self, assigned: JobAssigned) -> Launch | None:
        """The launch, if nothing has to be asked for."""
        known = self._cache.get(_key(assigned))
        if known is None or assigned.launch is None or known.secret:
            return None
        if (assigned.launch.get("input") or {}).get("files"):
            return None
        if known.made.plugin.get("command") == HOOK_PLUGIN:
            return None
        if asyncio.get_running_loop().time() > known.believed_until:
            return None
        return self._launch(known.made, assigned, assigned.launch, {})

    async def fetch(self, order: int, assigned: JobAssigned) -> Launch:
        """The launch, asked for until a scheduler answers.

        Where only definitions are missing that many wait for, one asks for them. Raises CannotStart
        if the answer is that there is none.
        """
        key = _key(assigned)
        if key in self._cache or assigned.launch is None:
            return await self._fetch(order, assigned)
        if key in self._first:
            await asyncio.wait((self._first[key],))
            return self.at_hand(assigned) or await self._fetch(order, assigned)
        self._first[key] = first = asyncio.get_running_loop().create_future()
        try:
            return await self._fetch(order, assigned)
        finally:
            del self._first[key]
            first.set_result(None)

    async def _fetch(self, order: int, assigned: JobAssigned) -> Launch:
        known = self._cache.get(_key(assigned))
        needs = {"need_records": known is None, "need_launch": assigned.launch is None}
        answer = await self._granted(self._head(order, assigned) | needs)
        secrets = answer.get("secrets") or {}
        made = known.made if known else _made(answer.get("records") or {})
        self._remember(_key(assigned), made, bool(secrets))
        launch = assigned.launch if assigned.launch is not None else answer.get("launch") or {}
        return self._launch(made, assigned, launch, secrets)

    async def fired_hook(self, order: int, assigned: JobAssigned) -> Json:
        """Have the web hook fired that the job is about; what became of it (plugins.md 9.5).

        Raises CannotStart if a scheduler refuses.
        """
        request = self._head(order, assigned) | {"hook": True, "patient": True}
        answer = await self._granted(request, together=False)
        while answer.get("pending"):
            await asyncio.sleep(RETRY_WAIT)
            answer = await self._granted(request, together=False)
        return answer

    async def file_parts(
        self, order: int, assigned: JobAssigned, file: Json
    ) -> AsyncIterator[bytes]:
        """The bytes of an input file, part by part; an empty answer is the end.

        Raises CannotStart if the schedulers do not have it.
        """
        offset = 0
        while True:
            request = self._head(order, assigned) | {"file": file.get("id"), "offset": offset}
            answer = await self._ask_raw(request)
            if "File-Error" in answer.headers:
                raise CannotStart(f"Setup Error: {answer.headers['File-Error']}")
            if "File-Size" not in answer.headers:
                raise CannotStart(f"Setup Error: Input file not found: {file.get('filename')}")
            if not answer.data:
                return
            yield answer.data
            offset += len(answer.data)

    def _head(self, order: int, assigned: JobAssigned) -> Json:
        return {
            "server": self._server,
            "boot": self._boot,
            "job": assigned.job,
            "order": order,
        }

    def _launch(self, made: Made, assigned: JobAssigned, launch: Json, secrets: Json) -> Launch:
        try:
            spec = self._assembly.spec(made, _request(assigned, launch))
        except ValueError as error:
            raise CannotStart(f"Setup Error: the launch is not readable: {error}") from error
        changes = launch.get("changes")
        if isinstance(changes, dict):
            spec = structs.replace(spec, document=spec.document | changes)
        groups = launch.get("groups")
        groups = groups if isinstance(groups, list) else list(self._groups)
        document = on_server(spec, self._record | {"groups": groups}, groups)
        return Launch(document | {"groups": groups}, made.plugin, secrets)

    def _remember(self, key: _Key, made: Made, secret: bool) -> None:
        believed = asyncio.get_running_loop().time() + BELIEVED
        self._cache[key] = _Cached(made, secret, believed)
        self._cache.move_to_end(key)
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)

    async def _granted(self, request: Json, *, together: bool = True) -> Json:
        """The answer to a request for a launch, which may go with others; or for what it needs.

        A scheduler that is behind, or has not seen this boot join, refuses at first.
        """
        answer = await (self._ask_with_others(request) if together else self._ask(request))
        for attempt in range(REFUSALS):
            if not answer.get("error"):
                return answer
            log.info("A launch was refused", action="launch_refused", reason=answer["error"])
            await asyncio.sleep(RETRY_WAIT * (attempt + 1))
            answer = await self._ask(request)
        raise CannotStart(f"Setup Error: {answer['error']}")

    async def _ask_with_others(self, request: Json) -> Json:
        """The answer to a request that is sent together with all others of this turn."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._ask_together)
        future: asyncio.Future[Json] = loop.create_future()
        self._asked.append((request, future))
        return await future

    def _ask_together(self) -> None:
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), TOGETHER):
            task = asyncio.create_task(self._ask_each(asked[start : start + TOGETHER]))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask_each(self, asked: Sequence[tuple[Json, "asyncio.Future[Json]"]]) -> None:
        """Ask until each is answered; those of one message may be answered in several."""
        while asked:
            requests = [request for request, _ in asked]
            answers: list[Json] = []
            if len(asked) > 1:
                answers = (await self._ask({"orders": requests})).get("answers") or []
            if not answers:  # one alone, or a scheduler of an earlier release
                answers = await asyncio.gather(*map(self._ask, requests))
            for (_, future), answer in zip(asked, answers, strict=False):
                if not future.done():  # its job may be aborted
                    future.set_result(answer)
            asked = asked[len(answers) :]

    async def _ask(self, request: Json) -> Json:
        return _object((await self._ask_raw(request)).data)

    async def _ask_raw(self, request: Json) -> live.RawAnswer:
        while True:
            try:
                return await live.ask_raw(self._ledger, self._subject, request, ANSWER_WAIT)
            except LedgerUnavailable as error:
                log.debug("No scheduler answers yet", action="launch_waits", reason=str(error))
                await asyncio.sleep(RETRY_WAIT)


def _object(data: bytes) -> Json:
    answer = live.read_object(data)
    return {"error": "The answer is not readable."} if answer is None else answer


def _key(assigned: JobAssigned) -> _Key:
    made = assigned.made_of
    return (assigned.event, made.event, made.category, made.plugin, made.config)


def _made(records: Json) -> Made:
    return Made(
        event=records.get("event") or {},
        category=records.get("category") or {},
        plugin=records.get("plugin") or {},
        config=records.get("config") or {},
    )


def _request(assigned: JobAssigned, launch: Json) -> JobRequested:
    """The JobRequested in an order or an answer; what the order says itself wins."""
    own = {"event": assigned.event, "job": assigned.job, "made_of": assigned.made_of}
    return from_plain(JobRequested, {**launch, **own})
