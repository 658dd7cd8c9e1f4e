"""The RAM tier: one preallocated arena of fixed slots. Owns the bytes; knows neither who owns a slot nor why."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from transom import kernels


class HotTier:
    """Keys and values by slot number.

    `block_slots` int32 [S, B] names, for one layer, the slot of each block of each sequence; `sequence_starts` int32
    [S + 1] and `first_positions` int32 [S] say which rows belong to which sequence and where they lie in it.
    """

    def __init__(self, layout: kernels.KVLayout, num_slots: int) -> None:
        self._layout = layout
        self._arena = kernels.allocate_arena(num_slots * layout.slot_bytes)

    @property
    def num_bytes(self) -> int:
        """Size of the arena: every byte of keys and values that this tier can ever hold."""
        return self._arena.nbytes

    def store(
        self,
        block_slots: NDArray[np.int32],
        sequence_starts: NDArray[np.int32],
        first_positions: NDArray[np.int32],
        key: NDArray[np.float32],
        value: NDArray[np.float32],
    ) -> None:
        """Writes the rows `key` and `value`, each [T, num_key_value_heads, head_dim]. Blocks until done."""
        kernels.store_kv(self._arena, self._layout, block_slots, sequence_starts, first_positions, key, value)

    def attend(
        self,
        block_slots: NDArray[np.int32],
        sequence_starts: NDArray[np.int32],
        first_positions: NDArray[np.int32],
        query: NDArray[np.float32],
        scale: float,
        window: int | None,
        soft_cap: float | None,
    ) -> NDArray[np.float32]:
        """Causal attention of the rows `query` [T, heads, head_dim] over stored positions. Blocks until done."""
        return kernels.attend(
            self._arena,
            self._layout,
            block_slots,
            sequence_starts,
            first_positions,
            query,
            scale,
            window=window,
            soft_cap=soft_cap,
        )
