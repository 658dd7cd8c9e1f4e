"""Arithmetic of blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.cache.block import BLOCK_SIZE, max_blocks_of_run, num_blocks


@pytest.mark.parametrize(("num_tokens", "expected"), [(0, 0), (1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
def test_tokens_take_as_many_blocks_as_they_touch(num_tokens: int, expected: int) -> None:
    assert num_blocks(num_tokens) == expected


@given(length=st.integers(0, 400), start=st.integers(0, 200))
def test_no_run_of_positions_touches_more_blocks_than_the_bound(length: int, start: int) -> None:
    touched = {position // BLOCK_SIZE for position in range(start, start + length)}
    assert len(touched) <= max_blocks_of_run(length)


@given(length=st.integers(0, 400))
def test_some_run_of_positions_touches_as_many_blocks_as_the_bound(length: int) -> None:
    counts = [len({position // BLOCK_SIZE for position in range(start, start + length)}) for start in range(BLOCK_SIZE)]
    assert max(counts) == max_blocks_of_run(length)
