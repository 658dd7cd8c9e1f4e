"""What the scheduler counts. Counted where it happens, never derived."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot; the counters count from the scheduler's birth."""

    num_running: int
    num_waiting: int
    num_preemptions: int
    num_prompt_tokens: int
    """Prompt tokens of the sequences that were started, each sequence counted once."""
    num_cached_tokens: int
    """Those of them whose KV came from the cache."""
    num_generated_tokens: int
    num_computed_tokens: int
    """Rows that went through the model, wrong guesses and recomputation after preemption included."""
    num_drafted_tokens: int = 0
    """Guesses among them ..."""
    num_accepted_tokens: int = 0
    """... and those that were right."""


@dataclass(slots=True)
class Counters:
    """The counting half of `SchedulerStats`."""

    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    num_computed_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0

    def snapshot(self, *, num_running: int, num_waiting: int) -> SchedulerStats:
        return SchedulerStats(
            num_running=num_running,
            num_waiting=num_waiting,
            num_preemptions=self.num_preemptions,
            num_prompt_tokens=self.num_prompt_tokens,
            num_cached_tokens=self.num_cached_tokens,
            num_generated_tokens=self.num_generated_tokens,
            num_computed_tokens=self.num_computed_tokens,
            num_drafted_tokens=self.num_drafted_tokens,
            num_accepted_tokens=self.num_accepted_tokens,
        )
