"""Frequencies of each rope type, against constants computed with transformers 5.23, and the rotation itself."""

from __future__ import annotations

import numpy as np
import pytest

from transom.config.model_config import RopeConfig
from transom.layers.rotary import RotaryEmbedding

BASE = [1.0, 0.31622776, 0.1, 0.031622775, 0.01, 0.0031622776, 0.001, 0.00031622776]
LINEAR = [0.25, 0.079056941, 0.025, 0.0079056947, 0.0025, 0.00079056947, 0.00025, 7.9056947e-05]
LLAMA3 = [1.0, 0.24438459, 0.013042256, 0.0039528473, 0.00125, 0.00039528473, 0.000125, 3.9528473e-05]
YARN = [1.0, 0.23717082, 0.05, 0.0079056947, 0.0025, 0.00079056947, 0.00025, 7.9056947e-05]


@pytest.mark.parametrize(
    ("rope", "frequencies", "attention_factor"),
    [
        (RopeConfig("default", 10_000.0, 16), BASE, 1.0),
        (RopeConfig("dynamic", 10_000.0, 16, factor=4.0), BASE, 1.0),
        (RopeConfig("linear", 10_000.0, 16, factor=4.0), LINEAR, 1.0),
        (RopeConfig("factors", 10_000.0, 16, frequency_factors=(4.0,) * 8), LINEAR, 1.0),
        (
            RopeConfig(
                "llama3",
                10_000.0,
                16,
                factor=8.0,
                original_max_position_embeddings=64,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
            ),
            LLAMA3,
            1.0,
        ),
        (RopeConfig("yarn", 10_000.0, 16, factor=4.0, original_max_position_embeddings=128), YARN, 1.1386294),
    ],
    ids=lambda value: value.rope_type if isinstance(value, RopeConfig) else "",
)
def test_frequencies_are_those_of_the_reference(
    rope: RopeConfig, frequencies: list[float], attention_factor: float
) -> None:
    embedding = RotaryEmbedding.from_config(rope, 512)
    np.testing.assert_allclose(embedding.inverse_frequencies, frequencies, rtol=3e-6)
    assert embedding.attention_factor == pytest.approx(attention_factor)


def test_scores_depend_on_the_distance_of_positions_only() -> None:
    embedding = RotaryEmbedding.from_config(RopeConfig("default", 10_000.0, 16), 512)
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 1, 1, 16)).astype(np.float32)

    def score(query_position: int, key_position: int) -> float:
        rows = [query.copy(), key.copy()]
        for row, position in zip(rows, (query_position, key_position), strict=True):
            embedding.at(np.array([position], np.int32)).apply(row)
        return float((rows[0] * rows[1]).sum())

    assert score(107, 100) == pytest.approx(score(7, 0), abs=1e-3)
    assert score(107, 100) != pytest.approx(score(9, 0), abs=1e-3)
