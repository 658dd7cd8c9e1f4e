"""One row of logits to one token: processors, temperature, top-k, top-p, min-p, draw. Pure; one call per row.

Randomness is a hash of (seed, index of the generated token) and nothing else. There is no generator state to carry, so
a draw comes out the same in any batch and after any preemption.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from transom.errors import EngineError
from transom.request import SampledToken, SamplingParams
from transom.sampling.logprobs import token_logprobs
from transom.sampling.processors import SampledSoFar, process
from transom.sampling.selection import best_indices, first_exceeding

_UNUSABLE_LOGITS = "The model computed no usable logits for this request."
_NOTHING_LEFT = (
    "No token is left that the request allows: its grammar, allowed_token_ids and logit_bias exclude each other."
)

_LOWEST_TEMPERATURE = 1e-6
"""Below it float32 scores would overflow; the draw is the argmax long before."""


def sample(
    logits: NDArray[np.float32],
    params: SamplingParams,
    *,
    token_ids: NDArray[np.int32],
    num_prompt_tokens: int,
    seed: int,
    end_token_ids: tuple[int, ...] = (),
    ceilings: NDArray[np.float32] | None = None,
) -> SampledToken:
    """Chooses the token after `token_ids` (prompt and output so far) from the row `logits` [V], which is not changed.

    `seed` is any integer of 64 bits; `end_token_ids` are what `min_tokens` holds back; `ceilings` [V] are what its
    grammar makes of it: infinity where it admits a token, else minus infinity; None = all. Raises EngineError when no
    token is left, or the model computed no usable number.
    """
    so_far = SampledSoFar(token_ids, num_prompt_tokens, end_token_ids, ceilings)
    processed = process(logits, params, so_far)
    best = int(processed.argmax())
    if not np.isfinite(processed[best]):
        raise EngineError(_NOTHING_LEFT if np.isfinite(logits).all() else _UNUSABLE_LOGITS)
    token_id = best
    if params.temperature > 0.0:
        token_id = _draw(processed, processed[best], params, uniform(seed, so_far.output.size))
    logprobs = None if params.logprobs is None else token_logprobs(logits, token_id, params.logprobs)
    return SampledToken(token_id, logprobs)


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that depends on the two integers only.

    52 bits, one less than a float holds: the product with any total then stays strictly below the total.
    """
    digest = blake2b(struct.pack("<QQ", seed & (2**64 - 1), index), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 12) * 2.0**-52


def _draw(logits: NDArray[np.float32], highest: np.float32, params: SamplingParams, u: float) -> int:
    """The token where the cumulated probability of the kept tokens, in order of their ids, first exceeds `u`."""
    temperature = np.float32(max(params.temperature, _LOWEST_TEMPERATURE))
    with np.errstate(over="ignore"):  # a score of minus infinity is as good as any other hopeless one
        weights = np.exp((logits - highest) / temperature)  # [V], the best one is 1
    kept = _kept_tokens(weights, params)
    position = first_exceeding(weights if kept is None else weights[kept], u)
    return position if kept is None else int(kept[position])


def _kept_tokens(weights: NDArray[np.float32], params: SamplingParams) -> NDArray[np.intp] | None:
    """Ids that pass top-k, then top-p, then min-p, ascending. None means all of them."""
    kept: NDArray[np.intp] | None = None
    if 0 < params.top_k < weights.size:
        kept = best_indices(weights, params.top_k)
    if params.top_p < 1.0:
        kept = _narrow(kept, _nucleus(weights if kept is None else weights[kept], params.top_p))
    if params.min_p > 0.0:
        likely = (weights if kept is None else weights[kept]) >= np.float32(params.min_p)
        kept = _narrow(kept, np.flatnonzero(likely))
    return kept


def _narrow(kept: NDArray[np.intp] | None, positions: NDArray[np.intp]) -> NDArray[np.intp]:
    return positions if kept is None else kept[positions]


def _nucleus(weights: NDArray[np.float32], top_p: float) -> NDArray[np.intp]:
    """Positions of the smallest set of the most likely tokens that holds at least `top_p` of the weight; never empty.

    Tokens so unlikely that all of them together hold less than the rest, 1 - top_p, cannot be in it. They are most of
    a vocabulary, and need not be sorted.
    """
    total = float(weights.sum(dtype=np.float64))
    likely = np.flatnonzero(weights >= (1.0 - top_p) * total / weights.size)
    candidates = weights[likely]
    mass = np.cumsum(np.sort(candidates)[::-1], dtype=np.float64)
    count = int(np.searchsorted(mass, top_p * total, side="left")) + 1
    return likely[best_indices(candidates, count)]
