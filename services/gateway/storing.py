"""Storing what the views leave: the one writer of the history's file, and its readers.

Facts are gathered into transactions; rows and position are written together. A long history is
stored by a process of its own (scribe.py) for as long as it takes to read it. Knows nothing of
what the rows mean, nor who asks for them.
"""

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from projections import store
from projections.history import Entry, History
from projections.store import condemn, is_damage, open_reader, open_store
from services import logs
from services.errors import StartupError
from services.gateway.dictation import Dictated, Dictation, Handed, Reading, with_records
from services.gateway.scribe import Scribe, ScribeGone

# Facts per transaction: more would only make readers wait longer.
_BATCH = 2500
# A transaction costs far more than a row: facts are gathered this long (seconds), unless somebody
# asks for what is not stored yet, or there is enough for one.
_GATHER = 0.25
_ENOUGH = 2000
_READERS = 2
# Folding in memory may be faster than SQLite: when so many facts wait for the writer it does more
# itself, and then it waits.
_MANY_PENDING = 4000
_MOST_PENDING = 8000
# To be worth a process that stores them, so many facts must be new.
_LONG = 20_000
# So many transactions are sent to it before it has confirmed the one before them.
_AHEAD = 1
# A full disk or a locked file is tried again after this many seconds.
_AGAIN = 1.0

log = logs.logger("gateway")

T = TypeVar("T")


class ViewDamaged(StartupError):
    """The history file cannot be used any more; the next start rebuilds it from the ledger."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(f"The view {path} is damaged ({error}); the next start rebuilds it.")


class _Part(Struct, frozen=True, gc=False):
    """What `count` facts up to a sequence leave: in pieces, written down for the scribe or not."""

    pieces: list[Dictated | Sequence[Handed]]
    upto: int
    count: int


class HistoryWriter:
    """The one writer of the history file, in a thread of its own, and some reading threads."""

    def __init__(self, path: Path, ledger: str, end: int) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self._connection = open_store(path, ledger, end)
        self._history = History(self._connection)
        self.position = self._history.position
        self._end = end
        self._scribe = Scribe(path, ledger, end) if end - self.position >= _LONG else None
        self._dictation, self._reading = Dictation(), Reading()
        self._pending: deque[_Part] = deque()
        self._waiting_facts = 0
        self._under_way: deque[_Part] = deque()  # the writing thread's, and not known to be stored
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._closing = asyncio.Event()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="history-writer")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="history-reader")
        self._local = threading.local()

    def add(self, entries: Sequence[Handed], upto: int, count: int) -> None:
        """Have what `count` facts up to this sequence leave stored soon, in one transaction."""
        if upto <= self.position:
            return
        piece: Dictated | Sequence[Handed] = entries
        if self._scribe is not None:
            with suppress(OverflowError):
                piece = self._dictation.write(entries)
        self._pending.append(_Part([piece], upto, count))
        self._waiting_facts += count
        if self._waiting_facts >= _ENOUGH:
            self._asked.set()
        if self._writing is None or self._writing.done():
            self._writing = self._loop.create_task(self._write())

    async def ask(self, ask: Callable[[History], T], upto: int) -> T:
        """Ask in a reading thread, once everything up to `upto` is stored."""
        await self._stored(upto)
        return await self._loop.run_in_executor(self._readers, self._read, ask)

    async def _stored(self, upto: int) -> None:
        """Wait until everything up to this sequence is stored."""
        if upto > self.position:
            future: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append((upto, future))
            self._asked.set()
            await future

    async def breathe(self) -> None:
        """Wait while too much is not stored yet, so that it does not fill the memory."""
        while self._waiting_facts > _MOST_PENDING:
            await self._stored(self._pending[0].upto)

    @property
    def is_busy(self) -> bool:
        """Whether what the writer is spared will be stored sooner."""
        return self._waiting_facts > _MANY_PENDING

    def kept_states(self) -> list[tuple[int, bytes]]:
        """See store.kept_states; only before the first fact is added."""
        return store.kept_states(self._connection)

    async def keep_state(self, position: int, state: bytes) -> None:
        """See store.keep_state; waits until the rows are stored up to there."""
        await self._stored(position)
        try:
            self._note_stored(
                await self._loop.run_in_executor(self._writer, self._keep, position, state)
            )
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                self._fail(error)
            raise

    def _read(self, ask: Callable[[History], T]) -> T:
        try:
            if not hasattr(self._local, "history"):
                self._local.history = History(open_reader(self._path))
            return ask(self._local.history)
        except sqlite3.DatabaseError as error:
            if is_damage(error):
                self._loop.call_soon_threadsafe(self._fail, error)
            raise

    async def _write(self) -> None:
        failed = False
        while self._pending or self._under_way:
            batch = None
            if self._pending and not failed:
                await self._gather()
                batch = self._take()
            try:
                stored = await self._loop.run_in_executor(self._writer, self._store, batch)
            except sqlite3.DatabaseError as error:
                if is_damage(error):
                    self._fail(error)
                    return
                if self._closing.is_set():
                    return
                log.warning("History waits", action="history_waits", reason=str(error))
                failed = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN):
                        await self._closing.wait()
                continue
            failed = False
            self._note_stored(stored)

    def _note_stored(self, upto: int) -> None:
        """Everything up to this sequence is stored: tell who waits for it."""
        self.position = max(self.position, upto)
        ready = [future for sequence, future in self._waiters if sequence <= self.position]
        self._waiters = [w for w in self._waiters if w[0] > self.position]
        for future in ready:
            if not future.done():
                future.set_result(None)

    # --- in the writing thread ---------------------------------------------------------------

    def _store(self, batch: _Part | None) -> int:
        """Store this, and wait for what is under way: all of it, if there is nothing new.

        Returns up to where all is stored. What is under way when an error is raised remains so:
        the next call stores it.
        """
        if batch is not None:
            self._under_way.append(batch)
        try:
            if self._scribe is not None:
                return self._dictate(self._scribe, batch)
        except ScribeGone as error:
            log.warning("The scribe is gone", action="scribe_gone", reason=str(error))
            self._dismiss()
        except sqlite3.DatabaseError:
            self._dismiss()
            raise
        return self._store_here()

    def _dictate(self, scribe: Scribe, batch: _Part | None) -> int:
        """Have the scribe store this; it ends once what was there at the start is stored."""
        stored, ahead = self.position, 0
        if batch is not None:
            dictated = [piece for piece in batch.pieces if isinstance(piece, Dictated)]
            if len(dictated) < len(batch.pieces):  # it would not understand the others
                while len(self._under_way) > 1:
                    scribe.confirm()
                    self._under_way.popleft()
                return self._store_here()
            scribe.send(dictated, batch.upto)
            ahead = _AHEAD if batch.upto < self._end else 0
        while len(self._under_way) > ahead:
            scribe.confirm()
            stored = self._under_way.popleft().upto
        if stored >= self._end:
            self._dismiss()
        return stored

    def _store_here(self) -> int:
        stored = self.position
        while self._under_way:
            part = self._under_way[0]
            entries: list[Entry] = []
            for piece in part.pieces:
                if isinstance(piece, Dictated):
                    entries += self._reading.entries(piece.data, piece.outlines)
                else:
                    entries += with_records(piece)
            self._history.apply_batch(entries, part.upto)
            stored = self._under_way.popleft().upto
        return stored

    def _keep(self, position: int, state: bytes) -> int:
        """Keep a snapshot while nobody else writes; up to where all is stored."""
        stored = self._store(None)
        store.keep_state(self._connection, position, state)
        return stored

    def _dismiss(self) -> None:
        if self._scribe is not None:
            self._scribe.close()
            self._scribe = None

    # --- in the loop -------------------------------------------------------------------------

    def _take(self) -> _Part:
        """What goes into the next transaction; a part goes in whole."""
        pieces: list[Dictated | Sequence[Handed]] = []
        upto = count = 0
        while self._pending and count < _BATCH:
            part = self._pending.popleft()
            pieces += part.pieces
            upto, count = part.upto, count + part.count
        self._waiting_facts -= count
        return _Part(pieces, upto, count)

    async def _gather(self) -> None:
        """Let more facts come, unless somebody waits for these, or they are enough."""
        if not self._waiters and self._waiting_facts < _ENOUGH:
            self._asked.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_GATHER):
                    await self._asked.wait()

    def _fail(self, error: sqlite3.DatabaseError) -> None:
        """The file is damaged: have it rebuilt at the next start, and end this one."""
        condemn(self._path)
        if not self.failed.done():
            self.failed.set_exception(ViewDamaged(self._path, error))

    async def close(self) -> None:
        """Store what is pending, if the disk lets; the threads end."""
        self._closing.set()
        if self._writing is not None:
            await self._writing
        await self._loop.run_in_executor(self._writer, self._dismiss)
        self.failed.cancel()
        self._writer.shutdown()
        self._readers.shutdown()
