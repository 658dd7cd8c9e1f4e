"""Writes tests/golden: what transformers says to a tiny random model of every family. Needs torch and transformers.

    .venv/bin/python -m scripts.write_golden_logits [FAMILY ...]

after `make parity` has made the environment. What the files hold, and how weights are drawn, is in
`tests.golden_models`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file

from tests.golden_models import Floats, Golden, random_tensors, read_golden, write_golden

SEED = 20_260
NUM_TOKENS = 90  # over the border of a block, and beyond every window
POSITIONS = (0, 40, 89)
BASE: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [1.0, 2.0, 4.0],
    "original_max_position_embeddings": 64,
}
TWO_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "mlp_only_layers": [1]}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 20, "query_pre_attn_scalar": 15, "attn_logit_softcapping": 5.0},
    "gemma3_text": {
        "num_hidden_layers": 4,
        "sliding_window": 20,
        "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": TWO_ROPES,
    },
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.5,
    },
    "hunyuan_v1_dense": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 1.0, "alpha": 50.0}
    },
    "lfm2": {
        "num_hidden_layers": 4,
        "head_dim": 6,
        "conv_L_cache": 4,
        "conv_bias": True,
        "layer_types": ["conv", "full_attention", "conv", "conv"],
    },
    "llama": {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3},
    "ministral": {"sliding_window": 20},
    "mistral": {"sliding_window": 33},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2},
    "olmo2": {"head_dim": 6},
    "phi3": {
        "head_dim": 6,
        "sliding_window": 30,
        "original_max_position_embeddings": 64,
        "rope_parameters": LONGROPE,
    },
    "qwen2": {"head_dim": 6, "use_sliding_window": True, "sliding_window": 25, "max_window_layers": 1},
    "qwen3": {"attention_bias": True},
    "qwen3_moe": EXPERTS,
    "smollm3": {"head_dim": 6, "num_hidden_layers": 4, "no_rope_layer_interval": 2},
}
"""By `model_type`, what differs from BASE: every feature that the family has and others do not."""


def compute(model_type: str) -> Golden:
    """Saves the family's model for the names of its tensors, fills it with drawn weights, and asks it."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **{**BASE, **FAMILIES[model_type]})
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
        shapes = _shapes(directory / "model.safetensors")
        save_file(random_tensors(shapes, SEED), directory / "model.safetensors", {"format": "pt"})
        settings = json.loads((directory / "config.json").read_text())
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        )
        golden = Golden(SEED, NUM_TOKENS, settings, shapes, {})
        with torch.no_grad():
            logits = model.eval()(torch.tensor([golden.tokens])).logits[0].numpy()
    return Golden(SEED, NUM_TOKENS, settings, shapes, {str(p): _rounded(logits[p]) for p in POSITIONS})


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, "np") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in sorted(file.keys())}


def _rounded(row: Floats) -> list[float]:
    """Seven digits: as many as the comparison can use."""
    return [float(f"{value:.7g}") for value in row.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write what transformers says to tiny models of all families.")
    parser.add_argument("families", nargs="*", default=sorted(FAMILIES), metavar="FAMILY")
    for model_type in parser.parse_args().families:
        write_golden(model_type, compute(model_type))
        print(f"{model_type}: largest logit {abs(read_golden(model_type).expected).max():.3g}")


if __name__ == "__main__":
    main()
