"""Tokens that only grow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.scheduler.token_buffer import TokenBuffer

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=100)


@given(first=TOKENS, appended=TOKENS, start=st.integers(0, 250), stop=st.integers(0, 250))
def test_a_buffer_is_a_list_that_slices_to_int32(first: list[int], appended: list[int], start: int, stop: int) -> None:
    buffer = TokenBuffer(tuple(first))
    for token_id in appended:
        buffer.append(token_id)
    expected = first + appended
    assert len(buffer) == len(expected)
    assert buffer.view().dtype == np.int32
    assert buffer[start:stop].tolist() == expected[start:stop]
    assert [buffer[index] for index in range(len(expected))] == expected


def test_a_view_does_not_change_when_tokens_are_appended() -> None:
    buffer = TokenBuffer((1, 2))
    view = buffer.view()
    for token_id in range(100):
        buffer.append(token_id)
    assert view.tolist() == [1, 2]


def test_nobody_writes_through_a_view() -> None:
    with pytest.raises(ValueError, match="read-only"):
        TokenBuffer((1, 2)).view()[0] = 3
    with pytest.raises(ValueError, match="read-only"):
        TokenBuffer((1, 2))[0:1][0] = 3


def test_a_draft_is_seen_behind_the_tokens_and_is_none_of_them() -> None:
    buffer = TokenBuffer([1, 2, 3])
    before = buffer.view()
    assert buffer.followed_by((7, 8)).tolist() == [1, 2, 3, 7, 8]
    assert buffer.followed_by(()).tolist() == buffer.view().tolist() == before.tolist() == [1, 2, 3]
    assert buffer.followed_by(range(100)).tolist() == [1, 2, 3, *range(100)]
    assert not buffer.followed_by((7,)).flags.writeable
    buffer.append(4)
    assert (len(buffer), buffer.view().tolist()) == (4, [1, 2, 3, 4])
