"""`ReuseData`: the blocks that nobody but the prefix index owns, in the order in which they are to be forgotten.

They are worth their place only as long as nobody else wants it. Whoever was let go of first goes first; a sequence lets
go of its blocks from its tail to its head, so tails go before the heads that others may share. Owns the order and the
counts; moves and frees nothing. Used by one thread.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator

from transom.cache.block import Block, BlockState
from transom.config.model_config import LayerKind


class ReuseData:
    """Blocks by tier, each oldest first."""

    def __init__(self) -> None:
        self._hot: OrderedDict[Block, int] = OrderedDict()  # slots that the block has in the cold tier, too
        self._cold: OrderedDict[Block, None] = OrderedDict()
        self._num_hot_blocks: Counter[LayerKind] = Counter()
        self._num_cold_blocks: Counter[LayerKind] = Counter()
        self._num_hot_slots = 0
        self._num_copied_slots = 0
        self._num_cold_slots = 0

    def num_hot_blocks(self, kind: LayerKind) -> int:
        """Blocks in RAM."""
        return self._num_hot_blocks[kind]

    def num_cold_blocks(self, kind: LayerKind) -> int:
        """Blocks in the cold tier alone."""
        return self._num_cold_blocks[kind]

    @property
    def num_hot_slots(self) -> int:
        """Slots of RAM that can be had from these blocks."""
        return self._num_hot_slots

    @property
    def num_copied_slots(self) -> int:
        """Those of them whose bytes have a place in the cold tier, too, or are on their way to it."""
        return self._num_copied_slots

    @property
    def num_cold_slots(self) -> int:
        """Slots' worth of blocks that are in the cold tier alone."""
        return self._num_cold_slots

    @property
    def num_placed_slots(self) -> int:
        """Slots' worth of places in the cold tier that can be had from these blocks."""
        return self._num_cold_slots + self._num_copied_slots

    def add(self, block: Block) -> None:
        """The index is the block's only owner from now on; it was used until now."""
        if block.is_cold:
            self._cold[block] = None
            self._num_cold_blocks[block.kind] += 1
            self._num_cold_slots += block.num_layers
        else:
            self._hot[block] = 0
            self._num_hot_blocks[block.kind] += 1
            self._num_hot_slots += block.num_layers
            self.note_state(block)

    def discard(self, block: Block) -> bool:
        """The block is in use again, or gone. Whether it was here."""
        if block in self._hot:
            self._num_hot_blocks[block.kind] -= 1
            self._num_hot_slots -= block.num_layers
            self._num_copied_slots -= self._hot.pop(block)
            return True
        if block in self._cold:
            del self._cold[block]
            self._num_cold_blocks[block.kind] -= 1
            self._num_cold_slots -= block.num_layers
            return True
        return False

    def note_state(self, block: Block) -> None:
        """A block in RAM, of whomever, may have got a place in the cold tier, or lost it."""
        if block in self._hot:
            num_copied = 0 if block.state is BlockState.DIRTY else block.num_layers
            self._num_copied_slots += num_copied - self._hot[block]
            self._hot[block] = num_copied

    def touch(self, block: Block) -> None:
        """The block was used just now, if it is here at all."""
        if self.discard(block):
            self.add(block)

    def hot_blocks(self) -> Iterator[Block]:
        """Those in RAM, oldest first. Nothing may be added or discarded meanwhile."""
        return iter(self._hot)

    def cold_blocks(self) -> Iterator[Block]:
        """Those in the cold tier alone, oldest first."""
        return iter(self._cold)

    def check_integrity(self, unused: Iterable[Block]) -> None:
        """`unused` are all blocks that only the index owns. Raises AssertionError when something is miscounted."""
        assert {*self._hot, *self._cold} == set(unused), "reuse data is not what only the index owns"
        assert not any(block.is_cold for block in self._hot), "a cold block counts as one in RAM"
        assert all(block.is_cold for block in self._cold), "a block in RAM counts as a cold one"
        assert self._num_hot_slots == sum(block.num_layers for block in self._hot), "hot reuse data is miscounted"
        copied = sum(block.num_layers for block in self._hot if block.state is not BlockState.DIRTY)
        assert self._num_copied_slots == copied == sum(self._hot.values()), "copies of reuse data are miscounted"
        assert self._num_hot_blocks == Counter(block.kind for block in self._hot), "kinds are miscounted in RAM"
        assert self._num_cold_blocks == Counter(block.kind for block in self._cold), "kinds are miscounted on SSD"
        assert self._num_cold_slots == sum(block.num_layers for block in self._cold), "cold reuse data is miscounted"
