"""`ModelConfig` of a GGUF file: owns all knowledge of the metadata's keys about architecture, ids and sampling.

Takes plain values; who reads the file is not known here. A family is one row of `GGUF_FAMILIES`. Key names are those of
the GGUF specification (ggml/docs/gguf.md); their defaults are llama.cpp's.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transom.config.gguf_rope import read_gguf_rope
from transom.config.model_config import GenerationDefaults, LayerKind, ModelConfig
from transom.config.settings import REQUIRED, Settings, shown
from transom.errors import ConfigError, UnsupportedModelError

__all__ = ["GGUF_FAMILIES", "GgufFamily", "GgufModel", "gguf_generation_defaults", "gguf_model_config"]

_MAX_LAYERS = 4096
_MAX_HEADS = 65_536
_MAX_HEAD_DIM = 8192
_MAX_SIZE = 2**24
_MAX_POSITIONS = 2**31 - 1

_CONTROL_TOKEN = 3
_TURN_ENDS = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "<EOT>",
        "</s>",
        "<｜end▁of▁sentence｜>",
    }
)
"""Control tokens that end a turn by their very text: files name one end-of-sequence token where models have several."""


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """What the metadata of one `general.architecture` leaves unsaid."""

    model_type: str
    """The family of `transom.models` that computes it."""
    rotates_whole_heads: bool = False
    """The rows of query and key are permuted in the file, which makes sense for heads that are rotated whole."""


GGUF_FAMILIES = {
    "llama": GgufFamily(model_type="llama", rotates_whole_heads=True),
    "qwen2": GgufFamily(model_type="qwen2"),
    "qwen3": GgufFamily(model_type="qwen3"),
}

# Keys of an architecture that change what a model computes and that no family above knows, with their neutral values.
_NEUTRAL: tuple[object, ...] = (None, False, 0, 0.0)
_NEUTRAL_FACTOR = (*_NEUTRAL, 1)
_FOREIGN_FEATURES = {
    "attention.causal": ("attention to later tokens", (None, True)),
    "attention.clamp_kqv": ("clipped attention inputs", _NEUTRAL),
    "attention.group_norm_epsilon": ("group norms", _NEUTRAL),
    "attention.kv_lora_rank": ("multi-head latent attention", _NEUTRAL),
    "attention.layer_norm_epsilon": ("layer norms", _NEUTRAL),
    "attention.max_alibi_bias": ("linear attention biases", _NEUTRAL),
    "attention.q_lora_rank": ("multi-head latent attention", _NEUTRAL),
    "attention.scale": ("scaled attention", _NEUTRAL),
    "attention.shared_kv_layers": ("layers that share keys and values", _NEUTRAL),
    "attention.sliding_window_pattern": ("layers of different attention windows", _NEUTRAL),
    "attention.temperature_length": ("attention temperature", _NEUTRAL),
    "attention.temperature_scale": ("attention temperature", _NEUTRAL),
    "attn_logit_softcapping": ("soft-capped attention scores", _NEUTRAL),
    "embedding_scale": ("scaled embeddings", _NEUTRAL_FACTOR),
    "expert_count": ("mixture of experts", _NEUTRAL_FACTOR),
    "expert_used_count": ("mixture of experts", _NEUTRAL_FACTOR),
    "final_logit_softcapping": ("soft-capped logits", _NEUTRAL),
    "logit_scale": ("scaled logits", _NEUTRAL_FACTOR),
    "nextn_predict_layers": ("layers that predict further tokens", _NEUTRAL),
    "pooling_type": ("embedding models", _NEUTRAL),
    "residual_scale": ("scaled residuals", _NEUTRAL_FACTOR),
    "rope.dimension_sections": ("rotary positions in sections", _NEUTRAL),
    "rope.freq_base_swa": ("a rope of its own per layer kind", _NEUTRAL),
    "ssm.state_size": ("state space layers", _NEUTRAL),
    "use_parallel_residual": ("parallel residuals", _NEUTRAL),
}


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What a GGUF file says, as plain data."""

    source: str
    """The file, for errors."""
    metadata: Mapping[str, Any]
    """Values by key: int, float, bool, str, lists of str, NumPy arrays of numbers."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors, under their names in the file, row-major."""
    file_type: str
    """What the tensors' types are called together: F16, Q4_K_M, ..."""
    rope_factors: tuple[float, ...] = ()
    """Values of the tensor `rope_freqs.weight`, where there is one."""

    @property
    def general(self) -> Settings:
        """All keys as they stand in the file."""
        return Settings(self.source, self.metadata)

    @property
    def architecture(self) -> Settings:
        """The keys of `general.architecture`, without that prefix."""
        name = self.general.text("general.architecture")
        prefix = f"{name}."
        own = {key.removeprefix(prefix): self.metadata[key] for key in self.metadata if key.startswith(prefix)}
        return Settings(self.source, {key: _as_written(value) for key, value in own.items()}, prefix)


def gguf_model_config(model: GgufModel) -> ModelConfig:
    """The architecture with every default resolved.

    Equal to what `ModelConfig.from_hf` makes of the same model, but for `dtype`, and for families that GGUF does not
    tell apart: Mistral is `llama`. Raises UnsupportedModelError naming what is not implemented, and ConfigError naming
    file, key and rule.
    """
    family = _family_of(model)
    settings = model.architecture
    _refuse_foreign_features(settings)
    num_hidden_layers = settings.integer("block_count", low=1, high=_MAX_LAYERS)
    hidden_size = settings.integer("embedding_length", low=1, high=_MAX_SIZE)
    num_attention_heads = _size(settings, "attention.head_count", _MAX_HEADS)
    head_dim = _head_dim(settings, hidden_size, num_attention_heads)
    max_position_embeddings = settings.integer("context_length", low=1, high=_MAX_POSITIONS)
    sliding_window = settings.optional_integer("attention.sliding_window", None, low=0, high=_MAX_POSITIONS) or None
    kind = LayerKind.FULL_ATTENTION if sliding_window is None else LayerKind.SLIDING_ATTENTION
    vocab_size = _vocab_size(model)
    rope = read_gguf_rope(settings, head_dim, max_position_embeddings, model.rope_factors)
    if family.rotates_whole_heads and rope.rotary_dim != head_dim:
        rule = f"must be the size of a head, {head_dim}, in this architecture"
        raise settings.error("rope.dimension_count", rope.rotary_dim, rule)
    return ModelConfig(
        model_type=family.model_type,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=_size(settings, "feed_forward_length", _MAX_SIZE),
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=_num_key_value_heads(settings, num_attention_heads),
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        layer_types=(kind,) * num_hidden_layers,
        sliding_window=sliding_window,
        hidden_act="silu",
        rms_norm_eps=settings.number("attention.layer_norm_rms_epsilon", above=0.0, up_to=1.0),
        rope=rope,
        tie_word_embeddings="output.weight" not in model.shapes,
        attention_bias="blk.0.attn_q.bias" in model.shapes,
        attention_output_bias="blk.0.attn_output.bias" in model.shapes,
        mlp_bias="blk.0.ffn_down.bias" in model.shapes,
        bos_token_id=_token_id(model, "bos", vocab_size),
        eos_token_ids=_eos_token_ids(model, vocab_size),
        pad_token_id=_token_id(model, "padding", vocab_size),
        dtype=model.file_type,
    )


def gguf_generation_defaults(model: GgufModel) -> GenerationDefaults:
    """The sampling settings that some files recommend (`general.sampling.*`); None where they say nothing."""
    prefix = "general.sampling."
    own = {key.removeprefix(prefix): model.metadata[key] for key in model.metadata if key.startswith(prefix)}
    settings = Settings(model.source, {key: _as_written(value) for key, value in own.items()}, prefix)
    return GenerationDefaults(
        temperature=settings.share("temp", up_to=100.0),
        top_p=settings.optional_number("top_p", above=0.0, up_to=1.0),
        top_k=settings.optional_integer("top_k", None, low=0, high=_MAX_SIZE),
        min_p=settings.share("min_p", up_to=1.0),
        repetition_penalty=settings.optional_number("penalty_repeat", above=0.0, up_to=100.0),
    )


def _family_of(model: GgufModel) -> GgufFamily:
    name = model.general.text("general.architecture")
    if name not in GGUF_FAMILIES:
        known = ", ".join(sorted(GGUF_FAMILIES))
        raise UnsupportedModelError(
            f"{model.source}: general.architecture {name[:64]!r} is not supported; supported: {known}"
        )
    return GGUF_FAMILIES[name]


def _refuse_foreign_features(settings: Settings) -> None:
    for key, (feature, neutral) in _FOREIGN_FEATURES.items():
        if settings.get(key) not in neutral:
            raise UnsupportedModelError(
                f"{settings.source}: {settings.prefix}{key} {shown(settings.get(key))} is not supported ({feature})"
            )


def _as_written(value: Any) -> Any:
    """Numbers of 32 bits as the decimal that was meant, 1e-05 for 9.99999974e-06; arrays as lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not isinstance(value, float) or not np.isfinite(value) or value.is_integer():
        return value
    try:
        (narrow,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        return value
    return float(str(np.float32(value))) if narrow == value else value


def _size(settings: Settings, key: str, high: int, default: int | None = None) -> int:
    """A number from 1 on, or a list of the same one for every layer. Layers of different shape are refused."""
    value = settings.get(key)
    if isinstance(value, list) and len({*map(str, value)}) != 1:
        raise UnsupportedModelError(
            f"{settings.source}: {settings.prefix}{key} is not supported (layers of different shape)"
        )
    one = {**settings.values, key: value[0]} if isinstance(value, list) else settings.values
    holder = Settings(settings.source, one, settings.prefix)
    return holder.integer(key, REQUIRED if default is None else default, low=1, high=high)


def _head_dim(settings: Settings, hidden_size: int, num_attention_heads: int) -> int:
    key_length = settings.optional_integer("attention.key_length", None, low=1, high=_MAX_HEAD_DIM)
    if key_length is None:
        if hidden_size % num_attention_heads:
            rule = f"must be a multiple of {settings.prefix}attention.head_count, which is {num_attention_heads}"
            raise settings.error("embedding_length", hidden_size, rule)
        key_length = hidden_size // num_attention_heads
    value_length = settings.optional_integer("attention.value_length", key_length, low=1, high=_MAX_HEAD_DIM)
    if value_length != key_length:
        raise UnsupportedModelError(
            f"{settings.source}: {settings.prefix}attention.value_length {value_length} is not supported "
            f"(values of another length than keys, {key_length})"
        )
    return key_length


def _num_key_value_heads(settings: Settings, num_attention_heads: int) -> int:
    key = "attention.head_count_kv"
    heads = _size(settings, key, _MAX_HEADS, default=num_attention_heads)
    if num_attention_heads % heads:
        rule = f"must divide {settings.prefix}attention.head_count, which is {num_attention_heads}"
        raise settings.error(key, heads, rule)
    return heads


def _vocab_size(model: GgufModel) -> int:
    """The rows of the embedding: tokens that were added for the sake of alignment have rows, but no text."""
    shape = model.shapes.get("token_embd.weight")
    if shape is None or len(shape) != 2 or not 1 <= shape[0] <= _MAX_SIZE:
        found = "is missing" if shape is None else f"has shape {list(shape)}"
        raise ConfigError(f"{model.source}: tensor 'token_embd.weight' {found}, must be a matrix of one row per token")
    return shape[0]


def _token_id(model: GgufModel, name: str, vocab_size: int) -> int | None:
    """A special token; ids outside the vocabulary mean that there is none."""
    token = model.general.optional_integer(f"tokenizer.ggml.{name}_token_id", None, low=0, high=2**32 - 1)
    return token if token is not None and token < vocab_size else None


def _eos_token_ids(model: GgufModel, vocab_size: int) -> tuple[int, ...]:
    """The named ends of text, of a turn, of a message; then the control tokens that are one by their text."""
    named = [_token_id(model, name, vocab_size) for name in ("eos", "eot", "eom")]
    tokens, types = model.metadata.get("tokenizer.ggml.tokens"), model.metadata.get("tokenizer.ggml.token_type")
    by_text: list[int] = []
    if isinstance(tokens, list) and isinstance(types, np.ndarray) and len(tokens) == len(types):
        control = np.flatnonzero(types == _CONTROL_TOKEN).tolist()
        texts = {token: tokens[token] for token in control if isinstance(tokens[token], str)}  # else an array
        by_text = [token for token, text in texts.items() if text in _TURN_ENDS and token < vocab_size]
    return tuple(dict.fromkeys(token for token in (*named, *by_text) if token is not None))
