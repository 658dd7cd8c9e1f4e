"""Room that reuse data takes up, and how it is had back. Owns the policy; the index forgets, the pool frees.

Whatever a running sequence wants comes before whatever may be of use to a later one: reuse data never makes anybody
wait but for a write of it that is under way already. Used by one thread; waits for nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from transom.cache.block import Block, BlockState
from transom.cache.block_pool import BlockPool
from transom.cache.prefix_index import PrefixIndex


class ReuseRoom:
    """Lets go of reuse data, oldest first. `max_cold_slots` caps what of it may lie in the cold tier, None = not."""

    def __init__(self, pool: BlockPool, index: PrefixIndex, max_cold_slots: int | None = None) -> None:
        self._pool = pool
        self._index = index
        self.max_cold_slots = max_cold_slots
        self.num_evicted_blocks = 0
        """Blocks that were forgotten for want of room."""

    @property
    def num_hot_slots(self) -> int:
        """Slots of RAM that can be had, at once but for those that a write still reads."""
        return self._pool.reuse.num_hot_slots

    @property
    def num_dirty_slots(self) -> int:
        """Those of them that are in RAM alone."""
        return self._pool.reuse.num_hot_slots - self._pool.reuse.num_copied_slots

    @property
    def num_placed_slots(self) -> int:
        """Slots' worth of places in the cold tier that can be had."""
        return self._pool.reuse.num_placed_slots

    def free_hot(self, num_slots: int) -> bool:
        """Frees so many slots of RAM, as far as there are any to be had; whether there were.

        What has a copy in the cold tier is still found there.
        """
        idle = (block for block in self._pool.reuse.hot_blocks() if block.state is not BlockState.WRITING)
        victims = _enough(idle, num_slots)
        for block in victims:
            if block.state is BlockState.CLEAN:
                self._pool.demote(block)
            else:
                self._evict(block)
        return bool(victims)

    def free_cold(self, num_slots: int) -> None:
        """Frees so many slots' worth of places in the cold tier, as far as there are any to be had.

        What is in RAM, too, is still found there.
        """
        reuse = self._pool.reuse
        copied = (block for block in reuse.hot_blocks() if block.state is BlockState.CLEAN)
        for block in _enough(itertools.chain(reuse.cold_blocks(), copied), num_slots):
            if block.is_cold:
                self._evict(block)
            else:
                self._index.note_leaving(block)
                self._pool.give_up_place(block)

    def note_begun(self, blocks: Sequence[Block]) -> None:
        """The writes of these blocks, of whomever, have begun."""
        for block in blocks:
            self._pool.reuse.note_state(block)

    def note_written(self, block: Block) -> None:
        """The write of a block, of whomever, is over."""
        self._pool.reuse.note_state(block)
        self._index.note_written(block)
        self.keep_within_cap()

    def keep_within_cap(self) -> None:
        """Forgets what is more than the cold tier may hold of reuse data."""
        if self.max_cold_slots is not None and self.num_placed_slots > self.max_cold_slots:
            self.free_cold(self.num_placed_slots - self.max_cold_slots)

    def _evict(self, block: Block) -> None:
        self._index.drop(block)
        self.num_evicted_blocks += 1


def _enough(blocks: Iterator[Block], num_slots: int) -> list[Block]:
    """As many of the first as have so many slots."""
    taken: list[Block] = []
    while num_slots > 0 and (block := next(blocks, None)) is not None:
        taken.append(block)
        num_slots -= block.num_layers
    return taken
