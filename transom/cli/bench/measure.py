"""One measurement: a prompt of random tokens through the engine, and the clock beside it.

Prefill: the prompt's last tokens, behind `depth` others. Decode: the tokens behind the prompt, from the first that was
sampled on. Nothing is guessed (no speculative decoding), sampling is greedy, and ends are ignored.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transom.errors import EngineError
from transom.registry.served_model import Engine
from transom.request import CacheOptions, FinishReason, Request, RequestOutput, SamplingParams

ALL_AT_ONCE = "all tokens came at once, so that their time is not known: measure more of them, --decode 128"

_SEED = 20260


@dataclass(frozen=True, slots=True)
class Sample:
    """One round at one depth."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    num_forgotten_tokens: int


@dataclass(frozen=True, slots=True)
class _Arrival:
    """When an output came: what was computed by then, and how many tokens it brought."""

    seconds: float
    num_computed_tokens: int
    num_new_tokens: int


def random_prompt(vocab_size: int, depth: int, num_more_tokens: int, round_number: int) -> list[int]:
    """The same first `depth` tokens in every round, and others behind them, so that no round has them from the last."""
    beginning = random.Random(_SEED).choices(range(vocab_size), k=depth)  # noqa: S311 - no secret
    return beginning + random.Random(_SEED + 1 + round_number).choices(range(vocab_size), k=num_more_tokens)  # noqa: S311


async def measure(
    engine: Engine,
    request_id: str,
    prompt: Sequence[int],
    depth: int,
    num_decode_tokens: int,
    cache: CacheOptions,
    salt: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> Sample:
    """Runs one request. Raises what admission raises, and EngineError when the request fails on its way."""
    sampling = SamplingParams(max_tokens=1 + num_decode_tokens, temperature=0.0, ignore_eos=True)
    request = Request(request_id, prompt, sampling, max_draft_tokens=0, cache=cache, cache_salt=salt)
    submitted = clock()
    arrivals: list[_Arrival] = []
    last = RequestOutput(request_id)
    async for last in engine.generate(request):
        arrivals.append(_Arrival(clock(), last.num_computed_tokens, len(last.token_ids)))
    if last.finish_reason is not FinishReason.LENGTH or last.usage is None:
        raise EngineError(f"a measurement ended early: {last.error or last.finish_reason}")
    reading = [_Arrival(submitted, last.usage.num_cached_tokens, 0)]
    reading += [arrival for arrival in arrivals if not arrival.num_new_tokens]
    writing = [arrival for arrival in arrivals if arrival.num_new_tokens]
    return Sample(
        _prefill_rate(reading, writing[0], len(prompt), depth), _decode_rate(writing), last.usage.num_evicted_tokens
    )


def _prefill_rate(reading: Sequence[_Arrival], first_token: _Arrival, num_prompt_tokens: int, depth: int) -> float:
    """From the last border of chunks at `depth`, or before it, to the first token."""
    start = [reading[0], *(arrival for arrival in reading if arrival.num_computed_tokens <= depth)][-1]
    return (num_prompt_tokens - start.num_computed_tokens) / (first_token.seconds - start.seconds)


def _decode_rate(writing: Sequence[_Arrival]) -> float:
    """All tokens but those that came first, over the time from then on.

    EngineError when all came at once: this process was not woken for so long that the clock has seen nothing.
    """
    if len(writing) < 2:
        raise EngineError(ALL_AT_ONCE)
    num_tokens = sum(arrival.num_new_tokens for arrival in writing[1:])
    return num_tokens / (writing[-1].seconds - writing[0].seconds)
