"""One step while it is being put together: what is scheduled so far and what the step still has room for."""

from __future__ import annotations

from transom.config.engine_config import MAX_PROMPT_LOGPROB_ROWS
from transom.scheduler.output import ScheduledSequence, SchedulerOutput
from transom.scheduler.sequence import Sequence


class StepBuilder:
    """Shares out the tokens of one step: `max_num_tokens`, or a single chunk that is longer."""

    def __init__(self, max_num_tokens: int) -> None:
        self._scheduled: dict[Sequence, ScheduledSequence] = {}
        self._preempted: list[str] = []
        self._max_num_tokens = max_num_tokens
        self._num_tokens = 0
        self._num_logprob_rows_left = MAX_PROMPT_LOGPROB_ROWS

    @property
    def is_full(self) -> bool:
        return self._num_tokens >= self._max_num_tokens

    @property
    def scheduled(self) -> tuple[ScheduledSequence, ...]:
        return tuple(self._scheduled.values())

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    @property
    def num_tokens_left(self) -> int:
        return max(0, self._max_num_tokens - self._num_tokens)

    @property
    def has_preempted(self) -> bool:
        return bool(self._preempted)

    def plan(self, sequence: Sequence, chunk: int) -> ScheduledSequence | None:
        """The next tokens of a sequence, at most `chunk` and as many as the step still takes; None if it takes none.

        A chunk longer than `max_num_tokens` has the step for itself, so that it holds up nobody's stream.
        """
        if self.is_full:
            return None
        start = sequence.num_computed_tokens
        num_tokens_left = self._max_num_tokens - self._num_tokens if self._scheduled else chunk
        num_tokens = min(sequence.num_uncomputed_tokens, chunk, num_tokens_left)
        num_rows = 0
        if sequence.num_prompt_logprobs < sequence.num_prompt_logprobs_wanted:
            num_tokens, num_rows = self._plan_prompt_logprobs(sequence, num_tokens)
        if num_tokens == 0:
            return None
        is_last = num_tokens == sequence.num_uncomputed_tokens
        return ScheduledSequence(sequence, start, num_tokens, is_last and sequence.wants_more_tokens, num_rows)

    def add(self, scheduled: ScheduledSequence) -> None:
        self._scheduled[scheduled.sequence] = scheduled
        self._num_tokens += scheduled.num_scheduled_tokens
        self._num_logprob_rows_left -= scheduled.num_prompt_logprob_rows

    def add_draft(self, scheduled: ScheduledSequence, draft: tuple[int, ...]) -> None:
        """Puts guesses behind what was scheduled of a sequence."""
        self._scheduled[scheduled.sequence] = scheduled.with_draft(draft)
        self._num_tokens += len(draft)

    def preempt(self, sequence: Sequence) -> None:
        """The sequence gave up its blocks; if it was scheduled, its share of the step is free again."""
        self._preempted.append(sequence.request_id)
        scheduled = self._scheduled.pop(sequence, None)
        if scheduled is not None:
            self._num_tokens -= scheduled.num_scheduled_tokens
            self._num_logprob_rows_left += scheduled.num_prompt_logprob_rows

    def output(self) -> SchedulerOutput | None:
        """The finished step; None if nothing was scheduled."""
        if not self._scheduled:
            return None
        return SchedulerOutput(self.scheduled, self._num_tokens, tuple(self._preempted))

    def _plan_prompt_logprobs(self, sequence: Sequence, num_tokens: int) -> tuple[int, int]:
        """(tokens, rows) for a chunk of a prompt whose log probabilities are not all there yet.

        A chunk lies either wholly before the rows still to be delivered (a recomputation) or begins with them, so the
        wanted rows are always the first ones.
        """
        start = sequence.num_computed_tokens
        if start < sequence.num_prompt_logprobs:
            return min(num_tokens, sequence.num_prompt_logprobs - start), 0
        num_tokens = min(num_tokens, self._num_logprob_rows_left)
        return num_tokens, min(num_tokens, sequence.num_prompt_logprobs_wanted - start)
