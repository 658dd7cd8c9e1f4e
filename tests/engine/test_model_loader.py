"""From a directory to an engine that answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import byte_request, small_engine_config, write_tiny_llama
from transom.config.engine_config import BLOCK_SIZE, EngineConfig, kv_bytes_for_tokens
from transom.config.model_config import ModelConfig
from transom.engine.model_loader import load_engine
from transom.errors import ConfigError, WeightsError
from transom.request import RequestOutput


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    write_tiny_llama(tmp_path)
    return tmp_path


def greedy(config: EngineConfig) -> tuple[int, ...]:
    engine, _ = load_engine(ModelConfig.from_hf(config.model_path), config)
    engine.add(byte_request("The quick brown fox jumps over the lazy dog. " * 3, max_tokens=40, ignore_eos=True))
    outputs: list[RequestOutput] = []
    while engine.has_work():
        outputs += engine.step()
    return tuple(token for output in outputs for token in output.token_ids)


def test_the_text_does_not_depend_on_how_the_prompt_is_cut(model_path: Path) -> None:
    texts = {greedy(small_engine_config(model_path, max_num_batched_tokens=n)) for n in (1, 7, 64, 512)}
    assert len(texts) == 1


def test_the_report_says_what_was_loaded(model_path: Path) -> None:
    _, report = load_engine(ModelConfig.from_hf(model_path), small_engine_config(model_path))
    file_bytes = (model_path / "model.safetensors").stat().st_size
    assert 0.9 * file_bytes < report.weights_bytes < 1.1 * file_bytes  # without names, with rows that fill up panels
    assert 0 < report.kv_bytes <= 2**20
    assert report.workspace_bytes > 0
    assert report.load_seconds > 0


def test_the_report_says_how_long_a_request_the_budgets_hold(model_path: Path) -> None:
    model_config, plenty = ModelConfig.from_hf(model_path), small_engine_config(model_path)
    one_block = kv_bytes_for_tokens(model_config, plenty.kv_dtype, 1)
    _, report = load_engine(model_config, replace(plenty, kv_cache_ram_bytes=3 * one_block))
    assert report.max_sequence_tokens == 3 * BLOCK_SIZE


def test_memory_is_checked_before_a_tensor_is_read(model_path: Path) -> None:
    config = small_engine_config(model_path, max_ram_bytes=2**20)
    with pytest.raises(ConfigError, match="max_ram_mb"):
        load_engine(ModelConfig.from_hf(model_path), config)


def test_tensors_are_compared_with_the_model_before_one_is_read(model_path: Path) -> None:
    """The embedding, which comes first, is a hole of a tebibyte."""
    config = json.loads((model_path / "config.json").read_text())
    (model_path / "config.json").write_text(json.dumps({**config, "vocab_size": 2**24, "hidden_size": 2**14}))
    size = 2**40
    tensor = {"dtype": "F32", "shape": [2**24, 2**14], "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    with (model_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    with pytest.raises(WeightsError, match=r"tensor 'model\.layers\.0\..* is missing"):
        load_engine(ModelConfig.from_hf(model_path), small_engine_config(model_path))


def test_a_directory_without_weights_is_an_error(model_path: Path) -> None:
    (model_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError):
        load_engine(ModelConfig.from_hf(model_path), small_engine_config(model_path))
