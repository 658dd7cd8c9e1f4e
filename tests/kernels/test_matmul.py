"""Packed matrices, matrix products, embedding: equal, bit for bit, to the specification."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.instruction_sets import everywhere
from transom.kernels import PackedMatrix, embed, matmul, packed_bytes, reference

Dtype = Literal["f32", "f16", "bf16"]
DTYPES: tuple[Dtype, ...] = ("f32", "f16", "bf16")


def floats(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def stored(weight: NDArray[np.float32], dtype: Dtype) -> NDArray[Any]:
    """The array as a checkpoint of this dtype would hold it."""
    if dtype == "bf16":
        return (weight.view(np.uint32) >> 16).astype(np.uint16)
    return weight.astype(np.float16 if dtype == "f16" else np.float32)


def both(weight: NDArray[np.float32], dtype: Dtype) -> tuple[PackedMatrix, reference.PackedMatrix]:
    out_features, in_features = weight.shape
    native = PackedMatrix(out_features, in_features, dtype)
    plain = reference.PackedMatrix(out_features, in_features, dtype)
    native.fill(0, stored(weight, dtype))
    plain.fill(0, stored(weight, dtype))
    return native, plain


@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(0, 40),
    out_features=st.integers(1, 70),
    in_features=st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 257, 511, 512, 600])),
    dtype=st.sampled_from(DTYPES),
    has_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_product_equals_the_specification_on_every_instruction_set(
    num_rows: int, out_features: int, in_features: int, dtype: Dtype, has_bias: bool, seed: int
) -> None:
    native, plain = both(floats(seed, out_features, in_features), dtype)
    x = floats(seed + 1, num_rows, in_features)
    bias = floats(seed + 2, out_features) if has_bias else None
    expected = reference.matmul(x, plain, bias)
    for result in everywhere(lambda: matmul(x, native, bias)):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_bits_in_every_batch_and_at_every_place(dtype: Dtype) -> None:
    """One row streams, up to a tile share a pass, more go by blocks; 252 rows and more go in two halves."""
    native, _ = both(floats(0, 100, 600), dtype)
    x = floats(1, 300, 600)
    expected = np.concatenate([matmul(x[i : i + 1], native) for i in range(len(x))])
    for num_rows in [*range(2, 34), 252, 253, 300]:
        for result in everywhere(lambda m=num_rows: matmul(x[-m:], native)):  # type: ignore[misc]
            np.testing.assert_array_equal(result, expected[-num_rows:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_work_that_is_shared_out_gives_the_same_bits(dtype: Dtype) -> None:
    native, _ = both(floats(0, 1000, 700), dtype)
    for num_rows in (1, 3, 20):
        x = floats(1, num_rows, 700)
        results = list(everywhere(lambda rows=x: matmul(rows, native)))  # type: ignore[misc]
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


def test_a_product_is_close_to_float64() -> None:
    weight, x = floats(0, 50, 2000), floats(1, 7, 2000)
    native, _ = both(weight, "f32")
    np.testing.assert_allclose(matmul(x, native), x.astype(np.float64) @ weight.T.astype(np.float64), atol=2e-4)


def test_infinities_and_nan_stay_in_their_row_and_column() -> None:
    weight, x = floats(0, 40, 300), floats(1, 9, 300)
    weight[5, 7] = np.inf
    x[3, 2] = np.nan
    native, _ = both(weight, "f32")
    finite = np.isfinite(matmul(x, native))
    assert finite.sum() == 8 * 39
    assert not finite[3].any()
    assert not finite[:, 5].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_matrix_filled_part_by_part_equals_one_filled_at_once(dtype: Dtype) -> None:
    weight = floats(0, 100, 130)
    parts = PackedMatrix(100, 130, dtype)
    for begin, end in ((0, 7), (7, 48), (48, 48), (48, 100)):
        parts.fill(begin, stored(weight, dtype)[begin:end])
    whole, _ = both(weight, dtype)
    np.testing.assert_array_equal(matmul(floats(1, 3, 130), parts), matmul(floats(1, 3, 130), whole))


def test_rows_that_were_never_filled_are_zero() -> None:
    weight = PackedMatrix(20, 30, "bf16")
    assert not matmul(floats(0, 2, 30), weight).any()


def test_a_matrix_is_filled_from_a_read_only_unaligned_view_of_a_file() -> None:
    weight = floats(0, 20, 30)
    view = np.frombuffer(b"\0" + weight.tobytes(), np.uint8)[1:].view(np.float32).reshape(20, 30)
    assert not view.flags.aligned
    native, other = PackedMatrix(20, 30, "f32"), both(weight, "f32")[0]
    native.fill(0, view)
    ids = np.arange(20, dtype=np.int32)
    np.testing.assert_array_equal(embed(native, ids), embed(other, ids))


def test_a_matrix_tells_its_size() -> None:
    weight = PackedMatrix(33, 100, "f16")
    assert (weight.out_features, weight.in_features, weight.dtype) == (33, 100, "f16")
    assert weight.nbytes == 48 * 100 * 2


@settings(max_examples=30, deadline=None)
@given(
    out_features=st.integers(1, 50),
    in_features=st.integers(1, 80),
    dtype=st.sampled_from(DTYPES),
    data=st.data(),
)
def test_embedding_gives_the_rows_of_the_matrix(
    out_features: int, in_features: int, dtype: Dtype, data: st.DataObject
) -> None:
    native, plain = both(floats(out_features, out_features, in_features), dtype)
    ids = data.draw(st.lists(st.integers(0, out_features - 1), max_size=20))
    token_ids = np.array(ids, np.int32)
    for result in everywhere(lambda: embed(native, token_ids)):
        np.testing.assert_array_equal(result, reference.embed(plain, token_ids))


def test_every_half_float_widens_exactly() -> None:
    everything = np.arange(1 << 16, dtype=np.uint16).reshape(1 << 12, 16)
    f16, bf16 = PackedMatrix(1 << 12, 16, "f16"), PackedMatrix(1 << 12, 16, "bf16")
    f16.fill(0, everything.view(np.float16))
    bf16.fill(0, everything)
    ids = np.arange(1 << 12, dtype=np.int32)
    with np.errstate(invalid="ignore"):
        expected_f16 = everything.view(np.float16).astype(np.float32)
    expected_bf16 = (everything.astype(np.uint32) << 16).view(np.float32)
    for result in everywhere(lambda: embed(f16, ids)):
        np.testing.assert_array_equal(result, expected_f16)
    for result in everywhere(lambda: embed(bf16, ids)):
        np.testing.assert_array_equal(result, expected_bf16)


@pytest.mark.parametrize("token_id", [-1, 10, 2**31 - 1])
def test_a_token_id_outside_the_matrix_is_refused(token_id: int) -> None:
    with pytest.raises(ValueError, match=str(token_id)):
        embed(PackedMatrix(10, 8, "f32"), np.array([0, token_id], np.int32))


@pytest.mark.parametrize(("out_features", "in_features"), [(0, 1), (1, 0), (-1, 5)])
def test_a_matrix_without_rows_or_columns_is_refused(out_features: int, in_features: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        PackedMatrix(out_features, in_features, "f32")


def test_an_impossible_matrix_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        PackedMatrix(2**40, 2**40, "f32")


def test_an_unknown_weight_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="q4"):
        PackedMatrix(1, 1, cast(Dtype, "q4"))


@pytest.mark.parametrize(
    ("row", "weight", "error", "message"),
    [
        (0, floats(0, 4, 8).astype(np.float64), TypeError, "weight must have dtype float32"),
        (0, floats(0, 4, 8).astype(np.float16), TypeError, "weight must have dtype float32"),
        (0, floats(0, 4, 9), ValueError, "axis 1 of weight must have size 8, not 9"),
        (0, floats(0, 32), ValueError, "weight must have 2 axes, not 1"),
        (0, floats(0, 8, 8)[::2], ValueError, "contiguous"),
        (0, floats(0, 8, 4).T, ValueError, "contiguous"),
        (7, floats(0, 4, 8), ValueError, "does not fit"),
        (-1, floats(0, 4, 8), ValueError, "does not fit"),
        (0, [[1.0] * 8], TypeError, "weight must be an array, not list"),
    ],
)
def test_filling_refuses_what_does_not_fit(row: int, weight: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PackedMatrix(10, 8, "f32").fill(row, weight)


@pytest.mark.parametrize(
    ("x", "bias", "error", "message"),
    [
        (floats(0, 2, 7), None, ValueError, "axis 1 of x must have size 8, not 7"),
        (floats(0, 8), None, ValueError, "x must have 2 axes, not 1"),
        (floats(0, 2, 8).astype(np.float64), None, TypeError, "x must have dtype float32"),
        (floats(0, 2, 16)[:, ::2], None, ValueError, "x must be contiguous"),
        ([[1.0] * 8], None, TypeError, "x must be an array, not list"),
        (floats(0, 2, 8), floats(0, 9), ValueError, "axis 0 of bias must have size 10, not 9"),
        (floats(0, 2, 8), floats(0, 10).astype(np.float16), TypeError, "bias must have dtype float32"),
    ],
)
def test_a_product_refuses_arrays_that_do_not_fit(x: Any, bias: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        matmul(x, PackedMatrix(10, 8, "f32"), bias)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(("f32", "f16", "bf16", "q8_0", "q5_1", "q2_k", "q3_k", "q4_k", "q6_k", "iq4_xs")),
    out_features=st.integers(1, 100),
    blocks=st.integers(1, 5),
)
def test_what_a_matrix_takes_is_known_before_it_is_made(dtype: Any, out_features: int, blocks: int) -> None:
    expected = PackedMatrix(out_features, 256 * blocks, dtype).nbytes
    assert packed_bytes(out_features, 256 * blocks, dtype) == expected


def test_the_size_of_an_impossible_matrix_is_an_error() -> None:
    with pytest.raises(ValueError, match="multiple of 256"):
        packed_bytes(1, 255, "q4_k")
    with pytest.raises(MemoryError):
        packed_bytes(2**30, 2**30, "f32")
