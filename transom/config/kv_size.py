"""How many bytes keys and values take. The one place for this arithmetic: cache, banner and admission agree by it."""

from __future__ import annotations

from transom.config.model_config import LayerKind, ModelConfig

__all__ = [
    "BLOCK_SIZE",
    "COLD_ALIGNMENT",
    "KV_DTYPES",
    "blocks_for_tokens",
    "cold_bytes_per_block",
    "cold_slot_bytes",
    "conv_state_bytes",
    "kv_bytes_for_tokens",
    "kv_bytes_per_block",
    "kv_bytes_per_token",
    "kv_bytes_per_token_by_kind",
    "slot_bytes_of",
    "snapshot_bytes",
]

BLOCK_SIZE = 64
"""Tokens of a block: the unit of allocation, sharing and tiering, and of the attention kernel."""

COLD_ALIGNMENT = 4096
"""Slots of the cold tier lie at multiples of so many bytes: direct reads and writes want it."""

KV_DTYPES = ("f32", "f16", "q8_0")
"""Element types of the cache. In q8_0, an int8 for each channel and an f16 scale for each group of 32 or fewer."""

_CHANNEL_BYTES = {"f32": 4, "f16": 2, "q8_0": 1}
_GROUP_CHANNELS = 32
_GROUP_BYTES = {"f32": 0, "f16": 0, "q8_0": 2}


def kv_bytes_per_token(model_config: ModelConfig, kv_dtype: str) -> int:
    """Bytes that one more token costs in every attention layer, as long as no attention window is full."""
    return _bytes_per_token_and_layer(model_config, kv_dtype) * model_config.num_attention_layers


def kv_bytes_per_token_by_kind(model_config: ModelConfig, kv_dtype: str) -> dict[LayerKind, int]:
    """The same by kind of layer, for the kinds that the model has and that keep keys and values."""
    one_layer = _bytes_per_token_and_layer(model_config, kv_dtype)
    kinds = (kind for kind in dict.fromkeys(model_config.layer_types) if kind is not LayerKind.SHORT_CONV)
    return {kind: model_config.layer_types.count(kind) * one_layer for kind in kinds}


def kv_bytes_per_block(model_config: ModelConfig, kv_dtype: str, kind: LayerKind) -> int:
    """Bytes of one block of one layer kind: 64 tokens in all layers of the kind."""
    num_layers = model_config.layer_types.count(kind)
    return BLOCK_SIZE * num_layers * _bytes_per_token_and_layer(model_config, kv_dtype)


def cold_bytes_per_block(model_config: ModelConfig, kv_dtype: str, kind: LayerKind) -> int:
    """Bytes of one block of one layer kind in a file of the cold tier, where every layer's share is aligned."""
    return model_config.layer_types.count(kind) * cold_slot_bytes(slot_bytes_of(model_config, kv_dtype))


def slot_bytes_of(model_config: ModelConfig, kv_dtype: str) -> int:
    """Bytes of one layer's share of a block."""
    return BLOCK_SIZE * _bytes_per_token_and_layer(model_config, kv_dtype)


def cold_slot_bytes(slot_bytes: int) -> int:
    """What one layer's share of a block takes there, of so many bytes in RAM."""
    return -(-slot_bytes // COLD_ALIGNMENT) * COLD_ALIGNMENT


def blocks_for_tokens(model_config: ModelConfig, kind: LayerKind, num_tokens: int, chunk: int = 0) -> int:
    """Blocks that a sequence of `num_tokens` holds in layers of `kind`, while `chunk` tokens are being computed.

    A sliding layer keeps what its window can still see: the window rounded up to blocks, plus one for the window's
    start lying inside a block. While a chunk is computed, its tokens come on top.
    """
    blocks = _whole_blocks(num_tokens)
    if kind is not LayerKind.SLIDING_ATTENTION or model_config.sliding_window is None:
        return blocks
    return min(blocks, _whole_blocks(model_config.sliding_window + chunk) + 1)


def kv_bytes_for_tokens(model_config: ModelConfig, kv_dtype: str, num_tokens: int, chunk: int = 0) -> int:
    """RAM that one sequence of `num_tokens` holds, in whole blocks, over all layer kinds.

    `chunk` 0 is the sequence between steps; see `blocks_for_tokens`.
    """
    kinds = (LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION)
    return sum(
        blocks_for_tokens(model_config, kind, num_tokens, chunk) * kv_bytes_per_block(model_config, kv_dtype, kind)
        for kind in kinds
    )


def conv_state_bytes(model_config: ModelConfig) -> int:
    """RAM that the short convolutions of one sequence take, whatever its length: their last inputs in f32, and a second
    copy for the forward pass under way."""
    if model_config.short_conv is None:
        return 0
    num_layers = model_config.layer_types.count(LayerKind.SHORT_CONV)
    num_inputs = model_config.short_conv.conv_L_cache - 1
    return 2 * num_layers * num_inputs * model_config.hidden_size * 4


def snapshot_bytes(model_config: ModelConfig) -> int:
    """What one copy of such a state takes; 0 of a model without convolutions."""
    return conv_state_bytes(model_config) // 2


def _bytes_per_token_and_layer(model_config: ModelConfig, kv_dtype: str) -> int:
    num_groups = -(-model_config.head_dim // _GROUP_CHANNELS)
    one_vector = model_config.head_dim * _CHANNEL_BYTES[kv_dtype] + num_groups * _GROUP_BYTES[kv_dtype]
    return 2 * model_config.num_key_value_heads * one_vector


def _whole_blocks(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK_SIZE)
