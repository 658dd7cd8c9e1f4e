"""A model of a GGUF file computes what the same model's Hugging Face directory does, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.fakes import write_tiny_llama
from tests.gguf_models import write_gguf_of
from tests.harness import Harness
from tests.test_promise_three import random_tokens, same_bits

BUNDLED = Path(__file__).parents[2] / "transom" / "models_builtin"
NUM_TOKENS = 150


def write_llama(directory: Path) -> Path:
    write_tiny_llama(directory)
    return directory


def write_mistral(directory: Path) -> Path:
    write_tiny_llama(directory, sliding_window=40)
    return directory


def write_qwen2(directory: Path) -> Path:
    """The tiny Llama with biases on query, key and value, and one matrix for both ends."""
    write_tiny_llama(directory)
    config = json.loads((directory / "config.json").read_text())
    changes = {"model_type": "qwen2", "tie_word_embeddings": True}
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    tensors = load_file(directory / "model.safetensors")
    del tensors["lm_head.weight"]
    for name in [name for name in tensors if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
        rng = np.random.default_rng(len(name))
        tensors[name.replace("weight", "bias")] = rng.standard_normal(len(tensors[name]), dtype=np.float32)
    save_file(tensors, directory / "model.safetensors")
    return directory


def write_qwen3(directory: Path) -> Path:
    """The tiny Llama with norms of queries and keys."""
    write_tiny_llama(directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "model_type": "qwen3"}))
    tensors, rng = load_file(directory / "model.safetensors"), np.random.default_rng(0)
    for layer in range(config["num_hidden_layers"]):
        for kind in "qk":
            norm = 1 + 0.3 * rng.standard_normal(config["head_dim"], dtype=np.float32)
            tensors[f"model.layers.{layer}.self_attn.{kind}_norm.weight"] = norm
    save_file(tensors, directory / "model.safetensors")
    return directory


def tolstoy(directory: Path) -> Path:
    return BUNDLED / "tolstoy"


@pytest.mark.parametrize("write", [write_llama, write_mistral, write_qwen2, write_qwen3, tolstoy])
def test_logits_of_a_file_are_those_of_its_directory(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    theirs = Harness(write(tmp_path / "hf"))
    ours = Harness(write_gguf_of(write(tmp_path / "hf"), tmp_path / "m.gguf"))
    tokens = random_tokens(theirs, NUM_TOKENS, seed=1)
    assert same_bits(ours.logits(tokens), theirs.logits(tokens))


def test_bf16_gives_the_logits_of_the_same_numbers_in_f32(tmp_path: Path) -> None:
    """The weights of the bundled model are bf16, so both files hold the same numbers."""
    types = {"bf16": gguf.GGMLQuantizationType.BF16, "f32": gguf.GGMLQuantizationType.F32}
    paths = {
        name: write_gguf_of(BUNDLED / "tolstoy", tmp_path / f"{name}.gguf", lambda *_, kind=kind: kind)
        for name, kind in types.items()
    }
    narrow, wide = Harness(paths["bf16"]), Harness(paths["f32"])
    tokens = random_tokens(wide, 20, seed=2)
    assert same_bits(narrow.logits(tokens), wide.logits(tokens))
