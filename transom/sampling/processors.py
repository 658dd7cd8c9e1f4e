"""What a request may do to its logits before a token is chosen. Pure: arrays come in, new arrays go out.

The order is fixed: the grammar's tokens, allowed tokens, logit bias, repetition, presence and frequency penalties, and
last the ban on ending before `min_tokens`, so that no bias can lift it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.request import SamplingParams, TokenIds

Logits = NDArray[np.float32]

_NEVER = np.float32(-np.inf)
_LOWEST_PENALTY = 1e-30
"""Below it float32 logits would overflow; tokens that were seen before win long before."""


@dataclass(frozen=True, slots=True)
class SampledSoFar:
    """The tokens a row has behind it."""

    token_ids: NDArray[np.int32]  # [prompt + output]
    num_prompt_tokens: int
    end_token_ids: tuple[int, ...] = ()
    """Tokens that would end the sequence: the model's and the request's."""
    ceilings: NDArray[np.float32] | None = None  # [V]
    """What no logit may exceed: infinity where the request's grammar admits the token, else minus infinity; None = it
    admits all."""

    @property
    def output(self) -> NDArray[np.int32]:
        """The generated tokens."""
        return self.token_ids[self.num_prompt_tokens :]


Processor = Callable[[Logits, SamplingParams, SampledSoFar], None]


def process(logits: Logits, params: SamplingParams, so_far: SampledSoFar) -> Logits:
    """Returns `logits` [V] as the request wants them. The argument itself is never changed."""
    processors = _processors_of(params, so_far)
    if not processors:
        return logits
    changed = logits.copy()
    for apply in processors:
        apply(changed, params, so_far)
    return changed


def _processors_of(params: SamplingParams, so_far: SampledSoFar) -> list[Processor]:
    wanted: list[tuple[bool, Processor]] = [
        (so_far.ceilings is not None, _follow_the_grammar),
        (params.allowed_token_ids is not None, _allow_only),
        (bool(params.logit_bias), _add_bias),
        (params.repetition_penalty != 1.0, _penalise_repetition),
        (params.presence_penalty != 0.0 or params.frequency_penalty != 0.0, _penalise_presence_and_frequency),
        (so_far.output.size < params.min_tokens, _ban_the_end),
    ]
    return [processor for is_wanted, processor in wanted if is_wanted]


def _follow_the_grammar(logits: Logits, _: SamplingParams, so_far: SampledSoFar) -> None:
    if so_far.ceilings is not None:
        np.fmin(logits, so_far.ceilings, out=logits)


def _allow_only(logits: Logits, params: SamplingParams, _: SampledSoFar) -> None:
    allowed = np.frombuffer(TokenIds.of(params.allowed_token_ids or ()).packed, np.int32)
    kept = logits[allowed]
    logits.fill(_NEVER)
    logits[allowed] = kept


def _add_bias(logits: Logits, params: SamplingParams, _: SampledSoFar) -> None:
    token_ids = np.fromiter(params.logit_bias.keys(), np.intp)
    logits[token_ids] += np.fromiter(params.logit_bias.values(), np.float32)


def _penalise_repetition(logits: Logits, params: SamplingParams, so_far: SampledSoFar) -> None:
    """Of every token in prompt or output: positive logits are divided by the penalty, negative ones multiplied.

    Reads all before it writes any, so a token that occurs twice is still penalised once.
    """
    penalty = np.float32(max(params.repetition_penalty, _LOWEST_PENALTY))
    seen = logits[so_far.token_ids]
    logits[so_far.token_ids] = np.where(seen > 0, seen / penalty, seen * penalty)


def _penalise_presence_and_frequency(logits: Logits, params: SamplingParams, so_far: SampledSoFar) -> None:
    """Output tokens only, as OpenAI defines it: presence once, frequency per occurrence."""
    token_ids, counts = np.unique(so_far.output, return_counts=True)
    logits[token_ids] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * counts.astype(
        np.float32
    )


def _ban_the_end(logits: Logits, _: SamplingParams, so_far: SampledSoFar) -> None:
    """Yields when nothing but end tokens is allowed; they then come without ending the sequence before its time."""
    ends = np.array(so_far.end_token_ids, np.intp)
    kept = logits[ends]
    logits[ends] = _NEVER
    if ends.size and logits.max() == _NEVER:
        logits[ends] = kept
