"""From settings to an open cold tier. Knows which file holds what, and how many blocks the budget allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transom.cache.cold_file import ColdDirectory
from transom.cache.cold_format import ColdLayout
from transom.cache.cold_store import ColdStore
from transom.cache.cold_tier import ColdTier, metadata_bytes
from transom.cache.file_system import FileSystem
from transom.cache.layer_group import LayerGroup
from transom.config.engine_config import EngineConfig
from transom.config.model_config import LayerKind, ModelConfig
from transom.errors import ConfigError

_NAMES = {LayerKind.FULL_ATTENTION: "full", LayerKind.SLIDING_ATTENTION: "sliding"}

_FILE_BYTES = 2 * 4096
"""What a file may take before anything is in it."""
_SLOT_METADATA_BYTES = metadata_bytes(2**20) // 2**20 + 1

_MIB = 2**20


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
) -> ColdTier:
    """Locks and empties the directory, and starts the threads of the tier.

    Raises ConfigError, in one line, when the directory cannot be used or not even one block fits beside what is in it.
    """
    layouts = [_layout(group, slot_bytes, engine_config.max_ssd_bytes) for group in groups]
    files = ColdDirectory(file_system, directory, layouts, _described(model_config, engine_config))
    try:
        num_slots = _num_slots(files, layouts, engine_config.max_ssd_bytes)
    except BaseException:
        files.close()
        raise
    return ColdTier(
        {group.kind: ColdStore(file) for group, file in zip(groups, files.files, strict=True)},
        arena=arena,
        slot_bytes=slot_bytes,
        queue=files.queue,
        num_slots=num_slots,
        max_bytes=engine_config.max_ssd_bytes,
        physical_bytes=files.physical_bytes,
        close_files=files.close,
        clock=clock,
    )


def _layout(group: LayerGroup, slot_bytes: int, max_bytes: int) -> ColdLayout:
    """As if the group had the whole budget: a file is as large as what is in it."""
    one = ColdLayout(_NAMES[group.kind], group.num_layers, 1, slot_bytes)
    return ColdLayout(one.name, group.num_layers, max(1, max_bytes // (one.num_rows * one.stride)), slot_bytes)


def _num_slots(files: ColdDirectory, layouts: Sequence[ColdLayout], max_bytes: int) -> int:
    """Slots that fit beside what is in the directory and what a file system needs to find them."""
    try:
        present = files.physical_bytes()
    except OSError as error:
        raise ConfigError(f"ssd_path {files.path} cannot be measured: {error.strerror}") from error
    stride = layouts[0].stride
    room = max_bytes - present - len(layouts) * _FILE_BYTES
    num_slots = max(0, room - metadata_bytes(0)) // (stride + _SLOT_METADATA_BYTES)
    block_slots = sum(layout.num_rows for layout in layouts)
    if num_slots < block_slots:
        raise ConfigError(
            f"max_ssd_mb is {max_bytes / _MIB:g} MiB, but one block takes {block_slots * stride} bytes beside the "
            f"{present} bytes that {files.path} holds already"
        )
    return num_slots


def _described(model_config: ModelConfig, engine_config: EngineConfig) -> dict[str, str | int]:
    """For people who look into the directory."""
    return {
        "model_type": model_config.model_type,
        "num_hidden_layers": model_config.num_hidden_layers,
        "num_key_value_heads": model_config.num_key_value_heads,
        "head_dim": model_config.head_dim,
        "kv_dtype": engine_config.kv_dtype,
    }
