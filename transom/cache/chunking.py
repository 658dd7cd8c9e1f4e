"""How long a prompt's next chunk is, and how much room is kept ready for it. Arithmetic over a budget; moves nothing.

A chunk that reads cold blocks reads each once, however long it is, so the more is cold, the longer the chunks. Its own
blocks must all be in RAM, beside a chunk that is being written behind and one that was.
"""

from __future__ import annotations

from collections.abc import Sequence

from transom.cache.block import BLOCK_SIZE, num_blocks
from transom.cache.block_table import BlockTable
from transom.cache.budget import Budget
from transom.cache.demotion import Demotion
from transom.cache.layer_cache import BatchPart
from transom.cache.sequence_cache import SequenceCache
from transom.config.engine_config import COLD_CHUNK_GROWTH

CHUNK_SHARE = 3
"""A chunk takes at most one part in so many of the room in RAM."""


class Chunking:
    """Chunk lengths for sequences within one budget."""

    def __init__(self, budget: Budget, demotion: Demotion) -> None:
        self._budget = budget
        self._demotion = demotion
        self._block_slots = sum(group.num_layers for group in budget.groups)

    def chunk(self, handle: SequenceCache, wanted: int, tables: Sequence[BlockTable]) -> int:
        """How many of the next `wanted` tokens of a sequence one step should compute, in 1 .. `wanted`."""
        start = handle.num_computed_tokens
        num_tokens = min(wanted, self._grown_chunk(handle))
        for max_blocks in (self._room_for_chunk(tables), handle.strategy.max_chunk_blocks):
            if max_blocks is not None:
                num_tokens = min(num_tokens, (start // BLOCK_SIZE + max_blocks) * BLOCK_SIZE - start)
        return num_tokens

    def write_ahead(self, parts: Sequence[BatchPart], tables: Sequence[BlockTable]) -> int:
        """Starts writes so that the two passes after this one find their room; how many slots these will need."""
        if not self._budget.has_cold_tier:
            return 0
        upcoming = [self._upcoming_blocks(handle, start + count) for handle, start, count in parts]
        num_slots = min(2 * (max(upcoming) + len(parts)) * self._block_slots, self._budget.num_hot_slots)
        self._demotion.write_behind(tables, num_slots)
        for (handle, _, _), blocks in zip(parts, upcoming, strict=True):
            for table in handle.tables:
                self._demotion.write_behind_cap(table, 2 * blocks)
        return num_slots

    def _grown_chunk(self, handle: SequenceCache) -> int:
        """Up to COLD_CHUNK_GROWTH times as long as usual, in proportion to what is cold."""
        num_cold = sum(table.num_cold_blocks for table in handle.tables)
        if num_cold == 0:
            return self._budget.chunk
        num_kept = sum(table.num_kept_blocks for table in handle.tables)
        return self._budget.chunk + self._budget.chunk * (COLD_CHUNK_GROWTH - 1) * num_cold // num_kept

    def _room_for_chunk(self, tables: Sequence[BlockTable]) -> int | None:
        """Blocks that a chunk may touch; None without a cold tier, where room is not had by waiting."""
        if not self._budget.has_cold_tier:
            return None
        num_slots = self._demotion.num_obtainable_slots(tables)
        cap = self._budget.max_hot_blocks
        room = num_slots // self._block_slots if cap is None else min(num_slots // self._block_slots, cap)
        return max(1, room // CHUNK_SHARE)

    def _upcoming_blocks(self, handle: SequenceCache, num_computed_tokens: int) -> int:
        """Blocks that the sequence's next chunk will need."""
        num_left = len(handle.token_ids) - num_computed_tokens
        num_tokens = min(num_left, self._grown_chunk(handle))
        most = max(1, self._budget.num_hot_slots // self._block_slots // CHUNK_SHARE)
        return min(most, num_blocks(max(1, num_tokens)))
