"""`QuotaStore`: what was used, in a sqlite database that survives restarts and kill -9. Written by a thread of its own.

Disk trouble costs nobody an answer: what cannot be written is kept in memory and tried again. A database that cannot
be read at the start is an error, for an empty one in its place would be a free refill.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transom.errors import ConfigError
from transom.quotas.clock import Clock, steady_wall_clock
from transom.quotas.window import Bucket

_log = logging.getLogger(__name__)

_DATABASE = "quotas.sqlite"
_LOCK = "quotas.lock"
_FORMAT = 1
_RETRY_SECONDS = 1.0
_PRUNE_SECONDS = 600.0
_AUTOCHECKPOINT_PAGES = 256
_TABLE = """
CREATE TABLE IF NOT EXISTS used (
    caller TEXT NOT NULL, scope TEXT NOT NULL, kind TEXT NOT NULL, bucket INTEGER NOT NULL,
    amount INTEGER NOT NULL, expires REAL NOT NULL,
    PRIMARY KEY (caller, scope, kind, bucket)
) WITHOUT ROWID
"""
_UPSERT = "INSERT OR REPLACE INTO used VALUES (?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT caller, scope, kind, bucket, amount, expires FROM used WHERE expires > ? AND amount > 0"


@dataclass(frozen=True, slots=True)
class Entry:
    """One bucket of one window."""

    caller: str
    scope: str
    limit: str
    number: int
    amount: int
    expires: float

    def bucket(self) -> Bucket:
        """What a window keeps of it."""
        return Bucket(self.number, self.amount, self.expires)


class EntryStore(Protocol):
    """Where entries outlive the process."""

    def load(self) -> Iterable[Entry]:
        """Those that still count. Called once, before everything else."""
        ...

    def put(self, entry: Entry) -> None:
        """Replaces the entry of the same bucket. Does not block."""
        ...

    def close(self) -> None:
        """Writes what is not written yet."""
        ...


class NoStore:
    """Nothing outlives the process."""

    def load(self) -> Iterable[Entry]:
        return ()

    def put(self, entry: Entry) -> None:
        pass

    def close(self) -> None:
        pass


class QuotaStore:
    """The database in `directory`, which is made if need be. One server at a time.

    Raises ConfigError for a directory or database that cannot be used.
    """

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self._clock = clock or steady_wall_clock()
        self._pruned_at = self._clock()
        self._path = directory / _DATABASE
        with _as_config_error(self._path):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(directory / _LOCK)
            try:
                self._connection = _open(self._path)
            except BaseException:
                os.close(self._lock)
                raise
        self._pending: dict[tuple[str, str, str, int], Entry] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_failing = False
        self._writer = threading.Thread(target=self._write_on, name="quotas", daemon=True)

    def load(self) -> Iterable[Entry]:
        """Those that still count; all others are removed."""
        now = self._clock()
        with _as_config_error(self._path):
            self._prune(now)
            entries = [Entry(*row) for row in self._connection.execute(_SELECT, (now,))]
        self._writer.start()
        return entries

    def put(self, entry: Entry) -> None:
        """Replaces the entry of the same bucket, within milliseconds."""
        with self._changed:
            self._pending[entry.caller, entry.scope, entry.limit, entry.number] = entry
            self._changed.notify()

    def close(self) -> None:
        """Writes what is not written yet, and gives the directory free."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._writer.is_alive():
            self._writer.join()
        self._connection.close()
        os.close(self._lock)

    def _write_on(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._is_closing)
                batch, self._pending = self._pending, {}
                is_closing = self._is_closing
            if batch and not self._write(batch.values()) and not is_closing:
                self._keep(batch)
                self._wait_to_retry()
            if is_closing:
                return

    def _write(self, entries: Iterable[Entry]) -> bool:
        rows = [(e.caller, e.scope, e.limit, e.number, e.amount, e.expires) for e in entries]
        try:
            with self._connection:
                self._connection.executemany(_UPSERT, rows)
            if self._clock() - self._pruned_at > _PRUNE_SECONDS:
                self._prune(self._clock())
        except sqlite3.Error as error:
            if not self._is_failing:
                _log.error("%s cannot be written, quotas are kept in memory alone meanwhile: %s", self._path, error)
            self._is_failing = True
            return False
        self._is_failing = False
        return True

    def _keep(self, batch: dict[tuple[str, str, str, int], Entry]) -> None:
        with self._changed:
            self._pending = {**batch, **self._pending}

    def _wait_to_retry(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing, _RETRY_SECONDS)

    def _prune(self, now: float) -> None:
        self._pruned_at = now
        with self._connection:
            self._connection.execute("DELETE FROM used WHERE expires <= ? OR amount = 0", (now,))


class ReadStore:
    """What lies in `directory`, read beside a server that may be running; nothing where there is no database (yet).

    `load` raises ConfigError for one that cannot be read.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._path = directory / _DATABASE
        self._clock = clock

    def load(self) -> Iterable[Entry]:
        if not self._path.exists():
            return []
        address = f"{self._path.absolute().as_uri()}?mode=ro"
        with _as_config_error(self._path), contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            return [Entry(*row) for row in connection.execute(_SELECT, (self._clock(),))]

    def put(self, entry: Entry) -> None:
        """Raises AssertionError: a ledger for people to look at charges nobody."""
        raise AssertionError(f"{entry.limit} was charged by who only reads")

    def close(self) -> None:
        """Nothing is open."""


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # sqlite would make it as the umask says
    connection = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last moments, kill -9 nothing
        connection.execute(f"PRAGMA wal_autocheckpoint = {_AUTOCHECKPOINT_PAGES}")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _FORMAT):
            raise ConfigError(f"{path}: has format {version}, this program knows {_FORMAT}; remove it to start anew")
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA user_version = {_FORMAT}")
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _locked(path: Path) -> int:
    """An open descriptor that holds the lock. Not of the database: closing another descriptor of that one would end the
    locks that sqlite itself has."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(f"{path.parent}: another server keeps its quotas here; set server.state_path") from None
    return descriptor


@contextlib.contextmanager
def _as_config_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: cannot be used: {error}; remove it to start with nothing used") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be used: {error.strerror}") from None
