"""Whether one more sequence should start now. Arithmetic over what is there; moves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transom.cache.block_pool import BlockPool
from transom.cache.budget import Budget
from transom.cache.cold_tier import ColdTier
from transom.cache.no_cold_tier import NoColdTier
from transom.cache.prefix_reuse import PrefixReuse
from transom.cache.sequence_cache import SequenceCache
from transom.cache.stats import TierState


@dataclass(frozen=True, slots=True)
class Admission:
    """Of sequences to one cache."""

    budget: Budget
    pool: BlockPool
    cold_tier: ColdTier | NoColdTier
    reuse: PrefixReuse

    def can_start(self, handle: SequenceCache, others: Sequence[SequenceCache]) -> bool:
        """As `CacheManager.can_start`; `others` are all other open sequences."""
        if not others:
            return True
        headroom = self.budget.headroom_slots(1 + len(others))
        if headroom > self.pool.num_slots:
            return False
        wanted = sum(self._num_lacking_slots(each) for each in (handle, *others)) + headroom
        room = self._num_unclaimed_slots()
        return wanted <= room or wanted - self.reuse.num_shared_slots(handle) <= room

    def _num_unclaimed_slots(self) -> int:
        """Slots in both tiers that hold no block, or only the second copy of one, or reuse data. While nothing can be
        written, only those in RAM that are free or can be freed."""
        reuse = self.pool.reuse
        num_copies = self.cold_tier.num_placed_slots - self.pool.num_cold_slots
        num_in_ram = self.pool.num_free_slots + self.pool.num_lent_slots + reuse.num_hot_slots
        if self.cold_tier.state is not TierState.ON:
            return num_in_ram + num_copies - reuse.num_copied_slots
        return num_in_ram + num_copies + self.cold_tier.num_free_slots + reuse.num_cold_slots

    def _num_lacking_slots(self, handle: SequenceCache) -> int:
        """Slots that the sequence will need, at its peak, beside those it has, for the tokens known so far."""
        num_kept = sum(table.num_kept_blocks * table.group.num_layers for table in handle.tables)
        return max(0, self.budget.peak_slots(len(handle.token_ids), handle.strategy) - num_kept)
