"""What `store_kv` and `attend` compute, in NumPy: the specification and the oracle of the native kernels.

Written for reading: one row, one head at a time, in float64. Owns the layout of a slot; knows nothing of splits,
which change rounding only, nor of speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_TOKENS = 64
NO_SLOT = -1
"""The table's entry of a block that is nowhere."""

GROUP_CHANNELS = 32
"""Channels of a token that share a scale in q8_0; the last group may be shorter."""

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]
Stored = NDArray[np.floating]
KVDtype = Literal["f32", "f16", "q8_0"]


class Layout(Protocol):
    """What the functions below need of a layout: `KVLayout` of this module or of `transom.kernels`."""

    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def dtype(self) -> KVDtype: ...
    @property
    def slot_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class KVLayout:
    """How one layer's keys and values lie in a slot of 64 tokens.

    Per KV head: keys [head_dim][64], then values [64][head_dim]. In q8_0 both are int8, and each is followed by its f16
    scales, the keys' [groups][64], the values' [64][groups].
    """

    num_key_value_heads: int
    head_dim: int
    dtype: KVDtype

    @property
    def slot_bytes(self) -> int:
        """Keys and values of 64 tokens, all KV heads."""
        return self.num_key_value_heads * 2 * BLOCK_TOKENS * _token_bytes(self)


def keys_of(arena: NDArray[np.uint8], layout: Layout, slot: int, head: int) -> Stored:
    """One KV head's keys [head_dim, 64]; f32 for q8_0."""
    half = _half(arena, layout, slot, head, 0)
    if layout.dtype != "q8_0":
        return half.view(_element(layout)).reshape(layout.head_dim, BLOCK_TOKENS)
    integers, scales = _quantised_half(half, layout)
    widened = scales.reshape(-1, BLOCK_TOKENS).astype(np.float32).repeat(GROUP_CHANNELS, axis=0)[: layout.head_dim]
    return integers.reshape(layout.head_dim, BLOCK_TOKENS) * widened


def values_of(arena: NDArray[np.uint8], layout: Layout, slot: int, head: int) -> Stored:
    """One KV head's values [64, head_dim]; f32 for q8_0."""
    half = _half(arena, layout, slot, head, 1)
    if layout.dtype != "q8_0":
        return half.view(_element(layout)).reshape(BLOCK_TOKENS, layout.head_dim)
    integers, scales = _quantised_half(half, layout)
    widened = scales.reshape(BLOCK_TOKENS, -1).astype(np.float32).repeat(GROUP_CHANNELS, axis=1)[:, : layout.head_dim]
    return integers.reshape(BLOCK_TOKENS, layout.head_dim) * widened


def quantise(x: Floats) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """q8_0 of one token's key or value [head_dim]: int8 [head_dim] and f16 scales [groups].

    The scale of a group is its largest magnitude / 127, rounded to f16; the integers are x * (1 / scale) in f32,
    rounded to nearest even and limited to -127 .. 127; all 0 where the scale is 0. A group with a value that is not
    finite, or so large that the scale is not, becomes not a number altogether: integers 0, scale NaN.
    """
    integers, scales = np.zeros(x.shape, np.int8), np.zeros(_num_groups(len(x)), np.float16)
    for group, first in enumerate(range(0, len(x), GROUP_CHANNELS)):
        channels = slice(first, first + GROUP_CHANNELS)
        with np.errstate(over="ignore", invalid="ignore"):
            scale = (np.abs(x[channels]).max() / np.float32(127)).astype(np.float16)
        scales[group] = scale if np.isfinite(scale) else np.nan
        if np.isfinite(scale) and scale > 0:
            factor = np.float32(1) / scale.astype(np.float32)
            integers[channels] = np.clip(np.rint(x[channels] * factor), -127, 127)
    return integers, scales


def _num_groups(head_dim: int) -> int:
    return -(-head_dim // GROUP_CHANNELS)


def _token_bytes(layout: Layout) -> int:
    """Of a token's key, or value."""
    if layout.dtype == "q8_0":
        return layout.head_dim + 2 * _num_groups(layout.head_dim)
    return layout.head_dim * _element(layout).itemsize


def _element(layout: Layout) -> np.dtype[np.floating]:
    return np.dtype(np.float16 if layout.dtype == "f16" else np.float32)


def _half(arena: NDArray[np.uint8], layout: Layout, slot: int, head: int, half: int) -> NDArray[np.uint8]:
    """The bytes of one KV head's keys (half 0) or values (1), as a view."""
    bytes_of_slot = arena[slot * layout.slot_bytes : (slot + 1) * layout.slot_bytes]
    halves: NDArray[np.uint8] = bytes_of_slot.reshape(layout.num_key_value_heads, 2, -1)[head, half]
    return halves


def _quantised_half(half: NDArray[np.uint8], layout: Layout) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Integers and scales of the bytes of a half, as flat views."""
    num_integers = BLOCK_TOKENS * layout.head_dim
    return half[:num_integers].view(np.int8), half[num_integers:].view(np.float16)


@dataclass(frozen=True, slots=True)
class _Row:
    """One token of the batch."""

    index: int
    sequence: int
    position: int


def _rows(sequence_starts: Integers, first_positions: Integers) -> Iterator[_Row]:
    for sequence, first_position in enumerate(first_positions):
        first, end = int(sequence_starts[sequence]), int(sequence_starts[sequence + 1])
        for index in range(first, end):
            yield _Row(index, sequence, int(first_position) + index - first)


def store_kv(
    arena: NDArray[np.uint8],
    layout: Layout,
    block_slots: Integers,
    sequence_starts: Integers,
    first_positions: Integers,
    key: Floats,
    value: Floats,
) -> None:
    """Writes key and value [T, num_key_value_heads, head_dim] to their places, rounded to the layout's dtype."""
    for row in _rows(sequence_starts, first_positions):
        block, column = divmod(row.position, BLOCK_TOKENS)
        slot = int(block_slots[row.sequence, block])
        for head in range(layout.num_key_value_heads):
            if layout.dtype == "q8_0":
                _store_quantised(arena, layout, slot, head, column, key[row.index, head], value[row.index, head])
            else:
                keys_of(arena, layout, slot, head)[:, column] = key[row.index, head]
                values_of(arena, layout, slot, head)[column] = value[row.index, head]


def _store_quantised(
    arena: NDArray[np.uint8], layout: Layout, slot: int, head: int, column: int, key: Floats, value: Floats
) -> None:
    integers, scales = _quantised_half(_half(arena, layout, slot, head, 0), layout)
    integers.reshape(-1, BLOCK_TOKENS)[:, column], scales.reshape(-1, BLOCK_TOKENS)[:, column] = quantise(key)
    integers, scales = _quantised_half(_half(arena, layout, slot, head, 1), layout)
    integers.reshape(BLOCK_TOKENS, -1)[column], scales.reshape(BLOCK_TOKENS, -1)[column] = quantise(value)


def attend(
    arena: NDArray[np.uint8],
    layout: Layout,
    block_slots: Integers,
    sequence_starts: Integers,
    first_positions: Integers,
    query: Floats,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    visible: NDArray[np.int64] | None = None,
    allow_missing: bool = False,
) -> Floats:
    """Causal attention of query [T, H, head_dim] over each row's sequence -> [T, H, head_dim]."""
    output = np.empty(query.shape, np.float32)
    group = query.shape[1] // layout.num_key_value_heads
    for row in _rows(sequence_starts, first_positions):
        slots = block_slots[row.sequence]
        seen = _seen(row, slots, window, visible, allow_missing)
        for head in range(query.shape[1]):
            keys, values = _gather(arena, layout, slots, head // group, seen)
            output[row.index, head] = _weights(keys, query[row.index, head], scale, soft_cap) @ values
    return output


def mass(
    arena: NDArray[np.uint8],
    layout: Layout,
    block_slots: Integers,
    sequence_starts: Integers,
    first_positions: Integers,
    query: Floats,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    visible: NDArray[np.int64] | None = None,
    allow_missing: bool = False,
) -> Floats:
    """What `AttentionState.mass` tells: shares of attention per block [S, B], last rows only, mean over heads."""
    ends = first_positions + np.diff(sequence_starts)
    shares = np.zeros((len(first_positions), -(-int(ends.max(initial=0)) // BLOCK_TOKENS)), np.float32)
    num_heads = query.shape[1]
    for row in _rows(sequence_starts, first_positions):
        if row.position + 1 != ends[row.sequence]:
            continue
        slots = block_slots[row.sequence]
        seen = _seen(row, slots, window, visible, allow_missing)
        for head in range(num_heads):
            keys, _ = _gather(arena, layout, slots, head * layout.num_key_value_heads // num_heads, seen)
            weights = _weights(keys, query[row.index, head], scale, soft_cap)
            np.add.at(shares[row.sequence], seen // BLOCK_TOKENS, (weights / num_heads).astype(np.float32))
    return shares


def _seen(
    row: _Row, slots: Integers, window: int | None, visible: NDArray[np.int64] | None, allow_missing: bool
) -> NDArray[np.int64]:
    """The positions the row sees, in order."""
    keep_first, own_window, window_blocks = (0, 0, 0) if visible is None else visible[row.sequence]
    positions = np.arange(row.position + 1)
    recent = np.ones(len(positions), bool)
    for width in (window, own_window):
        if width:
            recent &= positions > row.position - width
    if window_blocks:
        recent &= positions // BLOCK_TOKENS > row.position // BLOCK_TOKENS - window_blocks
    present = slots[positions // BLOCK_TOKENS] != NO_SLOT if allow_missing else True
    return np.flatnonzero((recent | (positions < keep_first)) & present)


def _gather(
    arena: NDArray[np.uint8], layout: Layout, slots: Integers, head: int, seen: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keys and values [len(seen), head_dim] of these positions."""
    blocks, nth_block = np.unique(seen // BLOCK_TOKENS, return_inverse=True)
    rows = nth_block * BLOCK_TOKENS + seen % BLOCK_TOKENS
    keys = np.concatenate([keys_of(arena, layout, int(slots[block]), head).T for block in blocks])
    values = np.concatenate([values_of(arena, layout, int(slots[block]), head) for block in blocks])
    return keys[rows].astype(np.float64), values[rows].astype(np.float64)


def _weights(keys: NDArray[np.float64], query: Floats, scale: float, soft_cap: float | None) -> NDArray[np.float64]:
    return _softmax(_capped(keys @ query.astype(np.float64) * scale, soft_cap))


def _capped(scores: NDArray[np.float64], soft_cap: float | None) -> NDArray[np.float64]:
    return scores if soft_cap is None else soft_cap * np.tanh(scores / soft_cap)


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(scores - scores.max())
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised
