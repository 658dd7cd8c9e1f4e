"""From settings to an open cold tier. Knows which file holds what; how much fits is `cold_room`'s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transom.cache.cold_file import ColdDirectory, Identify
from transom.cache.cold_room import ColdRoom
from transom.cache.cold_store import ColdStore
from transom.cache.cold_tier import ColdTier
from transom.cache.file_system import FileSystem
from transom.cache.kept_places import KeptPlaces
from transom.cache.layer_group import LayerGroup
from transom.cache.prefix_database import DatabaseSize, database_bytes
from transom.cache.prefix_record import NoPrefixStore, PrefixStore
from transom.cache.prefix_store import SqlitePrefixStore
from transom.config.engine_config import EngineConfig
from transom.config.model_config import ModelConfig
from transom.errors import ConfigError


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
    room = ColdRoom.of(groups, slot_bytes, max_bytes, is_kept=identify is not None)
    files = ColdDirectory(file_system, directory, room.layouts, _described(model_config, engine_config), identify)
    try:
        num_slots = _num_slots(files, room)
    except BaseException:
        files.close()
        raise
    stores = {group.kind: ColdStore(file) for group, file in zip(groups, files.files, strict=True)}
    database_size = room.database_size(num_slots)
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


def _num_slots(files: ColdDirectory, room: ColdRoom) -> int:
    """Slots that fit beside what is in the directory. ConfigError."""
    try:
        others = files.other_bytes()
    except OSError as error:
        raise ConfigError(f"ssd_path {files.path} cannot be measured: {error.strerror}") from error
    return room.num_slots(others, files.path)


def _described(model_config: ModelConfig, engine_config: EngineConfig) -> dict[str, str | int]:
    """For people who look into the directory."""
    return {
        "model_type": model_config.model_type,
        "num_hidden_layers": model_config.num_hidden_layers,
        "num_key_value_heads": model_config.num_key_value_heads,
        "head_dim": model_config.head_dim,
        "kv_dtype": engine_config.kv_dtype,
    }
