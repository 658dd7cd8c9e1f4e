"""A model of a GGUF file computes what the same model's Hugging Face directory does, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.fakes import write_tiny_llama
from tests.gguf_families import CASES, GgufCase, write_directory, write_file
from tests.gguf_models import ChooseType, all_f32, q8_0_where_rows_are_whole_blocks, write_gguf_of
from tests.golden_models import random_tensors
from tests.harness import Harness
from tests.test_promise_three import random_tokens, same_bits
from tests.weights.gguf_files import write_gguf
from transom.config.model_config import ModelConfig
from transom.registry.model_files import read_model_config
from transom.weights.gguf import GgufFile, open_gguf

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


def write_mixtral(directory: Path, hidden_size: int, intermediate_size: int) -> Path:
    """The tiny Mixtral in other sizes, which blocks of quantised types need."""
    case = GgufCase("mixtral", {"hidden_size": hidden_size, "intermediate_size": intermediate_size})
    sizes = {24: hidden_size, 20: intermediate_size}
    write_directory(case, directory)
    tensors = {
        name: [sizes.get(size, size) if "self_attn" not in name or size == 24 else size for size in shape]
        for name, shape in case.tensors.items()
    }
    save_file(random_tensors(tensors, 5), directory / "model.safetensors")
    return directory


def write_each_expert(file: GgufFile, path: Path) -> None:
    """The same model, the experts one by one."""
    tensors: dict[str, NDArray[Any]] = {}
    types: dict[str, gguf.GGMLQuantizationType] = {}
    for name in file.names():
        values = file.tensor(name)
        split = list(values) if name.endswith("_exps.weight") else []
        parts = {name.replace("_exps", f".{number}"): part for number, part in enumerate(split)} or {name: values}
        tensors |= parts
        types |= dict.fromkeys(parts, gguf.GGMLQuantizationType[file.info(name).dtype])
    metadata = {key: value for key, value in file.metadata.items() if key != "general.architecture"}
    write_gguf(path, metadata, tensors, quantized=types)


def tolstoy(directory: Path) -> Path:
    return BUNDLED / "tolstoy"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_familys_file_is_the_model_of_its_directory(tmp_path: Path, case: GgufCase) -> None:
    directory = write_directory(case, tmp_path / "hf")
    path = write_file(case, directory, tmp_path / "m.gguf")
    model_type = (
        "llama" if case.model_type in ("ministral", "mistral") else case.model_type
    )  # GGUF has one name for them
    assert read_model_config(path) == replace(ModelConfig.from_hf(directory), model_type=model_type, dtype="F32")
    theirs, ours = Harness(directory), Harness(path)
    tokens = random_tokens(theirs, 90, seed=1)
    assert same_bits(ours.logits(tokens), theirs.logits(tokens))


@pytest.mark.parametrize("choose_type", [all_f32, q8_0_where_rows_are_whole_blocks])
def test_experts_may_be_a_tensor_each(tmp_path: Path, choose_type: ChooseType) -> None:
    """As in files from before they were one; rows of blocks, too."""
    merged = write_gguf_of(write_mixtral(tmp_path / "hf", 64, 32), tmp_path / "m.gguf", choose_type)
    split = tmp_path / "s.gguf"
    write_each_expert(open_gguf(merged), split)
    assert not any(name.endswith("_exps.weight") for name in open_gguf(split).names())
    tokens = random_tokens(Harness(merged), 40, seed=2)
    assert same_bits(Harness(split).logits(tokens), Harness(merged).logits(tokens))


@pytest.mark.parametrize("model_type", ["hunyuan_v1_dense", "llama"])
def test_ropes_that_are_computed_when_a_file_is_made_are_the_same_at_32_bits(tmp_path: Path, model_type: str) -> None:
    """HunYuan's stretched base, Llama 3's factors of frequencies."""
    case = GgufCase(model_type)
    directory = write_directory(case, tmp_path / "hf")
    theirs, ours = Harness(directory), Harness(write_file(case, directory, tmp_path / "m.gguf"))
    tokens = random_tokens(theirs, 90, seed=3)
    np.testing.assert_allclose(ours.logits(tokens), theirs.logits(tokens), atol=2e-4)


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
