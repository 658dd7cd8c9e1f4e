"""`CacheManager`: the only door to keys and values. Owns their place and their room; computes nothing with them.

The scheduler asks it for room, the model runner for the view of one forward pass. Whatever lies behind it, paging,
tiers, reuse, strategies, is nobody else's business. Used by one thread, the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, cast

from transom import kernels
from transom.cache.block import BLOCK_SIZE
from transom.cache.block_pool import BlockPool
from transom.cache.block_table import BlockTable
from transom.cache.budget import Budget
from transom.cache.hot_tier import HotTier
from transom.cache.layer_cache import BatchPart, PagedLayerCache
from transom.cache.layer_group import LayerGroup, layer_groups
from transom.cache.sequence_cache import SequenceCache, TokenIds
from transom.cache.stats import CacheStats, KindStats, TierStats
from transom.config.engine_config import EngineConfig
from transom.config.model_config import ModelConfig


class CacheManager:
    """Keys and values of all sequences of one model, within `kv_cache_ram_bytes`.

    Raises ConfigError when not even one block fits.
    """

    def __init__(self, model_config: ModelConfig, engine_config: EngineConfig) -> None:
        kv_dtype = cast(Literal["f32", "f16"], engine_config.kv_dtype)  # validated there
        layout = kernels.KVLayout(model_config.num_key_value_heads, model_config.head_dim, kv_dtype)
        self._groups = layer_groups(model_config)
        self._budget = Budget(
            groups=self._groups,
            slot_bytes=layout.slot_bytes,
            budget_bytes=engine_config.kv_cache_ram_bytes,
            chunk=engine_config.max_num_batched_tokens,
        )
        self._pool = BlockPool(self._budget.num_slots)
        self._hot_tier = HotTier(layout, self._budget.num_slots)
        self._rows = _rows_by_layer(self._groups)
        self._handles: dict[SequenceCache, None] = {}

    @property
    def budget(self) -> Budget:
        """The arithmetic of what fits."""
        return self._budget

    def check_fits(self, num_tokens: int) -> None:
        """Raises BudgetExceededError when a sequence of `num_tokens` can never fit, however idle the server is."""
        self._budget.check_fits(num_tokens)

    def open(self, token_ids: TokenIds) -> SequenceCache:
        """A handle for a sequence that begins with `token_ids`.

        The cache looks at this very object again later, so tokens that its owner appends are known too. The first
        `num_cached_tokens` of the handle need no computation. Takes no room. Every handle must be closed.
        """
        handle = SequenceCache(self._groups, token_ids)
        self._handles[handle] = None
        return handle

    def can_start(self, handle: SequenceCache) -> bool:
        """Whether starting this sequence now is wise; changes nothing.

        Yes, if all its known tokens have room beside what the other open sequences still lack for theirs, and every one
        of them can grow by a block after that: whoever starts then is not soon preempted. A sequence that is alone can
        always start, since `check_fits` has passed.
        """
        others = [other for other in self._handles if other is not handle]
        if not others:
            return True
        wanted = sum(self._num_lacking_slots(each) for each in (handle, *others))
        headroom = len(self._handles) * sum(group.num_layers for group in self._groups)
        return wanted + headroom <= self._pool.num_free_slots

    def reserve(self, handle: SequenceCache, num_tokens: int) -> bool:
        """Makes room for KV of positions `< num_tokens`: all of it, or none. False = not now, and nothing changed."""
        _check_open(handle)
        if sum(table.num_missing_slots(num_tokens) for table in handle.tables) > self._pool.num_free_slots:
            return False
        for table in handle.tables:
            table.extend(self._pool, num_tokens)
        handle.num_reserved_tokens = max(handle.num_reserved_tokens, num_tokens)
        return True

    def commit(self, handle: SequenceCache, num_tokens: int) -> None:
        """Positions `< num_tokens` are computed: seals full blocks, frees those that no later token can see.

        Raises ValueError when the count goes back or beyond what was reserved.
        """
        _check_open(handle)
        if not handle.num_computed_tokens <= num_tokens <= handle.num_reserved_tokens:
            raise ValueError(
                f"cannot commit {num_tokens} tokens: {handle.num_computed_tokens} are committed, "
                f"{handle.num_reserved_tokens} are reserved"
            )
        for table in handle.tables:
            table.seal(handle.num_computed_tokens, num_tokens)
            table.drop_invisible(self._pool, num_tokens)
        handle.num_computed_tokens = num_tokens

    def close(self, handle: SequenceCache) -> None:
        """Gives everything back at once. Closing again does nothing."""
        if not handle.is_open:
            return
        handle.is_open = False
        del self._handles[handle]
        for table in reversed(handle.tables):
            table.clear(self._pool)

    def layer_cache(self, parts: Sequence[BatchPart]) -> PagedLayerCache:
        """The view of one forward pass over `parts`, at least one: (handle, start, num_tokens) per sequence, in order.

        Each part continues its sequence where the last commit ended, inside what was reserved, so attention never reads
        a position that this sequence has not written; ValueError otherwise.
        """
        for handle, start, num_tokens in parts:
            _check_part(handle, start, num_tokens)
        return PagedLayerCache(self._hot_tier, self._rows, parts)

    def stats(self) -> CacheStats:
        """Blocks and bytes, used and total."""
        return CacheStats(
            block_size=BLOCK_SIZE,
            num_sequences=len(self._handles),
            num_tokens=sum(handle.num_computed_tokens for handle in self._handles),
            tiers=(TierStats("hot", self._pool.num_used_slots * self._budget.slot_bytes, self._hot_tier.num_bytes),),
            kinds=tuple(self._kind_stats(group) for group in self._groups),
        )

    def check_integrity(self) -> None:
        """Raises AssertionError when a block is leaked, owned twice or miscounted. Costs a walk over all blocks."""
        for table in self._tables():
            table.check_integrity()
        self._pool.check_integrity([block for handle in self._handles for block in handle.owned_blocks()])
        assert self._hot_tier.num_bytes <= self._budget.budget_bytes, "the arena is larger than the budget"

    def _tables(self) -> Iterable[BlockTable]:
        return (table for handle in self._handles for table in handle.tables)

    def _num_lacking_slots(self, handle: SequenceCache) -> int:
        """Slots that the sequence will need, at its peak, beside those it has, for the tokens known so far."""
        return sum(
            self._num_lacking_blocks(table, len(handle.token_ids)) * table.group.num_layers for table in handle.tables
        )

    def _num_lacking_blocks(self, table: BlockTable, num_tokens: int) -> int:
        return max(0, table.group.peak_blocks(num_tokens, self._budget.chunk) - table.num_kept_blocks)

    def _kind_stats(self, group: LayerGroup) -> KindStats:
        num_blocks_used = self._pool.num_blocks(group.kind)
        return KindStats(
            kind=group.kind,
            num_layers=group.num_layers,
            num_blocks_used=num_blocks_used,
            num_blocks_total=self._pool.num_slots // group.num_layers,
            num_bytes_used=num_blocks_used * group.num_layers * self._budget.slot_bytes,
        )


def _rows_by_layer(groups: Sequence[LayerGroup]) -> dict[int, tuple[int, int]]:
    """Layer index -> (index of its group, row in the group's tables)."""
    return {
        layer: (group_index, row)
        for group_index, group in enumerate(groups)
        for row, layer in enumerate(group.layer_indices)
    }


def _check_open(handle: SequenceCache) -> None:
    if not handle.is_open:
        raise ValueError("the sequence is closed")


def _check_part(handle: SequenceCache, start: int, num_tokens: int) -> None:
    _check_open(handle)
    if start != handle.num_computed_tokens or num_tokens < 1 or start + num_tokens > handle.num_reserved_tokens:
        raise ValueError(
            f"cannot compute positions {start} .. {start + num_tokens}: {handle.num_computed_tokens} tokens are "
            f"committed, {handle.num_reserved_tokens} are reserved"
        )
