"""`Scheduler`: continuous batching. Owns the queue, who runs, and when a sequence is at its end.

Every step mixes one token of each decoding sequence with chunks of prompts. Room is asked for before a token is
scheduled, never after; when there is none, the sequence that is served last gives up its blocks and is computed again
later from prompt and generated tokens, losing nothing and saying nothing twice. The sequence that is served first can
always get all the room, and `check_fits` has passed for it, so every sequence ends; unless the disk of the cold tier
fails, and then the request does. Used by one thread; waits for nothing but what the cache waits for.
"""

from __future__ import annotations

import secrets
from bisect import insort
from collections.abc import Callable, Collection, Container, Mapping
from collections.abc import Sequence as SequenceOf
from operator import attrgetter

from transom.cache import CacheManager, SequenceCache
from transom.errors import QueueFullError, RequestError
from transom.request import FinishReason, Request, RequestOutput, SampledToken, TokenLogprobs
from transom.scheduler.drafter import Draft
from transom.scheduler.drafting import Drafting, StepShape
from transom.scheduler.output import ScheduledSequence, SchedulerOutput
from transom.scheduler.sequence import Sequence, SequenceStatus
from transom.scheduler.stats import Counters, SchedulerStats
from transom.scheduler.step import StepBuilder

MAX_LOSSES = 3
"""A sequence whose KV is lost more often than this is given up: its disk does not keep what it is given."""

NO_ROOM_MESSAGE = "The SSD tier failed, and keys and values of this request do not fit into RAM alone."
LOST_MESSAGE = "Keys and values of this request could not be read back from the SSD tier, again and again."

PromptLogprobs = Mapping[str, SequenceOf[TokenLogprobs]]

_BY_RANK = attrgetter("rank")


def _fresh_seed() -> int:
    return secrets.randbits(63)


class Scheduler:
    """Turns requests into steps, and the tokens of steps into outputs.

    `max_num_seqs` sequences run at once, `max_num_batched_tokens` tokens are computed per step, and `max_num_waiting`
    requests may wait beyond those that can run, of `max_waiting_tokens` tokens together (`Request.size_in_tokens`), and
    one of any size. Up to `max_draft_tokens` next tokens of a sequence are guessed and computed along. `fresh_seed` is
    asked once per request without a seed. A request that is not yet `is_ready` waits, and others may overtake it.
    """

    def __init__(
        self,
        cache: CacheManager,
        *,
        eos_token_ids: Collection[int],
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_num_waiting: int,
        max_waiting_tokens: int,
        max_draft_tokens: int = 0,
        fresh_seed: Callable[[], int] = _fresh_seed,
        is_ready: Callable[[Request], bool] = lambda _: True,
    ) -> None:
        self._cache = cache
        self._eos_token_ids = frozenset(eos_token_ids)
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_num_unfinished = max_num_seqs + max_num_waiting
        self._max_waiting_tokens = max_waiting_tokens
        self._drafting = Drafting(max_draft_tokens)
        self._fresh_seed = fresh_seed
        self._is_ready = is_ready
        self._sequences: dict[str, Sequence] = {}
        self._running: list[Sequence] = []
        self._waiting: list[Sequence] = []  # by rank: whoever was preempted comes before whoever never ran
        self._failed: list[RequestOutput] = []
        self._num_arrivals = 0
        self._counters = Counters()

    @property
    def has_unfinished_sequences(self) -> bool:
        """There is a step to be scheduled."""
        return bool(self._sequences)

    def add(self, request: Request) -> None:
        """Admits a request to the queue; nothing is kept when it is refused.

        Raises BudgetExceededError when it can never fit, QueueFullError when too many are unfinished or too many tokens
        wait, and RequestError for an empty prompt or an id that is in use.
        """
        if not request.prompt_token_ids:
            raise RequestError("The prompt holds no tokens.", param="prompt")
        if request.request_id in self._sequences:
            raise RequestError(f"A request with the id '{request.request_id}' is running.", param="request_id")
        self._cache.check_fits(len(request.prompt_token_ids) + request.sampling.max_tokens, request.cache)
        self._check_queue(request)
        seed = request.sampling.seed
        sequence = Sequence(request, self._num_arrivals, self._fresh_seed() if seed is None else seed)
        self._num_arrivals += 1
        self._sequences[request.request_id] = sequence
        insort(self._waiting, sequence, key=_BY_RANK)

    def abort(self, request_id: str) -> RequestOutput | None:
        """Ends a sequence in whatever state; its blocks are free when this returns. Its last output, or None if there
        is no such sequence (any more)."""
        return self._end(request_id, FinishReason.ABORT)

    def fail(self, request_id: str, message: str) -> RequestOutput | None:
        """Like `abort`, for a sequence that the engine could not go on with; `message` is what its caller is told."""
        return self._end(request_id, FinishReason.ERROR, message)

    def schedule(self) -> SchedulerOutput | None:
        """Plans the next step and reserves its room; None when no sequence is unfinished, or none can go on for now.

        Every output must be followed by `update` with it, or what `give_up_lost` left of it, before the next call.
        """
        step = StepBuilder(self._max_num_batched_tokens)
        self._schedule_running(step)
        self._start_waiting(step)
        self._add_drafts(step)
        return step.output()

    def give_up_lost(self, output: SchedulerOutput, handles: Container[SequenceCache]) -> SchedulerOutput | None:
        """KV of these sequences is lost: they are preempted, to be computed again from their tokens.

        What is left of the step, which must be computed again, for nothing of it was committed; None: nothing is left.
        """
        lost = [each.sequence for each in output.scheduled if each.sequence.cache in handles]
        for sequence in lost:
            sequence.num_losses += 1
            if sequence.num_losses > MAX_LOSSES:
                self._fail_later(sequence, LOST_MESSAGE)
            else:
                self._preempt(sequence)
        return output.without(lost)

    def take_failed(self) -> list[RequestOutput]:
        """The last outputs of requests that the scheduler itself had to give up since the last call."""
        failed, self._failed = self._failed, []
        return failed

    def update(
        self,
        output: SchedulerOutput,
        sampled: Mapping[str, SequenceOf[SampledToken]],
        prompt_logprobs: PromptLogprobs | None = None,
    ) -> list[RequestOutput]:
        """Takes in what a step computed; one output per sequence of the step that was not ended meanwhile.

        `sampled` holds a token for every sequence that needed one, and with a draft those before it that it got right;
        `prompt_logprobs` as many entries for each sequence as its `num_prompt_logprob_rows`, in order. KeyError or
        ValueError if they do not.
        """
        alive = [each for each in output.scheduled if each.sequence.status is SequenceStatus.RUNNING]
        tokens = [tuple(sampled[each.sequence.request_id]) if each.needs_sample else () for each in alive]
        for scheduled, new in zip(alive, tokens, strict=True):
            prompt = (prompt_logprobs or {}).get(scheduled.sequence.request_id, ())
            self._advance(scheduled, _num_computed(scheduled, len(new)), prompt)
        return [self._output_of(scheduled, new) for scheduled, new in zip(alive, tokens, strict=True)]

    def note_seconds(self, output: SchedulerOutput, seconds: float) -> None:
        """How long a step took. Steps of decoding alone tell what guesses cost."""
        if all(each.is_decode for each in output.scheduled):
            self._drafting.note_step(len(output.scheduled), output.num_tokens, seconds)

    def stats(self) -> SchedulerStats:
        """A snapshot of the queue and the counters."""
        return self._counters.snapshot(num_running=len(self._running), num_waiting=len(self._waiting))

    def _check_queue(self, request: Request) -> None:
        if len(self._sequences) >= self._max_num_unfinished:
            raise QueueFullError(f"{len(self._sequences)} requests are running or waiting, which is the limit.")
        num_tokens = sum(sequence.request.size_in_tokens for sequence in self._waiting)
        if self._waiting and num_tokens + request.size_in_tokens > self._max_waiting_tokens:
            raise QueueFullError(
                f"Requests of {num_tokens} tokens are waiting; {self._max_waiting_tokens} are the limit."
            )

    def _schedule_running(self, step: StepBuilder) -> None:
        """Decoding sequences first, so that no prompt holds up a stream; then the prompts in turn."""
        for sequence in sorted(self._running, key=lambda each: (not each.is_decoding, each.rank)):
            if sequence.status is SequenceStatus.RUNNING:  # else it was preempted a moment ago
                self._schedule_one(sequence, step)

    def _start_waiting(self, step: StepBuilder) -> None:
        """Strictly in turn: nobody overtakes a large request for ever. Not in a step that had to preempt."""
        while self._waiting and not step.is_full and not step.has_preempted and len(self._running) < self._max_num_seqs:
            sequence = next((each for each in self._waiting if self._is_ready(each.request)), None)
            if sequence is None or not self._start(sequence):
                return
            self._schedule_one(sequence, step)

    def _start(self, sequence: Sequence) -> bool:
        handle = self._open(sequence)
        if not self._cache.can_start(handle):
            self._cache.close(handle)
            return False
        self._cache.adopt(handle)
        if not sequence.has_started:
            self._counters.num_prompt_tokens += sequence.num_prompt_tokens
            self._counters.num_cached_tokens += handle.num_cached_tokens
        sequence.start(handle)
        self._waiting.remove(sequence)
        self._running.append(sequence)
        return True

    def _open(self, sequence: Sequence) -> SequenceCache:
        """Whoever wants log probabilities of its prompt computes all of it; whoever lost KV stays away from the SSD."""
        request = sequence.request
        return self._cache.open(
            sequence.tokens,
            request.cache,
            request.request_id,
            salt=request.cache_salt,
            may_hit=request.reuse_cache and request.sampling.prompt_logprobs is None,
            trusts_cold_tier=sequence.num_losses == 0,
        )

    def _schedule_one(self, sequence: Sequence, step: StepBuilder) -> None:
        scheduled = step.plan(sequence, self._chunk(sequence))
        if scheduled is not None and self._make_room(scheduled, step):
            step.add(scheduled)

    def _add_drafts(self, step: StepBuilder) -> None:
        """Last of all: guesses take the room and the tokens of the step that nobody else wants, and preempt nobody."""
        decoding = [each for each in step.scheduled if each.is_decode]
        shape = StepShape(len(decoding), step.num_tokens)
        if step.num_tokens_left == 0 or not self._drafting.wants_drafts(shape):
            return
        found = [(each, draft) for each in decoding if (draft := self._draft(each.sequence)) is not None]
        if not found:
            return
        idle = [each.sequence.drafter.num_idle_steps for each, _ in found if each.sequence.drafter]
        lengths = self._drafting.share(shape, [draft for _, draft in found], idle, step.num_tokens_left)
        for (scheduled, draft), length in zip(found, lengths, strict=True):
            self._add_draft(scheduled, draft.token_ids[:length], step)

    def _draft(self, sequence: Sequence) -> Draft | None:
        """Guesses for which the sequence has room already."""
        if sequence.drafter is not None and not sequence.drafter.looks():
            return None
        assert sequence.cache is not None
        limit = sequence.request.max_draft_tokens
        wanted = self._drafting.max_draft_tokens if limit is None else min(limit, self._drafting.max_draft_tokens)
        return sequence.draft(min(wanted, self._cache.draft_room(sequence.cache)), self._eos_token_ids)

    def _add_draft(self, scheduled: ScheduledSequence, draft: tuple[int, ...], step: StepBuilder) -> None:
        handle = scheduled.sequence.cache
        assert handle is not None
        if draft and self._cache.reserve(handle, scheduled.end + len(draft)):
            step.add_draft(scheduled, draft)

    def _chunk(self, sequence: Sequence) -> int:
        """The most tokens that a step should compute for this sequence."""
        if sequence.is_decoding or sequence.cache is None:
            return 1
        return self._cache.prefill_chunk(sequence.cache, sequence.num_uncomputed_tokens)

    def _make_room(self, scheduled: ScheduledSequence, step: StepBuilder) -> bool:
        """Preempts from the last in rank upwards until the room is there; False if that was the sequence itself."""
        sequence = scheduled.sequence
        while sequence.cache is not None:
            if self._cache.reserve(sequence.cache, scheduled.end):
                return True
            if self._running == [sequence]:
                self._wait_or_fail(sequence)
                return False
            last = max(self._running, key=_BY_RANK)
            step.preempt(last)
            self._preempt(last)
        return False

    def _wait_or_fail(self, sequence: Sequence) -> None:
        """The only running sequence has no room: the disk's fault. One that is full may have room later."""
        if not self._cache.is_waiting_for_disk:
            self._fail_later(sequence, NO_ROOM_MESSAGE)

    def _preempt(self, sequence: Sequence) -> None:
        self._counters.num_preemptions += 1
        self._running.remove(sequence)
        self._give_back(sequence, SequenceStatus.WAITING)
        insort(self._waiting, sequence, key=_BY_RANK)

    def _fail_later(self, sequence: Sequence, message: str) -> None:
        """Ends a sequence in the middle of a step; its output is for `take_failed`."""
        output = self._end(sequence.request_id, FinishReason.ERROR, message)
        self._failed += [output] if output is not None else []

    def _end(self, request_id: str, reason: FinishReason, error: str | None = None) -> RequestOutput | None:
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return None
        self._finish(sequence)
        return RequestOutput(request_id, finish_reason=reason, usage=sequence.usage, error=error)

    def _finish(self, sequence: Sequence) -> None:
        queue = self._running if sequence.status is SequenceStatus.RUNNING else self._waiting
        queue.remove(sequence)
        del self._sequences[sequence.request_id]
        self._give_back(sequence, SequenceStatus.FINISHED)

    def _give_back(self, sequence: Sequence, status: SequenceStatus) -> None:
        handle = sequence.leave(status)
        if handle is not None:
            self._cache.close(handle)

    def _advance(
        self, scheduled: ScheduledSequence, num_tokens: int, prompt_logprobs: SequenceOf[TokenLogprobs]
    ) -> None:
        """The KV of the first `num_tokens` scheduled tokens exists now; what is behind them was guessed wrong."""
        sequence = scheduled.sequence
        if len(prompt_logprobs) != scheduled.num_prompt_logprob_rows:
            raise ValueError(
                f"{len(prompt_logprobs)} prompt log probabilities came for {sequence.request_id}, "
                f"{scheduled.num_prompt_logprob_rows} were due"
            )
        assert sequence.cache is not None
        self._cache.commit(sequence.cache, scheduled.start + num_tokens)
        sequence.advance(num_tokens, prompt_logprobs)
        self._counters.num_computed_tokens += scheduled.num_scheduled_tokens

    def _output_of(self, scheduled: ScheduledSequence, tokens: tuple[SampledToken, ...]) -> RequestOutput:
        sequence = scheduled.sequence
        is_complete = scheduled.end >= sequence.num_tokens
        if scheduled.draft:
            self._note_draft(scheduled, len(tokens) - 1)
        sequence.append(tokens)
        self._counters.num_generated_tokens += len(tokens)
        finish_reason = sequence.finish_reason(self._eos_token_ids) if is_complete else None
        output = sequence.output(tokens, finish_reason)
        if finish_reason is not None:
            self._finish(sequence)
        return output

    def _note_draft(self, scheduled: ScheduledSequence, num_accepted: int) -> None:
        scheduled.sequence.note_draft(len(scheduled.draft), num_accepted)
        self._counters.num_drafted_tokens += len(scheduled.draft)
        self._counters.num_accepted_tokens += num_accepted


def _num_computed(scheduled: ScheduledSequence, num_sampled: int) -> int:
    """How many of the scheduled tokens stand: all but those of the draft behind the first wrong one. ValueError when
    there are no tokens where some were due, or more than the step can tell."""
    if not scheduled.needs_sample:
        return scheduled.num_scheduled_tokens
    num_wrong = len(scheduled.draft) + 1 - num_sampled
    if not 0 <= num_wrong <= len(scheduled.draft):
        request_id, num_drafted = scheduled.sequence.request_id, len(scheduled.draft)
        raise ValueError(f"{num_sampled} tokens came for {request_id} and its draft of {num_drafted}")
    return scheduled.num_scheduled_tokens - num_wrong
