"""What the served models say about themselves, in the words of the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import psutil

from transom.cache.stats import TierStats
from transom.engine import EngineStats
from transom.metrics import KindUsage, ModelSnapshot, Reuse, TierUsage, Transfers
from transom.registry import ModelRegistry, ModelSlot, ServedModel
from transom.server.turns import Turns

HOT_TIER = "hot"


def take_snapshots(registry: ModelRegistry, turns: Mapping[str, Turns]) -> Iterable[ModelSnapshot]:
    """Every model as of its worker's last report; what waits here for its turn there, as of now."""
    return [_snapshot(served, registry.slot(served), turns.get(served.id)) for served in registry.models()]


def _snapshot(served: ServedModel, slot: ModelSlot, turns: Turns | None) -> ModelSnapshot:
    snapshot = _worker_snapshot(served, slot)
    return snapshot if turns is None else replace(snapshot, num_waiting=snapshot.num_waiting + turns.num_waiting)


def _worker_snapshot(served: ServedModel, slot: ModelSlot) -> ModelSnapshot:
    stats = served.engine.stats()
    return ModelSnapshot(
        served.id,
        served.is_ready,
        num_restarts=served.engine.num_restarts,
        num_loads=slot.num_loads,
        num_waiting_for_load=len(slot.waiting),
        worker_resident_bytes=resident_bytes(served.engine.process_id),
        **({} if stats is None else _numbers(stats)),
    )


def _numbers(stats: EngineStats) -> dict[str, Any]:
    scheduler, cache = stats.scheduler, stats.cache
    return {
        "num_running": scheduler.num_running,
        "num_waiting": scheduler.num_waiting,
        "num_preemptions": scheduler.num_preemptions,
        "num_computed_tokens": scheduler.num_computed_tokens,
        "num_drafted_tokens": scheduler.num_drafted_tokens,
        "num_accepted_tokens": scheduler.num_accepted_tokens,
        "kv_tokens": cache.num_tokens,
        "reuse": Reuse(**asdict(cache.reuse)),
        "tiers": tuple(_tier(tier) for tier in cache.tiers),
        "kinds": tuple(
            KindUsage(kind.kind.value, kind.num_blocks_used, kind.num_blocks_total, kind.num_cold_blocks)
            for kind in cache.kinds
        ),
    }


def _tier(tier: TierStats) -> TierUsage:
    """Nothing is carried to and from the hot tier, which is where the work is done."""
    is_hot = tier.name == HOT_TIER
    return TierUsage(
        tier.name,
        tier.num_bytes_used,
        tier.num_bytes_total,
        num_bytes_reuse=tier.num_bytes_reuse,
        num_physical_bytes=tier.num_physical_bytes,
        state=tier.state.value,
        transfers=None if is_hot else Transfers(**asdict(tier.transfers)),
    )


def resident_bytes(process_id: int | None) -> int:
    """0 for a process that is not there (any more)."""
    if process_id is None:
        return 0
    try:
        return int(psutil.Process(process_id).memory_info().rss)
    except psutil.Error:
        return 0
