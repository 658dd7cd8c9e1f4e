"""Which blocks leave RAM, and when. Owns the policy; the cold tier moves the bytes, the pool counts the places.

Reuse data goes first. Sealed blocks are written behind, before their room is needed, so that room is had by letting go
of clean ones. Among sequences, whoever has most in RAM gives first. Within one, the oldest block goes first or, where
attention is measured, the block that is attended to least. A block of several sequences leaves for all of them. Used by
one thread, which waits only for writes that were started.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from transom.cache.block import Block, BlockState
from transom.cache.block_pool import BlockPool
from transom.cache.block_table import BlockTable
from transom.cache.cold_tier import ColdTier
from transom.cache.no_cold_tier import NoColdTier
from transom.cache.reuse_room import ReuseRoom

Tables = Sequence[BlockTable]


class Demotion:
    """Moves blocks of open sequences between the tiers. `max_hot_blocks` caps what one table has in RAM, None = not."""

    def __init__(
        self, pool: BlockPool, cold_tier: ColdTier | NoColdTier, reuse_room: ReuseRoom, max_hot_blocks: int | None
    ) -> None:
        self._pool = pool
        self._cold_tier = cold_tier
        self._reuse_room = reuse_room
        self._max_hot_blocks = max_hot_blocks

    def take_in_writes(self) -> None:
        """Notes which writes are over. Quick."""
        self._reclaim(self._cold_tier.poll())

    def make_room(self, tables: Tables, own: Tables, num_tokens: int) -> bool:
        """Gets room for the missing blocks of `own`, one sequence's tables, out of all `tables`; False = not now.

        May wait for writes; allocates nothing.
        """
        self.take_in_writes()
        for table in own:
            if not self._keep_within_cap(table, table.num_missing_blocks(num_tokens)):
                return False
        return self.free(tables, sum(table.num_missing_slots(num_tokens) for table in own))

    def free(self, tables: Tables, num_slots: int) -> bool:
        """Frees slots until there are so many, out of reuse data and all `tables`; False = not now.

        May wait for writes.
        """
        if num_slots <= self._pool.num_free_slots:
            return True
        if num_slots > self.num_obtainable_slots(tables):
            return False
        while (missing := num_slots - self._pool.num_free_slots) > 0:
            if not self._reuse_room.free_hot(missing) and not self._let_go(tables, missing):
                return False
        return True

    def drop_clean(self, tables: Tables, num_slots: int) -> bool:
        """Lets go of clean blocks with so many slots, as far as there are any; whether there were."""
        victims = _enough(_in_turn(tables, BlockState.CLEAN), num_slots)
        for _, block in victims:
            self._pool.demote(block)
        return bool(victims)

    def num_obtainable_slots(self, tables: Tables) -> int:
        """Slots that are free, or could be after waiting for writes."""
        free = self._pool.num_free_slots + self._pool.num_leaving_slots
        return free + self._reuse_room.num_hot_slots + self._num_movable_slots(tables)

    def write_behind(self, tables: Tables, num_slots: int) -> None:
        """Starts writes so that `num_slots` slots are free, or can be had without waiting once these are over."""
        num_clean = self._cold_tier.num_placed_slots - self._pool.num_cold_slots
        missing = num_slots - self._pool.num_free_slots - num_clean - self._reuse_room.num_dirty_slots
        if missing > 0:
            self._write(tables, missing)

    def write_behind_cap(self, table: BlockTable, num_blocks: int) -> None:
        """The same for the cap of one table, in blocks."""
        if self._max_hot_blocks is None:
            return
        num_clean = sum(block.state is not BlockState.DIRTY for block in table.hot_blocks())
        missing = table.num_hot_blocks - num_clean + num_blocks - self._max_hot_blocks
        if missing > 0:
            self._write([table], missing * table.group.num_layers)

    def _keep_within_cap(self, table: BlockTable, num_new_blocks: int) -> bool:
        cap = self._max_hot_blocks
        if cap is None or table.num_hot_blocks + num_new_blocks <= cap:
            return True
        num_layers = table.group.num_layers
        if (table.num_hot_blocks + num_new_blocks - cap) * num_layers > self._num_movable_slots([table]):
            return False
        while (num_over := table.num_hot_blocks + num_new_blocks - cap) > 0:
            if not self._let_go([table], num_over * num_layers):
                return False
        return True

    def _let_go(self, tables: Tables, num_slots: int) -> bool:
        """Clean blocks go or, where there are none, dirty ones are written and waited for. False: none are left."""
        return self.drop_clean(tables, num_slots) or self._wait_for_writes(tables, num_slots)

    def _wait_for_writes(self, tables: Tables, num_slots: int) -> bool:
        """Makes sure that enough is being written, and waits until something of it is over."""
        num_writing = sum(len(block.slots) for _, block in _movable(tables) if block.state is BlockState.WRITING)
        self._write(tables, num_slots - num_writing)
        ended = self._cold_tier.wait()
        self._reclaim(ended)
        return bool(ended)

    def _write(self, tables: Tables, num_slots: int) -> None:
        """Starts to write dirty blocks with so many slots, as far as there are any and the cold tier takes them."""
        if num_slots <= 0 or self._num_places == 0 or not self._cold_tier.takes_blocks:
            return
        chosen: dict[BlockTable, list[Block]] = {}
        for table, block in _enough(_in_turn(tables, BlockState.DIRTY), num_slots):
            chosen.setdefault(table, []).append(block)
        num_chosen = sum(len(block.slots) for blocks in chosen.values() for block in blocks)
        self._reuse_room.free_cold(num_chosen - self._cold_tier.num_free_slots)
        for table, blocks in chosen.items():
            self._cold_tier.write(sorted(blocks, key=lambda block: block.start), table.run)

    def _num_movable_slots(self, tables: Tables) -> int:
        """Slots of blocks that are in the cold tier too, or could be."""
        num_dirty = num_safe = 0
        for _, block in _movable(tables):
            if block.state is BlockState.DIRTY:
                num_dirty += len(block.slots)
            else:
                num_safe += len(block.slots)
        return num_safe + (min(num_dirty, self._num_places) if self._cold_tier.takes_blocks else 0)

    @property
    def _num_places(self) -> int:
        """Slots' worth of places in the cold tier that are free, or can be had from reuse data."""
        return self._cold_tier.num_free_slots + self._reuse_room.num_placed_slots

    def _reclaim(self, ended: Iterable[Block]) -> None:
        for block in ended:
            self._pool.reclaim(block)
            self._reuse_room.note_written(block)


def _movable(tables: Tables) -> Iterator[tuple[BlockTable, Block]]:
    """Blocks in RAM whose bytes never change again, each once."""
    shared: set[Block] = set()
    for table in tables:
        for block in table.hot_blocks():
            if block.sealed and block not in shared:
                if len(block.holders) > 1:
                    shared.add(block)
                yield table, block


def _in_turn(tables: Tables, state: BlockState) -> Iterator[tuple[BlockTable, Block]]:
    """The movable blocks of a state, in the order in which they are to leave RAM."""
    queues = [
        (table, iter(table.by_worth(block for _, block in _movable([table]) if block.state is state)))
        for table in tables
    ]
    heap = [(-table.num_hot_slots, number) for number, (table, _) in enumerate(queues)]
    heapq.heapify(heap)
    shared: set[Block] = set()
    while heap:
        negative_size, number = heap[0]
        table, blocks = queues[number]
        block = next(blocks, None)
        if block is None:
            heapq.heappop(heap)
            continue
        heapq.heapreplace(heap, (negative_size + table.group.num_layers, number))
        if block not in shared:
            if len(block.holders) > 1:
                shared.add(block)
            yield table, block


def _enough(blocks: Iterator[tuple[BlockTable, Block]], num_slots: int) -> list[tuple[BlockTable, Block]]:
    """As many of the first as have so many slots."""
    taken: list[tuple[BlockTable, Block]] = []
    while num_slots > 0 and (each := next(blocks, None)) is not None:
        taken.append(each)
        num_slots -= len(each[1].slots)
    return taken
