"""Models as GGUF files, made of Hugging Face directories by the `gguf` package: its names, its order of rows.

Metadata, tensors and what is done to their values are those of llama.cpp's conversion, told once more here, apart from
what `transom` reads by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.weights.gguf_files import write_gguf
from transom.config.model_config import LayerKind, ModelConfig
from transom.config.rope_config import RopeConfig
from transom.layers.rotary import frequency_factors
from transom.weights.safetensors import open_checkpoint

Floats = NDArray[np.float32]
ChooseType = Callable[[str, tuple[int, ...]], gguf.GGMLQuantizationType]

ARCHITECTURES = {
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "granite": gguf.MODEL_ARCH.GRANITE,
    "hunyuan_v1_dense": gguf.MODEL_ARCH.HUNYUAN_DENSE,
    "lfm2": gguf.MODEL_ARCH.LFM2,
    "llama": gguf.MODEL_ARCH.LLAMA,
    "ministral": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "olmo2": gguf.MODEL_ARCH.OLMO2,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
}
_INTERLEAVED = ("llama", "granite", "smollm3")
EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(.*)")


def all_f32(name: str, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
    """Nothing is quantised."""
    return gguf.GGMLQuantizationType.F32


def q8_0_where_rows_are_whole_blocks(name: str, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
    """Rows of other lengths stay f32."""
    return gguf.GGMLQuantizationType.F32 if shape[-1] % 32 else gguf.GGMLQuantizationType.Q8_0


def write_gguf_of(
    directory: Path, path: Path, choose_type: ChooseType = all_f32, metadata: Mapping[str, Any] | None = None
) -> Path:
    """The model of a directory as one file. Vectors stay f32; `choose_type(name, shape)` says what matrices become."""
    config = ModelConfig.from_hf(directory)
    architecture = gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]]
    tensors = {**dict(_tensors(directory, config, architecture)), **dict(_rope_tensors(config.rope))}
    types = {name: choose_type(name, values.shape) for name, values in tensors.items() if values.ndim > 1}
    keys = {**architecture_keys(config, architecture), **(metadata or {})}
    return write_gguf(path, keys, tensors, architecture=architecture, quantized=types)


def architecture_keys(config: ModelConfig, architecture: str) -> dict[str, Any]:
    """The metadata that a converter writes of a model's config."""
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": _key_value_heads(config),
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope.rope_theta,
        "rope.dimension_count": config.rope.rotary_dim,
        "vocab_size": config.vocab_size,
        **_rope_keys(config.rope),
        **_family_keys(config),
    }
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        keys |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if config.sliding_window is not None:
        keys["attention.sliding_window"] = config.sliding_window
    keys = {f"{architecture}.{key}": value for key, value in keys.items()}
    if config.bos_token_id is not None:
        keys["tokenizer.ggml.bos_token_id"] = config.bos_token_id
    if config.pad_token_id is not None:
        keys["tokenizer.ggml.padding_token_id"] = config.pad_token_id
    for name, token in zip(("eos", "eot", "eom"), config.eos_token_ids, strict=False):
        keys[f"tokenizer.ggml.{name}_token_id"] = token
    return keys


def as_f32(values: NDArray[Any]) -> Floats:
    """The same numbers; bf16 comes as uint16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


# ---- metadata


def _key_value_heads(config: ModelConfig) -> int | list[int]:
    """One number, or, where layers without attention have none, one for each layer."""
    if LayerKind.SHORT_CONV not in config.layer_types:
        return config.num_key_value_heads
    return [0 if kind is LayerKind.SHORT_CONV else config.num_key_value_heads for kind in config.layer_types]


def _rope_keys(rope: RopeConfig) -> dict[str, Any]:
    match rope.rope_type:
        case "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
        case "longrope":
            return {
                "rope.scaling.original_context_length": rope.original_max_position_embeddings,
                "rope.scaling.attn_factor": rope.attention_factor,
            }
        case _:
            return {}


def _family_keys(config: ModelConfig) -> dict[str, Any]:
    scaling, keys = config.scaling, dict[str, Any]()
    if config.model_type == "granite":
        keys |= {
            "attention.scale": scaling.attention_multiplier,
            "embedding_scale": scaling.embedding_multiplier,
            "residual_scale": scaling.residual_multiplier,
            "logit_scale": scaling.logits_scaling,
        }
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if (cap := getattr(scaling, key)) is not None:
            keys[key] = cap
    if config.experts is not None:
        keys |= {"expert_count": config.experts.num_experts, "expert_used_count": config.experts.num_experts_per_tok}
    if config.experts is not None and config.model_type == "qwen3_moe":
        keys["expert_feed_forward_length"] = config.experts.moe_intermediate_size
    if config.short_conv is not None:
        keys["shortconv.l_cache"] = config.short_conv.conv_L_cache
    return keys


# ---- tensors


def _rope_tensors(rope: RopeConfig) -> Iterator[tuple[str, Floats]]:
    if (factors := frequency_factors(rope)) is not None:
        yield "rope_freqs.weight", factors
    if rope.rope_type == "longrope":
        yield "rope_factors_long.weight", np.array(rope.long_factor, np.float32)
        yield "rope_factors_short.weight", np.array(rope.short_factor, np.float32)


def _tensors(directory: Path, config: ModelConfig, architecture: str) -> Iterator[tuple[str, Floats]]:
    checkpoint = open_checkpoint(directory)
    names = gguf.get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    experts: dict[str, dict[int, Floats]] = {}
    for name in checkpoint.names():
        values = as_f32(checkpoint.tensor(name))
        if match := EXPERT.fullmatch(name):
            experts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = values
        else:
            yield name_in_file(names, name), _as_in_file(name, values, config, architecture)
    for name, of_a_layer in experts.items():
        yield name_in_file(names, name), np.stack([of_a_layer[number] for number in sorted(of_a_layer)])


def name_in_file(names: gguf.TensorNameMap, name: str) -> str:
    """What the package calls a tensor; of an expert's name without its number, the tensor of all experts."""
    name = name.replace("block_sparse_moe.experts", "feed_forward.experts")
    own_name: str | None = names.get_name(name.removeprefix("model."), try_suffixes=(".weight", ".bias"))
    own_name = own_name or names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert own_name is not None, name
    return own_name


def _as_in_file(name: str, values: Floats, config: ModelConfig, architecture: str) -> Floats:
    if architecture in _INTERLEAVED and ".self_attn.q_proj." in name:
        return _interleaved(values, config.num_attention_heads)
    if architecture in _INTERLEAVED and ".self_attn.k_proj." in name:
        return _interleaved(values, config.num_key_value_heads)
    if architecture in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return values + np.float32(1)
    return values[:, 0] if ".conv.conv.weight" in name else values


def _interleaved(values: Floats, num_heads: int) -> Floats:
    """Rows of both halves of each head in turn, as llama.cpp's conversion puts them."""
    halves = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
