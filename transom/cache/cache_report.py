"""What the cache says about itself: numbers of its parts, put together as `CacheStats`. Owns none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transom.cache.block import BLOCK_SIZE
from transom.cache.block_pool import BlockPool
from transom.cache.budget import Budget
from transom.cache.cold_tier import ColdTier
from transom.cache.conv_states import ConvStates
from transom.cache.hot_tier import HotTier
from transom.cache.layer_group import LayerGroup
from transom.cache.no_cold_tier import NoColdTier
from transom.cache.prefix_reuse import PrefixReuse
from transom.cache.sequence_cache import SequenceCache
from transom.cache.stats import HOT_TIER, CacheStats, KindStats, TierStats
from transom.config.kv_size import cold_slot_bytes


@dataclass(frozen=True, slots=True)
class CacheReport:
    """Of one cache; `snapshots` is the group of the convolutions' snapshots, None where there are none."""

    budget: Budget
    pool: BlockPool
    hot_tier: HotTier
    cold_tier: ColdTier | NoColdTier
    reuse: PrefixReuse
    conv_states: ConvStates
    snapshots: LayerGroup | None

    def stats(self, handles: Sequence[SequenceCache]) -> CacheStats:
        """As of now; `handles` are all open sequences."""
        groups = self.budget.groups if self.snapshots is None else (*self.budget.groups, self.snapshots)
        num_cold_bytes = self.pool.reuse.num_placed_slots * cold_slot_bytes(self.budget.slot_bytes)
        return CacheStats(
            block_size=BLOCK_SIZE,
            num_sequences=len(handles),
            num_tokens=sum(handle.num_computed_tokens for handle in handles),
            tiers=(self._hot_stats(), *self.cold_tier.tiers(num_cold_bytes)),
            kinds=tuple(self._kind_stats(group) for group in groups),
            sequences=tuple(handle.stats() for handle in handles),
            reuse=self.reuse.stats(),
            conv_states=self.conv_states.stats(),
        )

    def _hot_stats(self) -> TierStats:
        num_reuse_slots, slot_bytes = self.pool.reuse.num_hot_slots, self.budget.slot_bytes
        return TierStats(
            HOT_TIER,
            (self.pool.num_used_slots - num_reuse_slots) * slot_bytes,
            self.hot_tier.num_bytes,
            num_bytes_reuse=num_reuse_slots * slot_bytes,
        )

    def _kind_stats(self, group: LayerGroup) -> KindStats:
        pool, reuse = self.pool, self.pool.reuse
        num_blocks_used = pool.num_hot_blocks(group.kind) - reuse.num_hot_blocks(group.kind)
        return KindStats(
            kind=group.kind,
            num_layers=group.num_layers,
            num_blocks_used=num_blocks_used,
            num_blocks_total=pool.num_slots // group.num_layers,
            num_bytes_used=num_blocks_used * group.num_layers * self.budget.slot_bytes,
            num_cold_blocks=pool.num_cold_blocks(group.kind) - reuse.num_cold_blocks(group.kind),
            num_reuse_blocks=reuse.num_hot_blocks(group.kind),
            num_cold_reuse_blocks=reuse.num_cold_blocks(group.kind),
        )
