"""A check of headers finds every tensor that a load would stumble over, and reads none of them."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.golden_models import families, write_golden_model
from transom.config.model_config import ModelConfig
from transom.errors import WeightsError
from transom.models import build, misfits
from transom.weights.loader import WeightLoader
from transom.weights.safetensors import open_checkpoint
from transom.weights.weight_check import MAX_PROBLEMS


def check(directory: Path, **config_changes: Any) -> list[str]:
    config = replace(ModelConfig.from_hf(directory), **config_changes)
    return misfits(config, open_checkpoint(directory))


def rewrite(directory: Path, **changes: NDArray[Any] | None) -> None:
    """Adds, replaces or (None) removes tensors of the checkpoint."""
    tensors = load_file(directory / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, directory / "model.safetensors")


@pytest.mark.parametrize("model_type", families())
def test_a_model_that_can_be_loaded_has_no_problems(model_type: str, tmp_path: Path) -> None:
    assert check(write_golden_model(model_type, tmp_path)) == []


def test_everything_that_is_wrong_is_found_at_once(tmp_path: Path) -> None:
    write_golden_model("qwen3", tmp_path)
    rewrite(
        tmp_path,
        **{
            "model.layers.0.self_attn.q_norm.weight": None,
            "model.layers.1.mlp.up_proj.weight": np.ones((3, 4), np.float32),
            "model.layers.2.mlp.down_proj.weight": np.ones((24, 20), np.int8),
            "model.layers.7.extra": np.ones(2, np.float32),
        },
    )
    missing, misshapen, mistyped, unknown = check(tmp_path)
    assert "layers.0.self_attn.q_norm.weight" in missing
    assert "layers.1.mlp.up_proj.weight' has shape [3, 4], the model needs [20, 24]" in misshapen
    assert "layers.2.mlp.down_proj.weight' is of type I8" in mistyped
    assert "1 tensors that the model does not have: model.layers.7.extra" in unknown
    with pytest.raises(WeightsError, match=r"q_norm"):
        build(ModelConfig.from_hf(tmp_path), WeightLoader(open_checkpoint(tmp_path)))


def test_tied_embeddings_that_lie_there_twice_are_one(tmp_path: Path) -> None:
    write_golden_model("llama", tmp_path)
    assert check(tmp_path, tie_word_embeddings=True) == []


def test_no_tensor_is_read(tmp_path: Path) -> None:
    """A file of which all but the header are holes, as large as a real model's."""
    write_golden_model("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 2**20, "hidden_size": 2**12}))
    shape, size = [2**20, 2**12], 2**34
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    assert not any("embed_tokens" in problem for problem in check(tmp_path))


HUGE = 2**24


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"num_hidden_layers": 4096, "layer_types": None}),
        ("gemma2", {"hidden_size": HUGE}),
        ("lfm2", {"hidden_size": HUGE, "conv_L_cache": 1024}),
        ("qwen3_moe", {"num_experts": 65_536, "num_hidden_layers": 4096, "layer_types": None, "mlp_only_layers": []}),
    ],
)
def test_a_check_is_cheap_whatever_the_configuration_claims(
    model_type: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    write_golden_model(model_type, tmp_path, **changes)
    tracemalloc.start()
    problems = check(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < len(problems) <= MAX_PROBLEMS + 1
    assert peak < 32 * 2**20
