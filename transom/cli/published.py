"""Blocks that a server has left for its next run, as `transom cache` sees them while no server runs.

Reads a copy of the database, so that looking changes nothing and locks nobody out; only `remove_tenant` writes.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from transom.cache.cold_file import ColdFile
from transom.cache.cold_format import FORMAT_NAME, ColdFormat, ColdLayout
from transom.cache.cold_store import gaps
from transom.cache.file_system import FileSystem, RealFileSystem
from transom.cache.prefix_database import DATABASE_FILES, DATABASE_NAME, MAX_CHANGES, Delete, PrefixDatabase
from transom.cache.prefix_key import tenant_tag
from transom.cache.prefix_record import BlockRecord
from transom.cache.record_format import SoundRecords, place_of, sound_records
from transom.errors import ConfigError
from transom.kernels import checksum

_ANY_SIZE = 2**30
"""Pages: what is only read, or shrinks, needs no bound."""


@dataclass(frozen=True, slots=True)
class Published:
    """What the database of a directory says."""

    records: tuple[BlockRecord, ...] = ()
    num_damaged: int = 0
    """Records that nobody will take for one."""

    @property
    def num_tenants(self) -> int:
        return len({record.tenant for record in self.records})


def read_published(directory: Path, cold_format: ColdFormat) -> Published:
    """Blocks for as long as reading the database takes. ConfigError when it is damaged."""
    if cold_format.identity is None or not (directory / DATABASE_NAME).exists():
        return Published()
    with tempfile.TemporaryDirectory() as copied:
        for name in DATABASE_FILES:
            with suppress(FileNotFoundError):
                shutil.copyfile(directory / name, Path(copied) / name, follow_symlinks=False)
        try:
            with closing(PrefixDatabase.open(RealFileSystem(), Path(copied), _ANY_SIZE)) as database:
                return _published(database, cold_format)
        except sqlite3.Error as error:
            raise ConfigError(f"{directory / DATABASE_NAME} is damaged: {error}") from error


def count_wrong_blocks(directory: Path, cold_format: ColdFormat, published: Published) -> int:
    """How many published blocks have other bytes than were recorded. Reads all of them. OSError."""
    num_wrong = 0
    for layout in cold_format.layouts:
        with (directory / layout.file_name).open("rb") as file:
            num_wrong += sum(not _is_right(file, layout, record) for record in _of(layout, published.records))
    return num_wrong


def remove_tenant(file_system: FileSystem, directory: Path, tenant: str) -> None:
    """Removes the blocks of one tenant, and whatever nobody will find any more. The caller holds the lock.

    Raises ConfigError, having removed nothing, when tenants cannot be told apart.
    """
    try:
        cold_format = ColdFormat.from_json(file_system.read(directory / FORMAT_NAME) or b"")
    except ValueError as error:
        raise ConfigError(f"{directory}: {error}, so tenants cannot be told apart; purge all of it") from error
    kept: list[BlockRecord] = []
    if cold_format.identity is not None:
        kept = _delete_records(file_system, directory, cold_format, tenant_tag(tenant))
    for layout in cold_format.layouts:
        if file_system.file_size(directory / layout.file_name) == layout.num_bytes:
            _empty_all_but(file_system, directory, layout, _of(layout, kept))


def _delete_records(file_system: FileSystem, directory: Path, cold_format: ColdFormat, tag: bytes) -> list[BlockRecord]:
    """Deletes those of one tenant; the others."""
    try:
        with closing(PrefixDatabase.open(file_system, directory, _ANY_SIZE)) as database:
            records = _published(database, cold_format).records
            places = [place_of(record.kind, record.cold_index) for record in records if record.tenant == tag]
            for start in range(0, len(places), MAX_CHANGES):
                database.write(dict.fromkeys(places[start : start + MAX_CHANGES], Delete()))
    except sqlite3.Error as error:
        raise ConfigError(
            f"{directory / DATABASE_NAME} is damaged, so tenants cannot be told apart; purge all of it: {error}"
        ) from error
    return [record for record in records if record.tenant != tag]


def _published(database: PrefixDatabase, cold_format: ColdFormat) -> Published:
    found: SoundRecords = sound_records(database.records(), bytes.fromhex(cold_format.identity or ""))
    return Published(tuple(found.records), len(found.damaged_places))


def _of(layout: ColdLayout, records: Iterable[BlockRecord]) -> list[BlockRecord]:
    """Those that lie in this file."""
    return [
        record
        for record in records
        if record.kind is layout.kind and layout.has_place(record.cold_index, len(record.checksums))
    ]


def _is_right(file: BinaryIO, layout: ColdLayout, record: BlockRecord) -> bool:
    offsets = layout.offsets(np.arange(layout.num_rows), record.cold_index)
    for offset, expected in zip(offsets.tolist(), record.checksums.tolist(), strict=True):
        file.seek(offset)
        if list(checksum(np.frombuffer(file.read(layout.slot_bytes), np.uint8))) != expected:
            return False
    return True


def _empty_all_but(
    file_system: FileSystem, directory: Path, layout: ColdLayout, records: Iterable[BlockRecord]
) -> None:
    opened = file_system.open_cold_file(directory / layout.file_name, layout.num_bytes, keep=True)
    with closing(ColdFile(layout, opened, file_system)) as file:
        for first, count in gaps(sorted(record.cold_index for record in records), layout.capacity):
            try:
                file.punch(first, count)
            except OSError as error:
                raise ConfigError(f"{opened.path} cannot be emptied: {error.strerror}") from error
