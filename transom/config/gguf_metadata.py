"""A `ModelConfig` as keys of GGUF metadata: the way back of `gguf_config`, for files that others read, too.

Plain values; who writes the file is not known here. Source of the keys: the GGUF specification (ggml/docs/gguf.md).
"""

from __future__ import annotations

import math
import struct

from transom.config.features import NO_SCALING
from transom.config.model_config import GenerationDefaults, LayerKind, ModelConfig
from transom.config.rope_config import RopeConfig
from transom.errors import UnsupportedModelError

__all__ = ["ARCHITECTURES", "gguf_metadata"]

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
"""`general.architecture` of each model_type. GGUF does not tell Mistral from Llama."""

Value = str | int | float

_SAMPLING_KEYS = {
    "temperature": "temp",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


def gguf_metadata(config: ModelConfig, defaults: GenerationDefaults) -> dict[str, Value]:
    """All keys but those of the vocabulary, of names and of tensor types.

    The frequencies of rope type `llama3` have no keys: they go into a tensor, `rope_freqs.weight`. Raises
    UnsupportedModelError naming what the format cannot say.
    """
    name = _architecture(config)
    own: dict[str, Value] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        **_attention_window(config),
        **_rope(config.rope),
    }
    sampling = {
        f"general.sampling.{theirs}": value
        for ours, theirs in _SAMPLING_KEYS.items()
        if (value := getattr(defaults, ours)) is not None
    }
    keys = {f"{name}.{key}": value for key, value in own.items()} | sampling
    return {"general.architecture": name, **{key: _as_float32(value) for key, value in keys.items()}}


def _as_float32(value: Value) -> Value:
    """Readers want numbers with a fraction in 32 bits; `gguf_config` reads them as the decimal that was meant."""
    if not isinstance(value, float):
        return value
    (narrow,) = struct.unpack("<f", struct.pack("<f", value))
    return float(narrow)


def _architecture(config: ModelConfig) -> str:
    if config.model_type not in ARCHITECTURES:
        raise _unsupported(f"model_type {config.model_type}", f"supported: {', '.join(sorted(ARCHITECTURES))}")
    features = {
        "hidden_act": config.hidden_act != "silu",
        "a rope of sliding layers": config.sliding_rope is not None,
        "layers without positions": bool(config.nope_layers),
        "scaling": config.scaling != NO_SCALING,
        "experts": config.experts is not None,
    }
    if used := [name for name, is_used in features.items() if is_used]:
        raise _unsupported(", ".join(used), "unknown to this architecture")
    if ARCHITECTURES[config.model_type] == "llama" and config.rope.rotary_dim != config.head_dim:
        raise _unsupported("partial_rotary_factor", "the llama architecture rotates whole heads")
    return ARCHITECTURES[config.model_type]


def _attention_window(config: ModelConfig) -> dict[str, Value]:
    kinds = {*config.layer_types}
    if len(kinds) > 1:
        raise _unsupported("layer_types", "layers of different attention windows in this architecture")
    if kinds == {LayerKind.FULL_ATTENTION}:
        return {}
    assert config.sliding_window is not None, "config let a sliding layer without a window through"
    return {"attention.sliding_window": config.sliding_window}


def _rope(rope: RopeConfig) -> dict[str, Value]:
    """`dynamic` scales beyond the context window only, where nothing is ever computed; `llama3` is a tensor."""
    keys: dict[str, Value] = {"rope.dimension_count": rope.rotary_dim, "rope.freq_base": rope.rope_theta}
    if rope.rope_type == "linear":
        return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.rope_type == "yarn":
        return keys | _yarn(rope)
    if rope.rope_type not in ("default", "dynamic", "llama3"):
        raise _unsupported(f"rope type {rope.rope_type}", "no keys for it in this architecture")
    return keys


def _yarn(rope: RopeConfig) -> dict[str, Value]:
    if not rope.truncate:
        raise _unsupported("rope_scaling.truncate", "only true")
    assert rope.original_max_position_embeddings is not None, "config let a yarn without its length through"
    keys: dict[str, Value] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope.factor,
        "rope.scaling.original_context_length": rope.original_max_position_embeddings,
        "rope.scaling.yarn_beta_fast": rope.beta_fast or 32.0,
        "rope.scaling.yarn_beta_slow": rope.beta_slow or 1.0,
    }
    usual = _mscale(rope.factor, 1.0)
    wanted = rope.attention_factor
    if wanted is None and rope.mscale and rope.mscale_all_dim:
        wanted = _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    if wanted is not None and wanted != usual:
        keys["rope.scaling.attn_factor"] = wanted / usual
    return keys


def _mscale(factor: float, mscale: float) -> float:
    """Yarn's attention factor (Peng et al., 2023, equation 22)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _unsupported(what: str, detail: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{what} cannot be written into a GGUF file ({detail})")
