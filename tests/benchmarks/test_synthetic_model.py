"""The models the benchmarks run on: files that others can read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import synthetic_model as program
from transom.config.model_config import ModelConfig
from transom.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program.synthetic_model("tiny", "float32", tmp_path_factory.mktemp("models"))


def test_the_files_hold_every_tensor_of_the_shape(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        tensor.name: tensor.shape for tensor in program.tensors_of(program.SHAPES["tiny"])
    }
    matrix = tensors["model.layers.0.self_attn.q_proj.weight"]
    assert matrix.std() == pytest.approx(program.STANDARD_DEVIATION, rel=0.05)


def test_the_configuration_is_understood(directory: Path) -> None:
    config = ModelConfig.from_hf(directory)
    assert (config.vocab_size, config.num_hidden_layers, config.head_dim) == (512, 2, 32)
    assert config.eos_token_ids == (511,)


def test_text_of_any_kind_goes_through_the_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer.from_directory(directory)
    text = "Hello, naïve 東京!\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(tokenizer.encode(text)) < 512


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.0], np.float32)
    encoded = np.frombuffer(program.ELEMENT_TYPES["bfloat16"].encode(values), np.uint16)
    assert encoded.tolist() == [0x3F80, 0x3F80, 0x3F82, 0xC040]


def test_a_model_that_is_there_is_not_written_again(directory: Path) -> None:
    before = (directory / "model.safetensors").stat().st_mtime_ns
    assert program.synthetic_model("tiny", "float32", directory.parent) == directory
    assert (directory / "model.safetensors").stat().st_mtime_ns == before


def test_large_models_are_cut_into_shards_that_hold_everything_once() -> None:
    tensors = program.tensors_of(replace(program.SHAPES["1b"], num_hidden_layers=8))
    shards = program.shards_of(tensors, program.ELEMENT_TYPES["float32"])
    assert [tensor for shard in shards.values() for tensor in shard] == tensors
    assert next(iter(shards)) == f"model-00001-of-{len(shards):05}.safetensors"
    assert all(len(shard) == 1 or sum(t.size for t in shard) * 4 <= program.SHARD_BYTES for shard in shards.values())


def test_the_index_names_the_file_of_every_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SHARD_BYTES", 2**20)
    directory = program.synthetic_model("tiny", "bfloat16", tmp_path)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {tensor.name for tensor in program.tensors_of(program.SHAPES["tiny"])}
    assert all((directory / name).exists() for name in index["weight_map"].values())
