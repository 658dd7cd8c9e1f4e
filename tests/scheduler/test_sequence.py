"""One sequence: where it stands and when it is at its end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cache.small_models import make_cache
from tests.scheduler.driver import make_request
from transom.request import FinishReason, SampledToken, TokenLogprobs, Usage
from transom.scheduler.sequence import Sequence, SequenceStatus

EOS = frozenset({2, 3})


def make_sequence(num_prompt_tokens: int = 5, **options: Any) -> Sequence:
    return Sequence(make_request("a", num_prompt_tokens, 4, **options), arrival=0, seed=1)


@pytest.mark.parametrize(
    ("options", "generated", "expected"),
    [
        ({}, [7], None),
        ({}, [7, 8, 9, 10], FinishReason.LENGTH),
        ({}, [2], FinishReason.STOP),
        ({}, [7, 3], FinishReason.STOP),
        ({}, [7, 8, 9, 2], FinishReason.STOP),
        ({"ignore_eos": True}, [7, 2], None),
        ({"ignore_eos": True}, [7, 8, 9, 2], FinishReason.LENGTH),
        ({"ignore_eos": True, "stop_token_ids": (9,)}, [9], FinishReason.STOP),
        ({"stop_token_ids": (9,)}, [3], FinishReason.STOP),
        ({"min_tokens": 1}, [2], None),
        ({"min_tokens": 1}, [7, 2], FinishReason.STOP),
        ({"min_tokens": 4}, [7, 8, 9, 2], FinishReason.LENGTH),
    ],
)
def test_the_last_token_decides_about_the_end(
    options: dict[str, Any], generated: list[int], expected: FinishReason | None
) -> None:
    sequence = make_sequence(**options)
    sequence.append(SampledToken(token_id) for token_id in generated)
    assert sequence.finish_reason(EOS) is expected


def test_an_end_of_sequence_token_at_the_end_of_the_prompt_ends_nothing() -> None:
    request = make_request("a", 5, 4)
    token_id = request.prompt_token_ids[-1]
    assert Sequence(request, 0, 1).finish_reason(frozenset({token_id})) is None


def test_a_preempted_sequence_keeps_its_tokens_and_starts_again_from_nothing() -> None:
    cache, sequence = make_cache(8), make_sequence()
    sequence.start(cache.open(sequence.tokens))
    sequence.advance(5, [])
    sequence.append([SampledToken(7)])
    assert (sequence.num_uncomputed_tokens, sequence.is_decoding) == (1, True)
    assert sequence.leave(SequenceStatus.WAITING) is not None
    assert (sequence.num_uncomputed_tokens, sequence.is_decoding) == (6, False)
    assert sequence.usage == Usage(num_prompt_tokens=5, num_completion_tokens=1)


def test_tokens_that_the_cache_had_are_counted_at_the_first_start_only() -> None:
    cache, sequence = make_cache(8), make_sequence()
    for num_cached_tokens in (3, 5):
        handle = cache.open(sequence.tokens)
        handle.num_cached_tokens = num_cached_tokens
        sequence.start(handle)
        assert sequence.num_computed_tokens == num_cached_tokens
    assert sequence.usage.num_cached_tokens == 3


def test_what_the_cache_had_is_told_with_the_first_tokens_and_with_the_last() -> None:
    cache, sequence = make_cache(8), make_sequence()
    handle = cache.open(sequence.tokens)
    handle.num_cached_tokens = 3
    sequence.start(handle)
    told = [sequence.output((), None).usage]
    for token_id, finish_reason in ((7, None), (8, None), (9, FinishReason.LENGTH)):
        sequence.append([SampledToken(token_id)])
        told.append(sequence.output((SampledToken(token_id),), finish_reason).usage)
    assert [usage and usage.num_cached_tokens for usage in told] == [None, 3, None, 3]


def test_prompt_log_probabilities_are_handed_over_with_the_first_token_and_never_again() -> None:
    sequence = make_sequence(num_prompt_tokens=3, prompt_logprobs=0)
    entries = [TokenLogprobs(1, -1.0), TokenLogprobs(2, -2.0)]
    sequence.advance(2, entries)
    assert sequence.output((), None).prompt_logprobs is None
    sequence.advance(1, [])
    assert sequence.output((SampledToken(7),), None).prompt_logprobs == (None, *entries)
    assert sequence.output((SampledToken(8),), None).prompt_logprobs is None


def test_a_token_that_was_found_is_never_counted_as_left_to_others_too() -> None:
    """Even if its KV was lost, and it was computed again and is found by others from then on."""
    cache, sequence = make_cache(16), make_sequence(num_prompt_tokens=200)
    first, again = cache.open(sequence.tokens), cache.open(sequence.tokens)
    first.num_cached_tokens = 128
    sequence.start(first)
    assert sequence.leave(SequenceStatus.WAITING) is first
    again.published_blocks += [0, 1, 2]
    sequence.start(again)
    assert (sequence.usage.num_cached_tokens, sequence.usage.num_cache_write_tokens) == (128, 64)
