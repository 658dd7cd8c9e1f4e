"""`EngineConfig`: the limits one model's engine works within, and `resolve`, which derives them from a registry entry.

Plain data: it travels to the worker process. Knows no weights and no file but the model's path.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from transom.config.cache_options import resolve_cache
from transom.config.kv_size import (
    BLOCK_SIZE,
    KV_DTYPES,
    cold_bytes_per_block,
    conv_state_bytes,
    kv_bytes_for_tokens,
    kv_bytes_per_block,
    kv_bytes_per_token,
)
from transom.config.model_config import CHECKPOINT_DTYPES, LayerKind, ModelConfig
from transom.config.plain_data import from_plain, to_plain
from transom.errors import ConfigError
from transom.request import CacheOptions

if TYPE_CHECKING:
    from transom.config.registry_config import ModelEntry

__all__ = [
    "BLOCK_SIZE",
    "COLD_CHUNK_GROWTH",
    "MAX_PROMPT_LOGPROB_ROWS",
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

DEFAULT_NUM_SEQS = 32

DEFAULT_DRAFT_TOKENS = 15
"""With the row of the last token they are 16, as many as kernels compute at little more than the price of one."""
MAX_DRAFT_TOKENS = 32
MAX_DRAFTED_ROWS = 32
"""Guessed tokens of one step, all sequences together: each has its row of logits."""

COLD_CHUNK_GROWTH = 4
"""With a cold tier a prompt may be read in chunks so many times as long: a chunk reads every cold byte once, so longer
ones read less in all."""
DEFAULT_NUM_WAITING_TOKENS = 2**20
"""Packed, 4 MiB."""
WAITING_WINDOWS = 4
"""At least so many requests that fill the context window may wait, however long it is."""

MAX_PROMPT_LOGPROB_ROWS = 64
"""Rows of a step whose logits only serve prompt log probabilities. With a vocabulary of 128k a row is 0.5 MiB."""

_SAMPLING_ROWS = 12  # what choosing one token takes, in rows of logits
_WAITING_TOKEN_BYTES = 4
_LOOKUP_TOKEN_BYTES = 14  # what is kept of each token of a running sequence to find its like
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
    """Hard cap for everything KV in RAM, states of short convolutions included."""
    max_ram_bytes: int | None
    """Cap for the whole worker process; None = none beyond weights + KV + workspace."""
    num_threads: int
    max_num_seqs: int = DEFAULT_NUM_SEQS
    """Sequences computed in one step."""
    max_num_batched_tokens: int = DEFAULT_NUM_BATCHED_TOKENS
    """Tokens computed in one step, decode and prefill together."""
    max_num_waiting: int = 256
    """Requests that may wait; more are refused as overload."""
    ssd_path: Path | None = None
    """Directory of this model alone, for its part of the cold tier; None = no cold tier."""
    max_ssd_bytes: int = 0
    """Hard cap for the physical bytes of everything in `ssd_path`; 0 = no cold tier."""
    quantization: str | None = None
    """q8_0 or q4_k: to what matrices are quantised at load; None = they stay as the checkpoint has them."""
    hot_tokens: int | None = None
    """Tokens of one sequence that may be in RAM at once; None = as many as `kv_cache_ram_bytes` holds."""
    cache: CacheOptions = field(default_factory=CacheOptions)
    """What full-attention layers may forget, unless a request says otherwise."""
    max_waiting_tokens: int = DEFAULT_NUM_WAITING_TOKENS
    """Prompt tokens of all the requests that may wait together; more are refused as overload."""
    max_draft_tokens: int = DEFAULT_DRAFT_TOKENS
    """Next tokens of a sequence that are guessed and computed at once, at most; 0 = none."""
    enable_prefix_cache: bool = True
    """KV of earlier requests is kept while there is room, for later ones that begin with the same tokens."""
    max_reuse_ssd_bytes: int | None = None
    """Cap for what of `max_ssd_bytes` such KV may take; None = all that running requests do not need."""

    def __post_init__(self) -> None:
        if self.kv_dtype not in KV_DTYPES:
            raise ConfigError(f"kv_dtype is {self.kv_dtype!r}, must be one of {', '.join(KV_DTYPES)}")
        for name in ("context_window", "kv_cache_ram_bytes", "num_threads", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be 1 or more")
        for name in ("max_num_waiting", "max_waiting_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be 0 or more")
        if not 0 <= self.max_draft_tokens <= MAX_DRAFT_TOKENS:
            raise ConfigError(f"max_draft_tokens is {self.max_draft_tokens}, must be 0 to {MAX_DRAFT_TOKENS}")
        if self.max_ssd_bytes < 0 or (self.max_ssd_bytes > 0 and self.ssd_path is None):
            raise ConfigError(f"max_ssd_bytes is {self.max_ssd_bytes}, must be 0, or more with a directory in ssd_path")
        if self.max_reuse_ssd_bytes is not None and self.max_reuse_ssd_bytes < 0:
            raise ConfigError(f"max_reuse_ssd_bytes is {self.max_reuse_ssd_bytes}, must be 0 or more")
        if self.hot_tokens is not None and self.hot_tokens < BLOCK_SIZE:
            raise ConfigError(f"hot_tokens is {self.hot_tokens}, must be at least one block, {BLOCK_SIZE} tokens")

    @property
    def has_cold_tier(self) -> bool:
        """Whether KV may be on SSD."""
        return self.max_ssd_bytes > 0

    @property
    def max_chunk_tokens(self) -> int:
        """The most tokens that a step may compute, chunks over cold blocks included: what the workspace is made for."""
        return self.max_num_batched_tokens * (COLD_CHUNK_GROWTH if self.has_cold_tier else 1)

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
    tiers = entry.tier_config
    max_ssd_bytes = _ssd_budget(entry, narrowed)
    engine_config = EngineConfig(
        model_path=entry.path,
        context_window=narrowed.max_position_embeddings,
        kv_dtype=tiers.kv_dtype,
        kv_cache_ram_bytes=_kv_budget(entry, narrowed, available_ram_bytes),
        max_ram_bytes=None if tiers.max_ram_mb is None else tiers.max_ram_mb * MIB,
        num_threads=num_threads,
        ssd_path=tiers.ssd_path / entry.id if max_ssd_bytes and tiers.ssd_path else None,
        max_ssd_bytes=max_ssd_bytes,
        hot_tokens=_hot_tokens(entry),
        cache=_cache_options(entry, narrowed.max_position_embeddings),
        quantization=_quantization(entry, model_config),
        max_draft_tokens=_max_draft_tokens(entry),
        enable_prefix_cache=tiers.enable_prefix_cache,
        max_reuse_ssd_bytes=None if tiers.reuse_ssd_mb is None else tiers.reuse_ssd_mb * MIB,
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
    token_floats = _feed_forward_floats(model_config) + 8 * model_config.hidden_size
    token_floats += 4 * model_config.num_attention_heads * model_config.head_dim
    logit_rows = engine_config.max_num_seqs + MAX_PROMPT_LOGPROB_ROWS + _SAMPLING_ROWS
    logit_rows += MAX_DRAFTED_ROWS if engine_config.max_draft_tokens else 0
    logit_floats = logit_rows * model_config.vocab_size
    token_bytes = _WAITING_TOKEN_BYTES + (_LOOKUP_TOKEN_BYTES if engine_config.max_draft_tokens else 0)
    prompts = token_bytes * engine_config.waiting_token_limit
    return _PROCESS_BYTES + prompts + 4 * (engine_config.max_chunk_tokens * token_floats + logit_floats)


def _feed_forward_floats(model_config: ModelConfig) -> int:
    """Of one token: gate, up and their product; with experts also the shares of all, and their order. Every token may
    choose the same expert."""
    experts = model_config.experts
    if experts is None:
        return 3 * model_config.intermediate_size
    router = 6 * (experts.num_experts + experts.num_experts_per_tok)
    is_everywhere = len(experts.layers) == model_config.num_hidden_layers
    dense = 0 if is_everywhere else model_config.intermediate_size
    return 3 * max(dense, experts.moe_intermediate_size) + router


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


def _cache_options(entry: ModelEntry, context_window: int) -> CacheOptions:
    try:
        return resolve_cache(entry.cache, context_window)
    except ConfigError as error:
        raise ConfigError(f"model {entry.id}: {error}") from None


def _quantization(entry: ModelEntry, model_config: ModelConfig) -> str | None:
    """A GGUF file says itself what its weights are."""
    if entry.quantization is not None and model_config.dtype not in CHECKPOINT_DTYPES:
        rule = "is for directories with safetensors; transom convert writes a GGUF file with other types"
        raise _error(entry, "quantization", entry.quantization, rule)
    return entry.quantization


def _max_draft_tokens(entry: ModelEntry) -> int:
    return 0 if entry.speculative.method == "none" else entry.speculative.max_draft_tokens


def _hot_tokens(entry: ModelEntry) -> int | None:
    hot_tokens = entry.tier_config.hot_tokens
    if hot_tokens is not None and hot_tokens < BLOCK_SIZE:
        raise _error(entry, "tier_config.hot_tokens", hot_tokens, f"must be at least one block, {BLOCK_SIZE} tokens")
    return hot_tokens


def _ssd_budget(entry: ModelEntry, model_config: ModelConfig) -> int:
    """Bytes of the cold tier, 0 for none."""
    tiers = entry.tier_config
    if not tiers.enable_tiering or tiers.max_ssd_mb == 0:
        return 0
    kinds = (LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION)
    least = sum(cold_bytes_per_block(model_config, tiers.kv_dtype, kind) for kind in kinds)
    if tiers.max_ssd_mb * MIB < least:
        rule = f"must hold at least one block of {BLOCK_SIZE} tokens, which takes {least} bytes ({_mib(least)} MiB)"
        raise _error(entry, "tier_config.max_ssd_mb", tiers.max_ssd_mb, rule)
    return tiers.max_ssd_mb * MIB


def _kv_budget(entry: ModelEntry, model_config: ModelConfig, available_ram_bytes: int | None) -> int:
    kv_dtype, kv_cache_ram_mb = entry.tier_config.kv_dtype, entry.tier_config.kv_cache_ram_mb
    least = kv_bytes_for_tokens(model_config, kv_dtype, 1)
    if kv_cache_ram_mb is None:
        least += _state_bytes(model_config)
        return max(least, _default_kv_budget(model_config, kv_dtype, available_ram_bytes))
    if kv_cache_ram_mb * MIB < least:
        rule = f"must hold at least one block of {BLOCK_SIZE} tokens, which takes {least} bytes ({_mib(least)} MiB)"
        raise _error(entry, "tier_config.kv_cache_ram_mb", kv_cache_ram_mb, rule)
    return kv_cache_ram_mb * MIB


def _default_kv_budget(model_config: ModelConfig, kv_dtype: str, available_ram_bytes: int | None) -> int:
    available = psutil.virtual_memory().available if available_ram_bytes is None else available_ram_bytes
    context, chunk = model_config.max_position_embeddings, DEFAULT_NUM_BATCHED_TOKENS
    one_sequence = kv_bytes_for_tokens(model_config, kv_dtype, context, chunk)
    spare_block = kv_bytes_for_tokens(model_config, kv_dtype, 1)  # kept free beside each of several, so all four fit
    wanted = DEFAULT_KV_SEQUENCES * (one_sequence + spare_block) + _state_bytes(model_config)
    return min(wanted, DEFAULT_KV_MAX_BYTES, available // 2)


def _state_bytes(model_config: ModelConfig) -> int:
    """What the convolutions of all sequences take of the budget."""
    return DEFAULT_NUM_SEQS * conv_state_bytes(model_config)


def _error(entry: ModelEntry, key: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"model {entry.id}: {key} is {value}, {rule}")


def _mib(num_bytes: int) -> int:
    return -(-num_bytes // MIB)
