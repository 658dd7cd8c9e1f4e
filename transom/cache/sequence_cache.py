"""`SequenceCache`: a sequence's handle. Opaque outside this room but for the counts of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transom.cache.block import BLOCK_SIZE, Block
from transom.cache.block_pool import BlockPool
from transom.cache.block_table import BlockTable
from transom.cache.layer_group import LayerGroup
from transom.cache.prefix_key import KeyChain, KnownTokens
from transom.cache.stats import SequenceStats
from transom.cache.strategy import FULL, Strategy

TokenIds = KnownTokens
"""The tokens of a sequence. The owner may append to it while the handle is open; nothing else ever changes."""


class SequenceCache:
    """What the cache knows of one sequence. Compared by identity."""

    __slots__ = (
        "chain",
        "is_open",
        "may_hit",
        "name",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_dropped_tokens",
        "num_judged_blocks",
        "num_reserved_tokens",
        "published_blocks",
        "strategy",
        "tables",
        "token_ids",
        "trusts_cold_tier",
    )

    def __init__(
        self,
        groups: Sequence[LayerGroup],
        token_ids: TokenIds,
        strategy: Strategy = FULL,
        name: str = "",
        *,
        chain: KeyChain | None = None,
        may_hit: bool = False,
        trusts_cold_tier: bool = True,
    ) -> None:
        self.token_ids = token_ids
        self.strategy = strategy
        self.name = name
        """For statistics."""
        self.chain = chain
        """Under which names its blocks are published; None = they are nobody else's."""
        self.may_hit = may_hit
        """It may begin with what others have computed."""
        self.trusts_cold_tier = trusts_cold_tier
        """That may have a place in the cold tier."""
        self.tables = tuple(BlockTable(group, strategy) for group in groups)
        self.num_cached_tokens = 0
        """Tokens whose KV was there when the sequence began."""
        self.num_computed_tokens = 0
        self.num_reserved_tokens = 0
        self.num_dropped_tokens = 0
        """Tokens of full-attention layers that were dropped because little attention was paid to them."""
        self.num_judged_blocks = 0
        """Of its first blocks: they are published, or never will be."""
        self.published_blocks: list[int] = []
        """Which of its whole blocks it was the first to leave to others."""
        self.is_open = True

    def begin(self, num_tokens: int, num_reserved_tokens: int) -> None:
        """Its tables hold the KV of so many tokens, which others have computed, and have room for so many."""
        self.num_cached_tokens = self.num_computed_tokens = num_tokens
        self.num_reserved_tokens = num_reserved_tokens
        self.num_judged_blocks = num_tokens // BLOCK_SIZE

    def has_forgotten(self, num_tokens: int) -> bool:
        """Whether the last of its first `num_tokens` tokens did not see everything in full-attention layers: then its
        KV is not what a sequence that forgets nothing would have there."""
        if not any(table.group.is_full for table in self.tables):
            return False
        return self.num_dropped_tokens > 0 or self.strategy.attended.num_forgotten(num_tokens) > 0

    @property
    def is_lossy(self) -> bool:
        """The strategy may forget tokens."""
        return self.strategy.is_lossy and any(table.group.is_full for table in self.tables)

    @property
    def num_evicted_tokens(self) -> int:
        """Tokens that the last computed one does not see in full-attention layers, because the strategy forgot them."""
        if not any(table.group.is_full for table in self.tables):
            return 0
        return self.strategy.attended.num_forgotten(self.num_computed_tokens) + self.num_dropped_tokens

    @property
    def needs_rounds(self) -> bool:
        """A pass over this sequence is not just attention over hot blocks: some are cold, or attention is measured."""
        return self.strategy.follows_mass or any(table.num_cold_blocks for table in self.tables)

    def drop_least_attended(self, pool: BlockPool) -> None:
        """Forgets the full-attention blocks beyond the strategy's capacity, those with the least attention first."""
        if self.strategy.capacity_blocks is None:
            return
        for table in self.tables:
            if table.group.is_full:
                excess = max(0, table.num_kept_blocks - self.strategy.capacity_blocks)
                sealed = (block for block in table.kept_blocks() if block.sealed)
                forgotten = [block.index for block in table.by_worth(sealed)[:excess]]
                table.forget(pool, forgotten)
                self.num_dropped_tokens += len(forgotten) * BLOCK_SIZE

    def owned_blocks(self) -> Iterator[Block]:
        """Every block this sequence holds, once."""
        for table in self.tables:
            yield from table.kept_blocks()

    def stats(self) -> SequenceStats:
        """A snapshot; blocks count as whole, but for the last one."""
        table = next((table for table in self.tables if table.group.is_full), self.tables[0])
        num_cold_tokens = table.num_cold_blocks * BLOCK_SIZE
        num_kept_tokens = max(0, table.num_kept_blocks * BLOCK_SIZE - (table.num_tokens - self.num_computed_tokens))
        return SequenceStats(
            request_id=self.name,
            strategy=self.strategy.name,
            num_tokens=self.num_computed_tokens,
            num_hot_tokens=max(0, num_kept_tokens - num_cold_tokens),
            num_cold_tokens=num_cold_tokens,
            num_evicted_tokens=self.num_evicted_tokens,
        )
