"""`BlockTable`: where one sequence's blocks of one layer group lie. Append-only; positions never move.

The same facts are kept twice, as blocks for whoever owns and frees them and as slot numbers for the attention kernel,
so that a decode step hands over a view and builds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import BLOCK_SIZE, Block, num_blocks
from transom.cache.block_pool import BlockPool
from transom.cache.layer_group import LayerGroup

NO_SLOT = -1
"""Table entry of a block that is not there. No visible token may need it; the kernel refuses if one does."""

_FIRST_CAPACITY = 8


class BlockTable:
    """Blocks by index (position // 64). The first ones may be gone, because no later token can see them."""

    __slots__ = ("_blocks", "_first_kept", "_slots", "group")

    def __init__(self, group: LayerGroup) -> None:
        self.group = group
        self._blocks: list[Block | None] = []
        self._first_kept = 0
        self._slots = _empty_slots(group.num_layers, _FIRST_CAPACITY)

    @property
    def num_tokens(self) -> int:
        """There is room for the positions below, as far as they are still visible."""
        return len(self._blocks) * BLOCK_SIZE

    @property
    def num_kept_blocks(self) -> int:
        return len(self._blocks) - self._first_kept

    def num_missing_slots(self, num_tokens: int) -> int:
        """Slots to be allocated before positions `< num_tokens` have room."""
        return max(0, num_blocks(num_tokens) - len(self._blocks)) * self.group.num_layers

    def slots(self, num_tokens: int) -> NDArray[np.int32]:
        """[num_layers, blocks of `num_tokens`], a view; each row is contiguous."""
        return self._slots[:, : num_blocks(num_tokens)]

    def kept_blocks(self) -> Iterator[Block]:
        """The blocks that are still there, in order of position."""
        return (block for block in self._blocks[self._first_kept :] if block is not None)

    def extend(self, pool: BlockPool, num_tokens: int) -> None:
        """Allocates what is missing for positions `< num_tokens`; the caller has made sure that it is there."""
        for index in range(len(self._blocks), num_blocks(num_tokens)):
            self._append(pool.allocate(self.group, index * BLOCK_SIZE))

    def seal(self, num_computed_before: int, num_computed_now: int) -> None:
        """Marks the blocks that became full between the two counts."""
        for block in self._blocks[num_computed_before // BLOCK_SIZE : num_computed_now // BLOCK_SIZE]:
            if block is not None:
                block.sealed = True

    def drop_invisible(self, pool: BlockPool, num_computed_tokens: int) -> None:
        """Frees the blocks that no token from position `num_computed_tokens` on can see."""
        first_visible = min(self.group.first_visible_block(num_computed_tokens), len(self._blocks))
        self._drop(pool, range(self._first_kept, first_visible))
        self._first_kept = max(self._first_kept, first_visible)

    def clear(self, pool: BlockPool) -> None:
        """Frees everything, last block first, so that the head of a sequence is the last to be overwritten."""
        self._drop(pool, reversed(range(self._first_kept, len(self._blocks))))
        self._blocks.clear()
        self._first_kept = 0

    def check_integrity(self) -> None:
        """Raises AssertionError unless blocks and slot numbers say the same."""
        for index, block in enumerate(self._blocks):
            slots = self._slots[:, index]
            if block is None:
                assert index < self._first_kept, "a block in the middle is missing"
                assert (slots == NO_SLOT).all(), "a freed block is still in the table"
            else:
                assert block.start == index * BLOCK_SIZE, f"block {index} says it starts at {block.start}"
                assert np.array_equal(slots, block.slots), "table and block name different slots"
        assert (self._slots[:, len(self._blocks) :] == NO_SLOT).all(), "the table names slots beyond its last block"

    def _append(self, block: Block) -> None:
        index = len(self._blocks)
        if index == self._slots.shape[1]:
            self._slots = np.concatenate([self._slots, _empty_slots(*self._slots.shape)], axis=1)
        self._blocks.append(block)
        self._slots[:, index] = block.slots

    def _drop(self, pool: BlockPool, indices: range | Iterator[int]) -> None:
        for index in indices:
            block = self._blocks[index]
            if block is not None:
                pool.release(block)
            self._blocks[index] = None
            self._slots[:, index] = NO_SLOT


def _empty_slots(num_layers: int, capacity: int) -> NDArray[np.int32]:
    return np.full((num_layers, capacity), NO_SLOT, dtype=np.int32)
