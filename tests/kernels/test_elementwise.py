"""Norm, rotary embedding, SwiGLU: equal, bit for bit, to the specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.instruction_sets import everywhere
from transom.kernels import add_rms_norm, reference, rms_norm, rotate, swiglu


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
