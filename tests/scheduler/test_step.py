"""How one step shares out its tokens."""

from __future__ import annotations

import pytest

from tests.scheduler.driver import make_request
from transom.config.engine_config import MAX_PROMPT_LOGPROB_ROWS
from transom.request import TokenLogprobs
from transom.scheduler.sequence import Sequence
from transom.scheduler.step import StepBuilder


def make_sequence(name: str, num_prompt_tokens: int, *, num_computed: int = 0, **options: object) -> Sequence:
    sequence = Sequence(make_request(name, num_prompt_tokens, 4, **options), arrival=0, seed=1)
    sequence.advance(num_computed, [])
    return sequence


@pytest.mark.parametrize(
    ("num_prompt_tokens", "num_computed", "expected"),
    [(1, 0, (1, True)), (9, 0, (9, True)), (10, 0, (10, True)), (11, 0, (10, False)), (11, 10, (1, True))],
)
def test_a_plan_takes_what_is_left_and_samples_at_the_last_known_token(
    num_prompt_tokens: int, num_computed: int, expected: tuple[int, bool]
) -> None:
    planned = StepBuilder(10).plan(make_sequence("a", num_prompt_tokens, num_computed=num_computed), chunk=10)
    assert planned is not None
    assert (planned.num_scheduled_tokens, planned.needs_sample) == expected


def test_a_full_step_takes_nobody() -> None:
    step = StepBuilder(10)
    first = step.plan(make_sequence("a", 10), chunk=10)
    assert first is not None
    step.add(first)
    assert step.is_full
    assert step.plan(make_sequence("b", 1), chunk=10) is None


def test_a_preempted_sequence_leaves_its_share_to_others() -> None:
    step = StepBuilder(100)
    sequence = make_sequence("a", 200, prompt_logprobs=0)
    planned = step.plan(sequence, chunk=100)
    assert planned is not None
    step.add(planned)
    step.preempt(sequence)
    assert step.output() is None
    other = step.plan(make_sequence("b", 200, prompt_logprobs=0), chunk=100)
    assert other is not None
    assert other.num_prompt_logprob_rows == MAX_PROMPT_LOGPROB_ROWS
    step.add(other)
    output = step.output()
    assert output is not None
    assert (output.num_tokens, output.preempted) == (MAX_PROMPT_LOGPROB_ROWS, ("a",))


def test_when_the_rows_for_prompt_log_probabilities_are_used_up_the_next_prompt_waits() -> None:
    step = StepBuilder(500)
    first = step.plan(make_sequence("a", 200, prompt_logprobs=0), chunk=100)
    assert first is not None
    step.add(first)
    assert step.plan(make_sequence("b", 200, prompt_logprobs=0), chunk=100) is None
    assert step.plan(make_sequence("c", 200), chunk=100) is not None


def test_a_recomputation_stops_where_the_rows_still_to_be_delivered_begin() -> None:
    sequence = make_sequence("a", 200, prompt_logprobs=0)
    sequence.num_prompt_logprobs = 30
    planned = StepBuilder(100).plan(sequence, chunk=100)
    assert planned is not None
    assert (planned.num_scheduled_tokens, planned.num_prompt_logprob_rows) == (30, 0)
    sequence.advance(30, [])
    planned = StepBuilder(100).plan(sequence, chunk=100)
    assert planned is not None
    assert (planned.start, planned.num_scheduled_tokens, planned.num_prompt_logprob_rows) == (30, 64, 64)


def test_the_last_row_of_a_prompt_is_sampled_from_and_predicts_no_prompt_token() -> None:
    sequence = make_sequence("a", 5, prompt_logprobs=0)
    planned = StepBuilder(100).plan(sequence, chunk=100)
    assert planned is not None
    assert (planned.num_scheduled_tokens, planned.num_prompt_logprob_rows, planned.needs_sample) == (5, 4, True)


def test_a_prompt_whose_rows_were_all_delivered_is_recomputed_like_any_other() -> None:
    sequence = make_sequence("a", 90, prompt_logprobs=0)
    sequence.advance(89, [TokenLogprobs(0, 0.0)] * 89)
    sequence.num_computed_tokens = 0
    planned = StepBuilder(500).plan(sequence, chunk=500)
    assert planned is not None
    assert (planned.num_scheduled_tokens, planned.num_prompt_logprob_rows, planned.needs_sample) == (90, 0, True)


def test_a_chunk_longer_than_the_step_has_it_for_itself() -> None:
    step = StepBuilder(100)
    planned = step.plan(make_sequence("a", 1000), chunk=400)
    assert planned is not None
    assert planned.num_scheduled_tokens == 400
    step.add(planned)
    assert step.plan(make_sequence("b", 1000), chunk=400) is None


def test_beside_a_stream_a_chunk_is_no_longer_than_the_rest_of_the_step() -> None:
    step = StepBuilder(100)
    decoding = step.plan(make_sequence("a", 1), chunk=1)
    assert decoding is not None
    step.add(decoding)
    planned = step.plan(make_sequence("b", 1000), chunk=400)
    assert planned is not None
    assert planned.num_scheduled_tokens == 99


def test_a_chunk_may_be_shorter_than_the_step() -> None:
    step = StepBuilder(100)
    planned = step.plan(make_sequence("a", 1000), chunk=64)
    assert planned is not None
    assert (planned.num_scheduled_tokens, planned.needs_sample) == (64, False)
