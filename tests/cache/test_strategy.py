"""Attended sets, to the token: what is visible, what is dead, how many blocks that takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.cache.block import BLOCK_SIZE
from transom.cache.strategy import EVERYTHING, FULL, AttendedSet, Strategy, strategy_of
from transom.request import CacheOptions, CacheStrategy

SETS = st.one_of(
    st.just(EVERYTHING),
    st.builds(AttendedSet, keep_first=st.integers(0, 200), window=st.integers(1, 300)),
    st.builds(AttendedSet, window_blocks=st.integers(1, 5)),
)


def make(
    options: CacheOptions, *, capacity_blocks: int = 40, chunk: int = 512, has_cold_tier: bool = False
) -> Strategy:
    return strategy_of(options, capacity_blocks=capacity_blocks, chunk=chunk, has_cold_tier=has_cold_tier)


def visible(attended: AttendedSet, position: int) -> set[int]:
    return {*range(min(attended.keep_first, position + 1)), *range(attended.first_recent(position), position + 1)}


def test_full_sees_and_keeps_everything() -> None:
    assert make(CacheOptions()) is FULL
    assert not FULL.is_lossy
    assert visible(FULL.attended, 1000) == set(range(1001))
    assert FULL.peak_blocks(6400, chunk=512) == 100


def test_a_sliding_window_sees_exactly_the_last_tokens() -> None:
    strategy = make(CacheOptions(CacheStrategy.SLIDING_WINDOW, 100))
    assert visible(strategy.attended, 99) == set(range(100))
    assert visible(strategy.attended, 250) == set(range(151, 251))
    assert strategy.is_lossy


def test_keep_first_sees_exactly_the_first_and_the_last_tokens() -> None:
    strategy = make(CacheOptions(CacheStrategy.KEEP_FIRST, 100, keep_first=30))
    assert visible(strategy.attended, 99) == set(range(100))
    assert visible(strategy.attended, 250) == {*range(30), *range(181, 251)}


def test_fifo_forgets_the_oldest_block_when_the_capacity_is_reached() -> None:
    strategy = make(CacheOptions(CacheStrategy.FIFO), capacity_blocks=4, chunk=64)
    assert visible(strategy.attended, 255) == set(range(256))
    assert visible(strategy.attended, 256) == set(range(64, 257))
    assert visible(strategy.attended, 319) == set(range(64, 320))


def test_a_request_may_lower_the_capacity_of_fifo() -> None:
    strategy = make(CacheOptions(CacheStrategy.FIFO, window_size=128))
    assert visible(strategy.attended, 300) == set(range(192, 301))


def test_adaptive_forgets_nothing_with_a_cold_tier() -> None:
    strategy = make(CacheOptions(CacheStrategy.ADAPTIVE), has_cold_tier=True)
    assert strategy.follows_mass
    assert not strategy.is_lossy


def test_adaptive_keeps_as_many_blocks_as_the_capacity_leaves_without_one() -> None:
    strategy = make(CacheOptions(CacheStrategy.ADAPTIVE), capacity_blocks=40, chunk=512)
    assert strategy.is_lossy
    assert (strategy.capacity_blocks, strategy.max_chunk_blocks) == (32, 8)
    assert strategy.peak_blocks(10**6, chunk=512) == 40


@given(capacity=st.integers(1, 200), chunk=st.integers(1, 2048), name=st.sampled_from(["fifo", "adaptive"]))
def test_strategies_of_the_budget_stay_within_the_capacity(capacity: int, chunk: int, name: str) -> None:
    strategy = make(CacheOptions(CacheStrategy(name)), capacity_blocks=capacity, chunk=chunk)
    assert strategy.max_chunk_blocks is not None
    held = strategy.peak_blocks(10**6, chunk)
    assert held <= max(capacity, 2)


def test_keep_first_without_a_window_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="window_size"):
        make(CacheOptions(CacheStrategy.KEEP_FIRST))


@given(attended=SETS, num_computed=st.integers(0, 1500))
def test_a_block_is_dead_when_no_later_token_sees_any_of_it(attended: AttendedSet, num_computed: int) -> None:
    seen = set().union(*(visible(attended, position) for position in (num_computed, num_computed + 1, 3000)))
    blocks = {position // BLOCK_SIZE for position in range(num_computed)}
    alive = {position // BLOCK_SIZE for position in seen}
    dead = set(attended.dead_blocks(num_computed))
    assert not dead & alive
    for block in blocks - dead:  # what is kept is seen by the next token, at least in part
        assert block in {position // BLOCK_SIZE for position in visible(attended, num_computed)}


@given(attended=SETS, num_tokens=st.integers(1, 1500))
def test_forgotten_tokens_are_those_that_the_last_one_does_not_see(attended: AttendedSet, num_tokens: int) -> None:
    assert attended.num_forgotten(num_tokens) == num_tokens - len(visible(attended, num_tokens - 1))


@given(attended=SETS, chunk=st.integers(1, 300), num_tokens=st.integers(1, 1500))
def test_the_peak_covers_every_chunk_in_whole_blocks(attended: AttendedSet, chunk: int, num_tokens: int) -> None:
    if attended.window_blocks is not None:
        chunk = -(-chunk // BLOCK_SIZE) * BLOCK_SIZE  # such chunks end at the border of a block
    peak = 0
    for start in range(0, num_tokens, chunk):
        end = min(start + chunk, num_tokens)
        peak = max(peak, -(-end // BLOCK_SIZE) - len(attended.dead_blocks(start)))
    assert peak <= attended.peak_blocks(num_tokens, chunk)
