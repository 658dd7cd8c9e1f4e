"""What the collector wants to know of a served model, as plain data. Who serves it fills this in at every scrape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TierUsage:
    """One place for keys and values: `ram` or `ssd`."""

    name: str
    num_bytes_used: int
    num_bytes_total: int


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A model at this moment. The counters of a worker start from 0 when it is restarted."""

    model: str
    is_ready: bool
    num_running: int = 0
    num_waiting: int = 0
    num_preemptions: int = 0
    num_computed_tokens: int = 0
    num_restarts: int = 0
    kv_tokens: int = 0
    """Tokens whose KV is held at this moment."""
    tiers: tuple[TierUsage, ...] = ()
    blocks_by_kind: tuple[tuple[str, int, int], ...] = ()
    """(layer kind, blocks used, blocks total)."""
    worker_resident_bytes: int = 0
