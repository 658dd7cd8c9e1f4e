"""What weights take in RAM is known from their headers, or from a configuration alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.golden_models import families, write_golden_model
from transom.config.model_config import ModelConfig
from transom.errors import WeightsError
from transom.models import build, claimed_weights, weight_sizes
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights, quantized_weights


@pytest.mark.parametrize("quantization", [None, "q8_0", "q4_k"])
@pytest.mark.parametrize("model_type", families())
def test_a_loader_hands_out_as_many_bytes_as_were_counted(
    model_type: str, quantization: str | None, tmp_path: Path
) -> None:
    write_golden_model(model_type, tmp_path)
    config = ModelConfig.from_hf(tmp_path)
    source = quantized_weights(open_weights(tmp_path), quantization)
    loader = WeightLoader(source)
    build(config, loader)
    sizes = weight_sizes(config, source)
    assert loader.num_bytes == sizes.num_bytes
    assert sum(each.num_bytes for each in sizes.matrices) < sizes.num_bytes


@pytest.mark.parametrize("model_type", families())
def test_a_configuration_claims_the_tensors_that_its_checkpoint_has(model_type: str, tmp_path: Path) -> None:
    write_golden_model(model_type, tmp_path)
    config, stored = replace(ModelConfig.from_hf(tmp_path), dtype="float32"), open_weights(tmp_path)
    claimed = claimed_weights(config)
    assert {*claimed.names()} == {*stored.names()}
    assert all(claimed.info(name).shape == stored.info(name).shape for name in claimed.names())
    assert claimed.nbytes == stored.nbytes == 4 * sum(math.prod(claimed.info(n).shape) for n in claimed.names())


def test_claimed_weights_have_no_values(tmp_path: Path) -> None:
    write_golden_model("llama", tmp_path)
    claimed = claimed_weights(ModelConfig.from_hf(tmp_path))
    with pytest.raises(WeightsError, match="a configuration alone has no weights"):
        claimed.rows("model.embed_tokens.weight", 0, 1)
    with pytest.raises(WeightsError, match="missing"):
        claimed.info("model.layers.99.mlp.weight")


def test_a_matrix_larger_than_any_memory_is_an_error(tmp_path: Path) -> None:
    write_golden_model("llama", tmp_path)
    config = replace(ModelConfig.from_hf(tmp_path), vocab_size=2**24, hidden_size=2**24)
    with pytest.raises(WeightsError, match="larger than any memory"):
        weight_sizes(config, claimed_weights(config))
