"""Log probabilities of the raw model: of unmodified logits, before penalties, temperature and truncation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from transom.request import TokenLogprobs
from transom.sampling.selection import best_first


def token_logprobs(logits: NDArray[np.float32], token_id: int, num_top: int) -> TokenLogprobs:
    """Log probability of `token_id` and of the `num_top` most likely tokens under the row `logits` [V]."""
    shift = _log_sum_exp(logits)
    top = best_first(logits, num_top)
    return TokenLogprobs(
        token_id=token_id,
        logprob=float(logits[token_id]) - shift,
        top=tuple((int(i), float(logits[i]) - shift) for i in top),
    )


def prompt_logprobs(logits: NDArray[np.float32], next_ids: Sequence[int], num_top: int) -> list[TokenLogprobs]:
    """One `TokenLogprobs` per row of `logits` [R, V]: row i was computed at the token before `next_ids[i]`."""
    return [
        replace(token_logprobs(row, int(next_id), num_top), rank=_rank(row, int(next_id)))
        for row, next_id in zip(logits, next_ids, strict=True)
    ]


def _rank(logits: NDArray[np.float32], token_id: int) -> int:
    """As `best_first` has it: of equals the lower id comes first."""
    logit = logits[token_id]
    before = np.count_nonzero(logits > logit) + np.count_nonzero(logits[:token_id] == logit)
    return int(before) + 1


def _log_sum_exp(logits: NDArray[np.float32]) -> float:
    """The sum runs in float64, so a vocabulary of 10^5 small terms loses nothing."""
    highest = logits.max()
    return float(highest) + math.log(float(np.exp(logits - highest).sum(dtype=np.float64)))
