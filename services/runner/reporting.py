"""Builds the report of a job's end and stores what is too large for it (design.md 7, 8).

The log and the files go to CHUNKS first, then the report names them. Storing is tried until it
succeeds: NATS may be down for hours.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from domain.facts import Blob, Json, to_plain
from domain.ids import make_id
from services.ledger.chunks import write_chunks
from services.ledger.connection import LedgerUnavailable
from services.logs import logger
from services.runner.files import distinct_names, output_files, read_file

if TYPE_CHECKING:
    from services.ledger.connection import Ledger

LARGE_VALUE = 64 * 1024
"""Bytes of JSON from which a value goes to CHUNKS instead of into the report."""

NEVER_REPORTED = frozenset({"timelines"})
"""Telemetry is kept outside the ledger, however small it is (execution.md 15)."""

RETRY_WAIT = 0.5
# Logs and files on their way at the same time; each keeps a few chunks in memory.
AT_ONCE = 4

log = logger("reporting")


class Store:
    """Writes bytes of jobs to CHUNKS, for ever until it succeeds."""

    def __init__(self, ledger: "Ledger", server: str) -> None:
        self._ledger = ledger
        self._server = server
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def write(self, job: str, parts: Callable[[], Iterable[bytes]]) -> Blob:
        """Store the bytes that `parts()` gives; it is called anew for every try.

        Raises OSError if they cannot be read.
        """
        subject = f"chunks.{self._server}.{job}"
        async with self._slots:
            while True:
                try:
                    return await write_chunks(self._ledger, subject, parts())
                except LedgerUnavailable as error:
                    log.debug("Storing waits", action="store_waits", job=job, reason=str(error))
                    await self._pause()

    async def _pause(self) -> None:
        if self._ledger.connected:
            await asyncio.sleep(RETRY_WAIT)
        else:
            await self._ledger.wait_connected(30.0)

    async def split(self, job: str, report: Json) -> tuple[Json, dict[str, Blob]]:
        """The report without its large values, and where those are."""
        small: Json = {}
        large: dict[str, Blob] = {}
        for key, value in report.items():
            data = _encoded_if_large(value, always=key in NEVER_REPORTED)
            if data is None:
                small[key] = value
            else:
                large[key] = await self.write(job, lambda data=data: [data])  # type: ignore[misc]
        return small, large

    async def store_files(self, job: str, work: Path, named: Any) -> tuple[list[Json], list[str]]:
        """Store a job's output files one after another; their records, and remarks.

        Raises OSError if one cannot be read.
        """
        root = await asyncio.to_thread(work.resolve)
        chosen, remarks = await asyncio.to_thread(output_files, root, named)
        names = distinct_names(file.filename for file in chosen)
        records: list[Json] = []
        for number, (file, name) in enumerate(zip(chosen, names, strict=True)):
            blob = await self.write(job, partial(read_file, root, file.path))
            now = time.time()
            records.append(
                {
                    "id": make_id("f", now, number, secrets.token_bytes(8)),
                    "date": int(now),
                    "filename": name,
                    "path": f"files/jobs/{job}/{secrets.token_urlsafe(32)}/{name}",
                    "size": blob.size,
                    "server": self._server,
                    "job": job,
                    "blob": to_plain(blob),
                }
            )
        return records, remarks


def _encoded_if_large(value: Any, *, always: bool) -> bytes | None:
    if not isinstance(value, str | dict | list):
        return None
    data = json.dumps(value, separators=(",", ":")).encode()
    return data if always or len(data) > LARGE_VALUE else None
