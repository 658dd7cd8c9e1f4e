"""What was used outlives the process, whatever ends it; a database that is no database is one clear line."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.quotas.clocks import Clock
from transom.config.registry_config import ResourceQuota
from transom.errors import ConfigError, QuotaExceededError
from transom.quotas import QuotaLedger, Quotas, QuotaStore, ReadStore, steady_wall_clock
from transom.quotas.store import Entry

QUOTAS = Quotas({"default": ResourceQuota(max_tokens_per_day=100)})


def entry(number: int = 1, amount: int = 5, expires: float = 1e12) -> Entry:
    return Entry("key", "tier default", "max_tokens_per_day", number, amount, expires)


def reopened(directory: Path, clock: Clock) -> list[Entry]:
    store = QuotaStore(directory, clock)
    entries = list(store.load())
    store.close()
    return entries


def test_entries_are_there_after_a_restart_and_old_ones_go(tmp_path: Path) -> None:
    clock = Clock()
    store = QuotaStore(tmp_path / "state", clock)
    assert list(store.load()) == []
    store.put(entry(1, 5))
    store.put(entry(1, 7))
    store.put(entry(2, 3, clock.seconds + 10))
    store.put(entry(3, 0))
    store.close()
    assert sorted(each.number for each in reopened(tmp_path / "state", clock)) == [1, 2]
    clock.seconds += 10
    assert reopened(tmp_path / "state", clock) == [entry(1, 7)]
    clock.seconds -= 10
    assert reopened(tmp_path / "state", clock) == [entry(1, 7)]


def test_s17_directory_and_files_are_private(tmp_path: Path) -> None:
    old_umask = os.umask(0)
    try:
        store = QuotaStore(tmp_path / "state", Clock())
        store.load()
        store.put(entry())
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
        store.close()
    finally:
        os.umask(old_umask)
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_second_server_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    clock = Clock()
    ledger = QuotaLedger(QUOTAS, QuotaStore(tmp_path, clock), clock)
    with pytest.raises(ConfigError, match=r"another server keeps its quotas here.*state_path"):
        QuotaStore(tmp_path, clock)
    ledger.reserve("key", "default", "m", 40)
    ledger.close()
    reader = QuotaLedger(QUOTAS, ReadStore(tmp_path, clock), clock)
    assert [(use.caller, use.scope, use.used) for use in reader.uses()] == [("key", "tier default", 40)]
    assert list(ReadStore(tmp_path / "nothing", clock).load()) == []


@pytest.mark.parametrize("defect", ["no database", "other format", "directory"])
def test_what_cannot_be_used_is_one_clear_line(tmp_path: Path, defect: str) -> None:
    path = tmp_path / "quotas.sqlite"
    match defect:
        case "no database":
            path.write_bytes(b"x" * 4096)
        case "other format":
            with sqlite3.connect(path) as connection:
                connection.execute("PRAGMA user_version = 99")
            connection.close()
        case _:
            path.mkdir()
    with pytest.raises(ConfigError) as caught:
        QuotaStore(tmp_path, Clock()).load()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class FailingConnection:
    """A disk that is full for a while."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.is_full = True
        self.num_failures = 0
        self.has_failed = threading.Event()

    def __enter__(self) -> sqlite3.Connection:
        if self.is_full:
            self.has_failed.set()
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.__enter__()

    def __exit__(self, *details: object) -> None:
        self._connection.__exit__(*details)  # type: ignore[arg-type]

    def executemany(self, *arguments: object) -> object:
        return self._connection.executemany(*arguments)  # type: ignore[arg-type]

    def close(self) -> None:
        self._connection.close()


def test_a_full_disk_stops_nobody_and_is_made_up_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    store = QuotaStore(tmp_path, clock)
    ledger = QuotaLedger(QUOTAS, store, clock)
    disk = FailingConnection(store._connection)
    store._connection = disk  # type: ignore[assignment]
    ledger.reserve("key", "default", "m", 60)
    assert disk.has_failed.wait(5)
    with pytest.raises(QuotaExceededError):
        ledger.reserve("key", "default", "m", 60)
    disk.is_full = False
    ledger.close()
    assert [each.amount for each in reopened(tmp_path, clock)] == [60]
    assert len([record for record in caplog.records if "cannot be written" in record.getMessage()]) == 1


_VICTIM = """
import sys, time
from pathlib import Path
from transom.config.registry_config import ResourceQuota
from transom.quotas import QuotaLedger, Quotas, QuotaStore

quotas = Quotas({"default": ResourceQuota(max_tokens_per_day=100)})
ledger = QuotaLedger(quotas, QuotaStore(Path(sys.argv[1])))
ledger.reserve("key", "default", "m", 90)
print("reserved", flush=True)
time.sleep(60)
"""
PATIENCE_SECONDS = 20.0


def test_s20_kill_9_is_no_free_refill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _VICTIM, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reserved\n"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not list(ReadStore(tmp_path, steady_wall_clock()).load()):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
    ledger = QuotaLedger(QUOTAS, QuotaStore(tmp_path))
    with pytest.raises(QuotaExceededError):
        ledger.reserve("key", "default", "m", 20)
    ledger.close()
