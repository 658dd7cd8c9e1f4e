"""How much of a sequence the index knows. Owns the rule for where a hit may end; moves nothing.

A hit ends where every kind of layers has what the next token needs: full-attention layers all blocks before it, sliding
ones those that its window sees, convolutions what they remember there. That is the intersection of what the kinds
allow, not the shortest of what they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import BLOCK_SIZE, Block, BlockState
from transom.cache.layer_group import LayerGroup
from transom.cache.prefix_index import PrefixNode
from transom.cache.strategy import FULL, Strategy
from transom.config.model_config import LayerKind


@dataclass(frozen=True, slots=True)
class Hit:
    """The KV of the first `num_tokens` positions of a sequence."""

    num_tokens: int
    nodes: tuple[PrefixNode, ...]
    """Of the whole blocks it reaches into."""
    first_blocks: tuple[int, ...]
    """By layer group: blocks before are not needed."""

    @property
    def is_whole_prompt(self) -> bool:
        """Only the last known token is missing; its block is used as a copy, since that token is computed again."""
        return self.num_tokens % BLOCK_SIZE > 0

    def blocks_of(self, group: LayerGroup, group_index: int) -> list[Block]:
        """The blocks that the layers of a group need, in order."""
        return [node.blocks[group.kind] for node in self.nodes[self.first_blocks[group_index] :]]


@dataclass(frozen=True, slots=True)
class _KindOfHit:
    """What the index has for one group along a chain."""

    group: LayerGroup
    last_missing: NDArray[np.int64]  # by block: the last one up to it that is not there, or -1
    num_stuck: NDArray[np.int64]  # by block: how many before it are in RAM alone

    def first_needed(self, position: int) -> int:
        """Of the blocks before the token at `position`; what its strategy forgets was not forgotten so far."""
        return self.group.attended(FULL).first_recent(position) // BLOCK_SIZE


class HitFinder:
    """Finds the longest legal end. `max_hot_blocks` caps what of a sequence may be in RAM in one group, None = not."""

    def __init__(self, groups: Sequence[LayerGroup], *, has_convolutions: bool, max_hot_blocks: int | None) -> None:
        self._groups = groups
        self._has_convolutions = has_convolutions
        self._max_hot_blocks = max_hot_blocks

    def longest(
        self,
        nodes: Sequence[PrefixNode],
        num_known_tokens: int,
        strategy: Strategy,
        *,
        may_use: Callable[[Block], bool],
        may_copy: bool,
    ) -> Hit | None:
        """The longest hit along a chain that leaves at least one token to be computed; None if there is none.

        `may_copy`: where all known tokens are whole blocks of the chain, all but the last token may be the hit.
        """
        kinds = [self._kind(group, nodes, may_use) for group in self._groups]
        for position in self._candidates(len(nodes), num_known_tokens, may_copy):
            if self._is_legal(position, nodes, kinds, strategy, may_use):
                num_blocks = -(-position // BLOCK_SIZE)
                firsts = tuple(kind.first_needed(position) for kind in kinds)
                return Hit(position, tuple(nodes[:num_blocks]), firsts)
        return None

    def _candidates(self, num_nodes: int, num_known_tokens: int, may_copy: bool) -> Iterator[int]:
        """Ends, longest first."""
        if may_copy and num_known_tokens == num_nodes * BLOCK_SIZE and not self._has_convolutions:
            yield num_known_tokens - 1
        for num_blocks in reversed(range(1, min(num_nodes, (num_known_tokens - 1) // BLOCK_SIZE) + 1)):
            yield num_blocks * BLOCK_SIZE

    def _is_legal(
        self,
        position: int,
        nodes: Sequence[PrefixNode],
        kinds: Sequence[_KindOfHit],
        strategy: Strategy,
        may_use: Callable[[Block], bool],
    ) -> bool:
        last = -(-position // BLOCK_SIZE) - 1
        if any(kind.group.is_full for kind in kinds) and strategy.attended.num_forgotten(position) > 0:
            return False
        if any(kind.last_missing[last] >= kind.first_needed(position) for kind in kinds):
            return False
        if self._has_convolutions:
            snapshot = nodes[last].blocks.get(LayerKind.SHORT_CONV)
            if snapshot is None or not may_use(snapshot):
                return False
        return all(self._is_within_cap(kind, position) for kind in kinds)

    def _is_within_cap(self, kind: _KindOfHit, position: int) -> bool:
        """Blocks that have a copy in the cold tier can leave RAM at once; the copied one takes room of its own."""
        if self._max_hot_blocks is None:
            return True
        num_own = position % BLOCK_SIZE > 0
        end = position // BLOCK_SIZE
        num_stuck = int(kind.num_stuck[end] - kind.num_stuck[min(end, kind.first_needed(position))])
        return num_stuck + num_own <= self._max_hot_blocks

    def _kind(self, group: LayerGroup, nodes: Sequence[PrefixNode], may_use: Callable[[Block], bool]) -> _KindOfHit:
        blocks = [node.blocks.get(group.kind) for node in nodes]
        is_there = np.array([block is not None and may_use(block) for block in blocks], np.bool_)
        missing = np.where(is_there, -1, np.arange(len(nodes)))
        in_ram_alone = (BlockState.DIRTY, BlockState.WRITING)
        is_stuck = [block is not None and block.state in in_ram_alone for block in blocks]
        return _KindOfHit(group, np.maximum.accumulate(missing), np.cumsum([0, *is_stuck], dtype=np.int64))
