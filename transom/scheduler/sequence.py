"""`Sequence`: one request on its way through the scheduler. Owns its tokens and its progress.

Knows the cache only as an opaque handle, and neither the queue it stands in nor the batch it is part of.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from transom.cache import BLOCK_SIZE, SequenceCache
from transom.request import (
    FinishReason,
    Request,
    RequestOutput,
    SampledToken,
    SamplingParams,
    TokenLogprobs,
    Usage,
)
from transom.scheduler.drafter import Draft, Drafter
from transom.scheduler.token_buffer import TokenBuffer


class SequenceStatus(StrEnum):
    """Where a sequence stands."""

    WAITING = "waiting"
    """Not started, or preempted: holds no blocks."""
    RUNNING = "running"
    FINISHED = "finished"
    """Ended, aborted or failed: holds no blocks and never will again."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """The state of one request. Changed by the scheduler only; the model runner reads it.

    While it runs, KV exists for positions `0 .. num_computed_tokens`, and the tokens behind them are known but not yet
    computed: the rest of the prompt, or the token sampled last, or everything after a preemption.
    """

    request: Request
    arrival: int
    """Running number of `Scheduler.add`; the tie-break among equal priorities."""
    seed: int
    """`SamplingParams.seed`, or fresh randomness drawn once, so that a preemption does not change the text."""
    tokens: TokenBuffer = field(init=False)
    status: SequenceStatus = SequenceStatus.WAITING
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens that came from the cache when the sequence was started for the first time."""
    cache: SequenceCache | None = None
    """The handle for `CacheManager`, while the status is RUNNING."""
    has_started: bool = False
    published_blocks: set[int] = field(default_factory=set)
    """Whole blocks of it that were left to later sequences, before it was preempted the last time."""
    num_losses: int = 0
    """How often KV of it was lost, and it was preempted for that."""
    num_evicted_tokens: int = 0
    """Tokens that the cache had forgotten when the sequence last ran."""
    is_lossy: bool = False
    """The cache may forget tokens of it."""
    num_prompt_logprobs: int = 0
    """How many prompt log probabilities have been computed; they survive preemption."""
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    """Computed and not yet delivered."""
    has_delivered_prompt_logprobs: bool = False
    drafter: Drafter | None = None
    """What it guesses of its future, once somebody has asked."""
    grammar_is_complete: bool = False
    """The request's grammar admits nothing after the last token."""

    def __post_init__(self) -> None:
        self.tokens = TokenBuffer(self.request.prompt_token_ids)

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def sampling(self) -> SamplingParams:
        return self.request.sampling

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Prompt and generated tokens, int32 [num_tokens], a read-only view."""
        return self.tokens.view()

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.prompt_token_ids)

    @property
    def num_generated_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    @property
    def is_decoding(self) -> bool:
        """Only the last known token is missing in the cache."""
        return self.num_uncomputed_tokens == 1

    @property
    def wants_more_tokens(self) -> bool:
        return self.num_generated_tokens < self.sampling.max_tokens

    @property
    def num_prompt_logprobs_wanted(self) -> int:
        """Prompt tokens whose log probability was asked for: all but the first, which nothing predicts."""
        return 0 if self.sampling.prompt_logprobs is None else self.num_prompt_tokens - 1

    @property
    def rank(self) -> tuple[int, int]:
        """Lower is served sooner and preempted later."""
        return self.request.priority, self.arrival

    @property
    def usage(self) -> Usage:
        return Usage(
            num_prompt_tokens=self.num_prompt_tokens,
            num_completion_tokens=self.num_generated_tokens,
            num_cached_tokens=self.num_cached_tokens,
            num_cache_write_tokens=self._num_cache_write_tokens,
            num_evicted_tokens=self.num_evicted_tokens if self.cache is None else self.cache.num_evicted_tokens,
            is_lossy=self.is_lossy,
        )

    def start(self, cache: SequenceCache) -> None:
        """Begins, or begins again after a preemption, with what the cache already has."""
        self.status = SequenceStatus.RUNNING
        self.cache = cache
        self.num_computed_tokens = cache.num_cached_tokens
        self.is_lossy = cache.is_lossy
        if not self.has_started:
            self.has_started = True
            self.num_cached_tokens = cache.num_cached_tokens

    def leave(self, status: SequenceStatus) -> SequenceCache | None:
        """Stops running; returns the handle that the caller has to close. Tokens and results so far are kept."""
        cache, self.cache = self.cache, None
        if cache is not None:
            self.num_evicted_tokens = cache.num_evicted_tokens
            self.published_blocks.update(cache.published_blocks)
        self.status = status
        self.num_computed_tokens = 0
        return cache

    def advance(self, num_tokens: int, prompt_logprobs: SequenceOf[TokenLogprobs]) -> None:
        """The KV of the next `num_tokens` tokens exists now, and these log probabilities came with it."""
        self.num_computed_tokens += num_tokens
        self.num_prompt_logprobs += len(prompt_logprobs)
        self.prompt_logprobs += prompt_logprobs

    def draft(self, num_wanted: int, eos_token_ids: frozenset[int]) -> Draft | None:
        """Guesses of its next tokens: up to `num_wanted`, and always one token less than it may still generate. None
        under a grammar, which admits a token only after the one before it."""
        num_wanted = min(num_wanted, self.sampling.max_tokens - self.num_generated_tokens - 1)
        if num_wanted < 1 or self.sampling.grammar is not None:
            return None
        if self.drafter is None:
            own_ends = frozenset(self.sampling.stop_token_ids)
            ends = own_ends if self.sampling.ignore_eos else own_ends | eos_token_ids
            self.drafter = Drafter(ends)
        return self.drafter.draft(self.token_ids, num_wanted)

    def note_draft(self, num_drafted: int, num_accepted: int) -> None:
        """So many guesses of the last draft were computed, and the first `num_accepted` of them were right."""
        assert self.drafter is not None
        self.drafter.note(num_drafted, num_accepted)

    def append(self, tokens: Iterable[SampledToken]) -> None:
        for token in tokens:
            self.tokens.append(token.token_id)
            self.grammar_is_complete = token.completes_grammar

    def finish_reason(self, eos_token_ids: frozenset[int]) -> FinishReason | None:
        """Whether the sequence is at its end, judged by its last token. A stop token wins over the length."""
        if self.grammar_is_complete or self._ends_with_stop_token(eos_token_ids):
            return FinishReason.STOP
        return None if self.wants_more_tokens else FinishReason.LENGTH

    def output(self, tokens: tuple[SampledToken, ...], finish_reason: FinishReason | None) -> RequestOutput:
        """What the caller hears of this step: new tokens, or the progress of prefill, and the end if it is one."""
        return RequestOutput(
            request_id=self.request_id,
            token_ids=tuple(token.token_id for token in tokens),
            logprobs=self._logprobs(tokens),
            prompt_logprobs=self._take_prompt_logprobs() if tokens or finish_reason else None,
            finish_reason=finish_reason,
            stop_token_id=self._stop_token_id(finish_reason),
            usage=self.usage if finish_reason or self._are_first(tokens) else None,
            num_computed_tokens=self.num_computed_tokens,
        )

    def _are_first(self, tokens: tuple[SampledToken, ...]) -> bool:
        return bool(tokens) and self.num_generated_tokens == len(tokens)

    @property
    def _num_cache_write_tokens(self) -> int:
        """Of the prompt, each token once, however often it was computed, and none that counts as cached already."""
        published = self.published_blocks.union(() if self.cache is None else self.cache.published_blocks)
        first = -(-self.num_cached_tokens // BLOCK_SIZE)
        return BLOCK_SIZE * sum(first <= index < self.num_prompt_tokens // BLOCK_SIZE for index in published)

    def _ends_with_stop_token(self, eos_token_ids: frozenset[int]) -> bool:
        sampling = self.sampling
        if self.num_generated_tokens <= sampling.min_tokens:
            return False
        last = self.tokens[-1]
        return last in sampling.stop_token_ids or (last in eos_token_ids and not sampling.ignore_eos)

    def _stop_token_id(self, finish_reason: FinishReason | None) -> int | None:
        """What completes a grammar is text."""
        return self.tokens[-1] if finish_reason is FinishReason.STOP and not self.grammar_is_complete else None

    def _logprobs(self, tokens: tuple[SampledToken, ...]) -> tuple[TokenLogprobs, ...] | None:
        if self.sampling.logprobs is None or not tokens:
            return None
        return tuple(token.logprobs for token in tokens if token.logprobs is not None)

    def _take_prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...] | None:
        """All of them, the first time; None ever after."""
        if self.sampling.prompt_logprobs is None or self.has_delivered_prompt_logprobs:
            return None
        self.has_delivered_prompt_logprobs = True
        taken, self.prompt_logprobs = self.prompt_logprobs, []
        return (None, *taken)
