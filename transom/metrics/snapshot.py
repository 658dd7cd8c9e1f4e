"""What the collector wants to know of a served model, as plain data. Who serves it fills this in at every scrape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Transfers:
    """Traffic between RAM and another tier, since the worker's birth."""

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
    """What the reuse of prefixes did, since the worker's birth."""

    num_hits: int = 0
    num_hit_tokens: int = 0
    num_hot_blocks: int = 0
    num_cold_blocks: int = 0
    num_recomputed_tokens: int = 0
    num_evicted_blocks: int = 0
    num_lost_blocks: int = 0


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A model at this moment. The counters of a worker start from 0 when it is restarted."""

    model: str
    is_ready: bool
    num_running: int = 0
    num_waiting: int = 0
    num_preemptions: int = 0
    num_computed_tokens: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    num_restarts: int = 0
    num_loads: int = 0
    num_waiting_for_load: int = 0
    kv_tokens: int = 0
    """Tokens whose KV is held at this moment."""
    tiers: tuple[TierUsage, ...] = ()
    kinds: tuple[KindUsage, ...] = ()
    reuse: Reuse = Reuse()
    worker_resident_bytes: int = 0
