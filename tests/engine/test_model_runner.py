"""Rows in, rows out: which rows go through the model, whose logits are whose, and who fails alone."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tests.fakes import SuccessorModel, byte_model_config, byte_request, small_engine_config
from transom.cache import CacheManager
from transom.engine.model_runner import FAILURE_MESSAGE, ModelRunner, forward_batch
from transom.request import Request, SampledToken
from transom.scheduler import ScheduledSequence, SchedulerOutput, Sequence


class Bench:
    """Sequences with room in a real cache, scheduled by hand."""

    def __init__(self, model: SuccessorModel) -> None:
        self.cache = CacheManager(byte_model_config(), small_engine_config())
        self.runner = ModelRunner(model, self.cache, eos_token_ids=(255,))
        self.num_sequences = 0

    def schedule(
        self, request: Request, count: int | None = None, *, needs_sample: bool = True, num_prompt_logprob_rows: int = 0
    ) -> ScheduledSequence:
        sequence = Sequence(request, self.num_sequences, seed=0)
        self.num_sequences += 1
        handle = self.cache.open(sequence.tokens)
        assert self.cache.reserve(handle, sequence.num_tokens)
        sequence.start(handle)
        return ScheduledSequence(sequence, 0, count or sequence.num_tokens, needs_sample, num_prompt_logprob_rows)

    def guess(self, request: Request, draft: bytes) -> ScheduledSequence:
        """The same with guesses behind it."""
        scheduled = self.schedule(request).with_draft(tuple(draft))
        assert scheduled.sequence.cache is not None
        assert self.cache.reserve(scheduled.sequence.cache, scheduled.end)
        return scheduled


def output_of(*scheduled: ScheduledSequence) -> SchedulerOutput:
    return SchedulerOutput(scheduled, sum(each.num_scheduled_tokens for each in scheduled))


def test_rows_lie_one_behind_the_other_with_their_own_positions() -> None:
    bench = Bench(SuccessorModel())
    first = bench.schedule(byte_request("abc", request_id="1"))
    second = bench.schedule(byte_request("xy", request_id="2"), needs_sample=False)
    parts = [(each.sequence.cache, 0, each.num_scheduled_tokens) for each in (first, second) if each.sequence.cache]
    batch = forward_batch((first, second), bench.cache.layer_cache(parts))
    assert bytes(batch.token_ids.tolist()) == b"abcxy"
    assert batch.positions.tolist() == [0, 1, 2, 0, 1]
    assert batch.sequence_starts.tolist() == [0, 3, 5]
    assert batch.logit_rows.tolist() == [2]
    assert {array.dtype for array in (batch.token_ids, batch.positions, batch.logit_rows)} == {np.dtype(np.int32)}


def test_every_sequence_gets_the_token_of_its_own_row() -> None:
    bench = Bench(SuccessorModel())
    scheduled = [bench.schedule(byte_request(text, request_id=text)) for text in ("abc", "x", "hm")]
    result = bench.runner.run(output_of(*scheduled))
    assert result.sampled == {
        "abc": (SampledToken(ord("d")),),
        "x": (SampledToken(ord("y")),),
        "hm": (SampledToken(ord("n")),),
    }
    assert not result.failed


def test_a_chunk_that_ends_inside_the_prompt_samples_nothing() -> None:
    bench = Bench(SuccessorModel())
    result = bench.runner.run(output_of(bench.schedule(byte_request("abc"), 2, needs_sample=False)))
    assert not result.sampled
    assert not result.failed


def test_prompt_log_probabilities_come_from_the_first_rows_and_the_sample_from_the_last() -> None:
    bench = Bench(SuccessorModel())
    request = byte_request("abz", prompt_logprobs=1, logprobs=1)
    result = bench.runner.run(output_of(bench.schedule(request, num_prompt_logprob_rows=2)))
    likely, unlikely = result.prompt_logprobs["r"]
    assert (likely.token_id, likely.top[0][0]) == (ord("b"), ord("b"))
    assert (unlikely.token_id, unlikely.top[0][0]) == (ord("z"), ord("c"))
    assert likely.logprob == pytest.approx(-np.log1p(255 * np.exp(-10.0)), abs=1e-6)
    assert unlikely.logprob == pytest.approx(likely.logprob - 10.0)
    assert result.sampled["r"][0].token_id == ord("z") + 1


def test_useless_logits_fail_their_own_request_with_the_reason() -> None:
    bench = Bench(SuccessorModel(nan_tokens=b"x"))
    good, bad = bench.schedule(byte_request("a", request_id="good")), bench.schedule(byte_request("x"))
    result = bench.runner.run(output_of(good, bad))
    assert result.sampled == {"good": (SampledToken(ord("b")),)}
    assert list(result.failed) == ["r"]
    assert "logits" in result.failed["r"]


def test_a_pass_that_raises_is_repeated_one_by_one_and_only_the_culprit_fails(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(SuccessorModel(poison=b"!"))
    scheduled = [bench.schedule(byte_request(text, request_id=text)) for text in ("ab", "oh!", "xy")]
    with caplog.at_level(logging.CRITICAL):
        result = bench.runner.run(output_of(*scheduled))
    assert result.failed == {"oh!": FAILURE_MESSAGE}
    assert result.sampled == {"ab": (SampledToken(ord("c")),), "xy": (SampledToken(ord("z")),)}


def test_end_tokens_are_held_back_until_min_tokens_unless_they_are_ignored() -> None:
    bench = Bench(SuccessorModel())
    held_back = bench.schedule(byte_request(b"\xfe", request_id="held back", min_tokens=2))
    ignored = bench.schedule(byte_request(b"\xfe", request_id="ignored", min_tokens=2, ignore_eos=True))
    own_stop = bench.schedule(byte_request("a", request_id="own", min_tokens=2, stop_token_ids=(ord("b"),)))
    sampled = bench.runner.run(output_of(held_back, ignored, own_stop)).sampled
    assert sampled["held back"][0].token_id != 255
    assert sampled["ignored"][0].token_id == 255
    assert sampled["own"][0].token_id != ord("b")


@pytest.mark.parametrize(
    ("draft", "expected"), [(b"d", b"de"), (b"def", b"defg"), (b"dex", b"def"), (b"x", b"d"), (b"xef", b"d")]
)
def test_a_draft_counts_as_far_as_it_is_what_is_sampled(draft: bytes, expected: bytes) -> None:
    bench = Bench(SuccessorModel())
    scheduled = [
        bench.schedule(byte_request("mn", request_id="before")),
        bench.guess(byte_request("abc"), draft),
        bench.schedule(byte_request("xy", request_id="behind")),
    ]
    result = bench.runner.run(output_of(*scheduled))
    assert result.sampled["before"] == (SampledToken(ord("o")),)
    assert bytes(token.token_id for token in result.sampled["r"]) == expected
    assert result.sampled["behind"] == (SampledToken(ord("z")),)


def test_rows_of_a_draft_are_sampled_with_the_tokens_known_by_then() -> None:
    bench = Bench(SuccessorModel())
    request = byte_request("abc", presence_penalty=2.0, frequency_penalty=2.0, logit_bias={ord("d"): 9.0}, logprobs=1)
    sampled = bench.runner.run(output_of(bench.guess(request, b"dee"))).sampled["r"]
    assert bytes(token.token_id for token in sampled) == b"def"  # the second "d" is held back by the first
    assert [token.logprobs.token_id for token in sampled if token.logprobs is not None] == list(b"def")


def test_a_row_of_a_draft_that_fails_is_left_to_the_next_step() -> None:
    bench = Bench(SuccessorModel(nan_tokens=b"e"))
    result = bench.runner.run(output_of(bench.guess(byte_request("abc"), b"def")))
    assert bytes(token.token_id for token in result.sampled["r"]) == b"de"
    assert not result.failed
