"""Several sequences from one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from transom.llm import (
    Completion,
    GenerationRequest,
    TextDelta,
    TokenDetail,
    best,
    collect,
    repeat,
)
from transom.request import FinishReason, Request, SamplingParams, Usage


class Letters:
    """A stream of letters that notes whether it was closed."""

    def __init__(self, letters: str, error: Exception | None = None) -> None:
        self._letters = letters
        self._error = error
        self.is_closed = False

    async def stream(self) -> AsyncGenerator[TextDelta]:
        """One delta per letter; then ends, or fails."""
        try:
            for letter in self._letters:
                await asyncio.sleep(0)
                yield TextDelta(letter)
            if self._error is not None:
                raise self._error
            yield TextDelta(finish_reason=FinishReason.LENGTH, usage=Usage(1, len(self._letters)))
        finally:
            self.is_closed = True


def _request(seed: int | None = None) -> GenerationRequest:
    return GenerationRequest(Request("r", (1,), SamplingParams(max_tokens=3, seed=seed)), ("x",))


def _completion(text: str, *logprobs: float) -> Completion:
    details = tuple(TokenDetail(0, b"", logprob, 0) for logprob in logprobs)
    return Completion(text, (), (), details, None, FinishReason.LENGTH, None, Usage(1, 1))


def test_repetitions_differ_in_id_and_seed_and_agree_in_the_rest() -> None:
    requests = repeat(_request(seed=7), 3)
    assert [request.request.request_id for request in requests] == ["r-0", "r-1", "r-2"]
    assert [request.request.sampling.seed for request in requests] == [7, 8, 9]
    assert all(request.stop == ("x",) for request in requests)


def test_seeds_stay_signed_64_bit_numbers() -> None:
    seeds = [request.request.sampling.seed for request in repeat(_request(seed=2**63 - 1), 2)]
    assert seeds == [2**63 - 1, -(2**63)]


def test_repetitions_without_a_seed_have_none() -> None:
    assert [request.request.sampling.seed for request in repeat(_request(), 2)] == [None, None]


def test_best_of_ranks_by_log_probability_per_token() -> None:
    short, long, middle = _completion("short", -2.0), _completion("long", -0.5, -0.5, -0.5), _completion("middle", -1.0)
    assert [completion.text for completion in best([short, middle, long], 2)] == ["long", "middle"]


async def test_a_stream_is_collected_into_one_completion() -> None:
    completion = await collect(Letters("abc").stream())
    assert (completion.text, completion.logprobs) == ("abc", None)
