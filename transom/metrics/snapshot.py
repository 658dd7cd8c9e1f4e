"""What the collector wants to know of a served model, as plain data. Who serves it fills this in at every scrape."""

from __future__ import annotations

from dataclasses import dataclass

from transom.histogram import NOTHING, HistogramCounts

MODEL_STATES = ("unloaded", "loading", "loaded", "failed")


@dataclass(frozen=True, slots=True)
class Transfers:
    """Traffic between RAM and another tier."""

    num_bytes_read: int = 0
    read_seconds: float = 0.0
    num_bytes_written: int = 0
    write_seconds: float = 0.0
    num_blocks_written: int = 0
    stall_seconds: float = 0.0
    num_checksum_failures: int = 0
    num_read_errors: int = 0
    num_write_errors: int = 0
    num_pauses: int = 0
    read_latency: HistogramCounts = NOTHING
    write_latency: HistogramCounts = NOTHING


@dataclass(frozen=True, slots=True)
class TierUsage:
    """One place for keys and values: `hot` or `cold`."""

    name: str
    num_bytes_used: int
    num_bytes_total: int
    num_physical_bytes: int = 0
    state: str = "on"
    """`on`, `paused` or `off`: whether anything new is written to it."""
    transfers: Transfers | None = None
    """None where nothing is carried to and fro."""
    num_bytes_reuse: int = 0
    """What ended sequences left, beside what is used."""


@dataclass(frozen=True, slots=True)
class KindUsage:
    """The layers of one kind, in blocks."""

    kind: str
    num_hot: int
    num_hot_total: int
    num_cold: int


@dataclass(frozen=True, slots=True)
class Reuse:
    """What the reuse of prefixes did."""

    num_hits: int = 0
    num_hit_tokens: int = 0
    num_hot_blocks: int = 0
    num_cold_blocks: int = 0
    num_recomputed_tokens: int = 0
    num_evicted_blocks: int = 0
    num_lost_blocks: int = 0
    num_cold_hit_tokens: int = 0
    """Of the hit tokens: those that were on SSD alone."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What the steps of the engine took."""

    prefill_seconds: HistogramCounts = NOTHING
    decode_seconds: HistogramCounts = NOTHING
    mixed_seconds: HistogramCounts = NOTHING
    num_tokens: HistogramCounts = NOTHING
    inter_token_seconds: HistogramCounts = NOTHING
    cold_read_bytes: HistogramCounts = NOTHING
    stall_seconds: HistogramCounts = NOTHING


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A model at this moment. Counters are those of all its workers so far: they never go back."""

    model: str
    is_ready: bool
    state: str = "unloaded"
    """One of `MODEL_STATES`."""
    context_window: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_preemptions: int = 0
    num_computed_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    num_failed: int = 0
    """Requests that ended because the engine failed on them."""
    num_restarts: int = 0
    num_loads: int = 0
    num_waiting_for_load: int = 0
    kv_tokens: int = 0
    """Tokens whose KV is held at this moment."""
    longest_sequence_tokens: int = 0
    """Of the sequence that has the most computed tokens."""
    tiers: tuple[TierUsage, ...] = ()
    kinds: tuple[KindUsage, ...] = ()
    reuse: Reuse = Reuse()
    steps: Steps = Steps()
    worker_resident_bytes: int = 0
