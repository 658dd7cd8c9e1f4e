"""Rounds: every split once, in order, and no more cold blocks than the ring takes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.cache.small_models import FULL, SLIDING
from transom.cache.block import NO_INDEX
from transom.cache.read_plan import BLOCKS_PER_SPLIT, ReadUnit, rounds_of


def places(is_cold: list[bool]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([100 + i if cold else NO_INDEX for i, cold in enumerate(is_cold)], dtype=np.int64)


def test_a_sequence_without_cold_blocks_is_one_round() -> None:
    [only] = rounds_of(places([False] * 9), max_slots=4)
    assert (only.first_split, only.num_splits, only.num_slots) == (0, 3, 0)


def test_hot_blocks_go_with_the_cold_ones_around_them() -> None:
    rounds = rounds_of(places([False] * 5 + [True] * 5 + [False] * 10), max_slots=4)
    assert [(each.first_split, each.num_splits) for each in rounds] == [(0, 2), (2, 3)]
    assert [each.columns.tolist() for each in rounds] == [[5, 6, 7], [8, 9]]
    assert [each.cold_indices.tolist() for each in rounds] == [[105, 106, 107], [108, 109]]


@given(is_cold=st.lists(st.booleans(), min_size=1, max_size=60), max_slots=st.integers(BLOCKS_PER_SPLIT, 20))
def test_rounds_cover_every_split_once_and_read_every_cold_block_once(is_cold: list[bool], max_slots: int) -> None:
    rounds = rounds_of(places(is_cold), max_slots)
    splits = [split for each in rounds for split in range(each.first_split, each.first_split + each.num_splits)]
    assert splits == list(range(-(-len(is_cold) // BLOCKS_PER_SPLIT)))
    assert [c for each in rounds for c in each.columns.tolist()] == [i for i, cold in enumerate(is_cold) if cold]
    for each in rounds:
        assert each.num_slots <= max_slots
        assert all(0 <= c // BLOCKS_PER_SPLIT - each.first_split < each.num_splits for c in each.columns.tolist())


def test_units_read_the_same_if_kind_row_and_places_are_the_same() -> None:
    first, second = (rounds_of(places(cold), 8)[0] for cold in ([True, True], [True, False]))
    unit = ReadUnit(FULL, 1, first)
    assert unit.reads_the_same_as(ReadUnit(FULL, 1, first))
    assert not unit.reads_the_same_as(ReadUnit(FULL, 0, first))
    assert not unit.reads_the_same_as(ReadUnit(SLIDING, 1, first))
    assert not unit.reads_the_same_as(ReadUnit(FULL, 1, second))
