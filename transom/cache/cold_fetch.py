"""One block's bytes from the cold tier, now, for whoever cannot begin without them. Owns the slots of reads given up.

Other than `Promotion` it waits, and it leaves the block where it is. Used by one thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import Block
from transom.cache.block_pool import BlockPool
from transom.cache.cold_tier import ColdRead, ColdTier
from transom.cache.no_cold_tier import NoColdTier


@dataclass(frozen=True, slots=True)
class _Late:
    """A read that was given up and may still fill its slots."""

    slots: NDArray[np.int32]
    reads: tuple[ColdRead, ...]


class ColdFetch:
    """Reads single cold blocks into slots that are lent for it."""

    def __init__(self, pool: BlockPool, cold_tier: ColdTier | NoColdTier) -> None:
        self._pool = pool
        self._cold_tier = cold_tier
        self._late: list[_Late] = []

    def fetch(self, block: Block) -> NDArray[np.int32] | None:
        """Lent slots [num_layers] that hold the bytes of a cold block; None: they did not come back right.

        The caller has looked at `num_free_slots`, and ends the loan. Waits, at most as long as the cold tier does.
        """
        self.take_back_late()
        slots = self._pool.lend(block.num_layers)
        place = np.array([block.cold_index], np.int64)
        reads = tuple(
            self._cold_tier.read(block.kind, row, place, slots[row : row + 1]) for row in range(block.num_layers)
        )
        is_right = all(not self._cold_tier.finish_read(read).any() for read in reads)
        if is_right:
            return slots
        late = _Late(slots, reads)
        if not self._take_back(late):
            self._late.append(late)
        return None

    def take_back_late(self) -> None:
        """Slots of reads that were given up are free again as soon as these are over. Quick."""
        self._late = [late for late in self._late if not self._take_back(late)]

    def _take_back(self, late: _Late) -> bool:
        if not all(self._cold_tier.is_over(read) for read in late.reads):
            return False
        self._pool.take_back(late.slots)
        return True
