"""ggml's blocks to floats: equal, bit for bit, to ggml's own package."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.instruction_sets import everywhere
from tests.kernels.quantized_rows import BLOCKS, DTYPES, NON_FINITE, ODD, ORDINARY, rows_of
from transom.kernels import dequantize, reference, row_bytes


def of_ggml(dtype: str, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    with np.errstate(all="ignore"):
        result: NDArray[np.float32] = gguf.quants.dequantize(rows, kind)
    return result


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    num_rows=st.integers(1, 9),
    num_blocks=st.integers(1, 5),
    halves=st.sampled_from([ORDINARY, ODD]),
    seed=st.integers(0, 1000),
)
def test_floats_equal_those_of_ggml(
    dtype: Any, num_rows: int, num_blocks: int, halves: NDArray[np.float16], seed: int
) -> None:
    rows = rows_of(seed, dtype, num_rows, num_blocks * BLOCKS[dtype][0], halves)
    expected = of_ggml(dtype, rows)
    np.testing.assert_array_equal(reference.dequantize(dtype, rows), expected)
    for result in everywhere(lambda: dequantize(dtype, rows)):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_floats_of_every_kind_as_scales_give_the_floats_of_ggml(dtype: Any) -> None:
    """Every seventh of all there are: normal, subnormal, zero, infinite, NaN, of both signs."""
    _, num_bytes, offsets = BLOCKS[dtype]
    halves = np.arange(0, 1 << 16, 7).astype(np.uint16)
    blocks = np.random.default_rng(0).integers(0, 256, (len(halves), num_bytes)).astype(np.uint8)
    for index, offset in enumerate(offsets):
        blocks[:, offset : offset + 2] = np.roll(halves, 1001 * index).view(np.uint8).reshape(-1, 2)
    np.testing.assert_array_equal(dequantize(dtype, blocks), of_ggml(dtype, blocks))


@pytest.mark.parametrize("dtype", DTYPES)
def test_scales_that_are_not_finite_give_what_float_arithmetic_gives(dtype: Any) -> None:
    rows = rows_of(1, dtype, 30, 256, NON_FINITE)
    np.testing.assert_array_equal(dequantize(dtype, rows), of_ggml(dtype, rows))


def test_blocks_are_read_from_a_read_only_unaligned_view_of_a_file() -> None:
    rows = rows_of(0, "q6_k", 3, 512)
    view = np.frombuffer(b"\0" + rows.tobytes(), np.uint8)[1:].reshape(rows.shape)
    np.testing.assert_array_equal(dequantize("q6_k", view), dequantize("q6_k", rows))


def test_no_rows_are_no_floats() -> None:
    assert dequantize("q4_k", np.zeros((0, 288), np.uint8)).shape == (0, 512)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_has_the_bytes_of_its_blocks(dtype: Any) -> None:
    assert (
        row_bytes(dtype, 512)
        == gguf.quants.quant_shape_to_byte_shape((512,), gguf.GGMLQuantizationType[dtype.upper()])[0]
    )


def test_a_row_of_floats_has_the_bytes_of_its_floats() -> None:
    assert [row_bytes(dtype, 10) for dtype in ("f32", "f16", "bf16")] == [40, 20, 20]


@pytest.mark.parametrize(("dtype", "in_features"), [("q4_k", 0), ("q4_k", 100), ("f32", -1), ("q7_x", 256)])
def test_rows_that_cannot_be_are_refused(dtype: Any, in_features: int) -> None:
    with pytest.raises(ValueError, match=r"column|unknown weight type"):
        row_bytes(dtype, in_features)


@pytest.mark.parametrize(
    ("dtype", "rows", "error", "message"),
    [
        ("q4_k", np.zeros((2, 100), np.uint8), ValueError, "not a whole number"),
        ("q4_k", np.zeros(144, np.uint8), ValueError, "rows must have 2 axes"),
        ("q4_k", np.zeros((2, 144), np.int8), TypeError, "rows must have dtype uint8"),
        ("f16", np.zeros((2, 144), np.uint8), ValueError, "not a quantised type"),
    ],
)
def test_dequantising_refuses_what_are_no_blocks(dtype: Any, rows: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dequantize(dtype, rows)
