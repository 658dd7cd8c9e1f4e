"""The store of published blocks: what it finds again, what it never finds, and what it does when its disk fails."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.faulty_database import FaultyDatabase, Kind
from transom.cache.file_system import FileSystem, RealFileSystem
from transom.cache.prefix_database import DATABASE_FILES, DATABASE_NAME, DatabaseSize, database_bytes
from transom.cache.prefix_record import BlockRecord
from transom.cache.prefix_store import SqlitePrefixStore
from transom.cache.record_format import encode, record_bytes
from transom.config.model_config import LayerKind

IDENTITY = b"i" * 32
NUM_LAYERS = 3
FULL, SLIDING = LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION


def record(number: int, kind: LayerKind = FULL, cold_index: int | None = None) -> BlockRecord:
    checksums = np.random.default_rng(number).integers(0, 2**63, (NUM_LAYERS, 2), np.uint64)
    place = number if cold_index is None else cold_index
    return BlockRecord(key(number), key(number - 1), kind, number, place, checksums, b"t" * 32)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big", signed=True)


def size_of(max_rows: int) -> DatabaseSize:
    return DatabaseSize(max_rows, record_bytes(NUM_LAYERS))


def make_store(
    directory: Path, file_system: FileSystem | None = None, *, max_rows: int = 2000, identity: bytes = IDENTITY
) -> SqlitePrefixStore:
    """Of one cold file."""
    file_system = file_system or RealFileSystem()
    cold_file = file_system.open_cold_file(directory / "cold-full.kv", 4096, keep=True)
    return SqlitePrefixStore(
        file_system,
        directory,
        identity=identity,
        size=size_of(max_rows),
        take_places=list,
        sync_cold_files=lambda: file_system.sync(cold_file),
        retry_seconds=(0.001,),
        gather_seconds=0.001,
    )


@contextmanager
def opened(directory: Path, file_system: FileSystem | None = None, max_rows: int = 2000) -> Iterator[SqlitePrefixStore]:
    store = make_store(directory, file_system, max_rows=max_rows)
    store.load()
    yield store
    store.close()
    assert not store.is_hung


def found(directory: Path, identity: bytes = IDENTITY, max_rows: int = 2000) -> list[bytes]:
    """Encoded records, least recently used first."""
    store = make_store(directory, identity=identity, max_rows=max_rows)
    records = store.load()
    store.close()
    return [encode(each, identity) for each in records]


def encoded(records: Sequence[BlockRecord]) -> list[bytes]:
    return [encode(each, IDENTITY) for each in records]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "transom")


def test_what_is_published_is_found_by_the_next_store_in_the_order_of_use(tmp_path: Path) -> None:
    records = [record(0), record(1), record(1, SLIDING), record(2)]
    with opened(tmp_path) as store:
        store.publish(records)
        store.touch([key(1)])
        assert store.stats().num_records == 4
    assert found(tmp_path) == encoded([records[0], records[3], records[1], records[2]])
    with opened(tmp_path) as store:
        store.touch([key(2), key(0)])
    assert found(tmp_path) == encoded([records[1], records[2], records[3], records[0]])


def test_what_is_forgotten_is_not_found_whether_it_was_written_or_not(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.publish([record(0), record(1), record(2)])
        assert store.flush(10)
        store.forget([(key(1), FULL), (key(7), FULL)])
        store.publish([record(3)])
        store.forget([(key(3), FULL)])
        assert store.stats().num_records == 2
    assert found(tmp_path) == encoded([record(0), record(2)])


def test_a_place_has_one_record_the_last_one(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.publish([record(0, cold_index=5)])
        assert store.flush(10)
        store.forget([(key(0), FULL)])
        store.publish([record(1, cold_index=5)])
    assert found(tmp_path) == encoded([record(1, cold_index=5)])


def test_another_identity_finds_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.publish([record(0)])
    assert found(tmp_path, identity=b"j" * 32) == []


def test_records_whose_places_are_gone_are_deleted(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.publish([record(number) for number in range(5)])
    file_system = RealFileSystem()
    picky = SqlitePrefixStore(
        file_system,
        tmp_path,
        identity=IDENTITY,
        size=size_of(2000),
        take_places=lambda records: [each for each in records if each.cold_index % 2],
        sync_cold_files=lambda: None,
    )
    assert encoded(picky.load()) == encoded([record(1), record(3)])
    picky.close()
    assert found(tmp_path) == encoded([record(1), record(3)])


def test_the_files_are_for_us_alone_and_the_log_is_empty_when_nothing_is_written(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.publish([record(number) for number in range(500)])
        assert store.flush(10)
        names = {path.name for path in tmp_path.iterdir()} - {"cold-full.kv"}
        assert names == {DATABASE_NAME, f"{DATABASE_NAME}-wal"}
        assert all(path.stat().st_mode & 0o77 == 0 for path in tmp_path.iterdir())
        assert (tmp_path / f"{DATABASE_NAME}-wal").stat().st_size == 0


def test_database_and_log_never_take_more_than_was_said(tmp_path: Path) -> None:
    """Scattered places, replaced and deleted again and again; measured while it is written."""
    rng, file_system, max_rows = random.Random(0), RealFileSystem(), 600
    places = rng.sample(range(10**9), max_rows)
    sizes: list[int] = []
    with opened(tmp_path, max_rows=max_rows) as store:
        for turn in range(12):
            chosen = rng.sample(range(max_rows), 500)
            store.publish([record(number, cold_index=places[number]) for number in chosen])
            store.forget([(key(number), FULL) for number in chosen[: 300 if turn % 2 else 0]])
            deadline = time.monotonic() + 10
            while not store.flush(0.001) and time.monotonic() < deadline:
                sizes.append(database_bytes(file_system, tmp_path))
        assert store.stats().num_errors == 0
    assert 0 < max(sizes) <= size_of(max_rows).num_bytes


def test_a_smaller_size_than_the_file_has_begins_anew(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.publish([record(number) for number in range(1000)])
    assert found(tmp_path, max_rows=10) == []
    assert database_bytes(RealFileSystem(), tmp_path) <= size_of(10).num_bytes


def flipped(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        [byte] = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def is_ordered_part(part: list[bytes], whole: list[bytes]) -> bool:
    return set(part) <= set(whole) and len(set(part)) == len(part)


def test_a_flipped_bit_in_any_byte_of_a_record_is_a_miss_of_that_record(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.publish([record(0), record(1)])
    content = (tmp_path / DATABASE_NAME).read_bytes()
    whole = encoded([record(0), record(1)])
    start = content.index(whole[0])
    for offset in range(len(whole[0])):
        (tmp_path / DATABASE_NAME).write_bytes(content)
        flipped(tmp_path / DATABASE_NAME, start + offset, offset % 8)
        assert found(tmp_path) == whole[1:], f"byte {offset}"


@pytest.mark.parametrize("step", [131, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_flipped_bit_in_any_byte_of_the_file_makes_nothing_but_misses(tmp_path: Path, step: int) -> None:
    """Of the whole database: header, tables, free space."""
    with opened(tmp_path) as store:
        store.publish([record(number) for number in range(40)])
    content, whole = (tmp_path / DATABASE_NAME).read_bytes(), encoded([record(number) for number in range(40)])
    num_misses = 0
    for place in range(0, len(content), step):
        (tmp_path / DATABASE_NAME).write_bytes(content)
        flipped(tmp_path / DATABASE_NAME, place, place % 8)
        records = found(tmp_path)
        assert is_ordered_part(records, whole), f"byte {place}"
        num_misses += len(records) < len(whole)
    assert num_misses > len(content) // step // 3


def test_a_flipped_bit_in_any_byte_of_the_log_makes_nothing_but_misses(tmp_path: Path) -> None:
    """As a kill in the middle of a transaction leaves it."""
    (tmp_path / "live").mkdir()
    connection = sqlite3.connect(tmp_path / "live" / DATABASE_NAME, isolation_level=None)
    with opened(tmp_path) as store:
        store.publish([record(number) for number in range(6)])
    shutil.copy(tmp_path / DATABASE_NAME, tmp_path / "live")
    connection.close()
    connection = sqlite3.connect(tmp_path / "live" / DATABASE_NAME, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("INSERT INTO records VALUES (6, 7, ?)", (encode(record(6), IDENTITY),))
    database, log = ((tmp_path / "live" / name).read_bytes() for name in DATABASE_FILES[:2])
    connection.close()
    whole = encoded([record(number) for number in range(7)])

    def found_with(log: bytes) -> list[bytes]:
        (tmp_path / DATABASE_NAME).write_bytes(database)
        (tmp_path / f"{DATABASE_NAME}-wal").write_bytes(log)
        return found(tmp_path)

    assert found_with(log) == whole
    for place in range(0, len(log), 17):
        damaged = bytearray(log)
        damaged[place] ^= 1 << place % 8
        records = found_with(bytes(damaged))
        assert records in (whole, whole[:6]), f"byte {place}"


def test_no_records_where_the_database_is_cut_rubbish_or_a_link(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.publish([record(number) for number in range(40)])
    path = tmp_path / DATABASE_NAME
    content = path.read_bytes()
    for damaged in (content[:4096], content[:-1], b"", b"rubbish", bytes(len(content)), os.urandom(len(content))):
        path.write_bytes(damaged)
        assert is_ordered_part(found(tmp_path), encoded([record(number) for number in range(40)]))
        with opened(tmp_path) as store:
            store.publish([record(7)])
        assert encode(record(7), IDENTITY) in found(tmp_path)
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(b"precious")
    path.symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path) == []
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def say_something(store: SqlitePrefixStore) -> None:
    store.publish([record(number) for number in range(150)])
    store.flush(1)
    store.forget([(key(number), FULL) for number in range(0, 150, 3)])
    store.publish([record(number, cold_index=number - 200) for number in range(200, 260)])
    store.flush(1)


@pytest.mark.parametrize("kind", ["full", "ioerr", "corrupt"])
def test_whichever_call_fails_nothing_wrong_is_found_and_what_comes_later_is(tmp_path: Path, kind: Kind) -> None:
    counting = FaultyDatabase(10**9)
    with opened(tmp_path, counting) as store:
        say_something(store)
    assert counting.num_calls > 100
    published = {encode(record(n), IDENTITY) for n in range(150)}
    published |= {encode(record(n, cold_index=n - 200), IDENTITY) for n in range(200, 260)}
    for nth in [*range(1, 24, 4), *range(24, counting.num_calls, 131)]:
        for name in DATABASE_FILES:
            (tmp_path / name).unlink(missing_ok=True)
        disk = FaultyDatabase(nth, kind)
        with opened(tmp_path, disk) as store:
            say_something(store)
            store.publish([record(999)])
            is_durable = store.flush(5)
        assert disk.num_failures == (disk.num_calls >= nth), f"call {nth}"  # how many there are depends on the time
        records = set(found(tmp_path))
        assert records <= {*published, encode(record(999), IDENTITY)}, f"call {nth}"
        assert is_durable == (encode(record(999), IDENTITY) in records), f"call {nth}"
        assert disk.num_syncs_after_failure == 0
        assert is_durable or store.stats().num_errors == disk.num_failures == 1


@pytest.mark.parametrize("kind", ["full", "ioerr", "corrupt"])
def test_a_disk_that_fails_for_good_costs_the_records_alone(tmp_path: Path, kind: Kind) -> None:
    for nth in range(1, 40, 7):
        with opened(tmp_path, FaultyDatabase(nth, kind, persistent=True)) as store:
            store.publish([record(number) for number in range(20)])
            assert not store.flush(0.02)
            deadline = time.monotonic() + 10
            while store.stats().num_errors == 0 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert store.stats().num_errors > 0
        found(tmp_path)


def test_a_full_disk_pauses_publishing_until_there_is_room(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and the right to mount a tmpfs")
    try:
        with opened(small) as store:
            filler = small / "filler"
            with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
                while True:
                    os.write(file.fileno(), bytes(4096))
            store.publish([record(number) for number in range(40)])
            assert not store.flush(0.2)
            filler.unlink()
            assert store.flush(10)
        assert len(found(small)) == 40
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_the_directory_may_vanish_under_a_store(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    with opened(directory) as store:
        store.publish([record(0)])
        assert store.flush(10)
        shutil.rmtree(directory)
        store.publish([record(number) for number in range(200)])
        store.flush(0.2)
        store.forget([(key(number), FULL) for number in range(200)])


PROGRAM = """
import sys
from pathlib import Path
from tests.cache.test_prefix_store import make_store, record
store = make_store(Path(sys.argv[1]))
store.load()
for number in range(10**6):
    store.publish([record(number % 1500)])
    if number % 200 == 199:
        store.flush(10)
        print(number, flush=True)
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_durable(tmp_path: Path) -> None:
    moments = random.Random(3)
    for _ in range(2):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            durable = int(process.stdout.readline())
            time.sleep(moments.uniform(0, 0.1))
            process.kill()
        records = set(found(tmp_path))
        assert set(encoded([record(number) for number in range(durable + 1)])) <= records
        assert records <= set(encoded([record(number) for number in range(1500)]))


@pytest.mark.slow
def test_a_hundred_thousand_records_are_found_in_time(tmp_path: Path) -> None:
    with opened(tmp_path, max_rows=100_000) as store:
        store._database.close()  # type: ignore[union-attr]
        store._database = None
        connection = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
        template = record(0)
        rows = [
            BlockRecord(key(n), key(n - 1), FULL, n, n, template.checksums, template.tenant) for n in range(100_000)
        ]
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO records VALUES (?, ?, ?)", ((n, n, encode(row, IDENTITY)) for n, row in enumerate(rows))
        )
        connection.execute("COMMIT")
        connection.close()
    started = time.process_time()
    store = make_store(tmp_path, max_rows=100_000)
    assert len(store.load()) == 100_000
    assert time.process_time() - started < 5  # it takes one or two
    store.close()
