"""Who owns which slot of the arena. Owns the one free list and the reference counts; knows no bytes and no sequence.

A block's owners are the tables of the sequences that use it, and the prefix index. One that the index alone owns is
reuse data.

All layer kinds share the arena, because a slot, one layer's share of a block, has the same size in each of them. The
free list is a stack: what was freed last is used next, so the touched part of the arena stays as small as the load
allows.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import BLOCK_SIZE, NO_SLOTS, Block, BlockState
from transom.cache.layer_group import LayerGroup
from transom.cache.reuse_data import ReuseData
from transom.config.model_config import LayerKind


class SlotAllocator:
    """A stack of free slot numbers `0 .. num_slots`. Allocation and release cost O(slots asked for)."""

    def __init__(self, num_slots: int) -> None:
        self._free = np.arange(num_slots, dtype=np.int32)[::-1].copy()
        self._num_free = num_slots
        self._is_used = np.zeros(num_slots, dtype=np.bool_)

    @property
    def num_slots(self) -> int:
        return len(self._free)

    @property
    def num_free(self) -> int:
        return self._num_free

    @property
    def num_used(self) -> int:
        return self.num_slots - self._num_free

    def allocate(self, count: int) -> NDArray[np.int32]:
        """Takes `count` slots, [count] int32, in the order of the stack. The caller has looked at `num_free` first."""
        assert count <= self._num_free, f"{count} slots wanted, {self._num_free} free"
        rest = self._num_free - count
        slots = self._free[rest : self._num_free][::-1].copy()
        slots.flags.writeable = False
        self._num_free = rest
        self._is_used[slots] = True
        return slots

    def release(self, slots: NDArray[np.int32]) -> None:
        """Gives slots back, the first of them to be used first."""
        assert self._is_used[slots].all(), "a slot was released that nobody owned"
        self._is_used[slots] = False
        self._free[self._num_free : self._num_free + len(slots)] = slots[::-1]
        self._num_free += len(slots)

    def check_integrity(self) -> None:
        """Raises AssertionError unless every slot is either on the stack, once, or in use."""
        free = self._free[: self._num_free]
        assert len(np.unique(free)) == len(free), "a slot is free twice"
        assert not self._is_used[free].any(), "a slot is free and in use"
        assert int(self._is_used.sum()) == self.num_used, "a slot is neither free nor in use"


class ColdPlaces(Protocol):
    """What the pool needs of the cold tier."""

    def forget(self, block: Block) -> bool:
        """The block's place in the cold tier is free. False: a write still reads the block's slots, so they are not."""
        ...


class BlockPool:
    """Blocks by reference count. A block's slots return to the allocator when its last owner lets go."""

    def __init__(self, num_slots: int, cold_places: ColdPlaces) -> None:
        self.reuse = ReuseData()
        self._slots = SlotAllocator(num_slots)
        self._cold_places = cold_places
        self._num_hot = dict.fromkeys(LayerKind, 0)
        self._num_cold = dict.fromkeys(LayerKind, 0)
        self._num_cold_slots = 0
        self._leaving: set[Block] = set()
        self._num_lent = 0

    @property
    def num_slots(self) -> int:
        return self._slots.num_slots

    @property
    def num_free_slots(self) -> int:
        return self._slots.num_free

    @property
    def num_used_slots(self) -> int:
        return self._slots.num_used

    @property
    def num_leaving_slots(self) -> int:
        """Slots that nobody owns, but a write still reads."""
        return sum(len(block.slots) for block in self._leaving)

    @property
    def num_lent_slots(self) -> int:
        """Slots without a block, into which blocks are on their way."""
        return self._num_lent

    @property
    def num_cold_slots(self) -> int:
        """Slots' worth of blocks in the cold tier alone."""
        return self._num_cold_slots

    def num_hot_blocks(self, kind: LayerKind) -> int:
        """Blocks in RAM that somebody owns, a shared one counted once."""
        return self._num_hot[kind]

    def num_cold_blocks(self, kind: LayerKind) -> int:
        """Blocks in the cold tier alone, a shared one counted once."""
        return self._num_cold[kind]

    def allocate(self, group: LayerGroup, start: int) -> Block:
        """A fresh block, owned once, for the positions from `start` on. The caller has looked at `num_free_slots`."""
        self._num_hot[group.kind] += 1
        return Block(group.kind, group.num_layers, self._slots.allocate(group.num_layers), start)

    def share(self, block: Block) -> Block:
        """The same block with one more owner."""
        assert block.ref_count > 0, "a block that nobody owns cannot be shared"
        self.reuse.discard(block)
        block.ref_count += 1
        return block

    def release(self, block: Block) -> None:
        """One owner lets go. Slots that a write still reads become free with `reclaim`."""
        assert block.ref_count > 0, "a block was released more often than it was owned"
        block.ref_count -= 1
        if block.ref_count == 1 and block.is_indexed:
            self.reuse.add(block)
        elif block.ref_count == 0:
            self.reuse.discard(block)
            self._count_of(block)[block.kind] -= 1
            self._num_cold_slots -= block.is_cold * block.num_layers
            self._leaving.add(block)
            if self._cold_places.forget(block):
                self.reclaim(block)

    def reclaim(self, block: Block) -> None:
        """The write of a block is over: if nobody owns it, its slots are free."""
        if block in self._leaving:
            self._leaving.remove(block)
            self._slots.release(block.slots)

    def demote(self, block: Block) -> None:
        """The RAM copy of a block goes; the other one, in the cold tier, stays. Every table that names it is told."""
        assert block.state is BlockState.CLEAN, f"a block that is {block.state.value} cannot leave RAM"
        is_unused = self.reuse.discard(block)
        self._slots.release(block.slots)
        self._num_cold_slots += block.num_layers
        block.slots = NO_SLOTS
        block.state = BlockState.COLD
        self._num_hot[block.kind] -= 1
        self._num_cold[block.kind] += 1
        if is_unused:
            self.reuse.add(block)
        for holder in block.holders:
            holder.note_demoted(block)

    def give_up_place(self, block: Block) -> None:
        """A block that is in both tiers is in RAM alone from now on."""
        assert block.state is BlockState.CLEAN, f"a block that is {block.state.value} cannot leave the cold tier"
        self._cold_places.forget(block)
        block.state = BlockState.DIRTY
        self.reuse.note_state(block)

    def lend(self, num_slots: int) -> NDArray[np.int32]:
        """Slots, [num_slots], for cold blocks to come back into; each ends with `promote` or `take_back`."""
        self._num_lent += num_slots
        return self._slots.allocate(num_slots)

    def take_back(self, slots: NDArray[np.int32]) -> None:
        """Lent slots are free again."""
        self._num_lent -= len(slots)
        self._slots.release(slots)

    def keep(self, group: LayerGroup, start: int, slots: NDArray[np.int32]) -> Block:
        """A fresh block, owned once, in these lent slots, which hold its bytes."""
        slots.flags.writeable = False
        self._num_lent -= len(slots)
        self._num_hot[group.kind] += 1
        return Block(group.kind, group.num_layers, slots, start)

    def restore(self, kind: LayerKind, num_layers: int, index: int, cold_index: int) -> Block:
        """A block, owned once, of an earlier run: its bytes are in the cold tier, at a place that is taken."""
        self._num_cold[kind] += 1
        self._num_cold_slots += num_layers
        return Block(
            kind,
            num_layers,
            NO_SLOTS,
            index * BLOCK_SIZE,
            sealed=True,
            state=BlockState.COLD,
            cold_index=cold_index,
        )

    def hand_over(self, block: Block, to: Block) -> None:
        """The slots of a block that is owned once and in RAM alone become those of a cold one, which says the same."""
        assert (block.ref_count, block.state) == (1, BlockState.DIRTY), "slots were handed over that others need"
        slots = block.slots.copy()
        self._num_lent += len(slots)
        self._num_hot[block.kind] -= 1
        block.slots, block.ref_count = NO_SLOTS, 0
        self.promote(to, slots)

    def promote(self, block: Block, slots: NDArray[np.int32]) -> None:
        """A cold block has its bytes in these lent slots too: it is clean. Every table that names it is told."""
        assert block.is_cold, f"a block that is {block.state.value} cannot come back to RAM"
        is_unused = self.reuse.discard(block)
        slots.flags.writeable = False
        self._num_lent -= len(slots)
        self._num_cold_slots -= block.num_layers
        self._num_cold[block.kind] -= 1
        self._num_hot[block.kind] += 1
        block.slots = slots
        block.state = BlockState.CLEAN
        if is_unused:
            self.reuse.add(block)
        for holder in block.holders:
            holder.note_promoted(block)

    def check_integrity(self, owned: list[Block]) -> None:
        """`owned` names each block once per owner. Raises AssertionError when a count or a slot does not add up."""
        self._slots.check_integrity()
        owners: dict[Block, int] = {}
        for block in owned:
            owners[block] = owners.get(block, 0) + 1
        for block, count in owners.items():
            assert block.ref_count == count, f"a block counts {block.ref_count} owners and has {count}"
        assert not self._leaving & owners.keys(), "a block is owned and on its way out"
        num_counted = sum(self._num_hot.values()) + sum(self._num_cold.values())
        assert len(owners) == num_counted, "blocks are in use that nobody owns"
        assert sum(block.is_cold for block in owners) == sum(self._num_cold.values()), "cold blocks are miscounted"
        slots = np.concatenate([NO_SLOTS, *(block.slots for block in (*owners, *self._leaving))])
        assert len(np.unique(slots)) == len(slots), "two blocks own one slot"
        self.reuse.check_integrity(block for block in owners if block.is_indexed and block.ref_count == 1)
        num_of_blocks = self.num_used_slots - self._num_lent
        assert len(slots) == num_of_blocks, f"{num_of_blocks} slots in use, {len(slots)} owned by blocks"

    def _count_of(self, block: Block) -> dict[LayerKind, int]:
        return self._num_cold if block.is_cold else self._num_hot
