"""`CacheManager`: the only door to keys and values. Owns their place and their room; computes nothing with them.

The scheduler asks it for room, the model runner for the view of one forward pass. Whatever lies behind it, paging,
tiers, reuse, strategies, is nobody else's business. Used by one thread, the engine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from transom.cache.admission import Admission
from transom.cache.block_pool import BlockPool
from transom.cache.block_table import BlockTable
from transom.cache.budget import Budget, ram_budget
from transom.cache.budget_plan import cold_groups, kv_layout
from transom.cache.cache_report import CacheReport
from transom.cache.chunking import Chunking
from transom.cache.cold_file import Identify
from transom.cache.cold_setup import open_cold_tier
from transom.cache.cold_tier import ColdTier
from transom.cache.conv_states import ConvStates
from transom.cache.demotion import Demotion
from transom.cache.file_system import FileSystem, RealFileSystem
from transom.cache.hot_tier import HotTier
from transom.cache.layer_cache import BatchPart, LayerRows, PagedLayerCache
from transom.cache.layer_group import LayerGroup, layer_groups, snapshot_group
from transom.cache.load_or_recompute import LoadOrRecompute
from transom.cache.no_cold_tier import NoColdTier
from transom.cache.prefix_index import PrefixIndex
from transom.cache.prefix_key import KeyChain
from transom.cache.prefix_record import NoPrefixStore, PrefixStore
from transom.cache.prefix_reuse import PrefixReuse
from transom.cache.promotion import Promotion
from transom.cache.publishing import Publishing
from transom.cache.reuse_room import ReuseRoom
from transom.cache.reuse_writer import ReuseWriter
from transom.cache.sequence_cache import SequenceCache, TokenIds
from transom.cache.staging_ring import StagingRing
from transom.cache.stats import CacheStats, TierState
from transom.cache.strategy import Strategy, strategy_of
from transom.cache.tiered_layer_cache import TieredLayerCache
from transom.cache.window import SequenceWindow, window_of
from transom.config.engine_config import EngineConfig
from transom.config.kv_size import cold_slot_bytes
from transom.config.model_config import ModelConfig
from transom.request import CacheOptions

_FLUSH_SECONDS = 2.0
"""How long a shutdown goes on writing what the next run may want."""


class CacheManager:
    """Keys and values of all sequences of one model, within `kv_cache_ram_bytes` and `max_ssd_bytes`.

    Raises ConfigError when not even one block fits, or the directory of the cold tier cannot be used. With a cold tier
    it owns threads and a locked directory until `shut_down`.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        engine_config: EngineConfig,
        *,
        identify: Identify | None = None,
        file_system: FileSystem | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`identify` says what model and rules make the keys and values: those of the same may outlive this cache, in a
        cold tier. None: nothing does, and nobody needs to know.

        `file_system` None is the real one; `clock` is monotonic, in seconds.
        """
        layout = kv_layout(model_config, engine_config)
        self._groups = layer_groups(model_config)
        self._rows = _rows_by_layer(self._groups)
        self._default_options = engine_config.cache
        self._conv_states = ConvStates(model_config, engine_config.max_num_seqs)
        budget = ram_budget(self._groups, layout.slot_bytes, engine_config, self._conv_states.num_bytes)
        self._hot_tier = HotTier(layout, budget.num_slots)
        snapshots = snapshot_group(model_config, layout.slot_bytes) if engine_config.enable_prefix_cache else None
        self._cold_tier: ColdTier | NoColdTier = NoColdTier()
        prefix_store: PrefixStore = NoPrefixStore()
        identity = b""
        if engine_config.has_cold_tier and engine_config.ssd_path is not None:
            opened = open_cold_tier(
                model_config,
                engine_config,
                engine_config.ssd_path,
                groups=cold_groups(model_config, engine_config, layout.slot_bytes),
                slot_bytes=layout.slot_bytes,
                arena=self._hot_tier.arena,
                file_system=file_system or RealFileSystem(),
                clock=clock,
                identify=identify if engine_config.enable_prefix_cache else None,
            )
            self._cold_tier, prefix_store, identity = opened.tier, opened.prefix_store, opened.identity or b""
        self._budget = replace(budget, num_cold_slots=self._cold_tier.num_slots)
        self._pool = BlockPool(budget.num_hot_slots, self._cold_tier)
        self._ring = StagingRing(self._cold_tier, budget.num_hot_slots, budget.num_staging_slots, layout.slot_bytes)
        index = PrefixIndex(self._pool, Publishing(prefix_store, self._cold_tier))
        room = ReuseRoom(self._pool, index, _max_reuse_slots(engine_config, layout.slot_bytes))
        self._demotion = Demotion(self._pool, self._cold_tier, room, budget.max_hot_blocks)
        self._promotion = Promotion(self._pool, self._cold_tier, room, layout.slot_bytes, budget.max_hot_blocks)
        self._chunking = Chunking(self._budget, self._demotion)
        self._rates = LoadOrRecompute(clock, self._cold_tier.read_totals)
        self._writer = ReuseWriter(self._cold_tier, room, layout.slot_bytes)
        self._reuse = PrefixReuse(
            self._groups,
            pool=self._pool,
            index=index,
            cold_tier=self._cold_tier,
            hot_tier=self._hot_tier,
            demotion=self._demotion,
            room=room,
            max_hot_blocks=budget.max_hot_blocks,
            snapshot_group=snapshots,
            conv_states=self._conv_states,
            rates=self._rates,
            writer=self._writer,
        )
        self._admission = Admission(self._budget, self._pool, self._cold_tier, self._reuse)
        self._report = CacheReport(
            self._budget, self._pool, self._hot_tier, self._cold_tier, self._reuse, self._conv_states, snapshots
        )
        self._index = index
        self._identity = identity if engine_config.enable_prefix_cache else None
        self._handles: dict[SequenceCache, None] = {}
        self._prefix_store = prefix_store
        self._keeps_blocks = not isinstance(prefix_store, NoPrefixStore)
        index.restore(prefix_store.load())
        room.keep_within_cap()

    @property
    def budget(self) -> Budget:
        """The arithmetic of what fits."""
        return self._budget

    @property
    def is_waiting_for_disk(self) -> bool:
        """The cold tier takes no blocks for the moment, because its disk is full or hangs: room may come later."""
        return self._cold_tier.state is TierState.PAUSED

    def cold_reads(self) -> tuple[int, float]:
        """Bytes that came from the cold tier so far, and seconds in which nothing was done but wait for it. Quick."""
        return self._cold_tier.read_totals()[0], self._cold_tier.stall_seconds()

    def check_fits(self, num_tokens: int, options: CacheOptions | None = None) -> None:
        """Raises BudgetExceededError when a sequence of `num_tokens` can never fit, however idle the server is."""
        self._budget.check_fits(num_tokens, self._strategy(options))

    def open(
        self,
        token_ids: TokenIds,
        options: CacheOptions | None = None,
        name: str = "",
        *,
        salt: str = "",
        may_hit: bool = True,
        trusts_cold_tier: bool = True,
    ) -> SequenceCache:
        """A handle for a sequence that begins with `token_ids`.

        The cache looks at this very object again later, so tokens that its owner appends are known too. `options` None
        are the configured ones; `name` appears in statistics. Takes no room. Every handle must be closed.

        Only sequences of one `salt` share blocks. `may_hit` False: this one computes everything itself, for others,
        too. `trusts_cold_tier` False: it begins with nothing that has a place on SSD.
        """
        strategy = self._strategy(options)
        handle = SequenceCache(
            self._groups,
            token_ids,
            strategy,
            name,
            chain=None if self._identity is None else KeyChain(self._identity, salt, token_ids),
            may_hit=may_hit and strategy.capacity_blocks is None,  # which attention decides that nobody has measured
            trusts_cold_tier=trusts_cold_tier,
        )
        self._handles[handle] = None
        return handle

    def adopt(self, handle: SequenceCache) -> int:
        """Begins a sequence with the KV of others, as far as it is there; its `num_cached_tokens`, fewer than are
        known: so many need no computation.

        At most once, before anything is reserved. May wait for the disk, at most DEADLINE_SECONDS.
        """
        _check_open(handle)
        if handle.num_reserved_tokens > 0:
            raise ValueError("the sequence has begun already")
        self._demotion.take_in_writes()
        self._reuse.adopt(handle, self._tables())
        return handle.num_cached_tokens

    def can_start(self, handle: SequenceCache) -> bool:
        """Whether starting this sequence now is wise, before anything was adopted for it; changes nothing.

        Yes, if all its known tokens have room beside what the other open sequences still lack for theirs, and every one
        of them can grow by a block after that: whoever starts then is not soon preempted. A sequence that is alone can
        always start, since `check_fits` has passed.
        """
        others = [other for other in self._handles if other is not handle]
        self._demotion.take_in_writes()
        return self._admission.can_start(handle, others)

    def prefill_chunk(self, handle: SequenceCache, wanted: int) -> int:
        """How many of the next `wanted` tokens one step should compute for this sequence; at least 1.

        More than `max_num_batched_tokens` where cold blocks are read once for the whole chunk; fewer where the room in
        RAM or the strategy wants it so.
        """
        self._demotion.take_in_writes()
        return self._chunking.chunk(handle, wanted, self._tables())

    def reserve(self, handle: SequenceCache, num_tokens: int) -> bool:
        """Makes room for KV of positions `< num_tokens`: all of it, or none. False = not now; nothing was reserved.

        With a cold tier other blocks may have to leave RAM for it: waits for their writes, at most DEADLINE_SECONDS.
        """
        _check_open(handle)
        if self._promotion.is_under_way and not self._has_room_beside_promotion(handle, num_tokens):
            self._promotion.settle()
        if not self._demotion.make_room(self._tables(), handle.tables, num_tokens):
            return False
        for table in handle.tables:
            table.extend(self._pool, num_tokens)
        handle.num_reserved_tokens = max(handle.num_reserved_tokens, num_tokens)
        return True

    def draft_room(self, handle: SequenceCache) -> int:
        """How many tokens behind the known ones could be computed in the blocks that the sequence has; such a pass may
        be committed in part. 0 where passes themselves decide what is forgotten."""
        _check_open(handle)
        if handle.strategy.capacity_blocks is not None:
            return 0
        return max(0, min(table.num_tokens for table in handle.tables) - len(handle.token_ids))

    def commit(self, handle: SequenceCache, num_tokens: int) -> None:
        """Positions `< num_tokens` are computed: seals full blocks, which others may use from now on, and lets go of
        those that no later token can see.

        They may be fewer than the last pass computed, if it had at most MAX_REWOUND_ROWS rows of the sequence; the next
        pass computes the others again.
        Raises ValueError when the count goes back or beyond what was reserved.
        """
        _check_open(handle)
        if not handle.num_computed_tokens <= num_tokens <= handle.num_reserved_tokens:
            raise ValueError(
                f"cannot commit {num_tokens} tokens: {handle.num_computed_tokens} are committed, "
                f"{handle.num_reserved_tokens} are reserved"
            )
        self._rates.end_pass()
        self._conv_states.commit(handle, num_tokens)
        for table in handle.tables:
            table.seal(handle.num_computed_tokens, num_tokens)
        self._reuse.publish(handle, num_tokens, self._conv_states.take_border(handle))
        for table in handle.tables:
            table.drop_invisible(self._pool, num_tokens)
        handle.num_computed_tokens = num_tokens
        handle.drop_least_attended(self._pool)
        self._cold_tier.trim()

    def close(self, handle: SequenceCache) -> None:
        """Gives everything back at once, but for RAM that a write still reads, and what may be of use to others: that
        is theirs until its room is wanted. Closing again does nothing."""
        if not handle.is_open:
            return
        handle.is_open = False
        del self._handles[handle]
        self._promotion.take_in()
        self._conv_states.close(handle)
        self._reuse.close(handle)
        self._cold_tier.trim()

    def layer_cache(self, parts: Sequence[BatchPart]) -> PagedLayerCache | TieredLayerCache:
        """The view of one forward pass over `parts`, at least one: (handle, start, num_tokens) per sequence, in order.

        Each part continues its sequence where the last commit ended, inside what was reserved, so attention never reads
        a position that this sequence has not written; ValueError otherwise. Views made before are void. With a cold
        tier, reading what the pass needs begins here, and so does writing what must make room for the next one.
        """
        for handle, start, num_tokens in parts:
            _check_part(handle, start, num_tokens)
        self._demotion.take_in_writes()
        self._promotion.take_in()
        num_needed_slots = self._chunking.write_ahead(parts, self._tables())
        self._writer.write_some()
        is_in_ram = not any(handle.needs_rounds for handle, _, _ in parts)
        self._rates.begin_pass(sum(num_tokens for _, _, num_tokens in parts) if is_in_ram else 0)
        if is_in_ram:
            return PagedLayerCache(self._hot_tier, self._rows, parts, self._conv_states.begin(parts))
        num_spare_slots = self._pool.num_free_slots + self._pool.reuse.num_hot_slots - num_needed_slots
        self._promotion.begin([table for handle, _, _ in parts for table in handle.tables], num_spare_slots)
        return TieredLayerCache(
            self._hot_tier,
            self._ring,
            self._rows,
            parts,
            self._conv_states.begin(parts),
            drop_lost=self._reuse.drop_lost,
        )

    def tend(self) -> None:
        """Between requests: goes on writing what later ones may want. Quick."""
        self._demotion.take_in_writes()
        self._writer.write_some(is_idle=True)

    def flush(self, seconds: float) -> bool:
        """Waits until what is worth it is written and would survive anything; False: it does not yet, or never will."""
        self._writer.flush(seconds, self._demotion.take_in_writes)
        return self._prefix_store.flush(seconds)

    def shut_down(self) -> None:
        """Ends the cold tier: its directory is free for others, with what is published in it. Idempotent; the last
        call."""
        if self._keeps_blocks:
            self._writer.flush(_FLUSH_SECONDS, self._demotion.take_in_writes)
            self._keeps_blocks = False
        self._demotion.take_in_writes()
        self._cold_tier.close()

    def stats(self) -> CacheStats:
        """Blocks and bytes, used and total, as of now."""
        self._demotion.take_in_writes()
        self._cold_tier.trim()
        return self._report.stats(tuple(self._handles))

    def windows(self) -> tuple[SequenceWindow, ...]:
        """What the window of each open sequence looks like, as of now. Costs a walk over their blocks."""
        return tuple(window_of(handle, self._promotion.blocks_on_the_way()) for handle in self._handles)

    def check_integrity(self) -> None:
        """Raises AssertionError when a block is leaked, owned twice or miscounted. Costs a walk over all blocks."""
        for table in self._tables():
            table.check_integrity()
        used = [block for handle in self._handles for block in handle.owned_blocks()]
        owned = [*used, *self._index.blocks()]
        self._index.check_integrity()
        self._pool.check_integrity(owned)
        self._cold_tier.check_integrity(list(dict.fromkeys(owned)))
        assert all(used.count(block) == len(block.holders) for block in owned), "a block names a table that is gone"
        self._ring.check_integrity()
        self._conv_states.check_integrity(list(self._handles))
        cap = self._budget.max_hot_blocks
        assert cap is None or all(table.num_hot_blocks <= cap for table in self._tables()), "hot_tokens is exceeded"
        num_bytes = self._hot_tier.num_bytes + self._conv_states.num_bytes
        assert num_bytes <= self._budget.budget_bytes, "arena and states are larger than the budget"

    def _strategy(self, options: CacheOptions | None) -> Strategy:
        return strategy_of(
            options or self._default_options,
            capacity_blocks=self._budget.capacity_blocks,
            chunk=self._budget.chunk,
            has_cold_tier=self._budget.has_cold_tier,
        )

    def _tables(self) -> list[BlockTable]:
        return [table for handle in self._handles for table in handle.tables]

    def _has_room_beside_promotion(self, handle: SequenceCache, num_tokens: int) -> bool:
        """Whether the missing blocks need nothing of what blocks are coming back into: slots, or a share of the cap."""
        num_missing = sum(table.num_missing_slots(num_tokens) for table in handle.tables)
        has_cap = self._budget.max_hot_blocks is not None
        return num_missing == 0 or (num_missing <= self._pool.num_free_slots and not has_cap)


def _max_reuse_slots(engine_config: EngineConfig, slot_bytes: int) -> int | None:
    """Slots on SSD that reuse data may take; None = all."""
    if engine_config.max_reuse_ssd_bytes is None:
        return None
    return engine_config.max_reuse_ssd_bytes // cold_slot_bytes(slot_bytes)


def _rows_by_layer(groups: Sequence[LayerGroup]) -> LayerRows:
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
