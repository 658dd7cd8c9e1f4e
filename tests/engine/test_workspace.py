"""The estimate of the workspace is an upper one: the memory that a worker needs, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from transom.config.engine_config import MIB

NUM_TOKENS = 4096
EXPERTS = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 64,
    "moe_intermediate_size": 2048,
    "num_experts": 2,
    "num_experts_per_tok": 2,
    "vocab_size": 512,
    "max_position_embeddings": NUM_TOKENS,
}
MANY_EXPERTS = {**EXPERTS, "moe_intermediate_size": 8, "num_experts": 1024}
LARGE_VOCABULARY = {
    "model_type": "gemma2",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 32,
    "vocab_size": 400_000,
    "max_position_embeddings": NUM_TOKENS,
}


def write_model(directory: Path, config: dict[str, Any]) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    tensors = {
        name: 0.1 * rng.standard_normal(shape, dtype=np.float32) for name, shape in tensor_shapes(config).items()
    }
    save_file(tensors, directory / "model.safetensors")
    return directory


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    size, head = config["hidden_size"], config["head_dim"]
    query, key_value = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], size),
        "model.norm.weight": (size,),
    }
    has_experts = "num_experts" in config
    if has_experts:
        shapes["lm_head.weight"] = (config["vocab_size"], size)
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        blocks = {f"{layer}.mlp": config["intermediate_size"]}
        norms = ["input_layernorm", "post_attention_layernorm"]
        if has_experts:
            inner = config["moe_intermediate_size"]
            blocks = {f"{layer}.mlp.experts.{expert}": inner for expert in range(config["num_experts"])}
            shapes[f"{layer}.mlp.gate.weight"] = (config["num_experts"], size)
            shapes |= {f"{layer}.self_attn.{name}.weight": (head,) for name in ("q_norm", "k_norm")}
        else:
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        shapes |= {f"{layer}.{name}.weight": (size,) for name in norms}
        attention = {"q_proj": (query, size), "k_proj": (key_value, size), "v_proj": (key_value, size)}
        attention["o_proj"] = (size, query)
        shapes |= {f"{layer}.self_attn.{name}.weight": shape for name, shape in attention.items()}
        for block, inner in blocks.items():
            shapes |= {f"{block}.{name}.weight": (inner, size) for name in ("gate_proj", "up_proj")}
            shapes[f"{block}.down_proj.weight"] = (size, inner)
    return shapes


MEASURE = """
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.fakes import byte_request, small_engine_config
from transom.config.model_config import ModelConfig
from transom.engine.model_loader import load_engine

path, num_tokens, has_logprobs = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "True"
model_config = ModelConfig.from_hf(path)
limits = small_engine_config(path, max_num_batched_tokens=num_tokens, max_num_seqs=1, kv_cache_ram_bytes=2**23)
engine, report = load_engine(model_config, limits)
request = byte_request(b"x", max_tokens=2, ignore_eos=True)
sampling = replace(request.sampling, prompt_logprobs=2 if has_logprobs else None)
count = 200 if has_logprobs else num_tokens - 2
token_ids = np.random.default_rng(0).integers(0, 500, count).astype(np.int32)
engine.add(replace(request, prompt_token_ids=token_ids, sampling=sampling))
while engine.has_work():
    engine.step()
status = Path("/proc/self/status").read_text()
peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
print(peak, report.weights_bytes + report.kv_bytes, report.workspace_bytes)
"""


@pytest.mark.parametrize(
    ("config", "has_logprobs"),
    [(EXPERTS, False), (MANY_EXPERTS, False), (LARGE_VOCABULARY, True)],
    ids=["wide experts", "many experts", "a large vocabulary and log probabilities of a prompt"],
)
def test_a_worker_stays_within_the_memory_that_was_counted(
    config: dict[str, Any], has_logprobs: bool, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "model", config)
    command = [sys.executable, "-c", MEASURE, str(path), str(NUM_TOKENS), str(has_logprobs)]
    shown = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=120
    )
    peak, held, workspace = map(int, shown.stdout.split())
    assert peak <= held + workspace, f"{peak / MIB:.0f} MiB, counted {held / MIB:.0f} + {workspace / MIB:.0f} MiB"
