"""The sqlite file that records lie in, by place. Knows how to open, read and write it within a bound of bytes; nothing
of blocks, threads, or what to do when it fails: every method blocks, and raises `sqlite3.Error`.

The write-ahead log is emptied after every transaction, so that both files stay within `max_database_bytes`. The file is
locked for one connection, which spares the shared-memory file: a mapped write to a full disk would be a SIGBUS.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from transom.cache.file_system import FileSystem
from transom.errors import ConfigError

__all__ = ["DATABASE_NAME", "MAX_CHANGES", "DatabaseSize", "PrefixDatabase", "remove_database"]

DATABASE_NAME = "prefix.sqlite"
_SUFFIXES = ("", "-wal", "-journal", "-shm")

MAX_CHANGES = 128
"""Rows of one transaction: bounds the write-ahead log."""

_PAGE = 4096
_FRAME = _PAGE + 24
_FIXED_PAGES = 3
"""Schema, root of the table, and one more that a split needs."""
_MAX_LOG_PAGES = 2 * MAX_CHANGES + 8
"""A transaction touches for each of its rows a leaf, sometimes a second one that it splits into, and few inner pages."""
_ROW_OVERHEAD = 24
"""Cell header, rowid, pointer in its page, and the row's share of inner pages."""

_SETTINGS = (
    f"page_size = {_PAGE}",
    "locking_mode = EXCLUSIVE",
    "journal_mode = WAL",
    "synchronous = NORMAL",
    "wal_autocheckpoint = 0",
    "cache_spill = OFF",
    "cell_size_check = ON",
    "trusted_schema = OFF",
    "mmap_size = 0",
    "temp_store = MEMORY",
)
_SCHEMA = "CREATE TABLE records (place INTEGER PRIMARY KEY, record BLOB NOT NULL)"
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class DatabaseSize:
    """How large the file may become: the pages that hold any `max_rows` rows of at most `record_bytes`."""

    max_rows: int
    record_bytes: int

    @property
    def max_pages(self) -> int:
        """Pages may be half empty."""
        return _FIXED_PAGES + -(-2 * self.max_rows * (self.record_bytes + _ROW_OVERHEAD) // _PAGE)

    @property
    def num_bytes(self) -> int:
        """The most that database and log ever take together."""
        return self.max_pages * _PAGE + min(self.max_pages, _MAX_LOG_PAGES) * _FRAME + _PAGE


class PrefixDatabase:
    """Records by place. One thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, file_system: FileSystem, directory: Path, max_pages: int) -> PrefixDatabase:
        """Opens or makes it; nobody else may have it open. sqlite3.Error also where it is damaged or already larger."""
        try:
            connection = file_system.connect(directory / DATABASE_NAME)
        except ConfigError as error:
            raise sqlite3.OperationalError(str(error)) from error
        try:
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}")
            [limit] = connection.execute(f"PRAGMA max_page_count = {max_pages}").fetchone()
            if limit > max_pages:
                raise sqlite3.OperationalError(f"the database has {limit} pages, {max_pages} are allowed")
            if connection.execute("SELECT sql FROM sqlite_schema").fetchall() != [(_SCHEMA,)]:
                connection.execute(_SCHEMA)
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(place, record), places in ascending order, each once; in a damaged file a record may be anything."""
        before = -1
        for place, record in self._connection.execute("SELECT place, record FROM records ORDER BY place"):
            if place <= before or not isinstance(record, bytes):
                raise sqlite3.DatabaseError("rows are out of order")
            before = place
            yield place, record

    def write(self, changes: Mapping[int, bytes | None]) -> None:
        """Puts and (None) deletes at most MAX_CHANGES records: all of them or, where it raises, none or all.

        They are durable when it returns.
        """
        assert len(changes) <= MAX_CHANGES, "more changes than the log has room for"
        deleted = [(place,) for place, record in changes.items() if record is None]
        put = [(place, record) for place, record in changes.items() if record is not None]
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany("DELETE FROM records WHERE place = ?", deleted)
            self._connection.executemany("REPLACE INTO records VALUES (?, ?)", put)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        is_busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise sqlite3.OperationalError("the log could not be emptied")

    def close(self) -> None:
        """Idempotent; nothing is lost by what fails here."""
        self._connection.close()


def is_database_file(name: str) -> bool:
    """Whether a file of this name is the database, or one of sqlite's beside it."""
    return name in {DATABASE_NAME + suffix for suffix in _SUFFIXES}


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether this says that the file is damaged, so that only a new one helps."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _CORRUPT


def remove_database(file_system: FileSystem, directory: Path) -> None:
    """Removes the file and what sqlite keeps beside it. ConfigError."""
    for suffix in _SUFFIXES:
        file_system.remove(directory / (DATABASE_NAME + suffix))
