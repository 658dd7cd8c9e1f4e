"""Products with quantised weights: equal, bit for bit, to the specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.instruction_sets import everywhere
from tests.kernels.quantized_rows import BLOCKS, DTYPES, NON_FINITE, ODD, ORDINARY, extreme_rows_of, rows_of
from transom.kernels import PackedMatrix, dequantize, embed, matmul, reference, row_bytes


def floats(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def packed(dtype: Any, rows: NDArray[np.uint8]) -> PackedMatrix:
    matrix = PackedMatrix(len(rows), _in_features(dtype, rows), dtype)
    matrix.fill(0, rows)
    return matrix


def plain(dtype: str, rows: NDArray[np.uint8]) -> reference.PackedMatrix:
    matrix = reference.PackedMatrix(len(rows), _in_features(dtype, rows), dtype)
    matrix.fill(0, rows)
    return matrix


def _in_features(dtype: str, rows: NDArray[np.uint8]) -> int:
    size, num_bytes, _ = BLOCKS[dtype]
    in_features: int = rows.shape[1] // num_bytes * size
    return in_features


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    num_rows=st.integers(0, 20),
    out_features=st.integers(1, 70),
    num_blocks=st.integers(1, 20),
    has_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_product_equals_the_specification_on_every_instruction_set(
    dtype: Any, num_rows: int, out_features: int, num_blocks: int, has_bias: bool, seed: int
) -> None:
    in_features = BLOCKS[dtype][0] * (num_blocks if BLOCKS[dtype][0] == 32 else 1 + num_blocks % 3)
    rows = rows_of(seed, dtype, out_features, in_features)
    x = floats(seed + 1, num_rows, in_features) * np.float32(10.0 ** (seed % 7 - 3))
    bias = floats(seed + 2, out_features) if has_bias else None
    expected = reference.matmul(x, plain(dtype, rows), bias)
    matrix = packed(dtype, rows)
    for result in everywhere(lambda: matmul(x, matrix, bias)):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("byte", [0, 255, 0x0F, 0xF0, 0x80])
def test_sums_of_the_largest_products_do_not_overflow(dtype: Any, byte: int) -> None:
    """Activations of one sign, and of alternating signs, all of the same magnitude: codes of 127 everywhere."""
    rows = extreme_rows_of(byte, dtype, 17, 512)
    x = np.ones((5, 512), np.float32)
    x[1] *= -1
    x[2, ::2] = -1
    x[3, 1::2] = -1
    x[4, ::4] = -1
    expected = reference.matmul(x, plain(dtype, rows))
    matrix = packed(dtype, rows)
    for num_rows in (1, 5):
        for result in everywhere(lambda m=num_rows: matmul(x[:m], matrix)):  # type: ignore[misc]
            np.testing.assert_array_equal(result, expected[:num_rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_bits_in_every_batch_and_at_every_place(dtype: Any) -> None:
    """One row streams, more share unpacked weights; 252 rows and more go in two halves."""
    matrix = packed(dtype, rows_of(0, dtype, 40, 512))
    x = floats(1, 300, 512)
    expected = np.concatenate([matmul(x[i : i + 1], matrix) for i in range(len(x))])
    for num_rows in [*range(2, 16), 252, 253, 300]:
        for result in everywhere(lambda m=num_rows: matmul(x[-m:], matrix)):  # type: ignore[misc]
            np.testing.assert_array_equal(result, expected[-num_rows:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_work_that_is_shared_out_gives_the_same_bits(dtype: Any) -> None:
    matrix = packed(dtype, rows_of(0, dtype, 1000, 768))
    for num_rows in (1, 3, 20):
        x = floats(1, num_rows, 768)
        results = list(everywhere(lambda rows=x: matmul(rows, matrix)))  # type: ignore[misc]
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_product_is_close_to_float64(dtype: Any) -> None:
    rows = rows_of(3, dtype, 50, 2048, ORDINARY[:1])
    x = floats(1, 7, 2048)
    exact = x.astype(np.float64) @ dequantize(dtype, rows).T.astype(np.float64)
    error = np.abs(matmul(x, packed(dtype, rows)) - exact)
    sizes = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(dequantize(dtype, rows), axis=1)
    assert (error / sizes).max() < 0.02


def test_matrices_of_several_types_give_their_outputs_side_by_side() -> None:
    """As a fused projection: q and k of one type, v of another, and one that is not quantised."""
    parts = [packed(dtype, rows_of(1, dtype, n, 512)) for dtype, n in (("q4_k", 50), ("q6_k", 17), ("q8_0", 3))]
    parts.append(PackedMatrix(20, 512, "f16"))
    parts[-1].fill(0, floats(5, 20, 512).astype(np.float16))
    bias = floats(2, 90)
    for num_rows in (1, 2, 9, 40):
        x = floats(3, num_rows, 512)
        expected = np.concatenate([matmul(x, part) for part in parts], axis=1)
        for result in everywhere(lambda rows=x: matmul(rows, parts)):  # type: ignore[misc]
            np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(matmul(x, tuple(parts), bias), expected + bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_infinity_or_nan_makes_nan_of_its_row_alone(dtype: Any, value: float) -> None:
    matrix = packed(dtype, rows_of(0, dtype, 40, 512))
    x = floats(1, 9, 512)
    expected = matmul(x, matrix)
    x[3, 300] = value
    expected[3] = np.nan
    for result in everywhere(lambda: matmul(x, matrix)):
        np.testing.assert_array_equal(result, expected)
    for result in everywhere(lambda: matmul(x[3:4], matrix)):
        assert np.isnan(result).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scale_that_is_not_finite_stays_in_its_column(dtype: Any) -> None:
    rows = rows_of(0, dtype, 40, 512)
    rows[5] = rows_of(0, dtype, 1, 512, NON_FINITE[:3])
    matrix = packed(dtype, rows)
    for result in everywhere(lambda: matmul(floats(1, 9, 512), matrix)):
        assert (~np.isfinite(result)).any(axis=0).tolist() == [column == 5 for column in range(40)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_of_any_magnitude_equal_the_specification(dtype: Any) -> None:
    """Zeros, vanishing groups, groups at the edge, large ones; weights with subnormal, zero and negative scales."""
    rows = rows_of(4, dtype, 20, 512, ODD)
    x = floats(1, 7, 512)
    factors = [0.0, 1e-45, 1e-38, 1.4e-36, 1e-30, 1e20, 1.0]
    x *= np.array(factors, np.float32)[:, None]
    with np.errstate(under="ignore"):
        expected = reference.matmul(x, plain(dtype, rows))
    matrix = packed(dtype, rows)
    for result in everywhere(lambda: matmul(x, matrix)):
        np.testing.assert_array_equal(result, expected)
    assert not matmul(x[:2], matrix).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_matrix_filled_part_by_part_equals_one_filled_at_once(dtype: Any) -> None:
    rows = rows_of(0, dtype, 100, 256)
    parts = PackedMatrix(100, 256, dtype)
    for begin, end in ((0, 7), (7, 48), (48, 48), (48, 100)):
        parts.fill(begin, rows[begin:end])
    ids = np.arange(100, dtype=np.int32)
    np.testing.assert_array_equal(embed(parts, ids), dequantize(dtype, rows))
    np.testing.assert_array_equal(matmul(floats(1, 3, 256), parts), matmul(floats(1, 3, 256), packed(dtype, rows)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_were_never_filled_are_zero(dtype: Any) -> None:
    matrix = PackedMatrix(20, 512, dtype)
    for num_rows in (1, 2):
        assert not matmul(floats(0, num_rows, 512), matrix).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_matrix_is_filled_from_a_read_only_unaligned_view_of_a_file(dtype: Any) -> None:
    rows = rows_of(0, dtype, 20, 256)
    view = np.frombuffer(b"\0" + rows.tobytes(), np.uint8)[1:].reshape(rows.shape)
    ids = np.arange(20, dtype=np.int32)
    np.testing.assert_array_equal(embed(packed(dtype, view), ids), dequantize(dtype, rows))


@settings(max_examples=40, deadline=None)
@given(dtype=st.sampled_from(DTYPES), out_features=st.integers(1, 40), num_blocks=st.integers(1, 11), data=st.data())
def test_embedding_gives_the_rows_dequantised(
    dtype: Any, out_features: int, num_blocks: int, data: st.DataObject
) -> None:
    rows = rows_of(out_features, dtype, out_features, num_blocks * BLOCKS[dtype][0])
    ids = data.draw(st.lists(st.integers(0, out_features - 1), max_size=20))
    token_ids = np.array(ids, np.int32)
    expected = reference.embed(plain(dtype, rows), token_ids)
    np.testing.assert_array_equal(embed(packed(dtype, rows), token_ids), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_matrix_takes_the_memory_of_its_file_and_little_more(dtype: Any) -> None:
    matrix = PackedMatrix(64, 2048, dtype)
    assert 1.0 <= matrix.nbytes / (64 * row_bytes(dtype, 2048)) < 1.02


@pytest.mark.parametrize(("dtype", "in_features"), [("q4_k", 128), ("q6_k", 300), ("q8_0", 33), ("iq4_xs", 32)])
def test_columns_that_are_no_whole_blocks_are_refused(dtype: Any, in_features: int) -> None:
    with pytest.raises(ValueError, match=f"a {dtype} matrix needs a multiple of .* columns, not {in_features}"):
        PackedMatrix(10, in_features, dtype)


@pytest.mark.parametrize(
    ("row", "weight", "error", "message"),
    [
        (0, np.zeros((4, 144), np.int8), TypeError, "weight must have dtype uint8"),
        (0, np.zeros((4, 143), np.uint8), ValueError, "axis 1 of weight must have size 144, not 143"),
        (7, np.zeros((4, 144), np.uint8), ValueError, "does not fit"),
        (-1, np.zeros((4, 144), np.uint8), ValueError, "does not fit"),
    ],
)
def test_filling_refuses_what_does_not_fit(row: int, weight: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PackedMatrix(10, 256, "q4_k").fill(row, weight)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (lambda: (), ValueError, "weight must not be empty"),
        (lambda: [PackedMatrix(2, k, "q4_k") for k in (256, 512)], ValueError, "same number of columns"),
        (lambda: (PackedMatrix(2, 256, "q4_k"), None), TypeError, "weight must hold PackedMatrix, not NoneType"),
        (lambda: 7, TypeError, "weight must be a PackedMatrix or a sequence of them, not int"),
    ],
)
def test_a_product_refuses_what_are_no_matrices(
    weight: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        matmul(floats(0, 2, 256), weight())
