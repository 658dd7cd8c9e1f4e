"""Quantisation: equal, byte for byte, to the specification and to the ecosystem's where that defines the bytes."""

from __future__ import annotations

from typing import Literal

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.instruction_sets import everywhere
from transom.kernels import quantize, reference

Dtype = Literal["q8_0", "q4_0", "q4_k", "q5_k", "q6_k"]
DTYPES: tuple[Dtype, ...] = ("q8_0", "q4_0", "q4_k", "q5_k", "q6_k")
BLOCK = {"q8_0": 32, "q4_0": 32, "q4_k": 256, "q5_k": 256, "q6_k": 256}

KINDS = ("normal", "one value", "positive", "zero", "tiny", "large", "sparse", "steps", "negative zero")


def weights(kind: str, seed: int, rows: int, width: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    normal = random.standard_normal((rows, width), np.float32)
    match kind:
        case "normal":
            return normal * np.float32(0.02)
        case "one value":
            return np.full((rows, width), normal[:1, :1] if rows else 0, np.float32)
        case "positive":
            return np.abs(normal) + np.float32(3)
        case "zero":
            return np.zeros((rows, width), np.float32)
        case "tiny":
            return normal * np.float32(10.0) ** random.integers(-45, -3, (rows, width)).astype(np.float32)
        case "large":
            return np.clip(normal, -2.5, 2.5) * np.float32(1e5)
        case "sparse":
            return np.where(random.random((rows, width)) < 0.01, normal, np.float32(0))
        case "steps":
            return np.round(normal * 2) / np.float32(2)
        case _:
            return np.where(random.random((rows, width)) < 0.5, np.float32(-0.0), np.float32(0))


def error(x: NDArray[np.float32], dtype: Dtype) -> float:
    """Root mean square error after quantisation, relative to the root mean square of the values."""
    back = gguf.dequantize(quantize(dtype, x), gguf.GGMLQuantizationType[dtype.upper()])
    return float(np.sqrt(np.mean((back - x) ** 2.0) / np.mean(x**2.0)))


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(KINDS),
    rows=st.integers(0, 5),
    blocks=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_blocks_equal_the_specification_on_every_instruction_set(
    dtype: Dtype, kind: str, rows: int, blocks: int, seed: int
) -> None:
    x = weights(kind, seed, rows, blocks * BLOCK[dtype])
    expected = reference.quantize(dtype, x)
    for result in everywhere(lambda: quantize(dtype, x)):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_matrix_is_shared_out_without_a_change(dtype: Dtype) -> None:
    x = weights("normal", 0, 67, 1024)
    expected = np.concatenate([quantize(dtype, x[row : row + 1]) for row in range(len(x))])
    for result in everywhere(lambda: quantize(dtype, x)):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tiny"])
def test_simple_blocks_are_those_of_the_ecosystem(dtype: Dtype, kind: str) -> None:
    x = weights(kind, 1, 16, 1024)
    np.testing.assert_array_equal(quantize(dtype, x), gguf.quantize(x, gguf.GGMLQuantizationType[dtype.upper()]))


@pytest.mark.parametrize(("dtype", "most"), [("q4_k", 0.0712), ("q5_k", 0.0352), ("q6_k", 0.0172)])
def test_the_error_on_normal_weights_is_what_the_search_is_worth(dtype: Dtype, most: float) -> None:
    assert error(weights("normal", 2, 64, 1024), dtype) < most


@pytest.mark.parametrize("dtype", ["q4_k", "q5_k", "q6_k"])
@pytest.mark.parametrize("value", [-1.5, 0.0, 2.25])
def test_a_constant_row_stays_constant(dtype: Dtype, value: float) -> None:
    x = np.full((1, 256), value, np.float32)
    back = gguf.dequantize(quantize(dtype, x), gguf.GGMLQuantizationType[dtype.upper()])
    np.testing.assert_allclose(back, x, rtol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e5])
def test_the_first_row_that_cannot_be_quantised_is_named(dtype: Dtype, bad: float) -> None:
    x = weights("normal", 3, 400, 512)
    x[[133, 390], 7] = bad
    for call in (quantize, reference.quantize):
        with pytest.raises(ValueError, match="row 133 holds NaN, infinity or a magnitude of 262144 or more"):
            call(dtype, x)


def test_rows_must_be_whole_blocks() -> None:
    for call in (quantize, reference.quantize):
        with pytest.raises(ValueError, match="rows of 128 elements are no multiple of q4_k's block of 256"):
            call("q4_k", np.zeros((1, 128), np.float32))


def test_only_types_with_a_quantiser_are_accepted() -> None:
    for call in (quantize, reference.quantize):
        with pytest.raises(ValueError, match="cannot quantize to 'q2_k'; known: q8_0, q4_0, q4_k, q5_k, q6_k"):
            call("q2_k", np.zeros((1, 256), np.float32))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight must have dtype float32"):
        quantize("q8_0", np.zeros((1, 32)))  # type: ignore[arg-type]
