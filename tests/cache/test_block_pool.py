"""The free list and the reference counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from transom.cache.block import Block
from transom.cache.block_pool import BlockPool, SlotAllocator
from transom.cache.layer_group import LayerGroup
from transom.cache.no_cold_tier import NoColdTier
from transom.config.model_config import LayerKind

FULL = LayerGroup(LayerKind.FULL_ATTENTION, (0, 2, 4), window=None)
SLIDING = LayerGroup(LayerKind.SLIDING_ATTENTION, (1, 3), window=100)


def test_the_first_slots_are_the_first_to_be_used() -> None:
    assert SlotAllocator(5).allocate(3).tolist() == [0, 1, 2]


def test_what_was_freed_last_is_used_next_in_the_same_order() -> None:
    allocator = SlotAllocator(8)
    first, second = allocator.allocate(3), allocator.allocate(3)
    allocator.release(second)
    allocator.release(first)
    assert allocator.allocate(6).tolist() == [0, 1, 2, 3, 4, 5]


def test_an_allocator_can_be_emptied_to_the_last_slot() -> None:
    allocator = SlotAllocator(4)
    assert sorted(allocator.allocate(4)) == [0, 1, 2, 3]
    assert allocator.num_free == 0
    assert allocator.allocate(0).tolist() == []


def test_more_slots_than_are_free_are_refused() -> None:
    with pytest.raises(AssertionError, match="5 slots wanted, 4 free"):
        SlotAllocator(4).allocate(5)


def test_a_slot_cannot_be_released_twice() -> None:
    allocator = SlotAllocator(4)
    slots = allocator.allocate(2)
    allocator.release(slots)
    with pytest.raises(AssertionError, match="nobody owned"):
        allocator.release(slots)


def test_allocated_slot_numbers_cannot_be_changed_by_their_owner() -> None:
    with pytest.raises(ValueError, match="read-only"):
        SlotAllocator(4).allocate(2)[0] = 3


def test_a_shared_block_stays_until_its_last_owner_lets_go() -> None:
    pool = BlockPool(10, NoColdTier())
    block = pool.allocate(FULL, start=0)
    assert pool.share(block) is block
    pool.release(block)
    assert pool.num_used_slots == 3
    pool.release(block)
    assert pool.num_used_slots == 0


def test_a_block_that_nobody_owns_can_be_neither_released_nor_shared() -> None:
    pool = BlockPool(10, NoColdTier())
    block = pool.allocate(FULL, start=0)
    pool.release(block)
    with pytest.raises(AssertionError, match="more often"):
        pool.release(block)
    with pytest.raises(AssertionError, match="cannot be shared"):
        pool.share(block)


def test_blocks_are_counted_by_kind() -> None:
    pool = BlockPool(10, NoColdTier())
    pool.allocate(FULL, start=0)
    pool.release(pool.allocate(SLIDING, start=0))
    pool.allocate(SLIDING, start=64)
    assert (pool.num_hot_blocks(FULL.kind), pool.num_hot_blocks(SLIDING.kind)) == (1, 1)
    assert pool.num_free_slots == 5


def test_the_integrity_check_sees_a_leaked_block() -> None:
    pool = BlockPool(10, NoColdTier())
    pool.allocate(FULL, start=0)
    with pytest.raises(AssertionError, match="nobody owns"):
        pool.check_integrity([])


def test_the_integrity_check_sees_a_wrong_count() -> None:
    pool = BlockPool(10, NoColdTier())
    block = pool.allocate(FULL, start=0)
    with pytest.raises(AssertionError, match="counts 1 owners and has 2"):
        pool.check_integrity([block, block])


class PoolMachine(RuleBasedStateMachine):
    """Random allocation, sharing and release, against a list with one entry per owner."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(30, NoColdTier())
        self.owned: list[Block] = []

    @precondition(lambda self: self.pool.num_free_slots >= 3)
    @rule(group=st.sampled_from([FULL, SLIDING]), index=st.integers(0, 100))
    def allocate(self, group: LayerGroup, index: int) -> None:
        block = self.pool.allocate(group, index * 64)
        assert len(block.slots) == group.num_layers
        self.owned.append(block)

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        self.owned.append(self.pool.share(data.draw(st.sampled_from(self.owned))))

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.owned) - 1))
        self.pool.release(self.owned.pop(index))

    @invariant()
    def no_slot_is_lost_or_owned_twice(self) -> None:
        self.pool.check_integrity(self.owned)
        slots = [slot for block in set(self.owned) for slot in block.slots]
        assert len(slots) == len(set(slots)) == self.pool.num_used_slots
        assert self.pool.num_used_slots + self.pool.num_free_slots == self.pool.num_slots == 30
        assert not np.any((np.array(slots) < 0) | (np.array(slots) >= 30))


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
