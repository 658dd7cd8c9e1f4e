"""From settings to an open cold tier. Knows which file holds what, and how many blocks the budget allows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transom.cache.cold_file import ColdDirectory, Identify
from transom.cache.cold_format import KIND_NAMES, ColdLayout
from transom.cache.cold_store import ColdStore
from transom.cache.cold_tier import ColdTier, metadata_bytes
from transom.cache.file_system import FileSystem
from transom.cache.kept_places import KeptPlaces
from transom.cache.layer_group import LayerGroup
from transom.cache.prefix_database import DatabaseSize, database_bytes
from transom.cache.prefix_record import NoPrefixStore, PrefixStore
from transom.cache.prefix_store import SqlitePrefixStore
from transom.cache.record_format import record_bytes
from transom.config.engine_config import EngineConfig
from transom.config.model_config import LayerKind, ModelConfig
from transom.errors import ConfigError

_PAGE = 4096
_FILE_BYTES = 2 * _PAGE
"""What a file may take before anything is in it."""
_REPLACEMENT_BYTES = _PAGE
"""A small file is there twice while it is replaced."""

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class OpenedColdTier:
    """A cold tier and what is known of its files from earlier runs."""

    tier: ColdTier
    prefix_store: PrefixStore
    """To be closed before the tier."""
    identity: bytes | None
    """What keys and values are made by; None: nothing outlives the run."""


def open_cold_tier(
    model_config: ModelConfig,
    engine_config: EngineConfig,
    directory: Path,
    *,
    groups: Sequence[LayerGroup],
    slot_bytes: int,
    arena: NDArray[np.uint8],
    file_system: FileSystem,
    clock: Callable[[], float],
    identify: Identify | None = None,
) -> OpenedColdTier:
    """Locks the directory and starts the threads of the tier; without `identify` the directory is emptied.

    Raises ConfigError, in one line, when the directory cannot be used or not even one block fits beside what is in it.
    """
    max_bytes = engine_config.max_ssd_bytes
    layouts = [_layout(group, slot_bytes, max_bytes, is_kept=identify is not None) for group in groups]
    files = ColdDirectory(file_system, directory, layouts, _described(model_config, engine_config), identify)
    try:
        num_slots = _num_slots(files, max_bytes)
    except BaseException:
        files.close()
        raise
    stores = {group.kind: ColdStore(file) for group, file in zip(groups, files.files, strict=True)}
    database_size = _database_size(files, num_slots)
    prefix_store: PrefixStore = NoPrefixStore()
    close_files: Callable[[], None] = files.close
    if files.identity is not None and database_size is not None:
        kept = SqlitePrefixStore(
            file_system,
            directory,
            identity=files.identity,
            size=database_size,
            take_places=KeptPlaces(stores, num_slots).take,
            sync_cold_files=files.sync,
        )
        prefix_store, close_files = kept, partial(_close, files, kept)
    tier = ColdTier(
        stores,
        arena=arena,
        slot_bytes=slot_bytes,
        queue=files.queue,
        num_slots=num_slots,
        max_bytes=max_bytes,
        physical_bytes=files.physical_bytes,
        num_promised_bytes=partial(_num_promised_bytes, files, database_size),
        close_files=close_files,
        clock=clock,
    )
    return OpenedColdTier(tier, prefix_store, files.identity)


def _close(files: ColdDirectory, prefix_store: SqlitePrefixStore) -> None:
    """What is published stays. A thread that hangs keeps its files until the process ends."""
    prefix_store.close()
    if not prefix_store.is_hung:
        files.close(keep=prefix_store.stats().num_records > 0)


def _num_promised_bytes(files: ColdDirectory, size: DatabaseSize | None) -> int:
    """By how much the database may still grow."""
    if size is None:
        return 0
    try:
        return max(0, size.num_bytes - database_bytes(files.file_system, files.path))
    except OSError:
        return size.num_bytes


def _layout(group: LayerGroup, slot_bytes: int, max_bytes: int, *, is_kept: bool) -> ColdLayout:
    """As if the group had the whole budget: a file is as large as what is in it.

    Where files are kept, rounded up to a power of two: they lie alike under budgets that differ a little.
    """
    one = ColdLayout(KIND_NAMES[group.kind], group.num_layers, 1, slot_bytes)
    capacity = max(1, max_bytes // one.block_bytes)
    return replace(one, capacity=1 << (capacity - 1).bit_length() if is_kept else capacity)


def _num_slots(files: ColdDirectory, max_bytes: int) -> int:
    """Slots that fit beside what else is in the directory, what a file system needs to find them, and their records."""
    try:
        others = files.other_bytes()
    except OSError as error:
        raise ConfigError(f"ssd_path {files.path} cannot be measured: {error.strerror}") from error
    layouts = [file.layout for file in files.files]
    room = max_bytes - others - len(layouts) * _FILE_BYTES - _REPLACEMENT_BYTES * (files.identity is not None)
    stride = layouts[0].stride
    candidates = range(max(0, room) // stride + 1)
    num_slots = bisect_right(candidates, room, key=lambda count: _bytes_of_slots(files, count)) - 1
    block_slots = sum(layout.num_rows for layout in layouts if layout.kind is not LayerKind.SHORT_CONV)
    if num_slots < block_slots:
        raise ConfigError(
            f"max_ssd_mb is {max_bytes / _MIB:g} MiB, but one block takes {block_slots * stride} bytes beside the "
            f"{others} bytes that {files.path} holds already"
        )
    return num_slots


def _bytes_of_slots(files: ColdDirectory, num_slots: int) -> int:
    size = _database_size(files, num_slots)
    num_bytes = num_slots * files.files[0].stride + metadata_bytes(num_slots)
    return num_bytes if size is None else num_bytes + size.num_bytes


def _database_size(files: ColdDirectory, num_slots: int) -> DatabaseSize | None:
    """For the records of so many slots: the fewer of them a block has, the more records there may be."""
    if files.identity is None:
        return None
    least = min(file.num_rows for file in files.files)
    return DatabaseSize(num_slots // least, record_bytes(least))


def _described(model_config: ModelConfig, engine_config: EngineConfig) -> dict[str, str | int]:
    """For people who look into the directory."""
    return {
        "model_type": model_config.model_type,
        "num_hidden_layers": model_config.num_hidden_layers,
        "num_key_value_heads": model_config.num_key_value_heads,
        "head_dim": model_config.head_dim,
        "kv_dtype": engine_config.kv_dtype,
    }
