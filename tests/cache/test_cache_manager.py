"""Room: reserved whole or not at all, given back to the last slot, and never more than the budget."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.cache.small_models import BLOCK_SIZE, FULL, SLIDING, make_cache, slot_bytes
from transom.cache import SequenceCache
from transom.config.model_config import LayerKind
from transom.errors import BudgetExceededError, ConfigError


@pytest.mark.parametrize(
    ("num_tokens", "num_blocks"), [(1, 1), (63, 1), (64, 1), (65, 2), (127, 2), (128, 2), (129, 3)]
)
def test_room_is_reserved_in_whole_blocks(num_tokens: int, num_blocks: int) -> None:
    cache = make_cache(num_slots=20)
    handle = cache.open([0] * num_tokens)
    assert cache.reserve(handle, num_tokens)
    assert cache.stats().num_blocks_used == num_blocks
    cache.close(handle)
    assert cache.stats().num_blocks_used == 0


def test_a_prompt_of_exactly_the_whole_arena_is_accepted() -> None:
    cache = make_cache(num_slots=6)
    cache.check_fits(192)
    handle = cache.open([0] * 192)
    assert cache.reserve(handle, 192)
    assert cache.stats().num_bytes_used == cache.stats().num_bytes_total == 6 * slot_bytes()


def test_one_token_more_than_the_arena_is_refused_and_changes_nothing() -> None:
    cache = make_cache(num_slots=6, spare_bytes=slot_bytes() - 1)
    with pytest.raises(BudgetExceededError):
        cache.check_fits(193)
    handle = cache.open([0] * 193)
    assert not cache.reserve(handle, 193)
    assert cache.stats().num_blocks_used == 0
    cache.check_integrity()


def test_a_refused_reservation_keeps_what_was_there() -> None:
    cache = make_cache(num_slots=6)
    first, second = cache.open([0] * 100), cache.open([0] * 100)
    assert cache.reserve(first, 65)
    assert cache.reserve(second, 64)
    assert not cache.reserve(second, 65)
    cache.commit(second, 64)
    cache.check_integrity()
    cache.close(first)
    assert cache.reserve(second, 65)


def test_reserving_less_than_before_changes_nothing() -> None:
    cache = make_cache(num_slots=6)
    handle = cache.open([0] * 100)
    assert cache.reserve(handle, 100)
    assert cache.reserve(handle, 1)
    cache.commit(handle, 100)


def test_a_budget_below_one_block_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="kv_cache_ram_mb"):
        make_cache(num_slots=1, spare_bytes=slot_bytes() - 1)


def test_the_arena_is_no_larger_than_the_budget() -> None:
    stats = make_cache(num_slots=7, spare_bytes=5).stats()
    assert stats.num_bytes_total == 7 * slot_bytes()


def test_closing_twice_gives_back_once() -> None:
    cache = make_cache(num_slots=6)
    handle, other = cache.open([0] * 64), cache.open([0] * 64)
    assert cache.reserve(handle, 64)
    assert cache.reserve(other, 64)
    cache.close(handle)
    cache.close(handle)
    assert cache.stats().num_blocks_used == 1
    cache.check_integrity()


def test_a_closed_sequence_can_do_nothing_more() -> None:
    cache = make_cache(num_slots=6)
    handle = cache.open([0] * 64)
    cache.close(handle)
    with pytest.raises(ValueError, match="closed"):
        cache.reserve(handle, 1)
    with pytest.raises(ValueError, match="closed"):
        cache.commit(handle, 0)
    with pytest.raises(ValueError, match="closed"):
        cache.layer_cache([(handle, 0, 1)])


def test_a_commit_goes_neither_back_nor_beyond_what_was_reserved() -> None:
    cache = make_cache(num_slots=6)
    handle = cache.open([0] * 64)
    assert cache.reserve(handle, 10)
    cache.commit(handle, 5)
    with pytest.raises(ValueError, match="cannot commit 4 tokens: 5 are committed"):
        cache.commit(handle, 4)
    with pytest.raises(ValueError, match="cannot commit 11 tokens: 5 are committed, 10 are reserved"):
        cache.commit(handle, 11)


@pytest.mark.parametrize(("start", "count"), [(0, 5), (6, 1), (5, 6), (5, 0)])
def test_a_forward_pass_continues_where_the_last_commit_ended_inside_what_is_reserved(start: int, count: int) -> None:
    cache = make_cache(num_slots=6)
    handle = cache.open([0] * 64)
    assert cache.reserve(handle, 10)
    cache.commit(handle, 5)
    cache.layer_cache([(handle, 5, 5)])
    with pytest.raises(ValueError, match=r"cannot compute positions .*: 5 tokens are committed, 10 are reserved"):
        cache.layer_cache([(handle, start, count)])


def test_sliding_layers_give_back_what_is_out_of_sight() -> None:
    cache = make_cache(num_slots=100, layer_types=(FULL, SLIDING), sliding_window=100, chunk=64)
    handle = cache.open([0] * 1000)
    blocks = {}
    for end in range(50, 1001, 50):
        assert cache.reserve(handle, end)
        cache.commit(handle, end)
        cache.check_integrity()
        blocks[end] = {kind.kind: kind.num_blocks_used for kind in cache.stats().kinds}
    assert blocks[1000] == {FULL: 16, SLIDING: 2}  # 901 .. 999 remain visible: blocks 14 and 15
    assert max(count[SLIDING] for count in blocks.values()) <= 3
    cache.close(handle)
    assert cache.stats().num_blocks_used == 0


def test_a_prompt_far_longer_than_the_arena_passes_through_sliding_layers() -> None:
    cache = make_cache(num_slots=4, layer_types=(SLIDING,), sliding_window=100, chunk=64)
    cache.check_fits(8192)
    handle = cache.open([0] * 8192)
    for end in range(64, 8193, 64):
        assert cache.reserve(handle, end)
        cache.commit(handle, end)
    assert cache.stats().num_blocks_used == 2


def test_layers_without_keys_and_values_cost_nothing() -> None:
    cache = make_cache(num_slots=4, layer_types=(LayerKind.SHORT_CONV, FULL))
    handle = cache.open([0] * 64)
    assert cache.reserve(handle, 64)
    assert cache.stats().num_bytes_used == slot_bytes()


def test_a_sequence_that_is_alone_can_always_start() -> None:
    cache = make_cache(num_slots=4)
    assert cache.can_start(cache.open([0] * 128))


def test_a_sequence_does_not_start_in_room_that_a_running_prompt_will_need() -> None:
    cache = make_cache(num_slots=20)  # 10 blocks
    running = cache.open([0] * 384)  # 6 blocks, of which it has 1
    assert cache.reserve(running, 64)
    assert cache.can_start(cache.open([0] * 128))  # 6 + 2, and one to grow by for each
    assert not cache.can_start(cache.open([0] * 129))


def test_room_to_grow_is_kept_for_every_sequence() -> None:
    cache = make_cache(num_slots=8)  # 4 blocks
    running = cache.open([0] * 64)
    assert cache.reserve(running, 64)
    newcomer = cache.open([0] * 64)
    assert cache.can_start(newcomer)
    cache.close(newcomer)
    assert not cache.can_start(cache.open([0] * 65))


def test_statistics_count_blocks_and_bytes_by_kind() -> None:
    cache = make_cache(num_slots=30, layer_types=(FULL, SLIDING, SLIDING), sliding_window=64)
    handle = cache.open([0] * 100)
    assert cache.reserve(handle, 100)
    cache.commit(handle, 30)
    stats = cache.stats()
    full, sliding = stats.kinds
    assert (stats.block_size, stats.num_sequences, stats.num_tokens) == (BLOCK_SIZE, 1, 30)
    assert (full.num_layers, full.num_blocks_used, full.num_blocks_total) == (1, 2, 30)
    assert (sliding.num_layers, sliding.num_blocks_used, sliding.num_blocks_total) == (2, 2, 15)
    assert stats.num_bytes_used == full.num_bytes_used + sliding.num_bytes_used == 6 * slot_bytes()


class CacheMachine(RuleBasedStateMachine):
    """Random sequences of random lengths in an arena that is too small for them."""

    NUM_SLOTS = 40
    WINDOW = 90

    def __init__(self) -> None:
        super().__init__()
        self.cache = make_cache(self.NUM_SLOTS, (FULL, SLIDING, SLIDING), self.WINDOW, chunk=100)
        self.reserved: dict[SequenceCache, int] = {}
        self.committed: dict[SequenceCache, int] = {}

    @rule()
    def open(self) -> None:
        handle = self.cache.open([])
        self.reserved[handle] = self.committed[handle] = 0

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), count=st.integers(1, 100))
    def reserve(self, data: st.DataObject, count: int) -> None:
        handle = data.draw(st.sampled_from(list(self.reserved)))
        before = self.cache.stats()
        wanted = self.committed[handle] + count
        if self.cache.reserve(handle, wanted):
            self.reserved[handle] = max(self.reserved[handle], wanted)
        else:
            assert self.cache.stats() == before

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(list(self.reserved)))
        self.committed[handle] = data.draw(st.integers(self.committed[handle], self.reserved[handle]))
        self.cache.commit(handle, self.committed[handle])

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(list(self.reserved)))
        self.cache.close(handle)
        del self.reserved[handle], self.committed[handle]

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        self.cache.check_integrity()
        full, sliding = self.cache.stats().kinds
        assert full.num_blocks_used == sum(-(-tokens // BLOCK_SIZE) for tokens in self.reserved.values())
        assert sliding.num_blocks_used == sum(
            -(-reserved // BLOCK_SIZE) - max(0, self.committed[handle] - self.WINDOW + 1) // BLOCK_SIZE
            for handle, reserved in self.reserved.items()
        )

    @invariant()
    def the_budget_holds(self) -> None:
        assert self.cache.stats().num_bytes_used <= self.NUM_SLOTS * slot_bytes()

    def teardown(self) -> None:
        for handle in self.reserved:
            self.cache.close(handle)
        assert self.cache.stats().num_bytes_used == 0
        self.cache.check_integrity()


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
