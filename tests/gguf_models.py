"""Models as GGUF files, made of Hugging Face directories by the `gguf` package: its names, its order of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.weights.gguf_files import write_gguf
from transom.config.model_config import ModelConfig
from transom.weights.safetensors import open_checkpoint

ChooseType = Callable[[str, tuple[int, ...]], gguf.GGMLQuantizationType]

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_ENUMS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


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
    config, checkpoint = ModelConfig.from_hf(directory), open_checkpoint(directory)
    architecture = _ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(_ENUMS[architecture], config.num_hidden_layers)
    tensors: dict[str, NDArray[Any]] = {}
    types: dict[str, gguf.GGMLQuantizationType] = {}
    for name in checkpoint.names():
        values = as_f32(checkpoint.tensor(name))
        if architecture == "llama" and ".self_attn.q_proj." in name:
            values = _interleaved(values, config.num_attention_heads)
        if architecture == "llama" and ".self_attn.k_proj." in name:
            values = _interleaved(values, config.num_key_value_heads)
        own_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert own_name is not None
        tensors[own_name] = values
        if values.ndim > 1:
            types[own_name] = choose_type(own_name, values.shape)
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
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope.rope_theta,
        "rope.dimension_count": config.rope.rotary_dim,
    }
    if config.sliding_window is not None:
        keys["attention.sliding_window"] = config.sliding_window
    keys = {f"{architecture}.{key}": value for key, value in keys.items()}
    if config.bos_token_id is not None:
        keys["tokenizer.ggml.bos_token_id"] = config.bos_token_id
    for name, token in zip(("eos", "eot", "eom"), config.eos_token_ids, strict=False):
        keys[f"tokenizer.ggml.{name}_token_id"] = token
    return keys


def as_f32(values: NDArray[Any]) -> NDArray[np.float32]:
    """The same numbers; bf16 comes as uint16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _interleaved(values: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of both halves of each head in turn, as llama.cpp's conversion puts them."""
    halves = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
