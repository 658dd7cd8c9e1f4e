"""What prefix reuse counts. Counted where it happens, never derived."""

from __future__ import annotations

from dataclasses import dataclass

from transom.cache.stats import ReuseStats


@dataclass(slots=True)
class ReuseCounters:
    """The counting half of `ReuseStats`. Used by one thread."""

    num_hits: int = 0
    num_hit_tokens: int = 0
    num_hot_blocks: int = 0
    num_cold_blocks: int = 0
    num_recomputed_tokens: int = 0
    num_lost_blocks: int = 0
    num_cold_hit_tokens: int = 0

    def count_hit(self, num_tokens: int, num_hot_blocks: int, num_cold_blocks: int, num_cold_tokens: int) -> None:
        """A sequence began with so many tokens, in so many blocks of each tier; some of them had KV on SSD alone."""
        self.num_hits += 1
        self.num_hit_tokens += num_tokens
        self.num_hot_blocks += num_hot_blocks
        self.num_cold_blocks += num_cold_blocks
        self.num_cold_hit_tokens += num_cold_tokens

    def snapshot(self, *, num_evicted_blocks: int) -> ReuseStats:
        return ReuseStats(
            num_hits=self.num_hits,
            num_hit_tokens=self.num_hit_tokens,
            num_hot_blocks=self.num_hot_blocks,
            num_cold_blocks=self.num_cold_blocks,
            num_recomputed_tokens=self.num_recomputed_tokens,
            num_evicted_blocks=num_evicted_blocks,
            num_lost_blocks=self.num_lost_blocks,
            num_cold_hit_tokens=self.num_cold_hit_tokens,
        )
