"""The RAM tier: one preallocated arena of fixed slots. Owns the bytes; knows neither who owns a slot nor why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom import kernels


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """What one call of attention computes, apart from the data; see `transom.kernels.attend`."""

    scale: float
    window: int | None
    soft_cap: float | None
    visible: NDArray[np.int64] | None = None
    """[S, 3], what each sequence's strategy lets its rows see; None = as `window` alone says."""
    allow_missing: bool = False
    """Blocks that are not there are not seen, instead of being a mistake."""


class HotTier:
    """Keys and values by slot number.

    `block_slots` int32 [S, B] names, for one layer, the slot of each block of each sequence; `sequence_starts` int32
    [S + 1] and `first_positions` int32 [S] say which rows belong to which sequence and where they lie in it.
    """

    def __init__(self, layout: kernels.KVLayout, num_slots: int) -> None:
        self._layout = layout
        self.arena = kernels.allocate_arena(num_slots * layout.slot_bytes)
        """uint8 [num_bytes]; also read and written by the transfers of the cold tier."""

    @property
    def num_bytes(self) -> int:
        """Size of the arena: every byte of keys and values that is ever in RAM."""
        return self.arena.nbytes

    @property
    def slot_bytes(self) -> int:
        return self._layout.slot_bytes

    def copy(self, slots: NDArray[np.int32], to_slots: NDArray[np.int32]) -> None:
        """The bytes of `slots` are in `to_slots`, too."""
        by_slot = self.arena.reshape(-1, self._layout.slot_bytes)
        by_slot[to_slots] = by_slot[slots]

    def read(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        """The bytes of slots, one behind the other; a copy."""
        return self.arena.reshape(-1, self._layout.slot_bytes)[slots].reshape(-1)

    def write(self, slots: NDArray[np.int32], content: NDArray[np.uint8]) -> None:
        """The first bytes of slots, one behind the other, are these; zeros behind them."""
        padded = np.zeros(len(slots) * self._layout.slot_bytes, np.uint8)
        padded[: len(content)] = content
        self.arena.reshape(-1, self._layout.slot_bytes)[slots] = padded.reshape(len(slots), -1)

    def store(
        self,
        block_slots: NDArray[np.int32],
        sequence_starts: NDArray[np.int32],
        first_positions: NDArray[np.int32],
        key: NDArray[np.float32],
        value: NDArray[np.float32],
    ) -> None:
        """Writes the rows `key` and `value`, each [T, num_key_value_heads, head_dim]. Blocks until done."""
        kernels.store_kv(self.arena, self._layout, block_slots, sequence_starts, first_positions, key, value)

    def attend(
        self,
        block_slots: NDArray[np.int32],
        sequence_starts: NDArray[np.int32],
        first_positions: NDArray[np.int32],
        query: NDArray[np.float32],
        rule: AttentionRule,
    ) -> NDArray[np.float32]:
        """Causal attention of the rows `query` [T, heads, head_dim] over stored positions. Blocks until done."""
        return kernels.attend(
            self.arena,
            self._layout,
            block_slots,
            sequence_starts,
            first_positions,
            query,
            rule.scale,
            window=rule.window,
            soft_cap=rule.soft_cap,
            visible=rule.visible,
            allow_missing=rule.allow_missing,
        )

    def attend_in_rounds(
        self, first_position: int, query: NDArray[np.float32], rule: AttentionRule, *, measure_mass: bool
    ) -> kernels.AttentionState:
        """The same for the rows of one sequence, to be fed range by range."""
        return kernels.AttentionState(
            self._layout,
            np.array([0, len(query)], np.int32),
            np.array([first_position], np.int32),
            query,
            rule.scale,
            window=rule.window,
            soft_cap=rule.soft_cap,
            visible=rule.visible,
            allow_missing=rule.allow_missing,
            measure_mass=measure_mass,
        )
