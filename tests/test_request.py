"""Token ids are kept packed, and behave like the tuple they were made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.request import Request, SamplingParams, TokenIds

INT32 = st.integers(-(2**31), 2**31 - 1)


@given(st.lists(INT32), st.integers(-9, 9), st.integers(-9, 9))
def test_token_ids_behave_like_a_tuple(numbers: list[int], start: int, stop: int) -> None:
    token_ids, expected = TokenIds(numbers), tuple(numbers)
    assert token_ids == expected
    assert hash(token_ids) == hash(expected)
    assert token_ids == TokenIds(iter(numbers))
    assert token_ids != (*expected, 0)
    assert token_ids[start:stop] == expected[start:stop]
    assert [token_ids[index] for index in range(len(token_ids))] == numbers == list(token_ids)
    assert list(reversed(token_ids)) == numbers[::-1]


@given(st.lists(INT32))
def test_token_ids_take_four_bytes_each_and_come_back_from_them(numbers: list[int]) -> None:
    packed = TokenIds(numbers).packed.tobytes()
    assert len(packed) == 4 * len(numbers)
    assert TokenIds.unpack(packed) == tuple(numbers)


def test_what_is_packed_already_is_not_copied() -> None:
    token_ids = TokenIds((1, 2, 3))
    assert TokenIds.of(token_ids) is token_ids
    assert Request("r", token_ids, SamplingParams(1)).prompt_token_ids is token_ids


def test_numbers_and_bytes_that_are_no_token_ids_are_refused() -> None:
    with pytest.raises(OverflowError):
        TokenIds((2**31,))
    with pytest.raises(ValueError, match="3 bytes"):
        TokenIds.unpack(b"123")


def test_nobody_changes_token_ids() -> None:
    with pytest.raises(TypeError):
        TokenIds((1, 2)).packed[0] = 3


def test_a_request_counts_everything_long_that_it_carries() -> None:
    plain = Request("r", (1, 2, 3), SamplingParams(1))
    longer = Request("r", (1, 2, 3, 4), SamplingParams(1))
    choosy = Request("r", (1, 2, 3), SamplingParams(1, allowed_token_ids=(1, 2)))
    biased = Request("r", (1, 2, 3), SamplingParams(1, logit_bias={1: 2.0}))
    assert longer.size_in_tokens == plain.size_in_tokens + 1
    assert choosy.size_in_tokens == plain.size_in_tokens + 2
    assert biased.size_in_tokens > choosy.size_in_tokens
