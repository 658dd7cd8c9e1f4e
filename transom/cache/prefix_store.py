"""`SqlitePrefixStore`: which blocks of the cold files are published, across restarts. Owns the background thread.

A row is written after the bytes that it speaks of are durable; many rows share a transaction. Whatever goes wrong with
the database is a counter, a line in the log and a miss after the next start, never an error of a request. Rows may be
out of date, since a place can get other bytes before its row is gone: checksums tell.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transom.cache.file_system import FileSystem, OpenFile
from transom.cache.prefix_database import MAX_CHANGES, DatabaseSize, PrefixDatabase, is_corrupt, remove_database
from transom.cache.prefix_row import PrefixRow
from transom.errors import ConfigError

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""So long `close` waits for what is to be written."""
RETRY_SECONDS = (1.0, 5.0, 30.0)
"""Pauses after failures in a row; the last one again and again."""
_GATHER_SECONDS = 0.05
"""What is published within so long shares a transaction."""


@dataclass(frozen=True, slots=True)
class PrefixStoreStats:
    """Counted from the start."""

    num_rows: int = 0
    """Rows that are published, or will be at once."""
    num_damaged_rows: int = 0
    """Found at the start, and thrown away."""
    num_errors: int = 0
    """Failed transactions and syncs."""


class PrefixStore(Protocol):
    """What the cache needs of whatever remembers blocks across restarts. Never raises, never waits but to `close`."""

    def publish(self, rows: Iterable[PrefixRow]) -> None:
        """These blocks are in the cold files: a later start is to find them. Also to say that one was used again."""

    def forget(self, places: Iterable[int]) -> None:
        """What lies at these places (`place_of`) is not to be found any more."""

    def flush(self, seconds: float) -> bool:
        """Waits until everything said so far is durable; False: it is not yet."""

    def stats(self) -> PrefixStoreStats: ...


class NoPrefixStore:
    """Where nothing outlives the process."""

    def publish(self, rows: Iterable[PrefixRow]) -> None:
        """Nobody is told."""

    def forget(self, places: Iterable[int]) -> None:
        """Nobody is told."""

    def flush(self, _seconds: float) -> bool:
        return True

    def stats(self) -> PrefixStoreStats:
        return PrefixStoreStats()


class SqlitePrefixStore:
    """Rows by place. Everything but `load` may be called while the thread works; `load` comes first, once."""

    def __init__(
        self,
        file_system: FileSystem,
        directory: Path,
        *,
        identity: bytes,
        size: DatabaseSize,
        cold_files: Sequence[OpenFile],
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        """`cold_files` stay open until `close` has returned True. Starts no thread yet."""
        self._file_system = file_system
        self._directory = directory
        self._identity = identity
        self._size = size
        self._cold_files = cold_files
        self._retry_seconds = retry_seconds
        self._database: PrefixDatabase | None = None
        self._changed = threading.Condition()
        self._pending: dict[int, PrefixRow | None] = {}  # None: to be deleted
        self._being_written: dict[int, PrefixRow | None] = {}
        self._places: set[int] = set()  # with a row in the database, or perhaps with one
        self._is_closing = False
        self._is_off = False
        self._num_damaged_rows = 0
        self._num_errors = 0
        self._thread = threading.Thread(target=self._run, name="prefix-store", daemon=True)

    def load(self) -> list[PrefixRow]:
        """What an earlier run published, the most recent use first; starts the thread. Blocks for reading the database.

        Where that cannot be read, nothing, and it is made anew. Whether the bytes are as the rows say was not looked at.
        """
        rows: list[PrefixRow] = []
        try:
            self._database = PrefixDatabase.open(self._file_system, self._directory, self._size.max_pages)
            rows = self._sound_rows(self._database)
        except sqlite3.Error as error:
            logger.warning("published blocks cannot be read, so none of them is found again: %s", error)
            self._num_errors += 1
            self._begin_anew()
        self._thread.start()
        return sorted(rows, key=lambda row: row.last_use, reverse=True)

    def publish(self, rows: Iterable[PrefixRow]) -> None:
        self._change({row.place: row for row in rows})

    def forget(self, places: Iterable[int]) -> None:
        self._change(dict.fromkeys(places))

    def flush(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._pending or self._being_written:
                left = deadline - time.monotonic()
                if left <= 0 or self._is_off:
                    return False
                self._changed.wait(left)
        return not self._is_off

    def stats(self) -> PrefixStoreStats:
        with self._changed:
            pending = {**self._being_written, **self._pending}
            gone = {place for place, row in pending.items() if row is None}
            new = pending.keys() - gone
            return PrefixStoreStats(len((self._places - gone) | new), self._num_damaged_rows, self._num_errors)

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Writes what is left, ends the thread, closes the database. False: it hangs, and may still use the files."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def holds_rows(self) -> bool:
        """Whether the next start may find something; once it is closed."""
        return bool(self._places)

    def _change(self, changes: dict[int, PrefixRow | None]) -> None:
        with self._changed:
            if self._is_off or self._is_closing:
                return
            for place, row in changes.items():
                if row is None and place not in self._places:
                    self._pending.pop(place, None)
                else:
                    self._pending[place] = row
            self._changed.notify_all()

    def _run(self) -> None:
        num_failures = 0
        try:
            while self._wait_for_changes(num_failures):
                num_failures = 0 if self._write_some() else num_failures + 1
        finally:
            self._close_database()

    def _wait_for_changes(self, num_failures: int) -> bool:
        """Until there is something to write and it is time for it; False: the thread is to end."""
        pause = _GATHER_SECONDS
        if num_failures:
            pause = self._retry_seconds[min(num_failures, len(self._retry_seconds)) - 1]
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._is_closing)
            self._changed.wait_for(lambda: self._is_closing, pause)
            return not self._is_off and bool(self._pending) and not (self._is_closing and num_failures)

    def _write_some(self) -> bool:
        """One transaction; False: it failed, and what it was about is to be written later."""
        batch = self._take_batch()
        try:
            if any(row is not None for row in batch.values()):
                self._sync()
            self._open_database().write({place: row and row.to_record(self._identity) for place, row in batch.items()})
        except sqlite3.Error as error:
            self._note_error("blocks cannot be published for later starts: %s", error)
            self._recover(is_corrupt(error))
            self._end_batch(batch, is_written=False)
            return False
        except OSError as error:  # the sync's: what it was about may never become durable
            self._note_error("the cold files cannot be made durable, nothing is published any more: %s", error)
            self._is_off = True
            self._end_batch(batch, is_written=False)
            return False
        self._end_batch(batch, is_written=True)
        return True

    def _take_batch(self) -> dict[int, PrefixRow | None]:
        with self._changed:
            places = [place for place, _ in zip(self._pending, range(MAX_CHANGES), strict=False)]
            self._being_written = {place: self._pending.pop(place) for place in places}
            self._places |= self._being_written.keys()
            return self._being_written

    def _end_batch(self, batch: dict[int, PrefixRow | None], *, is_written: bool) -> None:
        with self._changed:
            self._being_written = {}
            if is_written:
                self._places -= {place for place, row in batch.items() if row is None and place not in self._pending}
            elif self._is_off:
                self._pending.clear()
            else:
                self._pending = {**batch, **self._pending}
            self._changed.notify_all()

    def _sync(self) -> None:
        for file in self._cold_files:
            self._file_system.sync(file)

    def _open_database(self) -> PrefixDatabase:
        if self._database is None:
            self._database = PrefixDatabase.open(self._file_system, self._directory, self._size.max_pages)
        return self._database

    def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _recover(self, is_damaged: bool) -> None:
        """The next transaction opens the file again, or a new one."""
        self._close_database()
        if is_damaged:
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._close_database()
        with self._changed:
            self._places.clear()
        try:
            remove_database(self._file_system, self._directory)
        except ConfigError as error:
            self._note_error("a damaged database cannot be removed: %s", error)

    def _sound_rows(self, database: PrefixDatabase) -> list[PrefixRow]:
        """The rows that are what was written, of this identity; the others are deleted."""
        rows = []
        for place, record in database.records():
            self._places.add(place)
            try:
                row = PrefixRow.from_record(record, self._identity)
            except ValueError:
                row = None
            if row is None or row.place != place:
                self._num_damaged_rows += 1
                self._pending[place] = None
            else:
                rows.append(row)
        return rows

    def _note_error(self, message: str, error: Exception) -> None:
        self._num_errors += 1
        logger.warning(message, error)
