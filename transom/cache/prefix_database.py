"""The sqlite file that records lie in, by place. Knows how to open, read and write it within a bound of bytes; nothing
of blocks, threads, or what to do when it fails: every method blocks, and raises `sqlite3.Error`.

The write-ahead log is emptied after every transaction, so that both files stay within a `DatabaseSize`. The file is
locked for one connection, which spares the shared-memory file: a mapped write to a full disk would be a SIGBUS.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transom.cache.file_system import FileSystem
from transom.errors import ConfigError

__all__ = [
    "DATABASE_FILES",
    "DATABASE_NAME",
    "MAX_CHANGES",
    "Change",
    "DatabaseSize",
    "Delete",
    "PrefixDatabase",
    "Put",
    "Touch",
    "database_bytes",
    "is_corrupt",
    "remove_database",
]

DATABASE_NAME = "prefix.sqlite"
DATABASE_FILES = tuple(DATABASE_NAME + suffix for suffix in ("", "-wal", "-journal", "-shm"))
"""The database, and what sqlite may have beside it."""

MAX_CHANGES = 128
"""Rows of one transaction: bounds the write-ahead log."""

_PAGE = 4096
_FRAME = _PAGE + 24
_FIXED_PAGES = 3
"""Schema, root of the table, and one more that a split needs."""
_MAX_LOG_PAGES = 2 * MAX_CHANGES + 8
"""A transaction touches for each of its rows a leaf, sometimes another that it is split into, and few inner ones."""
_ROW_OVERHEAD = 32
"""Cell header, place, last use, pointer in its page, and the row's share of inner pages."""

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
_SCHEMA = "CREATE TABLE records (place INTEGER PRIMARY KEY, last_use INTEGER NOT NULL, record BLOB NOT NULL)"
_SELECT = "SELECT place, last_use, record FROM records ORDER BY place"
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class Put:
    """A record for a place, whatever was there."""

    record: bytes
    last_use: int


@dataclass(frozen=True, slots=True)
class Touch:
    """The record of a place, if there is one, was used."""

    last_use: int


@dataclass(frozen=True, slots=True)
class Delete:
    """No record for a place."""


Change = Put | Touch | Delete


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
            with _damage_as_database_error():
                _prepare(connection, max_pages)
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def records(self) -> Iterator[tuple[int, int, bytes]]:
        """(place, last use, record), places in ascending order; in a damaged file the other two may be anything."""
        before = -1
        with _damage_as_database_error():
            for place, last_use, record in self._connection.execute(_SELECT):
                if place <= before or not isinstance(last_use, int) or not isinstance(record, bytes):
                    raise sqlite3.DatabaseError("rows are not what they must be")
                before = place
                yield place, last_use, record

    def write(self, changes: Mapping[int, Change]) -> None:
        """Changes at most MAX_CHANGES places, all of them then they are durable.

        Where it raises, none or all of them are changed, and the database is to be closed.
        """
        assert len(changes) <= MAX_CHANGES, "more changes than the log has room for"
        with _damage_as_database_error():
            self._connection.execute("BEGIN IMMEDIATE")
            for place, change in changes.items():
                self._apply(place, change)
            self._connection.execute("COMMIT")
            _empty_log(self._connection)

    def _apply(self, place: int, change: Change) -> None:
        match change:
            case Put(record, last_use):
                self._connection.execute("REPLACE INTO records VALUES (?, ?, ?)", (place, last_use, record))
            case Touch(last_use):
                self._connection.execute("UPDATE records SET last_use = ? WHERE place = ?", (last_use, place))
            case Delete():
                self._connection.execute("DELETE FROM records WHERE place = ?", (place,))

    def close(self) -> None:
        """Idempotent; nothing is lost by what fails here."""
        self._connection.close()


@contextmanager
def _damage_as_database_error() -> Iterator[None]:
    """A damaged file makes sqlite say what is no text, ask for memory that nobody has, or count beyond any number."""
    try:
        yield
    except (UnicodeError, OverflowError, MemoryError) as error:
        raise sqlite3.DatabaseError(f"the database is damaged: {type(error).__name__}") from error


def _prepare(connection: sqlite3.Connection, max_pages: int) -> None:
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    [limit] = connection.execute(f"PRAGMA max_page_count = {max_pages}").fetchone()
    if limit > max_pages:
        raise sqlite3.OperationalError(f"the database has {limit} pages, {max_pages} are allowed")
    _make_table(connection)
    _empty_log(connection)


def _empty_log(connection: sqlite3.Connection) -> None:
    is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise sqlite3.OperationalError("the log could not be emptied")


def _make_table(connection: sqlite3.Connection) -> None:
    match connection.execute("SELECT sql FROM sqlite_schema").fetchall():
        case []:
            connection.execute(_SCHEMA)
        case [(sql,)] if sql == _SCHEMA:
            pass
        case _:
            raise sqlite3.DatabaseError("the tables are others")


def database_bytes(file_system: FileSystem, directory: Path) -> int:
    """What the file and what sqlite keeps beside it occupy on disk. OSError."""
    return sum(file_system.file_bytes(directory / name) for name in DATABASE_FILES)


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether this says that the file is damaged, so that only a new one helps."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF in _CORRUPT


def remove_database(file_system: FileSystem, directory: Path) -> None:
    """Removes the file and what sqlite keeps beside it. ConfigError."""
    for name in DATABASE_FILES:
        file_system.remove(directory / name)
