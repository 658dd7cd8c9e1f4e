"""The sampler against the textbook definition, and its promise: same seed, same token, whatever else runs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from transom.errors import EngineError
from transom.request import SampledToken, SamplingParams
from transom.sampling import sample
from transom.sampling.sampler import uniform

GREEDY = SamplingParams(max_tokens=9, temperature=0.0)
RANDOM = SamplingParams(max_tokens=9)


def choose(
    logits: list[float] | NDArray[np.float32], params: SamplingParams, seed: int = 0, output: tuple[int, ...] = ()
) -> SampledToken:
    row = np.array(logits, np.float32)
    token_ids = np.array((0, *output), np.int32)
    return sample(row, params, token_ids=token_ids, num_prompt_tokens=1, seed=seed)


def frequencies(logits: list[float], params: SamplingParams, draws: int = 4000) -> list[float]:
    counts = Counter(choose(logits, params, seed).token_id for seed in range(draws))
    return [counts[i] / draws for i in range(len(logits))]


def kept(probabilities: list[float], **params: float) -> set[int]:
    logits = [float(np.log(p)) for p in probabilities]
    wanted = replace(RANDOM, **params)  # type: ignore[arg-type]
    return {choose(logits, wanted, seed).token_id for seed in range(400)}


def test_temperature_zero_is_the_argmax_with_the_lowest_id_on_ties() -> None:
    assert choose([0.0, 5.0, 1.0, 5.0], GREEDY).token_id == 1


def test_draws_follow_the_softmax() -> None:
    assert frequencies([0.0, np.log(2.0), np.log(5.0)], RANDOM) == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)


def test_temperature_two_flattens() -> None:
    flat = frequencies([0.0, 2 * np.log(3.0)], replace(RANDOM, temperature=2.0))
    assert flat == pytest.approx([0.25, 0.75], abs=0.03)


@pytest.mark.parametrize("temperature", [1e-320, 1e-9, 1e-3])
def test_a_tiny_temperature_is_the_argmax(temperature: float) -> None:
    assert choose([0.0, 5.0, 1.0], replace(RANDOM, temperature=temperature)).token_id == 1


def test_extreme_logits_do_not_overflow() -> None:
    assert choose([-3e38, 3e38], replace(RANDOM, temperature=1e-6)).token_id == 1


def test_top_k_keeps_the_k_best() -> None:
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=2) == {1, 3}
    assert kept([0.25, 0.25, 0.25, 0.25], top_k=3) == {0, 1, 2}
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=99) == {0, 1, 2, 3}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert kept([0.1, 0.4, 0.2, 0.3], top_p=0.69) == {1, 3}
    assert kept([0.1, 0.4, 0.2, 0.3], top_p=0.71) == {1, 2, 3}
    assert kept([0.1, 0.4, 0.2, 0.3], top_p=0.0) == {1}


def test_min_p_is_relative_to_the_best() -> None:
    assert kept([0.1, 0.4, 0.2, 0.3], min_p=0.6) == {1, 3}
    assert kept([0.1, 0.4, 0.2, 0.3], min_p=1.0) == {1}


def test_top_p_works_on_what_top_k_left() -> None:
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=2, top_p=0.5) == {1}
    assert kept([0.1, 0.4, 0.2, 0.3], top_k=3, top_p=0.5, min_p=0.8) == {1}


@settings(max_examples=60)
@given(
    st.lists(st.integers(-512, 512), min_size=2, max_size=50, unique=True).map(lambda row: [n / 64 for n in row]),
    st.floats(0.0, 1.0),
    st.integers(0, 60),
    st.floats(0.0, 1.0),
    st.integers(0, 2**63 - 1),
)
def test_a_drawn_token_is_one_that_the_textbook_keeps(
    logits: list[float], top_p: float, top_k: int, min_p: float, seed: int
) -> None:
    """The logits are far enough apart for their weights to differ in f32, too."""
    params = replace(RANDOM, top_p=top_p, top_k=top_k, min_p=min_p)
    assert choose(logits, params, seed).token_id in textbook(np.array(logits), params)


def textbook(logits: NDArray[np.float64], params: SamplingParams) -> set[int]:
    """Sorts everything; borderline tokens are given the benefit of rounding."""
    order = np.argsort(-logits, kind="stable")
    order = order[: params.top_k or order.size]
    weights = np.exp(logits[order] - logits.max())
    before = (np.cumsum(weights) - weights) / weights.sum()
    inside = (before < params.top_p + 1e-6) & (weights >= params.min_p - 1e-6)
    inside[0] = True
    return set(order[inside].tolist())


def test_the_same_seed_gives_the_same_token_and_another_position_another_draw() -> None:
    row = [0.0] * 1000
    assert choose(row, RANDOM, seed=7) == choose(row, RANDOM, seed=7)
    by_position = {choose(row, RANDOM, seed=7, output=(1,) * n).token_id for n in range(20)}
    assert len(by_position) > 15


def test_neither_the_batch_nor_the_place_in_memory_changes_a_draw() -> None:
    batch = np.random.default_rng(3).standard_normal((9, 5001)).astype(np.float32)
    params = replace(RANDOM, top_p=0.9, top_k=100, logprobs=3)
    ids = np.zeros(1, np.int32)
    for row in batch:
        alone = sample(row.copy(), params, token_ids=ids, num_prompt_tokens=1, seed=5)
        assert sample(row, params, token_ids=ids, num_prompt_tokens=1, seed=5) == alone


def test_uniform_numbers_are_uniform_and_below_one() -> None:
    numbers = [uniform(seed, index) for seed in range(-20, 20) for index in range(100)]
    assert all(0.0 <= u < 1.0 for u in numbers)
    assert np.mean(numbers) == pytest.approx(0.5, abs=0.02)
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("bad", [[0.0, np.nan, 1.0], [np.nan] * 3, [-np.inf] * 3, [0.0, np.inf, 0.0]])
@pytest.mark.parametrize("params", [GREEDY, RANDOM])
def test_unusable_logits_are_an_engine_error(bad: list[float], params: SamplingParams) -> None:
    with pytest.raises(EngineError, match="logits"):
        choose(bad, params)


def test_all_tokens_biased_by_minus_one_hundred_still_give_a_token() -> None:
    biased = replace(RANDOM, logit_bias={0: -100.0, 1: -100.0, 2: -100.0})
    assert choose([0.0, 1.0, 2.0], biased).token_id in {0, 1, 2}


def test_log_probabilities_are_of_the_raw_model() -> None:
    params = replace(GREEDY, logit_bias={0: 50.0}, logprobs=1)
    answer = choose([0.0, float(np.log(3.0))], params)
    assert answer.token_id == 0
    assert answer.logprobs is not None
    assert answer.logprobs.logprob == pytest.approx(np.log(0.25))
    assert answer.logprobs.top[0][0] == 1
    assert answer.logprobs.top[0][1] == pytest.approx(np.log(0.75))


def test_no_log_probabilities_unless_asked() -> None:
    assert choose([0.0, 1.0], GREEDY).logprobs is None


def test_a_large_vocabulary_is_sampled_within_its_time() -> None:
    row = (np.random.default_rng(0).standard_normal(128_256) * 4).astype(np.float32)
    limits = [(GREEDY, 0.3e-3), (replace(RANDOM, top_p=0.9), 2e-3), (replace(RANDOM, top_k=40), 2e-3)]
    for params, limit in limits:
        assert fastest(row, params) < 5 * limit, "five times the goal: the machine may be busy"


def fastest(row: NDArray[np.float32], params: SamplingParams) -> float:
    ids = np.zeros(1, np.int32)
    stamps = []
    for seed in range(20):
        stamps.append(time.perf_counter())
        sample(row, params, token_ids=ids, num_prompt_tokens=1, seed=seed)
    stamps.append(time.perf_counter())
    return min(later - earlier for earlier, later in pairwise(stamps))
