"""Lives of jobs written straight onto a ledger, and a scan for what is left of them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import zstandard

from domain import facts as f
from domain.audit import RawFact
from services.ledger.chunks import write_chunks
from services.ledger.connection import Ledger
from services.ledger.raw import raw_at, read_raw
from services.scheduler.service import Scheduler
from services.settings import Settings

WHO = f.Actor(type="user", id="anna")
PATIENCE = 20.0


async def write_job(
    ledger: Ledger, job: str, *, event: str = "backup", secret: str = "", **request: object
) -> list[int]:
    """A job that ran to its end; `secret` stands in its params, its report and its log."""
    at = time.time()
    who = f.Actor(type="runner", id="boot1")
    asked = f.from_plain(
        f.JobRequested,
        {
            "at": at,
            "actor": WHO,
            "event": event,
            "job": job,
            "made_of": {"event": 0},
            "source": "user",
            "username": "anna",
            "now": at,
            "overrides": {"params": {"word": secret}},
        }
        | request,
    )
    sequences = [await ledger.append(asked, id=f"{job}-asked")]
    assigned = f.JobAssigned(
        at=at, actor=WHO, server="s1", boot="boot1", event=event, job=job, attempt=1,
        made_of=asked.made_of, launch={"overrides": asked.overrides},
    )  # fmt: skip
    order = await ledger.append(assigned, id=f"{job}-order")
    started = f.JobStarted(
        at=at, actor=who, server="s1", boot="boot1", event=event, job=job, order=order,
        pid=1, started=at,
    )  # fmt: skip
    log = await write_chunks(ledger, f"chunks.s1.{job}", [secret.encode()])
    finished = f.JobFinished(
        at=at, actor=who, server="s1", boot="boot1", event=event, job=job, order=order,
        code=0, description=secret, ended=at, log=log, report={"label": secret},
    )  # fmt: skip
    completed = f.JobCompleted(
        at=at, actor=WHO, event=event, job=job, code=0, description=secret, tags=["_success"]
    )
    tagged = f.JobTagged(at=at, actor=WHO, event=event, job=job, tags=[secret or "t"])
    sequences.append(order)
    rest = (started, finished, completed, tagged)
    return sequences + [await ledger.append(fact, id=f"{job}-{fact.kind}") for fact in rest]


@contextlib.asynccontextmanager
async def leading_scheduler(
    ledger: Ledger, data_dir: Path, **settings: object
) -> AsyncIterator[Scheduler]:
    """A scheduler that leads this ledger."""
    made = Settings(**{"data_dir": data_dir, "timezone": "UTC"} | settings)
    scheduler = Scheduler(made, ledger, time.time)
    task = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(what: str, found: Callable[[], object]) -> None:
    """Wait until this is so; a failure says what was waited for."""
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        await asyncio.sleep(0.02)


async def gone(ledger: Ledger, sequences: list[int]) -> None:
    """Wait until none of these facts is there any more."""
    end = time.monotonic() + PATIENCE
    left = sequences
    while left:
        assert time.monotonic() < end, f"facts {left} are still there after {PATIENCE} s"
        await asyncio.sleep(0.02)
        left = [sequence for sequence in left if await raw_at(ledger, sequence) is not None]


async def everything(ledger: Ledger) -> list[RawFact]:
    """All facts as they are stored."""
    end = await ledger.end()
    return [raw async for batch in read_raw(ledger, after=0, upto=end) for raw in batch]


async def found_in(ledger: Ledger, text: str) -> list[str]:
    """Where a text can still be read, on the ledger or in chunks."""
    places = [
        f"fact {raw.sequence}" for raw in await everything(ledger) if text.encode() in raw.data
    ]
    state = (await ledger.api("STREAM.INFO.CHUNKS"))["state"]
    chunks = read_raw(
        ledger, after=0, upto=state["last_seq"], subjects=("chunks.>",), stream="CHUNKS"
    )
    unpack = zstandard.ZstdDecompressor()
    async for batch in chunks:
        places += [
            f"chunk {raw.sequence} on {raw.subject}"
            for raw in batch
            if text.encode() in unpack.decompress(raw.data, max_output_size=1 << 20)
        ]
    return places
