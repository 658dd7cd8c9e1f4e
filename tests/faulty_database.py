"""A disk whose n-th call for the records of published blocks fails: a statement, a commit, a checkpoint, a sync."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transom.cache.file_system import OpenFile, RealFileSystem

Kind = Literal["full", "ioerr", "corrupt"]
CODES: dict[Kind, int] = {
    "full": sqlite3.SQLITE_FULL,
    "ioerr": sqlite3.SQLITE_IOERR,
    "corrupt": sqlite3.SQLITE_CORRUPT,
}


class FaultyDatabase(RealFileSystem):
    """Everything else works. `num_calls` counts; below `nth` the fault has not struck."""

    def __init__(self, nth: int, kind: Kind = "ioerr", *, persistent: bool = False) -> None:
        super().__init__()
        self.num_calls = 0
        self.num_failures = 0
        self.num_syncs_after_failure = 0
        self._nth = nth
        self._kind: Kind = kind
        self._persistent = persistent
        self._sync_has_failed = False

    def sync(self, file: OpenFile) -> None:
        self.num_syncs_after_failure += self._sync_has_failed
        if self.is_due():
            self._sync_has_failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(file)

    def connect(self, path: Path) -> sqlite3.Connection:
        self.fail_if_due()
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:  # type: ignore[override]
                disk.fail_if_due()
                return super().execute(statement, parameters)

        super().connect(path).close()
        return sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False, factory=Connection)

    def is_due(self) -> bool:
        self.num_calls += 1
        is_due = self.num_calls >= self._nth if self._persistent else self.num_calls == self._nth
        self.num_failures += is_due
        return is_due

    def fail_if_due(self) -> None:
        if self.is_due():
            error = sqlite3.OperationalError(f"injected: {self._kind}")
            error.sqlite_errorcode = CODES[self._kind]
            raise error
