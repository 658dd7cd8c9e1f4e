"""Architectures and caches small enough to fill to the brim in a test."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from transom.cache import BLOCK_SIZE, CacheManager
from transom.cache.file_system import FileSystem
from transom.config.engine_config import EngineConfig
from transom.config.model_config import LayerKind, ModelConfig
from transom.config.rope_config import RopeConfig
from transom.kernels import KVLayout

FULL = LayerKind.FULL_ATTENTION
SLIDING = LayerKind.SLIDING_ATTENTION

KVDtype = Literal["f32", "f16", "q8_0"]

__all__ = ["BLOCK_SIZE", "FULL", "SLIDING", "KVDtype", "make_cache", "make_model_config", "slot_bytes"]


def make_model_config(
    layer_types: Sequence[LayerKind] = (FULL, FULL), sliding_window: int | None = None, num_heads: int = 4
) -> ModelConfig:
    """Two KV heads of 8 channels in every layer."""
    return ModelConfig(
        model_type="llama",
        vocab_size=100,
        hidden_size=8 * num_heads,
        intermediate_size=64,
        num_hidden_layers=len(layer_types),
        num_attention_heads=num_heads,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=8192,
        layer_types=tuple(layer_types),
        sliding_window=sliding_window,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        rope=RopeConfig(rope_type="default", rope_theta=10000.0, rotary_dim=8),
        tie_word_embeddings=False,
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        bos_token_id=1,
        eos_token_ids=(2,),
        pad_token_id=None,
        dtype="float32",
    )


def slot_bytes(kv_dtype: KVDtype = "f32") -> int:
    """Bytes of one layer's share of a block of these models."""
    return KVLayout(2, 8, kv_dtype).slot_bytes


def make_cache(
    num_slots: int,
    layer_types: Sequence[LayerKind] = (FULL, FULL),
    sliding_window: int | None = None,
    *,
    kv_dtype: KVDtype = "f32",
    chunk: int = 128,
    spare_bytes: int = 0,
    max_ssd_bytes: int = 0,
    ssd_path: Path | None = None,
    hot_tokens: int | None = None,
    enable_prefix_cache: bool = False,
    max_reuse_ssd_bytes: int | None = None,
    file_system: FileSystem | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> CacheManager:
    """A cache whose budget holds exactly `num_slots` slots (and `spare_bytes` that are good for nothing).

    With a cold tier some of the slots are its staging ring.
    """
    engine_config = EngineConfig(
        model_path=Path("no-weights"),
        context_window=8192,
        kv_dtype=kv_dtype,
        kv_cache_ram_bytes=num_slots * slot_bytes(kv_dtype) + spare_bytes,
        max_ram_bytes=None,
        num_threads=1,
        max_num_batched_tokens=chunk,
        max_ssd_bytes=max_ssd_bytes,
        ssd_path=ssd_path,
        hot_tokens=hot_tokens,
        enable_prefix_cache=enable_prefix_cache,
        max_reuse_ssd_bytes=max_reuse_ssd_bytes,
    )
    model_config = make_model_config(layer_types, sliding_window)
    return CacheManager(model_config, engine_config, file_system=file_system, clock=clock)
