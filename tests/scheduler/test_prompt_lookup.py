"""The index against a search through all tokens, however the tokens arrive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.scheduler import prompt_lookup
from transom.scheduler.prompt_lookup import MAX_MATCH, MIN_MATCH, Match, PromptLookup

WANTED = 5


def match_length(tokens: list[int], end: int) -> int:
    length = 0
    while length < MAX_MATCH and length <= end and tokens[end - length] == tokens[-1 - length]:
        length += 1
    return length


def longest_match(tokens: list[int]) -> int:
    return max((match_length(tokens, end) for end in range(len(tokens) - 1)), default=0)


def find(lookup: PromptLookup, tokens: list[int], wanted: int = WANTED) -> Match | None:
    return lookup.find(np.array(tokens, np.int32), wanted)


def continuations(tokens: list[int], length: int) -> list[tuple[int, ...]]:
    """What followed wherever the last `length` tokens were said before; a period goes on at the end."""
    ends = [end for end in range(len(tokens) - 1) if match_length(tokens, end) == length]
    followed = []
    for end in ends:
        period = tokens[end + 1 :]
        followed.append(tuple((period * WANTED)[:WANTED]))
    return followed


@given(st.lists(st.integers(0, 3), max_size=16).flatmap(lambda head: st.tuples(st.just(head), st.integers(0, 60))))
def test_the_longest_match_is_found_and_what_followed_it(case: tuple[list[int], int]) -> None:
    head, num_more = case
    tokens = [*head, *np.random.default_rng(num_more).integers(0, 4, num_more).tolist()]
    match, longest = find(PromptLookup(), tokens), longest_match(tokens)
    if longest < MIN_MATCH:
        assert match is None
        return
    assert match is not None
    if match.length < longest:  # more places agree in three tokens than are compared
        assert sum(match_length(tokens, end) >= MIN_MATCH for end in range(len(tokens))) > 16
    assert match.continuation in continuations(tokens, match.length)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 40), max_size=12), st.integers(3, 9))
def test_it_does_not_matter_in_which_pieces_the_tokens_come(seed: int, pieces: list[int], vocabulary: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, vocabulary, 10 + sum(pieces)).astype(np.int32)
    in_pieces = PromptLookup()
    end = 0
    for piece in (10, *pieces):
        end += piece
        in_pieces._index(tokens, end)
    at_once, one_by_one = PromptLookup(), PromptLookup()
    at_once._index(tokens, end)
    for position in range(end + 1):
        one_by_one._index(tokens, position)
    for other in (at_once, one_by_one):
        assert np.array_equal(other._heads, in_pieces._heads)
        assert np.array_equal(other._previous[2:end], in_pieces._previous[2:end])


def test_the_most_recent_of_equal_matches_is_taken_until_another_went_on_being_right() -> None:
    tokens = [1, 2, 3, 10, 20, 1, 2, 3, 11, 21, 1, 2, 3]
    lookup = PromptLookup()
    first = find(lookup, tokens, 2)
    assert first == Match(3, (11, 21))
    assert find(lookup, [*tokens, 10, 20, 1, 2, 3], 1) == Match(8, (11,))


def test_a_continuation_that_reaches_the_end_repeats_itself() -> None:
    assert find(PromptLookup(), [7, 1, 2, 1, 2, 1, 2], 7) == Match(4, (1, 2, 1, 2, 1, 2, 1))
    assert find(PromptLookup(), [5, 5, 5, 5], 3) == Match(3, (5, 5, 5))


@pytest.mark.parametrize("tokens", [[], [1], [1, 1, 1], [1, 2, 3, 4, 5, 6]])
def test_what_was_never_said_before_is_not_guessed(tokens: list[int]) -> None:
    assert find(PromptLookup(), tokens) is None


def test_a_long_prompt_is_indexed_over_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_lookup, "_MAX_INDEXED_AT_ONCE", 100)
    tokens = [*range(1000, 1250), 7, 8, 9, 10, *range(2000, 2200), 7, 8, 9]
    lookup = PromptLookup()
    found = [find(lookup, tokens, 1) for _ in range(5)]
    assert found == [None, None, *[Match(3, (10,))] * 3]


def test_memory_is_a_dozen_bytes_per_token_or_little_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_lookup, "_MAX_INDEXED_AT_ONCE", 2**21)
    for num_tokens in (1000, 2**12 + 1, 2**16 + 1, 2**20 + 1):
        lookup = PromptLookup()
        for end in (num_tokens // 10, num_tokens):
            lookup._index(np.zeros(num_tokens, np.int32), end)
        assert lookup._heads.nbytes + lookup._previous.nbytes <= 14 * num_tokens
