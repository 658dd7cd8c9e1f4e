"""`EngineConfig`: the limits one model's engine works within, and `resolve`, which derives them from a registry entry.

Plain data: it travels to the worker process. Knows no weights and no file but the model's path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from transom.config.kv_size import (
    BLOCK_SIZE,
    KV_DTYPE_BYTES,
    kv_bytes_for_tokens,
    kv_bytes_per_block,
    kv_bytes_per_token,
)
from transom.config.model_config import LayerKind, ModelConfig
from transom.config.plain_data import from_plain, to_plain
from transom.errors import ConfigError

if TYPE_CHECKING:
    from transom.config.registry_config import ModelEntry

__all__ = [
    "BLOCK_SIZE",
    "MIB",
    "EngineConfig",
    "check_memory",
    "kv_bytes_for_tokens",
    "kv_bytes_per_block",
    "kv_bytes_per_token",
    "resolve",
    "workspace_bytes",
]

MIB = 2**20

DEFAULT_KV_SEQUENCES = 4
"""Without `kv_cache_ram_mb`: room for so many sequences that fill the context window ..."""
DEFAULT_KV_MAX_BYTES = 8 * 2**30
"""... but no more than this, nor than half of the RAM that is available."""

DEFAULT_NUM_BATCHED_TOKENS = 512

DEFAULT_NUM_WAITING_TOKENS = 2**20
"""Packed, 4 MiB."""
WAITING_WINDOWS = 4
"""At least so many requests that fill the context window may wait, however long it is."""

_WAITING_TOKEN_BYTES = 4
_PROCESS_BYTES = 96 * MIB  # interpreter, libraries, native thread stacks


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything the worker process of one model is told, beside its `ModelConfig`."""

    model_path: Path
    context_window: int
    """prompt + completion tokens of one sequence, at most."""
    kv_dtype: str
    """Element type of keys and values in the cache: f32 or f16."""
    kv_cache_ram_bytes: int
    """Hard cap for everything KV in RAM."""
    max_ram_bytes: int | None
    """Cap for the whole worker process; None = none beyond weights + KV + workspace."""
    num_threads: int
    max_num_seqs: int = 32
    """Sequences computed in one step."""
    max_num_batched_tokens: int = DEFAULT_NUM_BATCHED_TOKENS
    """Tokens computed in one step, decode and prefill together."""
    max_num_waiting: int = 256
    """Requests that may wait; more are refused as overload."""
    max_waiting_tokens: int = DEFAULT_NUM_WAITING_TOKENS
    """Prompt tokens of all the requests that may wait together; more are refused as overload."""

    def __post_init__(self) -> None:
        if self.kv_dtype not in KV_DTYPE_BYTES:
            raise ConfigError(f"kv_dtype is {self.kv_dtype!r}, must be one of {', '.join(KV_DTYPE_BYTES)}")
        for name in ("context_window", "kv_cache_ram_bytes", "num_threads", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be 1 or more")
        for name in ("max_num_waiting", "max_waiting_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be 0 or more")

    @property
    def waiting_token_limit(self) -> int:
        """`max_waiting_tokens`, or more where the context window is so long that few prompts would be that many."""
        return max(self.max_waiting_tokens, WAITING_WINDOWS * self.context_window)

    @property
    def block_size(self) -> int:
        """Tokens of a block; fixed, for the kernels are made for it."""
        return BLOCK_SIZE

    def to_plain(self) -> dict[str, Any]:
        """As values that msgpack and JSON carry."""
        return to_plain(self)

    @classmethod
    def from_plain(cls, plain: object) -> EngineConfig:
        """The inverse of `to_plain`, strict: ConfigError for missing, unknown or wrongly typed keys."""
        return from_plain(cls, plain)


def resolve(
    entry: ModelEntry, model_config: ModelConfig, *, num_threads: int, available_ram_bytes: int | None = None
) -> tuple[ModelConfig, EngineConfig]:
    """The entry applied to the architecture: what it lowers is lowered, what it leaves open gets its default.

    `available_ram_bytes` bounds the default KV budget; None measures this machine. The rope keeps the checkpoint's
    lengths: a lowered context window changes no rotation. Raises ConfigError naming key, value and rule.
    """
    narrowed = _narrow_attention(entry.supported(), _lower_context(entry, model_config))
    _check_cache_window(entry, narrowed)
    kv_bytes = _kv_budget(entry, narrowed, available_ram_bytes)
    max_ram_mb = entry.tier_config.max_ram_mb
    engine_config = EngineConfig(
        model_path=entry.path,
        context_window=narrowed.max_position_embeddings,
        kv_dtype=entry.tier_config.kv_dtype,
        kv_cache_ram_bytes=kv_bytes,
        max_ram_bytes=None if max_ram_mb is None else max_ram_mb * MIB,
        num_threads=num_threads,
    )
    return narrowed, engine_config


def check_memory(model_config: ModelConfig, engine_config: EngineConfig, weights_bytes: int) -> None:
    """Raises ConfigError with all the numbers when `max_ram_mb` cannot hold weights + KV + workspace."""
    if engine_config.max_ram_bytes is None:
        return
    parts = {
        "weights": weights_bytes,
        "KV cache": engine_config.kv_cache_ram_bytes,
        "workspace": workspace_bytes(model_config, engine_config),
    }
    missing = sum(parts.values()) - engine_config.max_ram_bytes
    if missing > 0:
        needed = " + ".join(f"{_mib(size)} MiB {name}" for name, size in parts.items())
        raise ConfigError(
            f"{engine_config.model_path}: tier_config.max_ram_mb is {_mib(engine_config.max_ram_bytes)}, "
            f"{_mib(missing)} MiB less than {needed}"
        )


def workspace_bytes(model_config: ModelConfig, engine_config: EngineConfig) -> int:
    """An upper estimate of what the worker needs beside weights and KV: the process itself, one step's arrays, and the
    prompts that wait, or run with as many tokens in the cache."""
    token_floats = 3 * model_config.intermediate_size + 8 * model_config.hidden_size
    token_floats += 4 * model_config.num_attention_heads * model_config.head_dim
    logit_floats = 3 * engine_config.max_num_seqs * model_config.vocab_size
    prompts = _WAITING_TOKEN_BYTES * engine_config.waiting_token_limit
    return _PROCESS_BYTES + prompts + 4 * (engine_config.max_num_batched_tokens * token_floats + logit_floats)


def _lower_context(entry: ModelEntry, model_config: ModelConfig) -> ModelConfig:
    own, wanted = model_config.max_position_embeddings, entry.max_position_embeddings
    if wanted is None:
        return model_config
    if wanted > own:
        raise _error(entry, "max_position_embeddings", wanted, f"may only lower the model's own, which is {own}")
    return replace(model_config, max_position_embeddings=wanted)


def _narrow_attention(entry: ModelEntry, model_config: ModelConfig) -> ModelConfig:
    """All attention layers slide by the entry's window, unless nothing would ever leave it."""
    window, own = entry.sliding_window, model_config.sliding_window
    if window is None:
        return model_config
    if own is not None and window > own:
        raise _error(entry, "sliding_window", window, f"may only narrow the model's own, which is {own}")
    if own is None and window >= model_config.max_position_embeddings:
        return model_config
    kinds = tuple(
        kind if kind is LayerKind.SHORT_CONV else LayerKind.SLIDING_ATTENTION for kind in model_config.layer_types
    )
    return replace(model_config, layer_types=kinds, sliding_window=window)


def _check_cache_window(entry: ModelEntry, model_config: ModelConfig) -> None:
    """Only a window that somebody wrote is checked: the default one is not in use with strategy `full`."""
    window, context = entry.cache.window_size, model_config.max_position_embeddings
    if "window_size" in entry.cache.model_fields_set and window > context:
        raise _error(entry, "cache.window_size", window, f"must be at most the context window, which is {context}")


def _kv_budget(entry: ModelEntry, model_config: ModelConfig, available_ram_bytes: int | None) -> int:
    kv_dtype, kv_cache_ram_mb = entry.tier_config.kv_dtype, entry.tier_config.kv_cache_ram_mb
    least = kv_bytes_for_tokens(model_config, kv_dtype, 1)
    if kv_cache_ram_mb is None:
        return max(least, _default_kv_budget(model_config, kv_dtype, available_ram_bytes))
    if kv_cache_ram_mb * MIB < least:
        rule = f"must hold at least one block of {BLOCK_SIZE} tokens, which takes {least} bytes ({_mib(least)} MiB)"
        raise _error(entry, "tier_config.kv_cache_ram_mb", kv_cache_ram_mb, rule)
    return kv_cache_ram_mb * MIB


def _default_kv_budget(model_config: ModelConfig, kv_dtype: str, available_ram_bytes: int | None) -> int:
    available = psutil.virtual_memory().available if available_ram_bytes is None else available_ram_bytes
    context, chunk = model_config.max_position_embeddings, DEFAULT_NUM_BATCHED_TOKENS
    one_sequence = kv_bytes_for_tokens(model_config, kv_dtype, context, chunk)
    return min(DEFAULT_KV_SEQUENCES * one_sequence, DEFAULT_KV_MAX_BYTES, available // 2)


def _error(entry: ModelEntry, key: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"model {entry.id}: {key} is {value}, {rule}")


def _mib(num_bytes: int) -> int:
    return -(-num_bytes // MIB)
