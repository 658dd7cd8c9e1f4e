"""Merged outputs say what the single ones said."""

from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from transom.engine.merging import merge, merge_all
from transom.request import FinishReason, RequestOutput, TokenLogprobs, Usage

TOKENS = st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=8)


def output(token_ids: list[int], **fields: object) -> RequestOutput:
    logprobs = tuple(TokenLogprobs(token_id, -1.0) for token_id in token_ids)
    return RequestOutput("r", tuple(token_ids), logprobs, **fields)  # type: ignore[arg-type]


@given(TOKENS)
def test_tokens_and_log_probabilities_stay_in_order_and_together(steps: list[list[int]]) -> None:
    merged = reduce(merge, [output(step) for step in steps])
    assert merged.token_ids == tuple(token for step in steps for token in step)
    assert merged.logprobs is not None
    assert tuple(each.token_id for each in merged.logprobs) == merged.token_ids


def test_prefill_progress_prompt_log_probabilities_and_the_end_all_survive() -> None:
    scored = (None, TokenLogprobs(1, -2.0))
    usage = Usage(2, 1)
    first = RequestOutput("r", num_computed_tokens=64)
    second = RequestOutput("r", (5,), prompt_logprobs=scored, num_computed_tokens=80)
    last = RequestOutput("r", (6,), finish_reason=FinishReason.STOP, stop_token_id=6, usage=usage)
    merged = reduce(merge, [first, second, last])
    assert merged == RequestOutput(
        "r",
        (5, 6),
        prompt_logprobs=scored,
        finish_reason=FinishReason.STOP,
        stop_token_id=6,
        usage=usage,
        num_computed_tokens=80,
    )


def test_what_the_first_tokens_tell_of_the_prompt_survives() -> None:
    usage = Usage(2, 1, num_cached_tokens=1)
    merged = merge(RequestOutput("r", (5,), usage=usage), RequestOutput("r", (6,)))
    assert merged == RequestOutput("r", (5, 6), usage=usage)


def test_requests_are_merged_apart_in_order_of_appearance() -> None:
    a, b = RequestOutput("a", (1,)), RequestOutput("b", (2,))
    assert merge_all([b, a, b]) == {"b": RequestOutput("b", (2, 2)), "a": a}
