"""What an engine says about itself, as plain data that crosses the channel."""

from __future__ import annotations

from dataclasses import dataclass

from transom.cache.stats import CacheStats
from transom.cache.window import SequenceWindow
from transom.histogram import NOTHING, HistogramCounts
from transom.scheduler.stats import SchedulerStats


@dataclass(frozen=True, slots=True)
class StepStats:
    """What steps took, and what sequences saw of them."""

    prefill_seconds: HistogramCounts = NOTHING
    """Durations of steps that only read prompts, ..."""
    decode_seconds: HistogramCounts = NOTHING
    """... only generated, ..."""
    mixed_seconds: HistogramCounts = NOTHING
    """... and did both."""
    num_tokens: HistogramCounts = NOTHING
    """Rows of each step."""
    inter_token_seconds: HistogramCounts = NOTHING
    """Between the tokens of one sequence; tokens of one step share its time."""
    cold_read_bytes: HistogramCounts = NOTHING
    """Of each step during which anything came from SSD."""
    stall_seconds: HistogramCounts = NOTHING
    """How long these steps did nothing but wait for it."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot; counters count from the birth of the worker process."""

    scheduler: SchedulerStats
    cache: CacheStats
    num_steps: int
    step_seconds: float
    """Time spent in steps."""
    num_failed: int
    """Requests that ended because the engine failed on them."""
    steps: StepStats = StepStats()


@dataclass(frozen=True, slots=True)
class EngineView:
    """What somebody sees who looks into the engine: both parts are of the same moment, between two steps."""

    stats: EngineStats
    windows: tuple[SequenceWindow, ...]
    """Of the sequences that run."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load has come, in bytes of the weights' files."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What loading took and gave."""

    weights_bytes: int
    kv_bytes: int
    """Everything KV in RAM, used or not, states of convolutions included; within `kv_cache_ram_bytes`."""
    workspace_bytes: int
    """Estimate of everything else at its largest."""
    num_threads: int
    instruction_set: str
    load_seconds: float
    process_id: int
    max_sequence_tokens: int
    """The longest sequence of which nothing is forgotten that the KV budgets can ever hold; at most the context window.
    Strategies that forget are not bound by it."""
    num_parameters: int
    """Elements of all tensors."""
    num_full_requests: int
    """Requests that fill the context window and fit at once; 0 = not even one does."""

    @property
    def ram_bytes(self) -> int:
        """Of the worker, at its largest."""
        return self.weights_bytes + self.kv_bytes + self.workspace_bytes
