"""What prefix reuse counts. Counted where it happens, never derived."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ReuseCounters:
    """Used by one thread; from the cache's birth."""

    num_hits: int = 0
    """Sequences that began with KV of others."""
    num_hit_tokens: int = 0
    """Tokens that these did not compute."""
    num_hot_blocks: int = 0
    """Blocks of hits that were in RAM."""
    num_cold_blocks: int = 0
    """Blocks of hits that were on SSD alone."""

    def count_hit(self, num_tokens: int, num_hot_blocks: int, num_cold_blocks: int) -> None:
        """A sequence began with so many tokens, in blocks that were so many in each tier."""
        self.num_hits += 1
        self.num_hit_tokens += num_tokens
        self.num_hot_blocks += num_hot_blocks
        self.num_cold_blocks += num_cold_blocks
