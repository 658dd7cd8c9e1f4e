"""`BlockTable`: where one sequence's blocks of one layer group lie, hot or cold. Append-only; positions never move.

The same facts are kept twice, as blocks for whoever owns and frees them and as numbers for attention, so that a decode
step hands over views and builds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import BLOCK_SIZE, NO_INDEX, Block, num_blocks
from transom.cache.block_pool import BlockPool
from transom.cache.cold_store import Run
from transom.cache.layer_group import LayerGroup
from transom.cache.strategy import FULL, RECENT_BLOCKS, AttendedSet, Strategy

NO_SLOT = -1
"""Table entry of a block that is not in RAM. No visible token may need it when attention runs; the kernel refuses."""

MASS_DECAY = 0.95
"""What of a block's attention mass is left one step later."""

_FIRST_CAPACITY = 8


class BlockTable:
    """Blocks by index (position // 64). Some may be gone, because no later token can see them."""

    __slots__ = (
        "_attended",
        "_blocks",
        "_cold_indices",
        "_first_hot",
        "_mass",
        "_num_dead",
        "_num_kept",
        "_slots",
        "follows_mass",
        "group",
        "num_hot_blocks",
        "run",
    )

    def __init__(self, group: LayerGroup, strategy: Strategy = FULL) -> None:
        self.group = group
        self.num_hot_blocks = 0
        self.run = Run()
        self._attended = group.attended(strategy)
        self.follows_mass = strategy.follows_mass and group.is_full
        self._blocks: list[Block | None] = []
        self._num_kept = 0
        self._num_dead = 0  # blocks below this index were judged: what is dead of them is gone
        self._first_hot = 0  # no block below this index is hot
        self._slots = _empty_slots(group.num_layers, _FIRST_CAPACITY)
        self._cold_indices = np.full(_FIRST_CAPACITY, NO_INDEX, dtype=np.int64)
        self._mass = np.zeros(_FIRST_CAPACITY, dtype=np.float32)

    @property
    def num_blocks(self) -> int:
        """Block positions so far, those included whose block is gone."""
        return len(self._blocks)

    @property
    def blocks(self) -> Sequence[Block | None]:
        """By index; None: the block is gone. A view, to read."""
        return self._blocks

    @property
    def attended(self) -> AttendedSet:
        """What a token of the sequence sees in these layers."""
        return self._attended

    @property
    def num_tokens(self) -> int:
        """There is room for the positions below, as far as they are still visible."""
        return len(self._blocks) * BLOCK_SIZE

    @property
    def num_kept_blocks(self) -> int:
        """Blocks that are there, hot or cold."""
        return self._num_kept

    @property
    def num_cold_blocks(self) -> int:
        return self._num_kept - self.num_hot_blocks

    @property
    def mass(self) -> NDArray[np.float32]:
        """[blocks], decayed attention mass of each block; zeros where nobody measures. A view."""
        return self._mass[: len(self._blocks)]

    @property
    def num_hot_slots(self) -> int:
        return self.num_hot_blocks * self.group.num_layers

    def num_missing_blocks(self, num_tokens: int) -> int:
        """Blocks to be allocated before positions `< num_tokens` have room."""
        return max(0, num_blocks(num_tokens) - len(self._blocks))

    def num_missing_slots(self, num_tokens: int) -> int:
        """The same in slots."""
        return self.num_missing_blocks(num_tokens) * self.group.num_layers

    def slots(self, num_tokens: int) -> NDArray[np.int32]:
        """[num_layers, blocks of `num_tokens`], a view; each row is contiguous. NO_SLOT where a block is not in RAM."""
        return self._slots[:, : num_blocks(num_tokens)]

    def cold_indices(self) -> NDArray[np.int64]:
        """[blocks], a view: the place of each cold block in the file of its kind, NO_INDEX for all others."""
        return self._cold_indices[: len(self._blocks)]

    def kept_blocks(self) -> Iterator[Block]:
        """The blocks that are still there, hot or cold, in order of position."""
        return (block for block in self._blocks if block is not None)

    def hot_blocks(self) -> Iterator[Block]:
        """The blocks that are in RAM, in order of position."""
        while self._first_hot < len(self._blocks) and not _is_hot(self._blocks[self._first_hot]):
            self._first_hot += 1
        rest = self._blocks[self._first_hot :]
        return (block for block in rest if block is not None and not block.is_cold)

    def by_worth(self, blocks: Iterable[Block]) -> list[Block]:
        """These blocks, given in order of position, in the order in which they are to leave: the least needed first."""
        if not self.follows_mass:
            return list(blocks)
        return sorted(blocks, key=lambda block: (self.is_pinned(block), self._mass[block.index], block.start))

    def cold_blocks_by_worth(self) -> list[Block]:
        """The cold blocks, in the order in which they are to come back: the most needed first."""
        cold = [block for block in self.kept_blocks() if block.is_cold]
        return self.by_worth(cold)[::-1]

    def is_pinned(self, block: Block) -> bool:
        """The first block and the most recent ones: attention always needs them, whatever was measured so far."""
        return block.index == 0 or block.index >= len(self._blocks) - RECENT_BLOCKS

    def extend(self, pool: BlockPool, num_tokens: int) -> None:
        """Allocates what is missing for positions `< num_tokens`; the caller has made sure that it is there."""
        for index in range(len(self._blocks), num_blocks(num_tokens)):
            self.append(pool.allocate(self.group, index * BLOCK_SIZE))

    def seal(self, num_computed_before: int, num_computed_now: int) -> None:
        """Marks the blocks that became full between the two counts."""
        for block in self._blocks[num_computed_before // BLOCK_SIZE : num_computed_now // BLOCK_SIZE]:
            if block is not None:
                block.sealed = True

    def drop_invisible(self, pool: BlockPool, num_computed_tokens: int) -> None:
        """Frees the blocks that no token from position `num_computed_tokens` on can see."""
        dead = self._attended.dead_blocks(num_computed_tokens)
        end = min(dead.stop, len(self._blocks))
        self.forget(pool, range(max(dead.start, self._num_dead), end))
        self._num_dead = max(self._num_dead, end)

    def forget(self, pool: BlockPool, indices: Iterable[int]) -> None:
        """Frees these blocks, as far as they are still there; nobody will see them again."""
        for index in indices:
            block = self._blocks[index]
            if block is not None:
                self.num_hot_blocks -= not block.is_cold
                self._num_kept -= 1
                block.holders.remove(self)
                pool.release(block)
            self._blocks[index] = None
            self._slots[:, index] = NO_SLOT
            self._cold_indices[index] = NO_INDEX

    def block(self, index: int) -> Block | None:
        """Block `index` of the sequence, if it is still there."""
        return self._blocks[index]

    def append(self, block: Block) -> None:
        """The table's next block is this one, which is the caller's so far."""
        index = len(self._blocks)
        assert block.index == index, f"block {block.index} was put behind block {index - 1}"
        if index == self._slots.shape[1]:
            self._grow()
        block.holders.append(self)
        self._blocks.append(block)
        self._num_kept += 1
        if block.is_cold:
            self._cold_indices[index] = block.cold_index
        else:
            self._slots[:, index] = block.slots
            self.num_hot_blocks += 1

    def adopt(self, pool: BlockPool, blocks: Sequence[Block], first: int) -> None:
        """An empty table begins with these blocks of others, from block `first` on, as they are; those before are
        invisible for whatever comes behind them."""
        assert not self._blocks, "a table adopts blocks only before it has its own"
        for _ in range(first):
            self._append_nothing()
        self._num_dead = first
        for block in blocks:
            self.append(pool.share(block))
            if block.cold_index != NO_INDEX:
                self.run.base = block.cold_index - block.index

    def exchange(self, pool: BlockPool, block: Block) -> None:
        """A sealed block of others, with the same bytes, takes the place of this table's own, which nobody else has."""
        index = block.index
        own = self._blocks[index]
        assert own is not None
        assert own is not block, "a block takes its own place"
        own.holders.remove(self)
        pool.share(block)
        if block.is_cold:
            pool.hand_over(own, block)
        else:
            pool.release(own)
        block.holders.append(self)
        self._blocks[index] = block
        self._slots[:, index] = block.slots

    def note_demoted(self, block: Block) -> None:
        """The RAM copy of a block of this table is gone."""
        assert self._blocks[block.index] is block, "a block was demoted that is not of this table"
        self.num_hot_blocks -= 1
        self._slots[:, block.index] = NO_SLOT
        self._cold_indices[block.index] = block.cold_index

    def note_promoted(self, block: Block) -> None:
        """A cold block of this table is in RAM again."""
        assert self._blocks[block.index] is block, "a block was promoted that is not of this table"
        self.num_hot_blocks += 1
        self._first_hot = min(self._first_hot, block.index)
        self._slots[:, block.index] = block.slots
        self._cold_indices[block.index] = NO_INDEX

    def begin_again(self) -> None:
        """The table, which names no block any more, is as it was at first."""
        self._blocks.clear()
        self._num_dead = self._first_hot = 0

    def add_mass(self, mass: NDArray[np.float32]) -> None:
        """Takes in a step's attention mass, [blocks of the step]; earlier steps count less."""
        self._mass *= MASS_DECAY
        self._mass[: len(mass)] += mass

    def check_integrity(self) -> None:
        """Raises AssertionError unless blocks and numbers say the same."""
        for index, block in enumerate(self._blocks):
            slots, cold_index = self._slots[:, index], self._cold_indices[index]
            assert _is_hot(block) or (slots == NO_SLOT).all(), "the table names slots of a block that is not in RAM"
            assert (block is not None and block.is_cold) == (cold_index != NO_INDEX), "table and block differ in tier"
            if block is not None:
                assert block.start == index * BLOCK_SIZE, f"block {index} says it starts at {block.start}"
                assert block.holders.count(self) == 1, "a table names a block that does not know it"
                assert block.is_cold or np.array_equal(slots, block.slots), "table and block name different slots"
                assert not block.is_cold or cold_index == block.cold_index, "table and block name different places"
        assert (self._slots[:, len(self._blocks) :] == NO_SLOT).all(), "the table names slots beyond its last block"
        kept = list(self.kept_blocks())
        assert len(kept) == self._num_kept, "the table miscounts its blocks"
        assert sum(not block.is_cold for block in kept) == self.num_hot_blocks, "the table miscounts its hot blocks"
        assert sum(1 for _ in self.hot_blocks()) == self.num_hot_blocks, "a hot block lies where nobody looks"

    def _append_nothing(self) -> None:
        if len(self._blocks) == self._slots.shape[1]:
            self._grow()
        self._blocks.append(None)

    def _grow(self) -> None:
        capacity = self._slots.shape[1]
        self._slots = np.concatenate([self._slots, _empty_slots(*self._slots.shape)], axis=1)
        self._cold_indices = np.concatenate([self._cold_indices, np.full(capacity, NO_INDEX, dtype=np.int64)])
        self._mass = np.concatenate([self._mass, np.zeros(capacity, dtype=np.float32)])


def clear(tables: Sequence[BlockTable], pool: BlockPool) -> None:
    """Frees everything of one sequence, last position first, so that its head is the last to be overwritten."""
    for index in reversed(range(max(table.num_blocks for table in tables))):
        clear_block(tables, pool, index)
    for table in tables:
        table.begin_again()


def clear_block(tables: Sequence[BlockTable], pool: BlockPool, index: int) -> None:
    """Frees block `index` of one sequence, of all its kinds."""
    for table in tables:
        if index < table.num_blocks:
            table.forget(pool, [index])


def _is_hot(block: Block | None) -> bool:
    return block is not None and not block.is_cold


def _empty_slots(num_layers: int, capacity: int) -> NDArray[np.int32]:
    return np.full((num_layers, capacity), NO_SLOT, dtype=np.int32)
