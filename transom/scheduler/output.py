"""One scheduling result as plain data: the only thing the model runner is told. Knows no model and no tensor."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transom.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """Tokens `start .. start + num_scheduled_tokens` of one sequence are to be computed in this step.

    The last of them may be a draft: guesses of what will be sampled. Each is worth something if the row before it
    samples the very same token; from the first that does not on, they are computed in vain.
    """

    sequence: Sequence
    start: int
    """Absolute position of the first scheduled token; everything before it has its KV in the cache."""
    num_scheduled_tokens: int
    needs_sample: bool
    """The last scheduled token is the sequence's last known one: its logits choose the next token."""
    num_prompt_logprob_rows: int = 0
    """How many rows also need logits because the request asked for prompt log probabilities: the *first* so many of
    the scheduled rows. The row at position p tells the log probability of prompt token p + 1, so position
    `start + i` belongs to `token_ids[start + i + 1]`. Never counts the row that `needs_sample` names."""
    draft: tuple[int, ...] = ()
    """Token ids behind the sequence's last known one, counted in `num_scheduled_tokens`. None of them ends the
    sequence, and only a sequence that `needs_sample` and wants no other logits has any."""

    @property
    def end(self) -> int:
        """Absolute position behind the last scheduled token."""
        return self.start + self.num_scheduled_tokens

    @property
    def is_decode(self) -> bool:
        """One known token, and guesses of those behind it: a row whose logits choose the next token, nothing else."""
        num_known = self.num_scheduled_tokens - len(self.draft)
        return self.needs_sample and num_known == 1 and self.num_prompt_logprob_rows == 0

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """The sequence's tokens and its draft, [num_tokens + drafted], a read-only view that holds until the sequence
        gets its next token."""
        return self.sequence.tokens.followed_by(self.draft)

    def with_draft(self, draft: tuple[int, ...]) -> ScheduledSequence:
        """The same with these guesses behind it."""
        return replace(self, num_scheduled_tokens=self.num_scheduled_tokens + len(draft), draft=draft)


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """What one step computes, decode tokens and prefill chunks mixed, in batch order."""

    scheduled: tuple[ScheduledSequence, ...]
    num_tokens: int
    preempted: tuple[str, ...] = ()
    """Ids of sequences that gave up their blocks in this step."""

    def without(self, sequences: Collection[Sequence]) -> SchedulerOutput | None:
        """The same step for the others; None if there are none."""
        scheduled = tuple(each for each in self.scheduled if each.sequence not in sequences)
        num_tokens = sum(each.num_scheduled_tokens for each in scheduled)
        return SchedulerOutput(scheduled, num_tokens, self.preempted) if scheduled else None
