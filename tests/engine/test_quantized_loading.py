"""Weights that are quantised while they are loaded: smaller, counted as such, and hardly another model."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.fakes import small_engine_config, write_tiny_llama
from tests.harness import Harness
from transom.config.engine_config import EngineConfig, workspace_bytes
from transom.config.model_config import ModelConfig
from transom.engine.model_loader import load_engine
from transom.errors import ConfigError, WeightsError
from transom.models import Model, build
from transom.request import Request, SamplingParams
from transom.tokenizer import Tokenizer
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights, quantized_weights

TOLSTOY = Path(__file__).parents[2] / "transom" / "models_builtin" / "tolstoy"
PROMPT = "Prince Andrew looked at the sky"


def config_of(path: Path, quantization: str | None) -> EngineConfig:
    limits = small_engine_config(path, kv_cache_ram_bytes=2**24)
    return replace(limits, quantization=quantization, context_window=512)


def greedy_text(quantization: str | None) -> str:
    tokenizer = Tokenizer.from_directory(TOLSTOY)
    engine, _ = load_engine(ModelConfig.from_hf(TOLSTOY), config_of(TOLSTOY, quantization))
    params = SamplingParams(max_tokens=60, temperature=0.0)
    engine.add(Request("r", tuple(tokenizer.encode(PROMPT)), params))
    ids: list[int] = []
    while engine.has_work():
        ids += [token for output in engine.step() for token in output.token_ids]
    return tokenizer.decode(ids)


def model_of(quantization: str | None) -> Model:
    weights = quantized_weights(open_weights(TOLSTOY), quantization)
    return build(ModelConfig.from_hf(TOLSTOY), WeightLoader(weights))


def test_a_story_told_with_q8_0_is_the_one_of_the_checkpoint() -> None:
    text = greedy_text("q8_0")
    assert len(text) > 100
    assert text == greedy_text(None)


@pytest.mark.parametrize(("quantization", "most"), [("q8_0", 0.001), ("q4_k", 0.1)])
def test_the_next_token_is_predicted_much_as_before(quantization: str, most: float) -> None:
    ids = Tokenizer.from_directory(TOLSTOY).encode("The war went on, and Natasha smiled at the old prince. " * 4)

    def log_probabilities(model: Model) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        logits = Harness(TOLSTOY, model=model).logits(ids).astype(np.float64)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))

    exact, found = log_probabilities(model_of(None)), log_probabilities(model_of(quantization))
    divergence = (np.exp(exact) * (exact - found)).sum(axis=-1).mean()
    assert 0 < divergence < most


def test_budgets_count_the_quantised_sizes(caplog: pytest.LogCaptureFixture) -> None:
    model_config = ModelConfig.from_hf(TOLSTOY)
    wide = open_weights(TOLSTOY).nbytes
    with caplog.at_level(logging.INFO):
        _, report = load_engine(model_config, config_of(TOLSTOY, "q8_0"))
    assert 0.5 * wide < report.weights_bytes < 0.75 * wide
    assert "5 matrices become F16: their rows are no whole blocks" in caplog.text
    config = config_of(TOLSTOY, "q8_0")
    enough = report.weights_bytes + config.kv_cache_ram_bytes + workspace_bytes(model_config, config)
    load_engine(model_config, replace(config, max_ram_bytes=enough))
    with pytest.raises(ConfigError, match="max_ram_mb"):
        load_engine(model_config, replace(config, quantization=None, max_ram_bytes=enough))


def test_weights_that_are_no_numbers_name_their_tensor(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"][7, 3] = np.inf
    save_file(tensors, tmp_path / "model.safetensors")
    config = config_of(tmp_path, "q4_k")
    with pytest.raises(WeightsError, match=r"tensor 'lm_head\.weight': row 7 holds NaN, infinity"):
        load_engine(ModelConfig.from_hf(tmp_path), config)
