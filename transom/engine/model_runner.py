"""Runs the model over what the scheduler chose, and chooses tokens. Knows no queue and no budgets.

A request that makes the model or the sampler raise fails alone: results do not depend on the batch, so the other
sequences of a failed step are simply computed again, one by one, with the same outcome as together.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom.cache import LostBlockError, SequenceCache
from transom.engine.grammars import Following, Grammars
from transom.engine.pools import Pools, pooled_rows
from transom.errors import EngineError
from transom.layers.forward_batch import ForwardBatch, LayerCache
from transom.models import Model
from transom.request import SampledToken, TokenLogprobs
from transom.sampling import prompt_logprobs, sample
from transom.scheduler import ScheduledSequence, SchedulerOutput

logger = logging.getLogger(__name__)

_MAX_NAMED = 8
"""Sequences that a line of the log names."""

FAILURE_MESSAGE = "The engine failed on this request; the log says why."


class LayerCacheSource(Protocol):
    """What the runner needs of `CacheManager`."""

    def layer_cache(self, parts: Sequence[tuple[SequenceCache, int, int]]) -> LayerCache:
        """The view of one forward pass: (handle, start, num_tokens) per sequence."""
        ...


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step computed, by request id."""

    sampled: dict[str, tuple[SampledToken, ...]] = field(default_factory=dict)
    """One token, or with a draft up to one more than was drafted: what was right of it, and the first that is not of
    it."""
    prompt_logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)
    """One per row that was asked for, in order."""
    vectors: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Of requests that asked for one, and whose last token was computed."""
    failed: dict[str, str] = field(default_factory=dict)
    """Requests whose computation failed, with a message that is fit to be shown."""


Allowed = Mapping[str, Following]
"""What sequences under a grammar may be given next, by request id."""


class ModelRunner:
    """Owns vectors in the making; model, cache and grammars are shared with whoever made them. One call at a time,
    blocking."""

    def __init__(
        self, model: Model, cache: LayerCacheSource, eos_token_ids: Iterable[int], grammars: Grammars | None = None
    ) -> None:
        """Without `grammars` no request may have one."""
        self._model = model
        self._cache = cache
        self._eos_token_ids = tuple(eos_token_ids)
        self._grammars = grammars
        self._pools = Pools()

    def run(self, output: SchedulerOutput) -> StepResult:
        """Computes every scheduled token, samples where a sequence is complete. Raises nothing of a request's own.

        Raises LostBlockError when the cache has lost KV: the sequences it names cannot go on, the step is void.
        """
        result = StepResult()
        allowed = self._begin_grammars(output.scheduled)
        for scheduled, rows in self._compute(output.scheduled, result):
            self._finish(scheduled, rows, allowed, result)
        return result

    def _begin_grammars(self, scheduled: Sequence[ScheduledSequence]) -> Allowed:
        """They are computed while the model is."""
        return {
            each.sequence.request_id: self._grammars.begin(each.sequence, self._end_token_ids(each))
            for each in scheduled
            if self._grammars is not None and each.needs_sample and each.sequence.sampling.grammar is not None
        }

    def _compute(
        self, scheduled: Sequence[ScheduledSequence], result: StepResult
    ) -> list[tuple[ScheduledSequence, NDArray[np.float32]]]:
        """The sequences that could be computed, each with its own rows."""
        try:
            return list(zip(scheduled, self._forward(scheduled), strict=True))
        except LostBlockError:
            raise
        except Exception as error:
            names = ",".join(each.sequence.request_id for each in scheduled[:_MAX_NAMED])
            logger.exception("a step of %d sequences failed", len(scheduled), extra={"sequence_id": names})
            if len(scheduled) == 1:
                _fail(scheduled[0], error, result)
                return []
        return [pair for each in scheduled for pair in self._compute((each,), result)]

    def _forward(self, scheduled: Sequence[ScheduledSequence]) -> list[NDArray[np.float32]]:
        parts = [(_handle(each), each.start, each.num_scheduled_tokens) for each in scheduled]
        batch = forward_batch(scheduled, self._cache.layer_cache(parts))
        if any(each.sequence.request.pooling for each in scheduled):
            return self._with_logits(scheduled, _shares(scheduled, self._model.hidden_states(batch)))
        return _shares(scheduled, self._model.forward(batch))

    def _with_logits(
        self, scheduled: Sequence[ScheduledSequence], hidden: list[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """The hidden states of sequences that become vectors, and what the head makes of the others'."""
        generating = [index for index, each in enumerate(scheduled) if each.sequence.request.pooling is None]
        if generating:
            logits = self._model.logits(np.concatenate([hidden[index] for index in generating]))
            shares = _shares([scheduled[index] for index in generating], logits)
            for index, share in zip(generating, shares, strict=True):
                hidden[index] = share
        return hidden

    def _finish(
        self, scheduled: ScheduledSequence, rows: NDArray[np.float32], allowed: Allowed, result: StepResult
    ) -> None:
        """Turns one sequence's rows into what it asked for."""
        request_id = scheduled.sequence.request_id
        try:
            if scheduled.sequence.request.pooling is not None:
                vector = self._pools.take(scheduled, rows)
                result.vectors.update({} if vector is None else {request_id: vector})
            if scheduled.num_prompt_logprob_rows:
                result.prompt_logprobs[request_id] = _prompt_logprobs(scheduled, rows)
            if scheduled.needs_sample:
                sampled_rows = rows[scheduled.num_prompt_logprob_rows :]
                result.sampled[request_id] = self._sample(scheduled, sampled_rows, allowed.get(request_id))
        except Exception as error:
            logger.exception("sampling failed", extra={"sequence_id": request_id})
            _fail(scheduled, error, result)

    def _sample(
        self, scheduled: ScheduledSequence, rows: NDArray[np.float32], allowed: Following | None
    ) -> tuple[SampledToken, ...]:
        """The next token; with a draft from each row the token behind those that are known by then, as if it had been
        computed alone: the draft counts as far as it says what is sampled. `rows` are [1 + drafted, V].

        Raises what sampling from the first row raises. A later row that fails is left to a step that begins with it,
        so that what came before it is delivered.
        """
        if allowed is not None:
            return (self._sample_allowed(scheduled, rows[0], allowed),)
        sampled: list[SampledToken] = []
        for index, row in enumerate(rows):
            try:
                sampled.append(self._sample_one(scheduled, row, num_accepted=index))
            except Exception:
                if not sampled:
                    raise
                break
            if scheduled.draft[index : index + 1] != (sampled[-1].token_id,):
                break
        return tuple(sampled)

    def _sample_allowed(
        self, scheduled: ScheduledSequence, row: NDArray[np.float32], allowed: Following
    ) -> SampledToken:
        """Under a grammar nothing is guessed: what it allows behind a guess would have to be known first."""
        if self._grammars is None:
            raise EngineError("a sequence with a grammar was scheduled where there are none")
        sequence, following = scheduled.sequence, allowed.result()
        sampled = self._sample_one(scheduled, row, ceilings=following.ceilings)
        is_complete = self._grammars.take(sequence, sampled.token_id, following)
        return replace(sampled, completes_grammar=True) if is_complete else sampled

    def _sample_one(
        self,
        scheduled: ScheduledSequence,
        row: NDArray[np.float32],
        *,
        num_accepted: int = 0,
        ceilings: NDArray[np.float32] | None = None,
    ) -> SampledToken:
        sequence = scheduled.sequence
        return sample(
            row,
            sequence.sampling,
            token_ids=scheduled.token_ids[: sequence.num_tokens + num_accepted],
            num_prompt_tokens=sequence.num_prompt_tokens,
            seed=sequence.seed,
            end_token_ids=self._end_token_ids(scheduled),
            ceilings=ceilings,
        )

    def _end_token_ids(self, scheduled: ScheduledSequence) -> tuple[int, ...]:
        sampling = scheduled.sequence.sampling
        return (() if sampling.ignore_eos else self._eos_token_ids) + sampling.stop_token_ids


def forward_batch(scheduled: Sequence[ScheduledSequence], cache: LayerCache) -> ForwardBatch:
    """The rows of all sequences one behind the other; what comes out only where somebody looks at it."""
    lengths = [each.num_scheduled_tokens for each in scheduled]
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return ForwardBatch(
        token_ids=np.concatenate([each.token_ids[each.start : each.end] for each in scheduled]),
        positions=np.concatenate([np.arange(each.start, each.end, dtype=np.int32) for each in scheduled]),
        sequence_starts=starts,
        logit_rows=np.concatenate(
            [_logit_rows(each) + start for each, start in zip(scheduled, starts[:-1], strict=True)]
        ),
        cache=cache,
    )


def _logit_rows(scheduled: ScheduledSequence) -> NDArray[np.int32]:
    """Within the sequence's own rows: those that a vector is made of, or those that score the prompt, then those that
    are sampled from."""
    if scheduled.sequence.request.pooling is not None:
        return pooled_rows(scheduled)
    scored, end = scheduled.num_prompt_logprob_rows, scheduled.num_scheduled_tokens
    first_sampled = end - (_num_logit_rows(scheduled) - scored)
    return np.concatenate((np.arange(scored, dtype=np.int32), np.arange(first_sampled, end, dtype=np.int32)))


def _num_logit_rows(scheduled: ScheduledSequence) -> int:
    if scheduled.sequence.request.pooling is not None:
        return len(pooled_rows(scheduled))
    return scheduled.num_prompt_logprob_rows + (1 + len(scheduled.draft) if scheduled.needs_sample else 0)


def _shares(scheduled: Sequence[ScheduledSequence], rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Of the rows that came out of the model each sequence's own."""
    return np.split(rows, np.cumsum([_num_logit_rows(each) for each in scheduled])[:-1])


def _prompt_logprobs(scheduled: ScheduledSequence, logits: NDArray[np.float32]) -> list[TokenLogprobs]:
    first, count = scheduled.start + 1, scheduled.num_prompt_logprob_rows
    next_ids = scheduled.sequence.token_ids[first : first + count]
    return prompt_logprobs(logits[:count], next_ids.tolist(), scheduled.sequence.sampling.prompt_logprobs or 0)


def _handle(scheduled: ScheduledSequence) -> SequenceCache:
    if scheduled.sequence.cache is None:
        raise EngineError("a sequence was scheduled without a place in the cache")
    return scheduled.sequence.cache


def _fail(scheduled: ScheduledSequence, error: Exception, result: StepResult) -> None:
    """Nothing of a failed request is delivered, not even the half that succeeded."""
    request_id = scheduled.sequence.request_id
    result.sampled.pop(request_id, None)
    result.prompt_logprobs.pop(request_id, None)
    result.vectors.pop(request_id, None)
    result.failed[request_id] = str(error) if isinstance(error, EngineError) else FAILURE_MESSAGE
