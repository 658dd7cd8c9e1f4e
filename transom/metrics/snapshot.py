"""What the collector wants to know of a served model, as plain data. Who serves it fills this in at every scrape."""

from __future__ import annotations

from dataclasses import dataclass

from transom.cache.stats import CacheStats
from transom.engine import EngineStats
from transom.scheduler.stats import SchedulerStats

MODEL_STATES = ("unloaded", "loading", "loaded", "failed")
SILENT = EngineStats(SchedulerStats(0, 0, 0, 0, 0, 0, 0), CacheStats(0, 0, 0, (), ()), 0, 0.0, 0)
"""Of a model that was never loaded."""


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A model at this moment."""

    model: str
    is_ready: bool
    state: str = "unloaded"
    """One of `MODEL_STATES`."""
    context_window: int = 0
    num_queued: int = 0
    """Requests that wait for their turn before the engine knows them."""
    num_waiting_for_load: int = 0
    num_restarts: int = 0
    num_loads: int = 0
    worker_resident_bytes: int = 0
    engine: EngineStats = SILENT
    """Counters are those of all its workers so far: they never go back."""
