"""A tiny model of every family in a form that a GGUF file can hold, as directory and as file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from tests.gguf_models import ChooseType, all_f32, write_gguf_of
from tests.golden_models import random_tensors, read_golden

DEFAULT_ROPE = {"rope_theta": 10_000.0, "rope_type": "default"}


@dataclass(frozen=True)
class GgufCase:
    """What differs from the model that transformers spoke for (`tests/golden`), and why it must."""

    model_type: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """Of `config.json`."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the file holds beside what the conversion writes."""
    has_biases: bool = True
    name: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.model_type, self.name)))

    @property
    def tensors(self) -> dict[str, list[int]]:
        """Names and shapes."""
        tensors = read_golden(self.model_type).tensors
        if self.model_type == "qwen3_moe":  # experts in every layer: there is no key for others
            dense = "model.layers.1.mlp."
            shapes = {name: shape for name, shape in tensors.items() if not name.startswith(dense)}
            of_first = {name: shape for name, shape in tensors.items() if name.startswith("model.layers.0.mlp.")}
            tensors = shapes | {name.replace("layers.0", "layers.1"): shape for name, shape in of_first.items()}
        return {name: shape for name, shape in tensors.items() if self.has_biases or not name.endswith(".bias")}


# Gemma's scores are scaled by head_dim; SmolLM3's layers without positions are every fourth; the shares of Qwen3-MoE's
# experts sum to 1; llama.cpp knows no biases in convolutions and in Qwen3.
CASES = [
    GgufCase("gemma2", {"query_pre_attn_scalar": 10}),
    GgufCase("gemma3_text", {"query_pre_attn_scalar": 10}, {"gemma3.attention.sliding_window_pattern": 3}),
    GgufCase("granite"),
    GgufCase("hunyuan_v1_dense", {"rope_parameters": DEFAULT_ROPE}),
    GgufCase("lfm2", {"conv_bias": False}, has_biases=False),
    GgufCase("llama", {"rope_parameters": DEFAULT_ROPE}),
    GgufCase(
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100_000.0}},
        name="as of DeepSeek-Coder",
    ),
    GgufCase("ministral"),
    GgufCase("mistral"),
    GgufCase("mixtral"),
    GgufCase("olmo2"),
    GgufCase("phi3", name="beyond the original length"),
    GgufCase("phi3", {"rope_parameters": DEFAULT_ROPE, "original_max_position_embeddings": 256}, name="short"),
    GgufCase("qwen2", {"use_sliding_window": False, "layer_types": None}),
    GgufCase("qwen3", {"attention_bias": False}, has_biases=False),
    GgufCase("qwen3_moe", {"mlp_only_layers": [], "norm_topk_prob": True}),
    GgufCase("smollm3", {"no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 4}),
]

_ALL_SLIDING = GgufCase("gemma3_text", {"query_pre_attn_scalar": 10, "layer_types": ["sliding_attention"] * 4})
CONVERTIBLE = [case if case.model_type != "gemma3_text" else _ALL_SLIDING for case in CASES]
"""Of Gemma 3 only the usual order of layers is written: every sixth one, which the tiny model lacks, is a full one."""
VOCAB_SIZE = 37


def write_directory(case: GgufCase, directory: Path, vocab_size: int = VOCAB_SIZE) -> Path:
    """The model as Hugging Face has it."""
    golden = read_golden(case.model_type)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**golden.config, **case.config, "vocab_size": vocab_size}))
    shapes = {
        name: [vocab_size if size == VOCAB_SIZE else size for size in shape] for name, shape in case.tensors.items()
    }
    save_file(random_tensors(shapes, seed=0), directory / "model.safetensors")
    return directory


def write_file(case: GgufCase, directory: Path, path: Path, choose_type: ChooseType = all_f32) -> Path:
    """The same model as GGUF."""
    return write_gguf_of(directory, path, choose_type, case.metadata)
