"""`Drafting`: how many guessed tokens each decoding sequence of a step gets, so that all of them are done sooner.

Computing a few rows more may cost next to nothing, where reading the weights is what a step waits for, or a lot. A
draft is as long as what is expected of it outweighs what such steps were measured to take; no sequence of the step may
lose by the guesses of another; and where guesses are wrong there are none, but for a try now and then that costs
nothing to speak of. Knows no clock, no queue and no cache; tokens come out the same whatever is decided here.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from transom.config.engine_config import MAX_DRAFTED_ROWS
from transom.scheduler.drafter import Draft
from transom.scheduler.step_costs import StepCosts

_LEAST_GAIN = 1.02
"""Times as many tokens per second must be expected: differences below that are not measured."""
_LARGEST_LOSS = 1.03
"""A sequence may wait so many times as long for what it expects of a step, for the sake of others."""
_TRY_SHARE = 0.01
"""What tries may take of the time in which nothing is gained."""
_TRY_LENGTH = 2
_UNLIKELY = 0.02
"""Guesses less likely than that to count are not weighed: no row is so cheap."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step computes before it has drafts."""

    num_sequences: int
    """That decode."""
    num_tokens: int
    """Their rows, one each, and those of prompts."""

    @property
    def has_prompts(self) -> bool:
        return self.num_tokens > self.num_sequences


@dataclass(slots=True)
class _Shares:
    """The guesses of each draft that are computed, and the number of tokens that is expected of each sequence."""

    lengths: list[int]
    expected: list[float]
    chances: list[tuple[float, int]] = field(default_factory=list)
    """(minus the likelihood that it counts, draft) of the next guess of each draft."""


class Drafting:
    """Decides over the drafts of one engine's steps, at most `max_draft_tokens` of a sequence."""

    def __init__(self, max_draft_tokens: int) -> None:
        self.max_draft_tokens = max_draft_tokens
        self._costs = StepCosts()
        self._credit = 0.0
        """What tries may cost, in plain steps."""

    def wants_drafts(self, shape: StepShape) -> bool:
        """Whether it is worth looking for any."""
        if self.max_draft_tokens == 0 or not 0 < shape.num_sequences <= MAX_DRAFTED_ROWS:
            return False
        return shape.has_prompts or not self._costs.wants_plain_step(shape.num_sequences)

    def share(self, shape: StepShape, drafts: SequenceOf[Draft], patience: SequenceOf[int], num_rows: int) -> list[int]:
        """How many tokens of each of `drafts`, at least one, are computed: `num_rows` in all, at most.

        `patience` says for how many steps each has had none. Sequences without a draft are those of `shape` that have
        none here.
        """
        num_rows = min(num_rows, MAX_DRAFTED_ROWS, sum(map(_num_likely, drafts)))
        ratios = self._ratios(shape, num_rows)
        lengths = _best_lengths(shape, drafts, ratios)
        if any(lengths):
            return lengths
        self._credit = min(1.0, self._credit + _TRY_SHARE)
        eager = max(range(len(drafts)), key=patience.__getitem__)
        length = min(_TRY_LENGTH, len(drafts[eager].token_ids), num_rows)
        if length and ratios[length] - 1.0 <= self._credit:
            self._credit -= ratios[length] - 1.0
            lengths[eager] = length
        return lengths

    def note_step(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """A step of decoding sequences alone took so long; `num_rows - num_sequences` of its rows were guesses."""
        self._costs.note(num_sequences, num_rows, seconds)

    def _ratios(self, shape: StepShape, num_rows: int) -> list[float]:
        """What the step takes with 0 .. `num_rows` guesses, beside what it takes without. Chunks of prompts are long
        enough for time to go by rows."""
        if shape.has_prompts:
            return [1.0 + drafted / shape.num_tokens for drafted in range(num_rows + 1)]
        return self._costs.ratios(shape.num_sequences, num_rows)


def _num_likely(draft: Draft) -> int:
    """How many of its guesses are worth to be weighed; as many as a try takes, if there are so many."""
    if not 0.0 < draft.rate < 1.0:
        return len(draft.token_ids) if draft.rate else min(_TRY_LENGTH, len(draft.token_ids))
    likely = max(_TRY_LENGTH, int(math.log(_UNLIKELY) / math.log(draft.rate)))
    return min(likely, len(draft.token_ids))


def _best_lengths(shape: StepShape, drafts: SequenceOf[Draft], ratios: SequenceOf[float]) -> list[int]:
    """The guesses most likely to count, one by one: as many as bring most tokens per time without loss to anybody."""
    shares = _Shares([0] * len(drafts), [1.0] * len(drafts))
    shares.chances = [(-draft.rate, index) for index, draft in enumerate(drafts)]
    heapq.heapify(shares.chances)
    has_others = shape.has_prompts or shape.num_sequences > len(drafts)
    best, best_gain = list(shares.lengths), _LEAST_GAIN
    total = plain = float(shape.num_sequences)
    for ratio in ratios[1:]:
        total += _take_next(shares, drafts)
        least = 1.0 if has_others else min(shares.expected)
        gain = total / plain / ratio
        if gain > best_gain and ratio <= _LARGEST_LOSS * least:
            best, best_gain = list(shares.lengths), gain
    return best


def _take_next(shares: _Shares, drafts: SequenceOf[Draft]) -> float:
    """Gives the likeliest guess its row; how likely it counts."""
    chance, index = heapq.heappop(shares.chances)
    shares.lengths[index] += 1
    shares.expected[index] -= chance
    if shares.lengths[index] < len(drafts[index].token_ids):
        heapq.heappush(shares.chances, (chance * drafts[index].rate, index))
    return -chance
