"""`Snapshots`: what convolutions remember at the end of a chain, as a block of the index. Owns no memory.

A snapshot is reuse data from birth: no sequence ever uses it in place. Whoever begins behind it gets a copy as its own
state. Used by one thread, which waits only where a snapshot has to be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import BLOCK_SIZE, Block
from transom.cache.block_pool import BlockPool
from transom.cache.block_table import BlockTable
from transom.cache.cold_fetch import ColdFetch
from transom.cache.conv_states import ConvStates
from transom.cache.demotion import Demotion
from transom.cache.hot_tier import HotTier
from transom.cache.layer_group import LayerGroup
from transom.cache.prefix_index import PrefixIndex, PrefixNode
from transom.cache.reuse_room import ReuseRoom
from transom.cache.sequence_cache import SequenceCache


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Of one model; `group` None: it has no convolutions, and nothing is ever asked of this."""

    group: LayerGroup | None
    states: ConvStates
    pool: BlockPool
    index: PrefixIndex
    hot_tier: HotTier
    fetch: ColdFetch
    demotion: Demotion
    room: ReuseRoom

    def find(self, node: PrefixNode) -> Block | None:
        """The snapshot behind a node's last token, if there is one."""
        return None if self.group is None else node.blocks.get(self.group.kind)

    def publish(self, node: PrefixNode, state: NDArray[np.uint8], tables: Sequence[BlockTable]) -> None:
        """Keeps a state for whoever begins behind this node, if a place in RAM is free, or other reuse data has one, or
        blocks of the sequence itself, whose `tables` these are, that the cold tier has, too."""
        if self.group is None or self.find(node) is not None:
            return
        self.room.free_hot(self.group.num_layers - self.pool.num_free_slots)
        self.demotion.drop_clean(tables, self.group.num_layers - self.pool.num_free_slots)
        if self.group.num_layers > self.pool.num_free_slots:
            return
        snapshot = self.pool.allocate(self.group, node.index * BLOCK_SIZE)
        snapshot.sealed = True
        self.hot_tier.write(snapshot.slots, state)
        self.index.put(node, snapshot)
        self.pool.release(snapshot)

    def load(self, handle: SequenceCache, node: PrefixNode, tables: Sequence[BlockTable]) -> bool:
        """Gives a sequence the state behind this node. False: it cannot be had, and will not be found again.

        `tables` are those of all open sequences, which may have to make room for bytes on their way.
        """
        snapshot = self.find(node)
        if snapshot is None:
            return False
        self.pool.share(snapshot)
        state = self._bytes(snapshot, tables)
        if state is None:
            self.index.drop(snapshot)
        else:
            self.states.load(handle, state)
        self.pool.release(snapshot)
        return state is not None

    def touch(self, node: PrefixNode) -> None:
        """A sequence that went through this node has just let go of its blocks there."""
        snapshot = self.find(node)
        if snapshot is not None:
            self.pool.reuse.touch(snapshot)

    def _bytes(self, snapshot: Block, tables: Sequence[BlockTable]) -> NDArray[np.uint8] | None:
        if not snapshot.is_cold:
            return self.hot_tier.read(snapshot.slots)
        if not self.demotion.free(tables, snapshot.num_layers):
            return None
        slots = self.fetch.fetch(snapshot)
        if slots is None:
            return None
        state = self.hot_tier.read(slots)
        self.pool.take_back(slots)
        return state
