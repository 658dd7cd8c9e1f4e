"""The `Budget` of settings, before memory or files are taken. `CacheManager` then has the same, to the byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

from transom import kernels
from transom.cache.budget import Budget, ram_budget
from transom.cache.cold_room import ColdRoom
from transom.cache.layer_group import LayerGroup, layer_groups, snapshot_group
from transom.config.engine_config import EngineConfig
from transom.config.kv_size import conv_state_bytes
from transom.config.model_config import ModelConfig

__all__ = ["cold_groups", "kv_layout", "planned_budget"]


def planned_budget(model_config: ModelConfig, engine_config: EngineConfig, *, other_ssd_bytes: int = 0) -> Budget:
    """Of both tiers, as the worker of a model will have them; touches no disk.

    `other_ssd_bytes` is what strangers have put into the directory of the cold tier. ConfigError: not even one block
    fits.
    """
    state_bytes = engine_config.max_num_seqs * conv_state_bytes(model_config)
    slot_bytes = kv_layout(model_config, engine_config).slot_bytes
    budget = ram_budget(layer_groups(model_config), slot_bytes, engine_config, state_bytes)
    if not engine_config.has_cold_tier or engine_config.ssd_path is None:
        return budget
    room = ColdRoom.of(
        cold_groups(model_config, engine_config, budget.slot_bytes),
        budget.slot_bytes,
        engine_config.max_ssd_bytes,
        is_kept=engine_config.enable_prefix_cache,
    )
    return replace(budget, num_cold_slots=room.num_slots(other_ssd_bytes, engine_config.ssd_path))


def kv_layout(model_config: ModelConfig, engine_config: EngineConfig) -> kernels.KVLayout:
    """How one layer's keys and values lie in a slot."""
    kv_dtype = cast(Literal["f32", "f16", "q8_0"], engine_config.kv_dtype)  # validated there
    return kernels.KVLayout(model_config.num_key_value_heads, model_config.head_dim, kv_dtype)


def cold_groups(model_config: ModelConfig, engine_config: EngineConfig, slot_bytes: int) -> tuple[LayerGroup, ...]:
    """What has a file in the cold tier: every kind of attention layers, and what convolutions leave for later ones."""
    snapshots = snapshot_group(model_config, slot_bytes) if engine_config.enable_prefix_cache else None
    groups = layer_groups(model_config)
    return groups if snapshots is None else (*groups, snapshots)
