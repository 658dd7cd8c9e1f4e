"""A `ModelConfig` as keys of GGUF metadata: the way back of `gguf_config`, for files that others read, too.

Plain values; who writes the file is not known here. Source of the keys: the GGUF specification (ggml/docs/gguf.md).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.config.gguf_config import gguf_model_config
from transom.config.gguf_families import GGUF_FAMILIES
from transom.config.gguf_model import GgufModel
from transom.config.model_config import GenerationDefaults, LayerKind, ModelConfig
from transom.config.rope_config import RopeConfig
from transom.config.settings import shown
from transom.errors import UnsupportedModelError

__all__ = ["ARCHITECTURES", "gguf_metadata"]

ARCHITECTURES = {
    **{family.model_type: name for name, family in GGUF_FAMILIES.items()},
    "ministral": "llama",
    "mistral": "llama",
    "mixtral": "llama",
}
"""`general.architecture` of each model_type. GGUF does not tell Mistral from Llama."""

Value = str | int | float | NDArray[np.int32]

_SAMPLING_KEYS = {
    "temperature": "temp",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}


def gguf_metadata(config: ModelConfig, defaults: GenerationDefaults) -> dict[str, Value]:
    """All keys but those of the vocabulary, of names and of tensor types.

    The frequencies of rope types `llama3` and `longrope` have no keys: they go into tensors, `rope_freqs.weight` and
    `rope_factors_*.weight`. Raises UnsupportedModelError naming what the format cannot say: what is written is read
    again, and must come out the same.
    """
    name = _architecture(config)
    own: dict[str, Value] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": _key_value_heads(config),
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "vocab_size": config.vocab_size,
        **_attention_window(config),
        **_rope(config),
        **_OWN_KEYS.get(config.model_type, _no_keys)(config),
    }
    sampling = {
        f"general.sampling.{theirs}": value
        for ours, theirs in _SAMPLING_KEYS.items()
        if (value := getattr(defaults, ours)) is not None
    }
    keys = {f"{name}.{key}": value for key, value in own.items()} | sampling
    metadata = {"general.architecture": name, **{key: _as_float32(value) for key, value in keys.items()}}
    _require_same(config, metadata)
    return metadata


def _as_float32(value: Value) -> Value:
    """Readers want numbers with a fraction in 32 bits; `gguf_config` reads them as the decimal that was meant."""
    if not isinstance(value, float):
        return value
    (narrow,) = struct.unpack("<f", struct.pack("<f", value))
    return float(narrow)


def _architecture(config: ModelConfig) -> str:
    if config.model_type not in ARCHITECTURES:
        raise _unsupported(f"model_type {config.model_type}", f"supported: {', '.join(sorted(ARCHITECTURES))}")
    name = ARCHITECTURES[config.model_type]
    if GGUF_FAMILIES[name].rotates_whole_heads and config.rope.rotary_dim != config.head_dim:
        raise _unsupported("partial_rotary_factor", f"the {name} architecture rotates whole heads")
    return name


# What the file's tensors say, or its vocabulary, or keys in other words than config.json.
_SAID_ELSEWHERE = frozenset(
    {"model_type", "dtype", "rope", "tie_word_embeddings", "attention_bias", "attention_output_bias", "mlp_bias"}
) | {"bos_token_id", "eos_token_ids", "pad_token_id"}


def _require_same(config: ModelConfig, metadata: dict[str, Value]) -> None:
    """What no key says must be what readers take for granted: the experts' shares, the layers without positions, ..."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (config.vocab_size, config.hidden_size)}
    factors = {"long_rope_factors": config.rope.long_factor, "short_rope_factors": config.rope.short_factor}
    found = gguf_model_config(GgufModel("the new file", metadata, shapes, config.dtype, **factors)).to_plain()
    for name, value in config.to_plain().items():
        if name not in _SAID_ELSEWHERE:
            _require_close(name, value, found[name])


def _require_close(name: str, value: Any, found: Any) -> None:
    """Of a part with fields of its own, what differs is named by the field."""
    if isinstance(value, dict) and isinstance(found, dict) and value.keys() == found.keys():
        for key in value:
            _require_close(f"{name}.{key}", value[key], found[key])
    elif not _is_close(value, found):
        raise _unsupported(name, f"no keys for it: readers take {shown(found)} for {shown(value)}")


def _is_close(first: Any, second: Any) -> bool:
    """Equal, but for what 32 bits lose."""
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-6)
    return bool(first == second)


def _key_value_heads(config: ModelConfig) -> Value:
    """One number, or, where layers without attention have none, one for each layer."""
    if config.short_conv is None:
        return config.num_key_value_heads
    of_each = [0 if kind is LayerKind.SHORT_CONV else config.num_key_value_heads for kind in config.layer_types]
    return np.array(of_each, np.int32)


def _no_keys(_config: ModelConfig) -> dict[str, Value]:
    return {}


def _granite(config: ModelConfig) -> dict[str, Value]:
    scaling = config.scaling
    return {
        "attention.scale": config.attention_scale,
        "embedding_scale": scaling.embedding_multiplier,
        "residual_scale": scaling.residual_multiplier,
        "logit_scale": scaling.logits_scaling,
    }


def _experts(config: ModelConfig) -> dict[str, Value]:
    if config.experts is None:
        raise _unsupported("a model without experts", "every layer of this architecture has them")
    return {
        "expert_count": config.experts.num_experts,
        "expert_used_count": config.experts.num_experts_per_tok,
        "expert_feed_forward_length": config.experts.moe_intermediate_size,
    }


def _lfm2(config: ModelConfig) -> dict[str, Value]:
    if config.short_conv is None:
        raise _unsupported("a model without convolutions", "this architecture is one of both kinds of layers")
    return {"shortconv.l_cache": config.short_conv.conv_L_cache}


def _gemma(config: ModelConfig) -> dict[str, Value]:
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    keys: dict[str, Value] = {key: cap for key in caps if (cap := getattr(config.scaling, key)) is not None}
    if config.sliding_rope is not None and config.sliding_rope.rope_theta != 10_000.0:
        keys["rope.freq_base_swa"] = config.sliding_rope.rope_theta
    return keys


_OWN_KEYS: dict[str, Callable[[ModelConfig], dict[str, Value]]] = {
    "gemma2": _gemma,
    "gemma3_text": _gemma,
    "granite": _granite,
    "lfm2": _lfm2,
    "mixtral": _experts,
    "qwen3_moe": _experts,
}


def _attention_window(config: ModelConfig) -> dict[str, Value]:
    return {} if config.sliding_window is None else {"attention.sliding_window": config.sliding_window}


def _rope(config: ModelConfig) -> dict[str, Value]:
    """`dynamic` scales beyond the context window only, where nothing is ever computed; `llama3` is a tensor."""
    rope = config.rope
    keys: dict[str, Value] = {"rope.dimension_count": rope.rotary_dim, "rope.freq_base": rope.rope_theta}
    if rope.rope_type == "linear":
        return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.rope_type == "yarn":
        return keys | _yarn(rope)
    if rope.rope_type == "longrope" and config.model_type == "phi3":
        return keys | _longrope(rope)
    if rope.rope_type not in ("default", "dynamic", "llama3"):
        raise _unsupported(f"rope type {rope.rope_type}", "no keys for it in this architecture")
    return keys


def _longrope(rope: RopeConfig) -> dict[str, Value]:
    """The two sets of factors are tensors."""
    assert rope.original_max_position_embeddings is not None, "config let a longrope without its length through"
    keys: dict[str, Value] = {"rope.scaling.original_context_length": rope.original_max_position_embeddings}
    return keys if rope.attention_factor is None else keys | {"rope.scaling.attn_factor": rope.attention_factor}


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
