"""`Publishing`: tells the prefix store which blocks of the index are on SSD. Owns nothing, decides what is a record.

A block is published as soon as it is in the index and its write is confirmed, in whatever order that comes about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from transom.cache.block import Block, BlockState
from transom.cache.cold_tier import ColdTier
from transom.cache.no_cold_tier import NoColdTier
from transom.cache.prefix_record import BlockRecord, PrefixStore

if TYPE_CHECKING:
    from transom.cache.prefix_index import PrefixNode

_PLACED = (BlockState.CLEAN, BlockState.COLD)


class Publishing:
    """Between the index and the store. Quick; used by the engine's thread."""

    def __init__(self, store: PrefixStore, cold_tier: ColdTier | NoColdTier) -> None:
        self._store = store
        self._cold_tier = cold_tier

    def note_block(self, node: PrefixNode, block: Block) -> None:
        """A node has this block, or its write is over."""
        if block.state in _PLACED:
            checksums = self._cold_tier.checksums(block.kind, np.array([block.cold_index], np.int64))[:, 0]
            record = BlockRecord(
                node.key, node.parent, block.kind, node.index, block.cold_index, checksums, node.tenant
            )
            self._store.publish([record])

    def note_dropped(self, node: PrefixNode, block: Block) -> None:
        """Nobody will find this block any more."""
        if block.state in _PLACED:
            self._store.forget([(node.key, block.kind)])

    def note_used(self, nodes: Sequence[PrefixNode]) -> None:
        """A sequence began with these nodes, in order of position: heads are to outlive tails."""
        self._store.touch([node.key for node in reversed(nodes)])
