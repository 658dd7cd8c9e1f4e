"""Norms, rotary embedding, gates, caps, softmax, short convolutions: equal, bit for bit, to the specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.instruction_sets import everywhere
from transom.kernels import (
    add_rms_norm,
    geglu,
    reference,
    rms_norm,
    rms_norm_heads,
    rotate,
    short_conv,
    soft_cap,
    softmax,
    swiglu,
)


def floats(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@settings(max_examples=40, deadline=None)
@given(num_rows=st.integers(0, 20), width=st.integers(1, 100), seed=st.integers(0, 1000))
def test_a_norm_equals_the_specification_on_every_instruction_set(num_rows: int, width: int, seed: int) -> None:
    x, weight = floats(seed, num_rows, width), floats(seed + 1, width)
    expected = reference.rms_norm(x, weight, 1e-5)
    for result in everywhere(lambda: rms_norm(x, weight, 1e-5)):
        np.testing.assert_array_equal(result, expected)


@settings(max_examples=40, deadline=None)
@given(num_rows=st.integers(0, 20), width=st.integers(1, 100), seed=st.integers(0, 1000))
def test_a_norm_of_a_sum_leaves_the_sum_behind(num_rows: int, width: int, seed: int) -> None:
    x, update, weight = floats(seed, num_rows, width), floats(seed + 1, num_rows, width), floats(seed + 2, width)
    expected = reference.rms_norm(x + update, weight, 1e-5)

    def of_a_copy() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        total = x.copy()
        return add_rms_norm(total, update, weight, 1e-5), total

    for result, total in everywhere(of_a_copy):
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(total, x + update)


def test_a_large_norm_is_shared_out_without_a_change() -> None:
    x, weight = floats(0, 300, 1000), floats(1, 1000)
    expected = reference.rms_norm(x, weight, 1e-6)
    for result in everywhere(lambda: rms_norm(x, weight, 1e-6)):
        np.testing.assert_array_equal(result, expected)


def test_a_norm_of_a_zero_row_is_zero() -> None:
    assert not rms_norm(np.zeros((2, 5), np.float32), np.ones(5, np.float32), 1e-6).any()


def test_a_norm_is_close_to_float64() -> None:
    x, weight = floats(0, 4, 1000), floats(1, 1000)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(rms_norm(x, weight, 1e-6), expected, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(0, 12),
    num_heads=st.integers(1, 5),
    half=st.integers(1, 40),
    rest=st.integers(0, 20),
    seed=st.integers(0, 1000),
)
def test_rotation_equals_the_specification_and_leaves_the_rest_of_a_head_alone(
    num_rows: int, num_heads: int, half: int, rest: int, seed: int
) -> None:
    x = floats(seed, num_rows, num_heads, 2 * half + rest)
    angles = floats(seed + 1, num_rows, half)
    cosine, sine = np.cos(angles), np.sin(angles)
    expected = x.copy()
    reference.rotate(expected, cosine, sine)

    def rotated() -> NDArray[np.float32]:
        copy = x.copy()
        rotate(copy, cosine, sine)
        return copy

    for result in everywhere(rotated):
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(result[:, :, 2 * half :], x[:, :, 2 * half :])


def test_rotation_works_on_some_columns_of_a_fused_product() -> None:
    fused = floats(0, 200, 10 * 64)
    before = fused.copy()
    angles = floats(1, 200, 32)
    expected = fused[:, 128:384].reshape(200, 4, 64)
    reference.rotate(expected := expected.copy(), np.cos(angles), np.sin(angles))
    rotate(fused[:, 128:384].reshape(200, 4, 64, copy=False), np.cos(angles), np.sin(angles))
    np.testing.assert_array_equal(fused[:, 128:384].reshape(200, 4, 64), expected)
    np.testing.assert_array_equal(fused[:, :128], before[:, :128])
    np.testing.assert_array_equal(fused[:, 384:], before[:, 384:])


@settings(max_examples=40, deadline=None)
@given(num_rows=st.integers(0, 12), width=st.integers(1, 60), scale=st.sampled_from([1.0, 30.0, 1e4]))
def test_swiglu_equals_the_specification_on_every_instruction_set(num_rows: int, width: int, scale: float) -> None:
    gate_up = floats(width, num_rows, 2 * width) * np.float32(scale)
    expected = reference.swiglu(gate_up)
    for result in everywhere(lambda: swiglu(gate_up)):
        np.testing.assert_array_equal(result, expected)


def test_swiglu_is_close_to_float64() -> None:
    gate_up = floats(0, 10, 400) * np.float32(10)
    gate, up = np.split(gate_up.astype(np.float64), 2, axis=1)
    np.testing.assert_allclose(swiglu(gate_up), gate / (1 + np.exp(-gate)) * up, rtol=2e-6)


def test_swiglu_of_extreme_gates_is_zero_or_the_product() -> None:
    gate_up = np.array([[-1e30, -200.0, 200.0, 1.0, 1.0, 3.0]], np.float32)
    result = swiglu(gate_up)
    np.testing.assert_allclose(result[0, :2], 0.0, atol=1e-6)
    assert result[0, 2] == 600.0


def test_nan_goes_through_and_stays_in_its_row() -> None:
    x = floats(0, 3, 20)
    x[1, 4] = np.nan
    weight = np.ones(20, np.float32)
    np.testing.assert_array_equal(np.isnan(rms_norm(x, weight, 1e-6)).all(axis=1), [False, True, False])
    assert np.isnan(swiglu(x)).sum() == 1


@pytest.mark.parametrize(
    ("x", "weight", "error", "message"),
    [
        (floats(0, 2, 8), floats(0, 9), ValueError, "axis 0 of weight must have size 8, not 9"),
        (floats(0, 8), floats(0, 8), ValueError, "x must have 2 axes, not 1"),
        (floats(0, 2, 8).astype(np.float16), floats(0, 8), TypeError, "x must have dtype float32"),
        (floats(0, 2, 8), "weight", TypeError, "weight must be an array, not str"),
        (np.asfortranarray(floats(0, 2, 8)), floats(0, 8), ValueError, "x must be contiguous"),
    ],
)
def test_a_norm_refuses_arrays_that_do_not_fit(x: Any, weight: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rms_norm(x, weight, 1e-6)


@pytest.mark.parametrize(
    ("x", "cosine", "sine", "error", "message"),
    [
        (floats(0, 2, 3, 8), floats(0, 2, 5), floats(0, 2, 5), ValueError, "more dimensions than a head has"),
        (floats(0, 2, 3, 8), floats(0, 1, 4), floats(0, 2, 4), ValueError, "axis 0 of cos"),
        (floats(0, 2, 3, 8), floats(0, 2, 4), floats(0, 2, 3), ValueError, "axis 1 of sin"),
        (floats(0, 2, 24), floats(0, 2, 4), floats(0, 2, 4), ValueError, "x must have 3 axes, not 2"),
        (floats(0, 2, 3, 16)[:, :, ::2], floats(0, 2, 4), floats(0, 2, 4), ValueError, "within each entry"),
        (np.broadcast_to(floats(0, 3, 8), (2, 3, 8)), floats(0, 2, 4), floats(0, 2, 4), TypeError, "writable"),
    ],
)
def test_rotation_refuses_arrays_that_do_not_fit(
    x: Any, cosine: Any, sine: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        rotate(x, cosine, sine)


def test_swiglu_refuses_an_odd_number_of_columns() -> None:
    with pytest.raises(ValueError, match="even"):
        swiglu(floats(0, 2, 7))


@pytest.mark.parametrize(
    ("x", "update", "error", "message"),
    [
        (floats(0, 2, 8), floats(0, 3, 8), ValueError, "axis 0 of update must have size 2, not 3"),
        (floats(0, 2, 8), floats(0, 2, 9), ValueError, "axis 1 of update must have size 8, not 9"),
        (np.broadcast_to(floats(0, 8), (2, 8)), floats(0, 2, 8), TypeError, "x must be a writable array"),
    ],
)
def test_a_norm_of_a_sum_refuses_arrays_that_do_not_fit(
    x: Any, update: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        add_rms_norm(x, update, floats(0, 8), 1e-6)


@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(0, 20), width=st.integers(1, 70), seed=st.integers(0, 1000))
def test_geglu_softmax_and_caps_equal_the_specification(num_rows: int, width: int, seed: int) -> None:
    x = floats(seed, num_rows, 2 * width) * np.float32(4)
    capped = x.copy()
    reference.soft_cap(capped, 3.0)
    for result in everywhere(lambda: (geglu(x), softmax(x), in_place(soft_cap, x, 3.0))):
        np.testing.assert_array_equal(result[0], reference.geglu(x))
        np.testing.assert_array_equal(result[1], reference.softmax(x))
        np.testing.assert_array_equal(result[2], capped)


def in_place(kernel: Callable[..., None], x: NDArray[np.float32], *rest: Any) -> NDArray[np.float32]:
    copy = x.copy()
    kernel(copy, *rest)
    return copy


def test_geglu_softmax_and_caps_are_close_to_float64() -> None:
    x = floats(0, 10, 400) * np.float32(5)
    wide = x.astype(np.float64)
    gate, up = np.split(wide, 2, axis=1)
    gelu = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    np.testing.assert_allclose(geglu(x), gelu * up, rtol=3e-6, atol=1e-6)
    weights = np.exp(wide - wide.max(axis=1, keepdims=True))
    np.testing.assert_allclose(softmax(x), weights / weights.sum(axis=1, keepdims=True), rtol=5e-6)
    np.testing.assert_allclose(in_place(soft_cap, x, 30.0), 30 * np.tanh(wide / 30), rtol=1e-6, atol=4e-6)


def test_softmax_of_far_apart_scores_is_one_and_zeros() -> None:
    np.testing.assert_array_equal(softmax(np.array([[-1e30, 500.0, 0.0]], np.float32)), [[0.0, 1.0, 0.0]])


@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(0, 9), num_heads=st.integers(1, 5), head_dim=st.integers(1, 50), seed=st.integers(0, 99))
def test_heads_of_a_fused_product_are_normalised_in_place_and_the_others_left_alone(
    num_rows: int, num_heads: int, head_dim: int, seed: int
) -> None:
    fused, weight = floats(seed, num_rows, num_heads + 2, head_dim), floats(seed + 1, head_dim)
    expected = fused.copy()
    reference.rms_norm_heads(expected[:, :num_heads], weight, 1e-5)
    for result in everywhere(lambda: in_place(lambda x: rms_norm_heads(x[:, :num_heads], weight, 1e-5), fused)):
        np.testing.assert_array_equal(result, expected)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    num_taps=st.integers(1, 5),
    width=st.integers(1, 40),
    has_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_short_convolution_equals_the_specification(
    lengths: list[int], num_taps: int, width: int, has_bias: bool, seed: int
) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    x, history = floats(seed, sum(lengths), width), floats(seed + 1, len(lengths), num_taps - 1, width)
    weight, bias = floats(seed + 2, num_taps, width), floats(seed + 3, width) if has_bias else None
    expected = reference.short_conv(x, history, starts, weight, bias)
    for result in everywhere(lambda: short_conv(x, history, starts, weight, bias)):
        np.testing.assert_array_equal(result, expected)


def test_a_short_convolution_refuses_starts_that_do_not_fit() -> None:
    x, weight = floats(0, 4, 8), floats(1, 3, 8)
    for starts in ([0, 5], [1, 4], [0, 3, 2, 4], []):
        with pytest.raises(ValueError, match="sequence_starts"):
            short_conv(x, floats(2, max(len(starts) - 1, 0), 2, 8), np.array(starts, np.int32), weight)
    with pytest.raises(ValueError, match="axis 1 of history"):
        short_conv(x, floats(2, 1, 3, 8), np.array([0, 4], np.int32), weight)
