"""`SqlitePrefixStore`: which blocks of the cold files are published, across restarts. Owns the background thread.

A record is written after the bytes that it speaks of are durable; many records share a transaction. Whatever goes wrong
with the database is a counter, a line in the log and a miss after the next start, never an error of a request. Records
may be out of date, since a place can get other bytes before its record is gone: checksums tell.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from transom.cache.file_system import FileSystem
from transom.cache.prefix_database import (
    MAX_CHANGES,
    Change,
    DatabaseSize,
    Delete,
    PrefixDatabase,
    Put,
    Touch,
    is_corrupt,
    remove_database,
)
from transom.cache.prefix_record import BlockName, BlockRecord
from transom.cache.record_format import encode, place_of, sound_records
from transom.config.model_config import LayerKind
from transom.errors import ConfigError

__all__ = ["PrefixStoreStats", "SqlitePrefixStore"]

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""So long `close` waits for what is to be written."""
RETRY_SECONDS = (1.0, 5.0, 30.0)
"""Pauses after failures in a row; the last one again and again."""
GATHER_SECONDS = 0.05
"""What is published within so long shares a transaction."""
TOUCH_SECONDS = 5.0
"""That blocks were used, and nothing else, is written so late."""


@dataclass(frozen=True, slots=True)
class PrefixStoreStats:
    """Counted from the start."""

    num_records: int
    """Blocks that are published, or will be at once."""
    num_damaged: int
    """Records that were found damaged at the start, and thrown away."""
    num_errors: int
    """Failed transactions and syncs."""


@dataclass(frozen=True, slots=True)
class _Record:
    """To be put; encoded by the thread that writes it."""

    record: BlockRecord
    last_use: int


_Pending = _Record | Touch | Delete


class SqlitePrefixStore:
    """The records of one directory; a `PrefixStore`. Starts a thread with `load`."""

    def __init__(
        self,
        file_system: FileSystem,
        directory: Path,
        *,
        identity: bytes,
        size: DatabaseSize,
        take_places: Callable[[Sequence[BlockRecord]], list[BlockRecord]],
        sync_cold_files: Callable[[], None],
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        gather_seconds: float = GATHER_SECONDS,
    ) -> None:
        """`take_places` says which of the records that were found still have their places, and takes these.

        `sync_cold_files` blocks until what was written is durable, or raises OSError; until `close` has returned.
        """
        self._file_system = file_system
        self._directory = directory
        self._identity = identity
        self._size = size
        self._take_places = take_places
        self._sync_cold_files = sync_cold_files
        self._retry_seconds = retry_seconds
        self._gather_seconds = gather_seconds
        self._database: PrefixDatabase | None = None  # of the thread, once it runs
        self._changed = threading.Condition()  # guards everything below
        self._places: dict[BlockName, int] = {}  # of the blocks that are published, or will be
        self._pending: dict[int, _Pending] = {}
        self._being_written: Mapping[int, _Pending] = {}
        self._last_use = 0
        self._is_urgent = False  # more is pending than touches
        self._is_closing = False
        self._is_off = False
        self._num_damaged = 0
        self._num_errors = 0
        self._thread = threading.Thread(target=self._run, name="prefix-store", daemon=True)

    def load(self) -> list[BlockRecord]:
        """What an earlier run published, least recently used first. Blocks while the database is read.

        Nothing, where that is damaged; then it is made anew. Nobody has looked at the bytes that the records speak of.
        """
        records: list[BlockRecord] = []
        try:
            self._database = PrefixDatabase.open(self._file_system, self._directory, self._size.max_pages)
            records = self._sound_records(self._database)
        except sqlite3.Error as error:
            self._note_error("published blocks cannot be read, none of them will be found: %s", error)
            self._begin_anew()
        taken = self._take_places(records)
        kept = {record.name for record in taken}
        self.forget([record.name for record in records if record.name not in kept])
        self._thread.start()
        return taken

    def publish(self, records: Sequence[BlockRecord]) -> None:
        """As the door says; a record takes the place of one that was published for the same place before."""
        with self._changed:
            for record in records:
                place = place_of(record.kind, record.cold_index)
                self._places[record.name] = place
                self._last_use += 1
                self._change(place, _Record(record, self._last_use))

    def forget(self, names: Sequence[BlockName]) -> None:
        with self._changed:
            for name in names:
                place = self._places.pop(name, None)
                if place is not None:
                    self._change(place, Delete())

    def touch(self, keys: Sequence[bytes]) -> None:
        """The last of the keys counts as used last."""
        with self._changed:
            for key in keys:
                self._last_use += 1
                for kind in LayerKind:
                    place = self._places.get((key, kind))
                    if place is not None:
                        self._touch(place)

    def flush(self, seconds: float) -> bool:
        """Waits until everything said so far is durable; False: it is not, or never will be."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._is_urgent = True
            self._changed.notify_all()
            self._changed.wait_for(self._is_quiet, max(0.0, deadline - time.monotonic()))
            return self._is_quiet() and not self._is_off

    def stats(self) -> PrefixStoreStats:
        """A snapshot."""
        with self._changed:
            return PrefixStoreStats(len(self._places), self._num_damaged, self._num_errors)

    def close(self) -> None:
        """Writes what is left, at most CLOSE_SECONDS, ends the thread, closes the database."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)

    @property
    def is_hung(self) -> bool:
        """After `close`: the thread waits for a disk that does not answer, and may still use the files."""
        return self._thread.is_alive()

    def _is_quiet(self) -> bool:
        return not self._pending and not self._being_written

    def _change(self, place: int, pending: _Pending) -> None:
        """With the lock."""
        if not self._is_off and not self._is_closing:
            self._pending[place] = pending
            self._is_urgent |= not isinstance(pending, Touch)
            self._changed.notify_all()

    def _touch(self, place: int) -> None:
        match self._pending.get(place):
            case _Record(record):
                self._change(place, _Record(record, self._last_use))
            case _:
                self._change(place, Touch(self._last_use))

    def _run(self) -> None:
        num_failures = 0
        try:
            while self._wait_for_changes(num_failures):
                num_failures = 0 if self._write_some() else num_failures + 1
        finally:
            self._close_database()

    def _wait_for_changes(self, num_failures: int) -> bool:
        """Until there is something to write and it is time for it; False: the thread is to end."""
        pauses = self._retry_seconds[:num_failures] or (self._gather_seconds,)
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._is_closing)
            self._changed.wait_for(lambda: self._is_urgent or self._is_closing, TOUCH_SECONDS)
            self._changed.wait_for(lambda: self._is_closing, pauses[-1])
            return bool(self._pending) and not (self._is_closing and num_failures)

    def _write_some(self) -> bool:
        """One transaction; False: it failed, and what it was about is to be written later."""
        batch = self._take_batch()
        try:
            self._write(batch)
        except sqlite3.Error as error:
            self._note_error("blocks cannot be published for later starts: %s", error)
            self._give_back(batch)
            self._recover(error)
            return False
        except OSError as error:  # from the sync: what it was about may never become durable, and nobody would know
            self._note_error("cold files cannot be made durable, nothing is published any more: %s", error)
            self._switch_off()
            return False
        self._end_batch()
        return True

    def _write(self, batch: Mapping[int, _Pending]) -> None:
        if any(isinstance(pending, _Record) for pending in batch.values()):
            self._sync_cold_files()
        if self._database is None:
            self._database = PrefixDatabase.open(self._file_system, self._directory, self._size.max_pages)
        self._database.write({place: self._encoded(pending) for place, pending in batch.items()})

    def _encoded(self, pending: _Pending) -> Change:
        match pending:
            case _Record(record, last_use):
                return Put(encode(record, self._identity), last_use)
            case _:
                return pending

    def _take_batch(self) -> Mapping[int, _Pending]:
        with self._changed:
            places = [place for place, _ in zip(self._pending, range(MAX_CHANGES), strict=False)]
            self._being_written = {place: self._pending.pop(place) for place in places}
            self._is_urgent &= bool(self._pending)
            return self._being_written

    def _end_batch(self) -> None:
        with self._changed:
            self._being_written = {}
            self._changed.notify_all()

    def _give_back(self, batch: Mapping[int, _Pending]) -> None:
        """What came meanwhile is newer."""
        with self._changed:
            newer, self._pending = self._pending, dict(batch)
            for place, pending in newer.items():
                before = self._pending.get(place)
                if isinstance(pending, Touch) and isinstance(before, _Record):
                    pending = _Record(before.record, pending.last_use)
                self._pending[place] = pending
        self._end_batch()

    def _switch_off(self) -> None:
        with self._changed:
            self._is_off = True
            self._pending.clear()
        self._end_batch()

    def _recover(self, error: sqlite3.Error) -> None:
        """The next transaction opens the file again, or a new one where it is damaged."""
        if is_corrupt(error):
            self._begin_anew()
        else:
            self._close_database()

    def _begin_anew(self) -> None:
        """Without what was published before: the database is removed, and made when there is something to write."""
        self._close_database()
        try:
            remove_database(self._file_system, self._directory)
        except ConfigError as error:
            self._note_error("a damaged database cannot be removed: %s", error)

    def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _sound_records(self, database: PrefixDatabase) -> list[BlockRecord]:
        """Those that are what was written, for this identity; the others will be deleted."""
        found = sound_records(database.records(), self._identity)
        self._places = {record.name: place_of(record.kind, record.cold_index) for record in found.records}
        self._last_use = found.last_use
        self._num_damaged = len(found.damaged_places)
        self._pending.update(dict.fromkeys(found.damaged_places, Delete()))
        return found.records

    def _note_error(self, message: str, error: Exception) -> None:
        with self._changed:
            self._num_errors += 1
        logger.warning(message, error)
