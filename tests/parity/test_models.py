"""Random tiny models of awkward shapes give the same logits as transformers, prefill in any chunks and decode."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import Harness

pytestmark = pytest.mark.parity

TOLERANCE = 2e-4
NUM_PROMPT_TOKENS = 150  # two full blocks and a part of the third
NUM_DECODE_STEPS = 64
BASE: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 60,
    "intermediate_size": 91,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Case:
    """A transformers configuration class and what differs from BASE."""

    name: str
    family: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """The class that computes it."""
        return f"{self.family.removesuffix('Text')}ForCausalLM"


def rope(rope_type: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10_000.0, **parameters}}


CASES = [
    Case("plain", "Llama"),
    Case("one key-value head, odd group", "Llama", {"num_attention_heads": 5, "num_key_value_heads": 1}),
    Case(
        "head_dim apart from hidden size", "Llama", {"head_dim": 20, "num_attention_heads": 5, "num_key_value_heads": 5}
    ),
    Case("tied embeddings", "Llama", {"tie_word_embeddings": True}),
    Case("biases everywhere", "Llama", {"attention_bias": True, "mlp_bias": True}),
    Case("rope linear", "Llama", rope("linear", factor=4.0)),
    Case("rope dynamic", "Llama", rope("dynamic", factor=2.0)),
    Case(
        "rope llama3",
        "Llama",
        {
            "head_dim": 32,
            **rope(
                "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
            ),
        },
    ),
    Case("rope yarn", "Llama", rope("yarn", factor=4.0, original_max_position_embeddings=128)),
    Case(
        "rope yarn, every parameter",
        "Llama",
        rope(
            "yarn",
            factor=8.0,
            original_max_position_embeddings=64,
            beta_fast=16.0,
            beta_slow=2.0,
            mscale=0.7,
            mscale_all_dim=0.9,
            truncate=False,
        ),
    ),
    Case("window smaller than the prompt", "Mistral", {"sliding_window": 37, "head_dim": 12}),
    Case("window of one block", "Mistral", {"sliding_window": 64}),
    Case("no window", "Mistral", {"sliding_window": None}),
    Case("plain", "Qwen2", {"num_attention_heads": 10}),
    Case(
        "upper layers sliding",
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 50, "max_window_layers": 1},
    ),
    Case("tied", "Qwen2", {"tie_word_embeddings": True}),
    Case("plain", "Ministral", {"sliding_window": 40, "head_dim": 12}),
    Case("plain", "Qwen3", {"head_dim": 20, "attention_bias": True}),
    Case(
        "upper layers sliding",
        "Qwen3",
        {"head_dim": 14, "use_sliding_window": True, "sliding_window": 50, "max_window_layers": 1},
    ),
    Case("rope with alpha", "HunYuanDenseV1", {"head_dim": 16, **rope("dynamic", factor=1.0, alpha=50.0)}),
    Case("tied", "HunYuanDenseV1", {"head_dim": 20, "tie_word_embeddings": True}),
    Case(
        "convolutions and attention",
        "Lfm2",
        {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    ),
    Case(
        "more taps, biases",
        "Lfm2",
        {"layer_types": ["full_attention", "conv", "conv"], "conv_L_cache": 5, "conv_bias": True},
    ),
    Case(
        "window smaller than the prompt",
        "Gemma2",
        {"head_dim": 20, "sliding_window": 37, "query_pre_attn_scalar": 15, "tie_word_embeddings": True},
    ),
    Case("no caps", "Gemma2", {"head_dim": 10, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
    Case(
        "two ropes",
        "Gemma3Text",
        {
            "num_hidden_layers": 4,
            "head_dim": 20,
            "sliding_window": 37,
            "query_pre_attn_scalar": 33,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        },
    ),
    Case("plain", "Phi3", {"pad_token_id": 0, "sliding_window": 100}),
    Case("part of the head is rotated", "Phi3", {"pad_token_id": 0, **rope("default", partial_rotary_factor=0.6)}),
    Case(
        "longrope beyond the original length",
        "Phi3",
        {
            "pad_token_id": 0,
            "original_max_position_embeddings": 32,
            **rope(
                "longrope",
                short_factor=[1.0, 1.1, 1.2, 1.3, 1.4],
                long_factor=[1.0, 2.0, 3.0, 4.0, 5.0],
                original_max_position_embeddings=32,
            ),
        },
    ),
    Case(
        "layers without positions", "SmolLM3", {"num_hidden_layers": 5, "no_rope_layer_interval": 2, "pad_token_id": 0}
    ),
    Case(
        "all factors",
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.5,
            "attention_bias": True,
        },
    ),
    Case("norms behind the blocks", "Olmo2", {"pad_token_id": 0}),
    Case(
        "experts and dense layers",
        "Qwen3Moe",
        {
            "head_dim": 20,
            "num_experts": 7,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 37,
            "mlp_only_layers": [1],
        },
    ),
    Case(
        "shares divided by their sum",
        "Qwen3Moe",
        {
            "head_dim": 20,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 37,
            "norm_topk_prob": True,
        },
    ),
    Case("experts", "Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 60}),
]


def write_reference(case: Case, directory: Path) -> Any:
    """A random transformers model, saved to the directory; biases and norms are made to matter."""
    import torch
    import transformers

    torch.manual_seed(7)
    config = getattr(transformers, f"{case.family}Config")(**{**BASE, **case.settings})
    config._attn_implementation = config._experts_implementation = "eager"
    model = getattr(transformers, case.architecture)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0.0, 0.3)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    return model


def reference_logits(model: Any, tokens: list[int]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        logits: NDArray[np.float32] = model(torch.tensor([tokens])).logits[0].numpy()
    return logits


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}: {case.name}")
def test_logits_equal_the_reference_in_prefill_of_any_chunks_and_in_decode(case: Case, tmp_path: Path) -> None:
    model = write_reference(case, tmp_path)
    harness = Harness(tmp_path, kv_dtype="f32")
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, BASE["vocab_size"], NUM_PROMPT_TOKENS + NUM_DECODE_STEPS).tolist()
    expected = reference_logits(model, tokens)
    whole = harness.logits(tokens)

    assert np.abs(whole - expected).max() <= TOLERANCE
    assert (whole.argmax(axis=1) == expected.argmax(axis=1)).all()
    for chunk in (1, 7, 64):
        assert np.array_equal(harness.logits(tokens, chunk), whole)
