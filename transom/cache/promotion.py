"""Which cold blocks come back to RAM, and when: as soon as there is room to spare, so that they are read no more.

Without attention mass the most recent blocks come first. With it, those that are attended to most; and when there is no
room to spare, such a block changes places with a hot one that is attended to far less. A block stays cold for everybody
until all its bytes are there and verified. Used by one thread, which waits for a transfer only when its room is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import Block, BlockState
from transom.cache.block_pool import BlockPool
from transom.cache.block_table import BlockTable
from transom.cache.cold_tier import ColdRead, ColdTier
from transom.cache.no_cold_tier import NoColdTier
from transom.cache.reuse_room import ReuseRoom

Tables = Sequence[BlockTable]

_MAX_BYTES = 8 * 2**20
"""Under way at once, so that the reads of a pass do not have to wait for long."""

_WORTH = 2.0
"""Two blocks change places only if one is attended to so many times as much as the other."""


@dataclass(frozen=True, slots=True)
class _Transfer:
    """Blocks of one kind on their way to slots that are nobody's yet."""

    blocks: tuple[Block, ...]
    slots: NDArray[np.int32]  # [num_layers, blocks]
    reads: tuple[ColdRead, ...]  # by layer


class Promotion:
    """Brings blocks of open sequences back. `max_hot_blocks` caps what one table has in RAM, None = not."""

    def __init__(
        self,
        pool: BlockPool,
        cold_tier: ColdTier | NoColdTier,
        reuse_room: ReuseRoom,
        slot_bytes: int,
        max_hot_blocks: int | None,
    ) -> None:
        self._pool = pool
        self._cold_tier = cold_tier
        self._reuse_room = reuse_room
        self._max_slots = _MAX_BYTES // slot_bytes
        self._max_hot_blocks = max_hot_blocks
        self._transfers: list[_Transfer] = []
        self._late: list[_Transfer] = []  # given up, but a read may still fill their slots

    @property
    def is_under_way(self) -> bool:
        return bool(self._transfers)

    def blocks_on_the_way(self) -> frozenset[Block]:
        """What is being read back."""
        return frozenset(block for transfer in self._transfers for block in transfer.blocks)

    def take_in(self) -> None:
        """If what is under way is over, its blocks are hot. Quick."""
        self._late = [transfer for transfer in self._late if not self._take_back(transfer)]
        if all(self._cold_tier.is_over(read) for each in self._transfers for read in each.reads):
            self.settle()

    def settle(self) -> None:
        """Waits until nothing is under way, or given up because the disk takes too long."""
        transfers, self._transfers = self._transfers, []
        for transfer in transfers:
            self._finish(transfer)

    def begin(self, tables: Tables, num_spare_slots: int) -> None:
        """Starts to bring back blocks of these tables, into at most so many slots. Not while others are under way."""
        if self._transfers or self._late:
            return
        num_slots = min(num_spare_slots, self._max_slots)
        for table in tables:
            if table.num_cold_blocks:
                under_way = self.blocks_on_the_way()
                chosen = (block for block in self._chosen(table, num_slots) if block not in under_way)
                num_slots -= self._begin(table, chosen)

    def _chosen(self, table: BlockTable, num_slots: int) -> list[Block]:
        num_blocks = max(0, num_slots) // table.group.num_layers
        if self._max_hot_blocks is not None:
            num_blocks = min(num_blocks, self._max_hot_blocks - 1 - table.num_hot_blocks)
        if num_blocks > 0:
            return table.cold_blocks_by_worth()[:num_blocks]
        return list(self._exchanged(table)) if table.follows_mass else []

    def _exchanged(self, table: BlockTable) -> Iterator[Block]:
        """The best cold block, if a hot one that is attended to far less made room for it."""
        best = table.cold_blocks_by_worth()[0]
        clean = [b for b in table.hot_blocks() if b.state is BlockState.CLEAN and not table.is_pinned(b)]
        worst = min(clean, key=lambda block: table.mass[block.index], default=None)
        if worst is not None and table.mass[best.index] > _WORTH * table.mass[worst.index]:
            self._pool.demote(worst)
            yield best

    def _begin(self, table: BlockTable, chosen: Iterable[Block]) -> int:
        """Slots that are taken for it, from reuse data where none are free."""
        wanted = list(chosen)
        self._reuse_room.free_hot(len(wanted) * table.group.num_layers - self._pool.num_free_slots)
        wanted = wanted[: self._pool.num_free_slots // table.group.num_layers]
        blocks = tuple(sorted(wanted, key=lambda block: block.start))
        if not blocks:
            return 0
        slots = self._pool.lend(len(blocks) * table.group.num_layers).reshape(-1, len(blocks))
        places = np.array([block.cold_index for block in blocks], np.int64)
        reads = [self._cold_tier.read(table.group.kind, row, places, of_row) for row, of_row in enumerate(slots)]
        self._transfers.append(_Transfer(blocks, slots, tuple(reads)))
        return slots.size

    def _finish(self, transfer: _Transfer) -> None:
        """Blocks that came, and are still wanted, are hot; the slots of the others are free again."""
        is_there = wanted = np.array([block.ref_count > 0 for block in transfer.blocks])
        for read in transfer.reads:
            is_there = is_there & (self._cold_tier.finish_read(read, wanted) == 0)
            if not self._cold_tier.is_over(read):
                self._late.append(transfer)
                return
        for block, slots, came in zip(transfer.blocks, transfer.slots.T, is_there, strict=True):
            if came and block.is_cold and self._has_room(block):
                self._pool.promote(block, slots.copy())
            else:
                self._pool.take_back(slots)

    def _has_room(self, block: Block) -> bool:
        """Whether all tables that name the block may have one more in RAM."""
        cap = self._max_hot_blocks
        return cap is None or all(holder.num_hot_blocks < cap for holder in block.holders)

    def _take_back(self, transfer: _Transfer) -> bool:
        """The slots of a transfer that was given up are free again, once nothing reads into them; whether they are."""
        is_over = all(self._cold_tier.is_over(read) for read in transfer.reads)
        if is_over:
            self._pool.take_back(transfer.slots.ravel())
        return is_over
