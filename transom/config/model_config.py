"""`ModelConfig`: what an architecture is, read from Hugging Face's `config.json`. Owns all knowledge of its keys.

Keys keep Hugging Face's names. Knows nothing of registry entries, budgets, files of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LayerKind(StrEnum):
    """What a layer's token mixer is. The values are those of `layer_types` in `config.json`."""

    FULL_ATTENTION = "full_attention"
    SLIDING_ATTENTION = "sliding_attention"
    SHORT_CONV = "conv"


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding of one layer kind, `rope_scaling` and `rope_parameters` alike."""

    rope_type: str  # default, linear, dynamic, llama3, yarn
    rope_theta: float
    rotary_dim: int  # head_dim * partial_rotary_factor
    factor: float = 1.0
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None  # llama3
    high_freq_factor: float | None = None  # llama3
    attention_factor: float | None = None  # yarn
    beta_fast: float | None = None  # yarn
    beta_slow: float | None = None  # yarn
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool = True  # yarn


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """An architecture with every default resolved. `from_hf` is the only door from Hugging Face's files."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    """The context window."""
    layer_types: tuple[LayerKind, ...]  # one per layer
    sliding_window: int | None
    """The attention window of the layers of kind SLIDING_ATTENTION."""
    hidden_act: str
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    attention_bias: bool  # biases on q, k, v
    attention_output_bias: bool  # bias on o
    mlp_bias: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]  # of config.json and generation_config.json together
    pad_token_id: int | None
    dtype: str  # of the checkpoint: float32, float16, bfloat16
