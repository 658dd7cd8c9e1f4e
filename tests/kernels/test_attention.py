"""Paged attention and the KV store: against the NumPy specification, and bit for bit against themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.kernels.instruction_sets import Isa, available_isas, everywhere, using
from transom import kernels
from transom.kernels import reference_attention as reference

Floats = NDArray[np.float32]
NAN_BYTE = 0xFF  # repeated, a NaN in every dtype


@dataclass(frozen=True)
class Shape:
    """A model's attention."""

    num_key_value_heads: int = 2
    group: int = 3
    head_dim: int = 20
    dtype: Literal["f32", "f16", "q8_0"] = "f32"
    window: int | None = None
    soft_cap: float | None = None

    @property
    def num_heads(self) -> int:
        return self.num_key_value_heads * self.group

    @property
    def layout(self) -> kernels.KVLayout:
        return kernels.KVLayout(self.num_key_value_heads, self.head_dim, self.dtype)


@dataclass(frozen=True)
class Tokens:
    """What a layer makes of one sequence."""

    query: Floats
    key: Floats
    value: Floats

    @property
    def length(self) -> int:
        return len(self.query)

    def rows(self, start: int, end: int) -> Tokens:
        return Tokens(self.query[start:end], self.key[start:end], self.value[start:end])


def random_tokens(shape: Shape, length: int, seed: int = 0) -> Tokens:
    random = np.random.default_rng(seed)

    def normal(num_heads: int) -> Floats:
        return random.standard_normal((length, num_heads, shape.head_dim), np.float32)

    return Tokens(2 * normal(shape.num_heads), normal(shape.num_key_value_heads), normal(shape.num_key_value_heads))


class Store:
    """An arena and the tables of some sequences in it; memory nobody wrote to reads as NaN."""

    def __init__(self, shape: Shape, lengths: Sequence[int], seed: int = 0) -> None:
        self.shape = shape
        num_blocks = -(-max(lengths) // 64)
        num_slots = len(lengths) * num_blocks + 2
        self.arena = np.full(num_slots * shape.layout.slot_bytes, NAN_BYTE, np.uint8)
        slots = np.random.default_rng(seed).permutation(num_slots)[: len(lengths) * num_blocks]
        self.block_slots = slots.reshape(len(lengths), num_blocks).astype(np.int32)

    def forward(self, parts: Sequence[tuple[int, int, Tokens]]) -> list[Floats]:
        """Stores and attends for parts (sequence, first position, tokens) in one batch; one output per part."""
        starts = np.cumsum([0] + [tokens.length for _, _, tokens in parts], dtype=np.int32)
        positions = np.array([first for _, first, _ in parts], np.int32)
        table = self.block_slots[[sequence for sequence, _, _ in parts]]
        key = np.concatenate([tokens.key for _, _, tokens in parts])
        value = np.concatenate([tokens.value for _, _, tokens in parts])
        query = np.concatenate([tokens.query for _, _, tokens in parts])
        kernels.store_kv(self.arena, self.shape.layout, table, starts, positions, key, value)
        return np.split(self.attend(table, starts, positions, query), starts[1:-1])

    def attend(
        self, table: NDArray[np.int32], starts: NDArray[np.int32], first: NDArray[np.int32], q: Floats
    ) -> Floats:
        shape = self.shape
        scale = shape.head_dim**-0.5
        return kernels.attend(
            self.arena, shape.layout, table, starts, first, q, scale, window=shape.window, soft_cap=shape.soft_cap
        )


def alone(shape: Shape, tokens: Tokens) -> Floats:
    """The output of one sequence computed all at once, by itself."""
    return Store(shape, [tokens.length]).forward([(0, 0, tokens)])[0]


def in_chunks(shape: Shape, tokens: Tokens, sizes: Sequence[int], seed: int = 0) -> Floats:
    store = Store(shape, [tokens.length], seed)
    bounds = np.minimum(np.cumsum([0, *sizes]), tokens.length)
    chunks = [(int(start), tokens.rows(start, end)) for start, end in pairwise(bounds)]
    return np.concatenate([store.forward([(0, start, rows)])[0] for start, rows in chunks if rows.length])


SHAPES = [
    Shape(1, 1, 1),
    Shape(1, 7, 12, "f16"),
    Shape(2, 3, 20),
    Shape(2, 4, 64, "f16"),
    Shape(3, 1, 80, "f16"),
    Shape(1, 16, 32),
    Shape(2, 2, 48, "f32", window=1),
    Shape(1, 4, 64, "f16", window=70),
    Shape(1, 2, 33, "f16", window=300, soft_cap=20.0),
    Shape(2, 8, 16, "f32", soft_cap=5.0),
    Shape(2, 4, 64, "q8_0"),
    Shape(1, 3, 33, "q8_0"),
    Shape(2, 9, 48, "q8_0", window=70),
    Shape(1, 2, 1, "q8_0", soft_cap=5.0),
]


def expected(shape: Shape, tokens: Tokens, first_row: int) -> Floats:
    """By the NumPy specification, for rows first_row and later."""
    layout = reference.KVLayout(shape.num_key_value_heads, shape.head_dim, shape.dtype)
    num_blocks = -(-tokens.length // 64)
    arena = np.zeros(num_blocks * layout.slot_bytes, np.uint8)
    table = np.arange(num_blocks, dtype=np.int32)[None]
    starts = np.array([0, tokens.length], np.int32)
    reference.store_kv(arena, layout, table, starts, np.zeros(1, np.int32), tokens.key, tokens.value)
    starts[1] -= first_row
    first = np.array([first_row], np.int32)
    scale = shape.head_dim**-0.5
    return reference.attend(
        arena, layout, table, starts, first, tokens.query[first_row:], scale, shape.window, shape.soft_cap
    )


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("length", [1, 65, 330])
def test_native_attention_is_what_the_reference_says(shape: Shape, length: int, isa: Isa) -> None:
    tokens = random_tokens(shape, length)
    first_row = max(0, length - 40)
    with using(isa, 1):
        output = alone(shape, tokens)[first_row:]
    np.testing.assert_allclose(output, expected(shape, tokens, first_row), atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("sizes", [[1] * 300, [7] * 43, [64] * 5, [255, 2, 43], [256, 44], [290, 10]], ids=str)
def test_chunking_changes_no_bit(shape: Shape, sizes: Sequence[int]) -> None:
    tokens = random_tokens(shape, 300)
    assert np.array_equal(in_chunks(shape, tokens, sizes), alone(shape, tokens))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_other_sequences_in_the_batch_change_no_bit(shape: Shape) -> None:
    lengths = [257, 1, 64, 130, 300]
    sequences = [random_tokens(shape, length, seed) for seed, length in enumerate(lengths)]
    store = Store(shape, lengths)
    firsts = [200, 0, 0, 129, 40]
    for sequence, (tokens, first) in enumerate(zip(sequences, firsts, strict=True)):
        if first:
            store.forward([(sequence, 0, tokens.rows(0, first))])
    mixed = [(s, first, sequences[s].rows(first, lengths[s])) for s, first in enumerate(firsts)]
    for output, tokens, first in zip(store.forward(mixed), sequences, firsts, strict=True):
        assert np.array_equal(output, alone(shape, tokens)[first:])


@pytest.mark.parametrize("num_threads", [2, 3, 16])
@pytest.mark.parametrize("sizes", [[1000], [999, 1], [900, 100]], ids=str)
def test_the_number_of_threads_changes_no_bit(num_threads: int, sizes: Sequence[int]) -> None:
    shape = Shape(2, 4, 32, "f16")
    tokens = random_tokens(shape, 1000)
    with using(kernels.best_isa(), 1):
        single = in_chunks(shape, tokens, sizes)
    with using(kernels.best_isa(), num_threads):
        assert np.array_equal(in_chunks(shape, tokens, sizes), single)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_instruction_set_changes_no_bit(shape: Shape) -> None:
    tokens = random_tokens(shape, 270)
    best = alone(shape, tokens)
    for output in everywhere(lambda: in_chunks(shape, tokens, [200, 69, 1])):
        assert np.array_equal(output, best)


def test_the_place_of_the_blocks_changes_no_bit() -> None:
    shape = Shape(2, 3, 20, "f16")
    tokens = random_tokens(shape, 400)
    first, second = (in_chunks(shape, tokens, [400], seed) for seed in (1, 2))
    assert np.array_equal(first, second)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.builds(
        Shape,
        num_key_value_heads=st.integers(1, 3),
        group=st.integers(1, 9),
        head_dim=st.integers(1, 40),
        dtype=st.sampled_from(["f32", "f16", "q8_0"]),
        window=st.none() | st.integers(1, 400),
    ),
    length=st.integers(1, 600),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    num_threads=st.integers(1, 3),
)
def test_any_shape_in_any_chunks_gives_the_same_bits(
    shape: Shape, length: int, sizes: list[int], num_threads: int
) -> None:
    tokens = random_tokens(shape, length)
    with using(kernels.best_isa(), num_threads):
        assert np.array_equal(in_chunks(shape, tokens, [*sizes, length]), alone(shape, tokens))


# ---- In steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [Shape(2, 4, 32, "f16"), Shape(1, 3, 20, window=300)], ids=str)
@pytest.mark.parametrize("step", [1, 2, 10])
@pytest.mark.parametrize("num_rows", [1, 150])
def test_attention_in_steps_over_staged_blocks_gives_the_same_bits(shape: Shape, step: int, num_rows: int) -> None:
    length = 1100
    tokens = random_tokens(shape, length)
    store = Store(shape, [length])
    store.forward([(0, 0, tokens.rows(0, length - num_rows))])
    whole = store.forward([(0, length - num_rows, tokens.rows(length - num_rows, length))])[0]

    starts, first = np.array([0, num_rows], np.int32), np.array([length - num_rows], np.int32)
    query = tokens.query[length - num_rows :]
    state = kernels.AttentionState(shape.layout, starts, first, query, shape.head_dim**-0.5, window=shape.window)
    slot_bytes = shape.layout.slot_bytes
    for split in range(0, 5, step):
        ring = np.full(step * 4 * slot_bytes, NAN_BYTE, np.uint8)
        staged = np.full_like(store.block_slots, -1)
        for place, block in enumerate(range(split * 4, min((split + step) * 4, staged.shape[1]))):
            slot = store.block_slots[0, block]
            ring[place * slot_bytes : (place + 1) * slot_bytes] = store.arena[slot * slot_bytes :][:slot_bytes]
            staged[0, block] = place
        state.attend_splits(ring, staged, split, step)
    assert np.array_equal(state.finish(), whole)


def test_finishing_before_any_step_is_an_error() -> None:
    shape = Shape()
    starts, first = np.array([0, 1], np.int32), np.zeros(1, np.int32)
    state = kernels.AttentionState(shape.layout, starts, first, random_tokens(shape, 1).query, 1.0)
    with pytest.raises(ValueError, match="no split"):
        state.finish()


# ---- What must not be seen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_token_that_is_not_a_number_spoils_only_the_rows_that_see_it(shape: Shape, poison: float) -> None:
    tokens = random_tokens(shape, 300)
    clean = alone(shape, tokens)
    tokens.key[150], tokens.value[150] = poison, poison
    output = alone(shape, tokens)
    spoilt = range(150, 300 if shape.window is None else min(300, 150 + shape.window))
    unseen = [row for row in range(300) if row not in spoilt]
    assert np.array_equal(output[unseen], clean[unseen])
    assert np.isnan(output[spoilt.start : spoilt.stop]).any(axis=(1, 2)).all()


def test_a_query_that_is_not_a_number_spoils_its_own_head_only() -> None:
    shape = Shape(2, 3, 20)
    tokens = random_tokens(shape, 100)
    clean = alone(shape, tokens)
    tokens.query[50, 2, 7] = np.nan
    output = alone(shape, tokens)
    assert np.isnan(output[50, 2]).all()
    output[50, 2] = clean[50, 2]
    assert np.array_equal(output, clean)


def test_a_sequence_of_nonsense_leaves_its_neighbours_alone() -> None:
    shape = Shape(1, 4, 16, "f16")
    good, bad = random_tokens(shape, 90), random_tokens(shape, 90, 1)
    bad.query[:], bad.key[:], bad.value[:] = np.nan, np.inf, np.nan
    output = Store(shape, [90, 90, 90]).forward([(0, 0, bad), (1, 0, good), (2, 0, bad)])[1]
    assert np.array_equal(output, alone(shape, good))


def test_blocks_before_the_window_need_no_slot() -> None:
    shape = Shape(1, 2, 16, window=64)
    tokens = random_tokens(shape, 300)
    store = Store(shape, [300])
    store.forward([(0, 0, tokens.rows(0, 299))])
    store.block_slots[0, :3] = -1  # position 299 sees 236 .. 299
    assert np.array_equal(store.forward([(0, 299, tokens.rows(299, 300))])[0], alone(shape, tokens)[299:])


# ---- Storing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stored_keys_and_values_lie_where_the_reference_puts_them(shape: Shape) -> None:
    tokens = random_tokens(shape, 200)
    starts, first = np.array([0, 30, 200], np.int32), np.array([70, 5], np.int32)
    table = np.array([[9, 3, 9, 9], [1, 0, 4, 2]], np.int32)
    native, specified = (np.full(5 * shape.layout.slot_bytes, NAN_BYTE, np.uint8) for _ in range(2))
    kernels.store_kv(native, shape.layout, table, starts, first, tokens.key, tokens.value)
    reference.store_kv(specified, shape.layout, table, starts, first, tokens.key, tokens.value)
    assert np.array_equal(native, specified)


def stored_bytes(shape: Shape, tokens: Tokens) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A sequence of at most 64 tokens in a slot: by the kernels, and by the reference."""
    starts, first, table = np.array([0, tokens.length], np.int32), np.zeros(1, np.int32), np.zeros((1, 1), np.int32)
    native, specified = (np.full(shape.layout.slot_bytes, NAN_BYTE, np.uint8) for _ in range(2))
    kernels.store_kv(native, shape.layout, table, starts, first, tokens.key, tokens.value)
    reference.store_kv(specified, shape.layout, table, starts, first, tokens.key, tokens.value)
    return native, specified


MAGNITUDES = [0.0, 1e-30, 1e-9, 3e-6, 1e-3, 0.3, 40.0, 1e6, 8.3e6, 1e7, 3e38]


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("head_dim", [1, 20, 32, 33, 64, 81])
def test_q8_0_rounds_as_the_reference_whatever_the_magnitude(head_dim: int, isa: Isa) -> None:
    shape = Shape(1, 1, head_dim, "q8_0")
    tokens = random_tokens(shape, 64)
    magnitudes = np.resize(np.array(MAGNITUDES, np.float32), 64)[:, None, None]
    with np.errstate(over="ignore"):
        scaled = Tokens(tokens.query, tokens.key * magnitudes, tokens.value * magnitudes)
    with using(isa, 1):
        native, specified = stored_bytes(shape, scaled)
    assert np.array_equal(native, specified)


def test_q8_0_rounds_halves_to_even() -> None:
    halves = np.array([127, -127, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5], np.float32)
    integers, scales = reference.quantise(halves)
    assert (integers.tolist(), scales.tolist()) == ([127, -127, 0, 2, 2, 0, -2, 126], [1.0])


@pytest.mark.parametrize("head_dim", [20, 64, 81])
def test_q8_0_gives_back_what_was_stored_within_half_a_step(head_dim: int) -> None:
    shape = Shape(2, 1, head_dim, "q8_0")
    tokens = random_tokens(shape, 64)
    slot, _ = stored_bytes(shape, tokens)
    for head in range(2):
        keys = reference.keys_of(slot, shape.layout, 0, head).T
        values = reference.values_of(slot, shape.layout, 0, head)
        for got, wanted in [(keys, tokens.key[:, head]), (values, tokens.value[:, head])]:
            for first in range(0, head_dim, 32):
                group = wanted[:, first : first + 32]
                half_a_step = np.abs(group).max(axis=1, keepdims=True) / 254
                assert (np.abs(got[:, first : first + 32] - group) <= 1.06 * half_a_step).all()  # f16 rounds the scale


@pytest.mark.parametrize("poison", [np.nan, -np.nan, np.inf, -np.inf, 3e38])
def test_in_q8_0_what_is_not_finite_spoils_its_own_group_only(poison: float) -> None:
    shape = Shape(2, 1, 81, "q8_0")
    tokens = random_tokens(shape, 64)
    clean, _ = stored_bytes(shape, tokens)
    tokens.key[17, 1, 40], tokens.value[17, 1, 80] = poison, poison
    native, specified = stored_bytes(shape, tokens)
    assert np.array_equal(native, specified)
    keys, values = np.zeros((2, 81, 64), bool), np.zeros((2, 64, 81), bool)
    keys[1, 32:64, 17] = values[1, 17, 64:] = True
    for head in range(2):
        for read, spoilt in [(reference.keys_of, keys[head]), (reference.values_of, values[head])]:
            got, wanted = read(native, shape.layout, 0, head), read(clean, shape.layout, 0, head)
            assert np.isnan(got[spoilt]).all()
            assert np.array_equal(got[~spoilt], wanted[~spoilt])


def test_slot_bytes_count_keys_and_values_of_64_tokens() -> None:
    assert kernels.KVLayout(8, 64, "q8_0").slot_bytes == 2 * 64 * 8 * (64 + 2 * 2)
    assert kernels.KVLayout(3, 33, "q8_0").slot_bytes == reference.KVLayout(3, 33, "q8_0").slot_bytes
    assert kernels.KVLayout(8, 64, "f16").slot_bytes == 2 * 64 * 8 * 64 * 2
    assert kernels.KVLayout(3, 20, "f32").slot_bytes == reference.KVLayout(3, 20, "f32").slot_bytes


def test_rows_may_be_columns_of_a_fused_product() -> None:
    shape = Shape(2, 3, 16)
    tokens = random_tokens(shape, 70)
    fused = np.concatenate([part.reshape(70, -1) for part in (tokens.query, tokens.key, tokens.value)], axis=1)
    widths = np.cumsum([shape.num_heads * 16, 2 * 16])
    query, key, value = (part.reshape(70, -1, 16) for part in np.split(fused, widths, axis=1))
    assert not query.flags.c_contiguous
    assert np.array_equal(alone(shape, Tokens(query, key, value)), alone(shape, tokens))


def test_an_empty_batch_gives_an_empty_result() -> None:
    shape = Shape()
    starts, nothing = np.zeros(1, np.int32), np.zeros(0, np.int32)
    table = np.zeros((0, 4), np.int32)
    output = Store(shape, [64]).attend(table, starts, nothing, np.zeros((0, shape.num_heads, 20), np.float32))
    assert output.shape == (0, shape.num_heads, 20)


# ---- Bad input -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """Arguments of `attend` for one sequence of 70 tokens whose last 10 are new."""

    block_slots: NDArray[np.int32]
    starts: NDArray[np.int32]
    first: NDArray[np.int32]
    query: Floats
    window: int | None = None
    soft_cap: float | None = None

    def make(self) -> Floats:
        layout = kernels.KVLayout(2, 16, "f32")
        arena = np.zeros(3 * layout.slot_bytes, np.uint8)
        return kernels.attend(
            arena, layout, self.block_slots, self.starts, self.first, self.query, 1.0, self.window, self.soft_cap
        )


def integers(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


GOOD = Call(integers(2, 0)[None], integers(0, 10), integers(60), np.zeros((10, 4, 16), np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (replace(GOOD, block_slots=integers(2, 3)[None]), "slot 3"),
        (replace(GOOD, block_slots=integers(-1, 0)[None]), "slot -1"),
        (replace(GOOD, block_slots=integers(2)[None]), "needs 2 blocks"),
        (replace(GOOD, block_slots=integers(2, 0).reshape(2, 1)), "block_slots"),
        (replace(GOOD, starts=integers(0, 9)), "sequence_starts"),
        (replace(GOOD, starts=integers(1, 10)), "sequence_starts"),
        (replace(GOOD, starts=integers(0, 10, 10)), "sequence_starts"),
        (replace(GOOD, first=integers(-1)), "first_positions"),
        (replace(GOOD, query=np.zeros((10, 3, 16), np.float32)), "multiple of num_key_value_heads"),
        (replace(GOOD, query=np.zeros((10, 4, 17), np.float32)), "query"),
        (replace(GOOD, query=np.zeros((10, 4, 32), np.float32)[:, :, ::2]), "query"),
        (replace(GOOD, window=0), "window"),
        (replace(GOOD, soft_cap=0.0), "soft_cap"),
    ],
)
def test_a_bad_argument_is_an_error_that_names_it(call: Call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call.make()


def test_good_arguments_are_accepted() -> None:
    assert GOOD.make().shape == (10, 4, 16)


def test_nothing_is_stored_when_one_slot_is_bad() -> None:
    layout = kernels.KVLayout(1, 4, "f32")
    arena = np.zeros(layout.slot_bytes, np.uint8)
    rows = np.ones((2, 1, 4), np.float32)
    with pytest.raises(ValueError, match="slot 1"):
        kernels.store_kv(arena, layout, integers(0, 1).reshape(2, 1), integers(0, 1, 2), integers(0, 0), rows, rows)
    assert not arena.any()


def test_an_arena_that_cannot_be_written_to_is_refused() -> None:
    layout = kernels.KVLayout(1, 4, "f32")
    arena = np.zeros(layout.slot_bytes, np.uint8)
    arena.flags.writeable = False
    rows = np.ones((1, 1, 4), np.float32)
    with pytest.raises(TypeError, match="arena"):
        kernels.store_kv(arena, layout, integers(0)[None], integers(0, 1), integers(0), rows, rows)


@pytest.mark.parametrize(("heads", "head_dim", "dtype"), [(0, 64, "f32"), (1, 0, "f32"), (1, 64, "q3")])
def test_a_layout_that_makes_no_sense_is_refused(heads: int, head_dim: int, dtype: Literal["f32"]) -> None:
    with pytest.raises(ValueError, match="must be"):
        kernels.KVLayout(heads, head_dim, dtype)
