"""What the served models say about themselves, in the words of the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psutil

from transom.metrics import SILENT, ModelSnapshot
from transom.registry import ModelRegistry, ModelSlot, ServedModel
from transom.server.turns import Turns


def take_snapshots(registry: ModelRegistry, turns: Mapping[str, Turns]) -> Iterable[ModelSnapshot]:
    """Every model as of its worker's last report; what waits here for its turn there, as of now."""
    return [_snapshot(served, registry.slot(served), turns.get(served.id)) for served in registry.models()]


def _snapshot(served: ServedModel, slot: ModelSlot, turns: Turns | None) -> ModelSnapshot:
    return ModelSnapshot(
        served.id,
        served.is_ready,
        state=served.state.value,
        context_window=served.llm.context_window,
        num_queued=0 if turns is None else turns.num_waiting,
        num_waiting_for_load=len(slot.waiting),
        num_restarts=served.engine.num_restarts,
        num_loads=slot.num_loads,
        worker_resident_bytes=resident_bytes(served.engine.process_id),
        engine=served.engine.counted() or SILENT,
    )


def resident_bytes(process_id: int | None) -> int:
    """0 for a process that is not there (any more)."""
    if process_id is None:
        return 0
    try:
        return int(psutil.Process(process_id).memory_info().rss)
    except psutil.Error:
        return 0
