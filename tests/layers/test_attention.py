"""Norms of queries and keys against plain formulas, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from transom import kernels
from transom.layers.attention import Attention, HeadsNorm, NoHeadsNorm, PerHeadNorm, WholeProjectionNorm
from transom.layers.forward_batch import AttentionSpec, ForwardBatch
from transom.layers.linear import Linear
from transom.layers.rotary import NoRotation, Rotation, Rotations

Floats = NDArray[np.float32]
EPS = 1e-3
RNG = np.random.default_rng(4)
TOKENS, QUERY_HEADS, KEY_HEADS, HEAD_DIM, HIDDEN = 5, 4, 2, 6, 9


def normalized(x: Floats, weight: Floats) -> NDArray[np.float64]:
    """Over the last axis."""
    wide = x.astype(np.float64)
    scaled: NDArray[np.float64] = wide / np.sqrt((wide * wide).mean(axis=-1, keepdims=True) + EPS) * weight
    return scaled


def test_a_norm_of_heads_looks_at_one_head_at_a_time_even_in_strided_rows() -> None:
    fused = RNG.standard_normal((TOKENS, 7, HEAD_DIM), dtype=np.float32)
    before, weight = fused.copy(), RNG.standard_normal(HEAD_DIM, dtype=np.float32)
    PerHeadNorm(weight, EPS).apply(fused[:, 2:5])
    np.testing.assert_allclose(fused[:, 2:5], normalized(before[:, 2:5], weight), rtol=1e-5)
    assert np.array_equal(fused[:, :2], before[:, :2])
    assert np.array_equal(fused[:, 5:], before[:, 5:])


def test_a_norm_of_the_whole_projection_looks_at_all_heads_of_a_token() -> None:
    fused = RNG.standard_normal((TOKENS, 7, HEAD_DIM), dtype=np.float32)
    before, weight = fused.copy(), RNG.standard_normal(3 * HEAD_DIM, dtype=np.float32)
    WholeProjectionNorm(weight, EPS).apply(fused[:, 2:5])
    expected = normalized(before[:, 2:5].reshape(TOKENS, -1), weight).reshape(TOKENS, 3, HEAD_DIM)
    np.testing.assert_allclose(fused[:, 2:5], expected, rtol=1e-5)
    assert np.array_equal(fused[:, :2], before[:, :2])
    assert np.array_equal(fused[:, 5:], before[:, 5:])


@pytest.mark.parametrize(
    "norm", [PerHeadNorm(np.ones(HEAD_DIM, np.float32), EPS), WholeProjectionNorm(np.ones(18, np.float32), EPS)]
)
def test_a_row_does_not_depend_on_the_rows_beside_it(norm: HeadsNorm) -> None:
    rows = RNG.standard_normal((40, 3, HEAD_DIM), dtype=np.float32)
    together = rows.copy()
    norm.apply(together)
    for index in range(len(rows)):
        alone = rows[index : index + 1].copy()
        norm.apply(alone)
        assert np.array_equal(alone[0], together[index])


class RecordingCache:
    """Remembers what attention was asked for and gives the queries back."""

    def __init__(self) -> None:
        self.query = self.key = self.value = np.zeros(0, np.float32)

    def attend(self, _layer_index: int, query: Floats, key: Floats, value: Floats, _spec: AttentionSpec) -> Floats:
        self.query, self.key, self.value = query.copy(), key.copy(), value.copy()
        return self.query

    def convolve(self, _layer_index: int, _x: Floats, _weight: Floats, _bias: Floats | None) -> Floats:
        raise AssertionError("attention convolves nothing")


def packed(weight: Floats) -> Linear:
    out_features, in_features = weight.shape
    matrix = kernels.PackedMatrix(out_features, in_features, "f32")
    matrix.fill(0, weight)
    return Linear((matrix,))


def quarter_turn(x: Floats) -> Floats:
    """What `Rotation` below does to heads."""
    half = x.shape[-1] // 2
    return np.concatenate([-x[..., half:], x[..., :half]], axis=-1)


@pytest.mark.parametrize("normalizes_rotated", [False, True])
def test_norms_come_before_or_after_the_rotation_and_leave_values_alone(normalizes_rotated: bool) -> None:
    x = RNG.standard_normal((TOKENS, HIDDEN), dtype=np.float32)
    weight = RNG.standard_normal(((QUERY_HEADS + 2 * KEY_HEADS) * HEAD_DIM, HIDDEN), dtype=np.float32)
    query_weight, key_weight = (RNG.standard_normal(HEAD_DIM, dtype=np.float32) for _ in range(2))
    attention = Attention(
        layer_index=0,
        num_attention_heads=QUERY_HEADS,
        num_key_value_heads=KEY_HEADS,
        head_dim=HEAD_DIM,
        spec=AttentionSpec(scale=1.0),
        qkv=packed(weight),
        output=packed(np.eye(QUERY_HEADS * HEAD_DIM, dtype=np.float32)),
        rotation_index=1,
        query_norm=PerHeadNorm(query_weight, EPS),
        key_norm=PerHeadNorm(key_weight, EPS),
        normalizes_rotated=normalizes_rotated,
    )
    shape = (TOKENS, HEAD_DIM // 2)
    rotations: Rotations = [NoRotation(), Rotation(np.zeros(shape, np.float32), np.ones(shape, np.float32))]
    cache = RecordingCache()
    rows = np.arange(TOKENS, dtype=np.int32)
    batch = ForwardBatch(rows, rows, np.array([0, TOKENS], np.int32), rows, cache)
    kept = attention.forward(x, rotations, batch, keep=rows[-2:])

    heads = (x @ weight.T).reshape(TOKENS, -1, HEAD_DIM)
    for got, begin, end, norm in (
        (cache.query, 0, QUERY_HEADS, query_weight),
        (cache.key, QUERY_HEADS, QUERY_HEADS + KEY_HEADS, key_weight),
    ):
        own = heads[:, begin:end]
        rotated_last = quarter_turn(normalized(own, norm).astype(np.float32))
        expected = normalized(quarter_turn(own), norm) if normalizes_rotated else rotated_last
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cache.value, heads[:, QUERY_HEADS + KEY_HEADS :], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(kept, cache.query[-2:].reshape(2, -1))


def test_without_a_norm_heads_stay_as_they_are() -> None:
    heads = RNG.standard_normal((TOKENS, 3, HEAD_DIM), dtype=np.float32)
    before = heads.copy()
    NoHeadsNorm().apply(heads)
    assert np.array_equal(heads, before)
