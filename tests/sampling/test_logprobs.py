"""Log probabilities against float64 by hand."""

from __future__ import annotations

import numpy as np
import pytest

from transom.sampling import prompt_logprobs, token_logprobs


def test_log_probabilities_are_the_log_softmax_of_the_row() -> None:
    row = np.random.default_rng(1).standard_normal(1000).astype(np.float32) * 5
    exact = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    answer = token_logprobs(row, 17, 3)
    assert answer.token_id == 17
    assert answer.logprob == pytest.approx(exact[17], abs=1e-6)
    assert [token for token, _ in answer.top] == np.argsort(-exact)[:3].tolist()
    assert [value for _, value in answer.top] == pytest.approx(np.sort(exact)[::-1][:3].tolist(), abs=1e-6)


def test_ranks_of_prompt_tokens_are_their_places_in_the_order_of_the_rivals() -> None:
    row = np.random.default_rng(2).integers(0, 5, 50).astype(np.float32)
    order = [token for token, _ in token_logprobs(row, 0, 50).top]
    answer = prompt_logprobs(np.stack([row] * 50), range(50), 3)
    assert [logprobs.rank for logprobs in answer] == [order.index(token) + 1 for token in range(50)]


def test_without_rivals_only_the_chosen_token_is_reported() -> None:
    assert token_logprobs(np.zeros(4, np.float32), 2, 0).top == ()


def test_more_rivals_than_tokens_are_all_tokens() -> None:
    assert len(token_logprobs(np.zeros(4, np.float32), 2, 20).top) == 4


def test_a_large_logit_does_not_overflow() -> None:
    assert token_logprobs(np.array([3e4, -3e4], np.float32), 0, 1).logprob == 0.0


def test_prompt_log_probabilities_look_at_the_token_that_follows() -> None:
    rows = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    first, second = prompt_logprobs(rows, [1, 2], 1)
    assert (first.token_id, second.token_id) == (1, 2)
    assert np.exp(first.logprob) == pytest.approx(0.25)
    assert np.exp(second.logprob) == pytest.approx(0.8)
    assert (first.top[0][0], second.top[0][0]) == (0, 2)


def test_the_batch_does_not_change_a_row() -> None:
    rows = np.random.default_rng(2).standard_normal((7, 333)).astype(np.float32)
    together = prompt_logprobs(rows, [5] * 7, 4)
    assert together == [prompt_logprobs(row[None].copy(), [5], 4)[0] for row in rows]
