"""Attention over what strategies leave, missing blocks and attention mass: against NumPy, and bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.instruction_sets import everywhere, using
from tests.kernels.test_attention import NAN_BYTE, Shape, Tokens, random_tokens
from transom import kernels
from transom.kernels import reference_attention as reference

Floats = NDArray[np.float32]
Limits = tuple[int, int, int]  # keep_first, window, window_blocks
SHAPE = Shape(2, 3, 20, "f16")
LENGTH = 700


@dataclass
class Sequences:
    """Sequences of LENGTH tokens, stored; each has limits of its own."""

    limits: Sequence[Limits]
    shape: Shape = SHAPE
    missing: Sequence[int] = ()
    tokens: list[Tokens] = field(init=False)
    arena: NDArray[np.uint8] = field(init=False)
    table: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        count, num_blocks = len(self.limits), -(-LENGTH // 64)
        self.tokens = [random_tokens(self.shape, LENGTH, seed) for seed in range(count)]
        self.arena = np.full(count * num_blocks * self.shape.layout.slot_bytes, NAN_BYTE, np.uint8)
        self.table = np.arange(count * num_blocks, dtype=np.int32).reshape(count, num_blocks)
        starts = (np.arange(count + 1) * LENGTH).astype(np.int32)
        key, value = (np.concatenate([getattr(each, name) for each in self.tokens]) for name in ("key", "value"))
        kernels.store_kv(self.arena, self.shape.layout, self.table, starts, np.zeros(count, np.int32), key, value)
        self.table[:, list(self.missing)] = reference.NO_SLOT

    def arguments(self, ranges: Sequence[tuple[int, int]]) -> Arguments:
        """For the rows begin .. end of each sequence, in one batch."""
        starts = np.cumsum([0, *(end - begin for begin, end in ranges)], dtype=np.int32)
        first = np.array([begin for begin, _ in ranges], np.int32)
        query = np.concatenate([each.query[begin:end] for each, (begin, end) in zip(self.tokens, ranges, strict=True)])
        return Arguments(self, starts, first, query)

    def rows(self, begin: int, end: int) -> Floats:
        """Of the only sequence."""
        return self.arguments([(begin, end)]).attend()

    def whole(self) -> Floats:
        return self.rows(0, LENGTH)


@dataclass(frozen=True)
class Arguments:
    """One call."""

    stored: Sequences
    starts: NDArray[np.int32]
    first: NDArray[np.int32]
    query: Floats

    @property
    def visible(self) -> NDArray[np.int64]:
        return np.array(self.stored.limits, np.int64).reshape(-1, 3)

    @property
    def scale(self) -> float:
        return float(self.stored.shape.head_dim**-0.5)

    def attend(self) -> Floats:
        shape, allow_missing = self.stored.shape, bool(self.stored.missing)
        return kernels.attend(
            self.stored.arena, shape.layout, self.stored.table, self.starts, self.first, self.query, self.scale,
            window=shape.window, soft_cap=shape.soft_cap, visible=self.visible, allow_missing=allow_missing,
        )  # fmt: skip

    def state(self, measure_mass: bool = False) -> kernels.AttentionState:
        shape, allow_missing = self.stored.shape, bool(self.stored.missing)
        return kernels.AttentionState(
            shape.layout, self.starts, self.first, self.query, self.scale, shape.window, shape.soft_cap,
            visible=self.visible, allow_missing=allow_missing, measure_mass=measure_mass,
        )  # fmt: skip

    def in_rounds(self, bounds: Sequence[int], measure_mass: bool = False) -> kernels.AttentionState:
        """All splits attended to, in calls that end at these splits."""
        state = self.state(measure_mass)
        for first, end in pairwise([0, *bounds]):
            state.attend_splits(self.stored.arena, self.stored.table, first, end - first)
        return state

    def expected(self) -> Floats:
        return self._by_reference(reference.attend)

    def expected_mass(self) -> Floats:
        return self._by_reference(reference.mass)

    def _by_reference(self, compute: Callable[..., Floats]) -> Floats:
        shape = self.stored.shape
        layout = reference.KVLayout(shape.num_key_value_heads, shape.head_dim, shape.dtype)
        return compute(
            self.stored.arena, layout, self.stored.table, self.starts, self.first, self.query, self.scale,
            shape.window, shape.soft_cap, self.visible, bool(self.stored.missing),
        )  # fmt: skip


LIMITS: list[Limits] = [
    (0, 100, 0),
    (0, 0, 1),
    (0, 0, 3),
    (5, 100, 0),
    (64, 64, 0),
    (70, 0, 2),
    (300, 20, 0),
    (300, 200, 2),
    (650, 1, 0),
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("window", [None, 90])
def test_limits_hide_what_the_reference_hides(limits: Limits, window: int | None) -> None:
    stored = Sequences([limits], Shape(2, 3, 20, window=window))
    for begin in (60, 330, LENGTH - 10):
        arguments = stored.arguments([(begin, begin + 10)])
        np.testing.assert_allclose(arguments.attend(), arguments.expected(), atol=2e-5)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_chunks_change_no_bit_whatever_the_limits(limits: Limits) -> None:
    stored = Sequences([limits])
    bounds = pairwise([0, 1, 63, 64, 190, 257, 300, 640, 699, LENGTH])
    assert np.array_equal(np.concatenate([stored.rows(*rows) for rows in bounds]), stored.whole())


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_neither_threads_nor_instruction_set_change_a_bit_whatever_the_limits(limits: Limits) -> None:
    arguments = Sequences([limits]).arguments([(280, 620)])
    best = arguments.attend()
    assert all(np.array_equal(output, best) for output in everywhere(arguments.attend))


def test_each_sequence_of_a_batch_has_limits_of_its_own() -> None:
    batch = Sequences([(0, 0, 0), *LIMITS])
    ranges = [(LENGTH - 1 - 37 * index, LENGTH - 30 * index) for index in range(len(batch.limits))]
    together = batch.arguments(ranges)
    for index, output in enumerate(np.split(together.attend(), together.starts[1:-1])):
        stored = Sequences([batch.limits[index]])
        own = stored.arguments([ranges[index]])
        alone = kernels.attend(
            batch.arena, SHAPE.layout, batch.table[index : index + 1], own.starts, own.first,
            together.query[together.starts[index] : together.starts[index + 1]], own.scale, visible=own.visible,
        )  # fmt: skip
        assert np.array_equal(output, alone)


def test_no_limits_give_the_bits_of_plain_attention() -> None:
    arguments = Sequences([(0, 0, 0)]).arguments([(0, LENGTH)])
    stored = arguments.stored
    plain = kernels.attend(
        stored.arena, SHAPE.layout, stored.table, arguments.starts, arguments.first, arguments.query, arguments.scale
    )
    assert np.array_equal(arguments.attend(), plain)


def test_where_both_parts_meet_everything_is_seen_with_the_bits_of_plain_attention() -> None:
    assert np.array_equal(Sequences([(600, 100, 0)]).whole(), Sequences([(0, 0, 0)]).whole())


def test_a_window_of_the_sequence_is_a_window_of_the_model() -> None:
    of_the_model = Sequences([(0, 0, 0)], Shape(2, 3, 20, "f16", window=100)).whole()
    assert np.array_equal(Sequences([(0, 100, 0)]).whole(), of_the_model)


@pytest.mark.parametrize("limits", [(0, 100, 0), (5, 100, 0), (70, 0, 2)], ids=str)
def test_blocks_that_limits_hide_need_no_slot(limits: Limits) -> None:
    stored = Sequences([limits])
    output = stored.rows(LENGTH - 1, LENGTH)
    stored.table[0, 2:9] = -1
    stored.arena[2 * SHAPE.layout.slot_bytes : 9 * SHAPE.layout.slot_bytes] = NAN_BYTE
    assert np.array_equal(stored.rows(LENGTH - 1, LENGTH), output)


def test_a_block_that_limits_keep_needs_a_slot() -> None:
    stored = Sequences([(70, 64, 0)])
    stored.table[0, 1] = -1
    with pytest.raises(ValueError, match="block 1 of sequence 0 lies in slot -1"):
        stored.rows(LENGTH - 1, LENGTH)


# ---- Missing blocks --------------------------------------------------------------------------------------------------

MISSING = [[0], [1, 2, 3], [4, 5, 6, 7], [0, 2, 4, 6, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8]]


@pytest.mark.parametrize("missing", MISSING, ids=str)
@pytest.mark.parametrize("limits", [(0, 0, 0), (100, 300, 0), (0, 0, 6), (64, 130, 0)], ids=str)
def test_nobody_sees_missing_blocks(missing: Sequence[int], limits: Limits) -> None:
    arguments = Sequences([limits], missing=missing).arguments([(LENGTH - 60, LENGTH)])
    np.testing.assert_allclose(arguments.attend(), arguments.expected(), atol=2e-5)


@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_with_missing_blocks_neither_chunks_nor_rounds_nor_threads_change_a_bit(missing: Sequence[int]) -> None:
    stored = Sequences([(64, 300, 0)], missing=missing)
    begin = LENGTH - 60
    whole = stored.rows(begin, LENGTH)
    single = np.concatenate([stored.rows(row, row + 1) for row in range(begin, LENGTH)])
    assert np.array_equal(single, whole)
    arguments = stored.arguments([(begin, LENGTH)])
    assert np.array_equal(arguments.in_rounds([1, 2, 3]).finish(), whole)
    assert all(np.array_equal(output, whole) for output in everywhere(arguments.attend))


def test_a_row_whose_own_block_is_missing_is_an_error() -> None:
    with pytest.raises(ValueError, match="block 10 of sequence 0 lies in slot -1"):
        Sequences([(0, 0, 0)], missing=[10]).rows(LENGTH - 1, LENGTH)


# ---- Mass ------------------------------------------------------------------------------------------------------------


def in_rounds_measured(arguments: Arguments, bounds: Sequence[int]) -> Floats:
    return arguments.in_rounds(bounds, measure_mass=True).mass()


@pytest.mark.parametrize("missing", [[], [1, 4, 5, 6, 7]], ids=str)
@pytest.mark.parametrize("limits", [(0, 0, 0), *LIMITS], ids=str)
def test_mass_is_what_the_reference_says(limits: Limits, missing: Sequence[int]) -> None:
    for shape in (SHAPE, Shape(1, 1, 16, soft_cap=5.0), Shape(2, 20, 16)):
        arguments = Sequences([limits], shape, missing).arguments([(LENGTH - 50, LENGTH)])
        state = arguments.in_rounds([3], measure_mass=True)
        assert np.array_equal(state.finish(), arguments.attend())
        np.testing.assert_allclose(state.mass(), arguments.expected_mass(), atol=1e-5)


def test_mass_is_that_of_the_last_row_of_each_sequence_and_sums_to_one() -> None:
    arguments = Sequences([(0, 0, 0), (5, 100, 0), (0, 0, 2)]).arguments([(300, 301), (0, 100), (200, 200)])
    mass = arguments.in_rounds([1, 2], measure_mass=True).mass()
    assert mass.shape == (3, 5)
    np.testing.assert_allclose(mass.sum(axis=1), [1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(mass, arguments.expected_mass(), atol=1e-5)


def test_mass_is_the_same_bits_in_any_rounds_threads_and_instruction_set() -> None:
    arguments = Sequences([(64, 500, 0), (0, 0, 0)]).arguments([(LENGTH - 1, LENGTH), (400, 600)])
    mass = arguments.in_rounds([3], measure_mass=True).mass()
    for bounds in ([1, 2, 3], [2, 3], [1, 3]):
        for each in everywhere(partial(in_rounds_measured, arguments, bounds)):
            assert np.array_equal(each, mass)


def test_mass_that_was_not_measured_is_an_error() -> None:
    arguments = Sequences([(0, 0, 0)]).arguments([(0, 1)])
    with pytest.raises(ValueError, match="measure_mass"):
        arguments.in_rounds([1]).mass()
    with pytest.raises(ValueError, match="no split"):
        arguments.state(measure_mass=True).mass()


# ---- Rounds ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    limits=st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(0, 8)),
    window=st.none() | st.integers(1, 400),
    rows=st.tuples(st.integers(0, LENGTH - 1), st.integers(1, 300)),
    bounds=st.sampled_from([[1, 2, 3], [1, 3], [2, 3], [3], [1, 1, 9]]),
    num_threads=st.integers(1, 3),
)
def test_any_rounds_give_the_bits_of_one_call_whatever_the_limits(
    limits: Limits, window: int | None, rows: tuple[int, int], bounds: list[int], num_threads: int
) -> None:
    begin, end = rows[0], min(LENGTH, sum(rows))
    stored = Sequences([limits], Shape(1, 3, 16, window=window))
    with using(kernels.best_isa(), num_threads):
        rounds = stored.arguments([(begin, end)]).in_rounds(bounds).finish()
    assert np.array_equal(rounds, stored.whole()[begin:end])


# ---- Bad input -------------------------------------------------------------------------------------------------------


@contextmanager
def refused(message: str) -> Iterator[None]:
    with pytest.raises((ValueError, TypeError), match=message):
        yield


@pytest.mark.parametrize(
    "visible",
    [np.zeros((2, 3), np.int64), np.zeros((1, 2), np.int64), np.zeros(3, np.int64), np.zeros((1, 3), np.int32)],
    ids=["two sequences", "two columns", "one axis", "int32"],
)
def test_limits_of_another_shape_or_dtype_are_refused(visible: NDArray[np.int64]) -> None:
    arguments = Sequences([(0, 0, 0)]).arguments([(0, 1)])
    with refused("visible"):
        kernels.AttentionState(SHAPE.layout, arguments.starts, arguments.first, arguments.query, 1.0, visible=visible)


def test_negative_limits_are_refused() -> None:
    with refused("visible must not be negative"):
        Sequences([(0, -1, 0)]).rows(0, 1)
