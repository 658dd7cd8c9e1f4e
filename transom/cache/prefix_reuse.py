"""`PrefixReuse`: how a sequence begins with what others have computed, and what it leaves to others. Owns no bytes.

What is published is what a sequence that forgets nothing has: KV of whole blocks, as long as nothing before them was
forgotten. First come, first kept: who computed the same block later uses the earlier one instead of its own. A hit is
used in place, whatever tier it is in. Used by one thread, which waits only where the last block of a whole prompt, or a
state of convolutions, has to be read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import BLOCK_SIZE, Block, BlockState
from transom.cache.block_pool import BlockPool
from transom.cache.block_table import BlockTable, clear, clear_block
from transom.cache.cold_fetch import ColdFetch
from transom.cache.cold_tier import ColdTier
from transom.cache.conv_states import ConvStates
from transom.cache.demotion import Demotion
from transom.cache.hot_tier import HotTier
from transom.cache.layer_group import LayerGroup
from transom.cache.load_or_recompute import LoadOrRecompute
from transom.cache.no_cold_tier import NoColdTier
from transom.cache.prefix_hit import Hit, HitFinder
from transom.cache.prefix_index import PrefixIndex, PrefixNode
from transom.cache.prefix_key import tenant_tag
from transom.cache.reuse_counters import ReuseCounters
from transom.cache.reuse_room import ReuseRoom
from transom.cache.reuse_writer import MIN_TOKENS_WORTH_WRITING, ReuseWriter
from transom.cache.sequence_cache import SequenceCache
from transom.cache.snapshots import Snapshots
from transom.cache.stats import ReuseStats


class PrefixReuse:
    """Adopts and publishes for the sequences of one cache."""

    def __init__(
        self,
        groups: Sequence[LayerGroup],
        *,
        pool: BlockPool,
        index: PrefixIndex,
        cold_tier: ColdTier | NoColdTier,
        hot_tier: HotTier,
        demotion: Demotion,
        room: ReuseRoom,
        max_hot_blocks: int | None,
        snapshot_group: LayerGroup | None,
        conv_states: ConvStates,
        rates: LoadOrRecompute,
        writer: ReuseWriter,
    ) -> None:
        self._groups = groups
        self._pool = pool
        self._index = index
        self._hot_tier = hot_tier
        self._demotion = demotion
        self._room = room
        self._rates = rates
        self._writer = writer
        self._fetch = ColdFetch(pool, cold_tier)
        self._finder = HitFinder(groups, has_convolutions=conv_states.num_bytes > 0, max_hot_blocks=max_hot_blocks)
        self._snapshots = Snapshots(snapshot_group, conv_states, pool, index, hot_tier, self._fetch, demotion, room)
        self._max_hot_blocks = max_hot_blocks
        self._counters = ReuseCounters()

    def num_shared_slots(self, handle: SequenceCache) -> int:
        """Slots of blocks that open sequences use and that this one, which has not begun, would use too.

        Of full-attention layers alone: sliding ones need as much of their own later.
        """
        hit = self._find(handle, may_copy=False)
        if hit is None:
            return 0
        kinds = {group.kind: group.num_layers for group in self._groups if group.is_full}
        blocks = [(kind, node.blocks[kind]) for node in hit.nodes for kind in kinds]
        return sum(kinds[kind] for kind, block in blocks if block.holders)

    def adopt(self, handle: SequenceCache, tables: Sequence[BlockTable]) -> None:
        """The sequence, which has nothing yet, begins with the longest hit; `tables` are those of all open ones."""
        self._fetch.take_back_late()
        hit = self._worth_using(handle, self._find(handle, may_copy=True))
        while hit is not None and not self._adopt(handle, hit, tables):
            hit = self._worth_using(handle, self._find(handle, may_copy=False))

    def publish(self, handle: SequenceCache, num_tokens: int, border: tuple[int, NDArray[np.uint8]] | None) -> None:
        """Positions `< num_tokens` are computed and sealed; whole blocks of them that are not found yet will be.

        `border` is a position where a block begins, and what convolutions remember there; None where they do not.
        """
        chain = handle.chain
        if chain is None:
            return
        end = min(num_tokens // BLOCK_SIZE, chain.num_blocks)  # what was guessed right is known a moment later
        for index in range(handle.num_judged_blocks, end):
            if handle.has_forgotten((index + 1) * BLOCK_SIZE):
                break
            node = self._publish_block(handle, index)
            if border is not None and border[0] == (index + 1) * BLOCK_SIZE:
                self._snapshots.publish(node, border[1], handle.tables)
            self._want_if_long(handle, index)
        handle.num_judged_blocks = max(handle.num_judged_blocks, end)

    def close(self, handle: SequenceCache) -> None:
        """The sequence lets go of all it has, its tail first."""
        if handle.chain is not None and self._snapshots.group is not None:
            for index in reversed(range(max(table.num_blocks for table in handle.tables))):
                clear_block(handle.tables, self._pool, index)
                node = self._index.get(handle.chain.key(index)) if index < handle.chain.num_blocks else None
                if node is not None:
                    self._snapshots.touch(node)
        clear(handle.tables, self._pool)
        self._room.keep_within_cap()

    def drop_lost(self, blocks: Sequence[Block]) -> None:
        """Bytes of these blocks did not come back right: nobody will find them again."""
        for block in blocks:
            if block.is_indexed:
                self._index.drop(block)
                self._counters.num_lost_blocks += 1

    def stats(self) -> ReuseStats:
        """A snapshot."""
        return self._counters.snapshot(num_evicted_blocks=self._room.num_evicted_blocks)

    def _find(self, handle: SequenceCache, *, may_copy: bool, in_ram: bool = False) -> Hit | None:
        """The longest hit; `in_ram`: that needs nothing from the cold tier."""
        if handle.chain is None or not handle.may_hit:
            return None
        nodes = self._nodes(handle)
        if not nodes:
            return None
        return self._finder.longest(
            nodes,
            len(handle.token_ids),
            handle.strategy,
            may_use=lambda block: _may_use(handle, block) and not (in_ram and block.is_cold),
            may_copy=may_copy,
        )

    def _worth_using(self, handle: SequenceCache, hit: Hit | None) -> Hit | None:
        """The hit, or a shorter one in RAM, if the rest of it is sooner computed again than read."""
        if hit is None:
            return None
        blocks = [block for number, group in enumerate(self._groups) for block in hit.blocks_of(group, number)]
        blocks += [snapshot for snapshot in (self._snapshots.find(hit.nodes[-1]),) if snapshot is not None]
        num_cold_slots = sum(block.num_layers for block in blocks if block.is_cold)
        if num_cold_slots == 0:
            return hit
        shorter = self._find(handle, may_copy=False, in_ram=True)
        num_saved_tokens = hit.num_tokens - (shorter.num_tokens if shorter is not None else 0)
        if self._rates.is_worth_reading(num_cold_slots * self._hot_tier.slot_bytes, num_saved_tokens):
            return hit
        self._counters.num_recomputed_tokens += num_saved_tokens
        return shorter

    def _nodes(self, handle: SequenceCache) -> list[PrefixNode]:
        """The chain of the known tokens, as far as the index has it."""
        assert handle.chain is not None
        nodes: list[PrefixNode] = []
        for index in range(handle.chain.num_blocks):
            node = self._index.get(handle.chain.key(index))
            if node is None:
                break
            nodes.append(node)
        return nodes

    def _adopt(self, handle: SequenceCache, hit: Hit, tables: Sequence[BlockTable]) -> bool:
        """False: there is no room for the copy of the last block, or it did not come back right, or the state of the
        convolutions did not."""
        blocks = [hit.blocks_of(group, number) for number, group in enumerate(self._groups)]
        is_cold = [block.is_cold for of_group in blocks for block in of_group]
        num_cold_tokens = _num_cold_tokens(hit, blocks)
        sources = [self._pool.share(of_group.pop()) for of_group in blocks] if hit.is_whole_prompt else []
        for table, of_group, first in zip(handle.tables, blocks, hit.first_blocks, strict=True):
            self._fit_into_cap(of_group, has_own=hit.is_whole_prompt)
            table.adopt(self._pool, of_group, first)
        copies = self._copies(sources, tables) if sources else []
        for source in sources:
            self._pool.release(source)
        has_state = self._snapshots.group is None or self._snapshots.load(handle, hit.nodes[-1], tables)
        if copies is None or not has_state:
            clear(handle.tables, self._pool)
            return False
        for table, copy in zip(handle.tables, copies, strict=False):
            table.append(copy)
        handle.begin(hit.num_tokens, len(hit.nodes) * BLOCK_SIZE)
        self._index.note_used(hit.nodes)
        self._writer.want(hit.nodes)
        self._counters.count_hit(hit.num_tokens, is_cold.count(False), is_cold.count(True), num_cold_tokens)
        return True

    def _fit_into_cap(self, blocks: Sequence[Block], *, has_own: bool) -> None:
        """Blocks that are in both tiers leave RAM until the others are no more than a table may have there."""
        if self._max_hot_blocks is None:
            return
        hot = [block for block in blocks if not block.is_cold]
        num_over = len(hot) + has_own - self._max_hot_blocks
        for block in [block for block in hot if block.state is BlockState.CLEAN][: max(0, num_over)]:
            self._pool.demote(block)

    def _copies(self, sources: Sequence[Block], tables: Sequence[BlockTable]) -> list[Block] | None:
        """A block of each group that says the same as its source and may be written to."""
        if not self._demotion.free(tables, sum(block.num_layers for block in sources)):
            return None
        copies: list[Block] = []
        for group, source in zip(self._groups, sources, strict=True):
            copy = self._copy(group, source)
            if copy is None:
                self.drop_lost([source])
                for each in copies:
                    self._pool.release(each)
                return None
            copies.append(copy)
        return copies

    def _copy(self, group: LayerGroup, source: Block) -> Block | None:
        if source.is_cold:
            slots = self._fetch.fetch(source)
            return None if slots is None else self._pool.keep(group, source.start, slots)
        copy = self._pool.allocate(group, source.start)
        self._hot_tier.copy(source.slots, copy.slots)
        return copy

    def _want_if_long(self, handle: SequenceCache, index: int) -> None:
        """A chain that is long, or known to become so, is worth writing at once; one that grew, when it is long."""
        assert handle.chain is not None
        if handle.chain.num_blocks * BLOCK_SIZE < MIN_TOKENS_WORTH_WRITING:
            return
        first = 0 if (index + 1) * BLOCK_SIZE == MIN_TOKENS_WORTH_WRITING else index
        nodes = [self._index.get(handle.chain.key(each)) for each in range(first, index + 1)]
        self._writer.want(node for node in nodes if node is not None)
        self._writer.write_some()

    def _publish_block(self, handle: SequenceCache, index: int) -> PrefixNode:
        chain = handle.chain
        assert chain is not None
        key = chain.key(index)
        node = self._index.get(key)
        if node is None:
            node = PrefixNode(key, chain.key(index - 1), index, tenant_tag(chain.salt))
        own = [(table, table.block(index)) for table in handle.tables]
        is_new = [self._publish_own(handle, table, node, block) for table, block in own if block is not None]
        if any(is_new):
            handle.published_blocks.append(index)
        return node

    def _publish_own(self, handle: SequenceCache, table: BlockTable, node: PrefixNode, own: Block) -> bool:
        """Whether a block of the sequence is the one that others will find."""
        found = node.blocks.get(own.kind)
        if found is not None and not _may_use(handle, found):
            self._index.drop(found)
        elif found is not None:
            self._use_instead(table, found)
        return self._index.put(node, own)

    def _use_instead(self, table: BlockTable, found: Block) -> None:
        """A block that somebody published earlier takes the place of a table's own: the bytes are the same.

        Not of one that is being written, or was: the token that makes it known may come a pass after it was sealed.
        """
        cap, own = self._max_hot_blocks, table.block(found.index)
        if own is None or own is found or own.state is not BlockState.DIRTY:
            return
        if not found.is_cold or cap is None or all(holder.num_hot_blocks < cap for holder in found.holders):
            table.exchange(self._pool, found)


def _num_cold_tokens(hit: Hit, blocks: Sequence[Sequence[Block]]) -> int:
    """Tokens of the hit that have KV of any layer group on SSD alone; `blocks` are what each group needs of it."""
    indices = {
        first + offset
        for first, of_group in zip(hit.first_blocks, blocks, strict=True)
        for offset, block in enumerate(of_group)
        if block.is_cold
    }
    return sum(min(BLOCK_SIZE, hit.num_tokens - index * BLOCK_SIZE) for index in indices)


def _may_use(handle: SequenceCache, block: Block) -> bool:
    """Whoever lost KV stays away from everything that the cold tier has, even as a copy: it may be lost as well."""
    return handle.trusts_cold_tier or block.state is BlockState.DIRTY
